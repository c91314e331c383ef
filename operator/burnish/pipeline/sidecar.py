"""The server beside the step `measure`: in a Job a native sidecar container, on one machine a child process with the same resources."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from burnish.api.job_contract import PipelineRequest, StepName
from burnish.errors import BurnishError, Reason
from burnish.pipeline import repository
from burnish.pipeline.server import TritonServer
from burnish.pipeline.workdir import WorkDir
from burnish.toolchains import environments

START_SECONDS = 120.0


@contextlib.contextmanager
def measuring_server(work: WorkDir, request: PipelineRequest, *, deadline: float, progress: Callable[[str], None]) -> Iterator[TritonServer]:
    """A server that has loaded, or tried to load, the repository that `build` or `stage` wrote.

    Args:
        deadline: `time.monotonic()` after which it needn't come up any more.
        progress: told if the serving environment has to be made first.

    Raises:
        BurnishError: ServerNotReady, DeadlineExceeded, OutOfMemory, ResourcesNotEnforceable, LibpythonMissing, ToolchainUnavailable.
    """
    serving = environments.ensure("triton", progress)
    folder = work.folder(StepName.measure)
    folder.mkdir(parents=True, exist_ok=True)
    with TritonServer.start(
        repository.folder(work, request.plan.plan),
        toolchain_python=serving.python,
        resources=request.target.resources,
        log=folder / "triton.log",
        scratch=work.root / "server",
    ) as server:
        try:
            server.wait_ready(min(START_SECONDS, max(1.0, deadline - time.monotonic())))
        except BurnishError as error:
            if error.reason is Reason.ServerNotReady and time.monotonic() >= deadline:
                message = "the time for all steps was over before Triton came up; raise it"
                raise BurnishError(Reason.DeadlineExceeded, message, field="spec.jobs.deadline") from error
            raise
        yield server
