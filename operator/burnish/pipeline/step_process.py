"""One step as a child process: started with its limits, and its end turned into a reason that the user can act on."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from burnish.api.job_contract import Failure, StepName
from burnish.api.scalars import format_bytes
from burnish.errors import BurnishError, Reason
from burnish.pipeline.confined_process import ChildExit, Limits
from burnish.pipeline.processes import Child
from burnish.pipeline.workdir import WorkDir

DISK_FULL = "no room left in the work directory; free some, or choose another with --work"
_FAILURE_BYTES = 64 * 1024
"""Room in which any `failure.json` would fit."""


class StepError(BurnishError):
    """A step ended without a record."""

    def __init__(self, step: StepName, error: BurnishError) -> None:
        super().__init__(error.reason, error.message, field=error.field)
        self.step = step


@contextlib.contextmanager
def started(
    work: WorkDir,
    step: StepName,
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    limits: Limits,
) -> Iterator[StepProcess]:
    """A step's process, which loads its libraries and then waits to be told to run. Nothing of it is left after the context.

    Args:
        work: the work directory.
        step: which step.
        command: what repeats it from this work directory alone.
        env: its environment.
        limits: memory and time.

    Raises:
        BurnishError: ResourcesNotEnforceable; InternalError, where the command can't be executed.
    """
    work.folder(step).mkdir(parents=True, exist_ok=True)
    with Child.start(command, env=env, cwd=work.root, limits=limits, log=work.log(step)) as child:
        yield StepProcess(work, step, command, limits, child)


@dataclasses.dataclass(frozen=True)
class StepProcess:
    """A step that waits. See `started`."""

    work: WorkDir
    step: StepName
    command: Sequence[str]
    limits: Limits
    child: Child

    def run(self, on_event: Callable[[dict[str, Any]], None], server: Sequence[str] = ()) -> None:
        """Run to the end; the step leaves its record, or a script that repeats its failure.

        Args:
            on_event: gets the step's news.
            server: further arguments that only hold now: how to reach the server beside it.

        Raises:
            StepError: with the step's own reason, or what its end tells: OutOfMemory, DeadlineExceeded, StepKilled, InternalError.
        """
        error = explain(self.work, self.step, self.child.wait(on_event, server), self.limits)
        if error is not None:
            leave_reproduce_script(self.work, self.step, self.command)
            raise StepError(self.step, error)


def explain(work: WorkDir, step: StepName, exited: ChildExit, limits: Limits) -> BurnishError | None:
    """Why a step's process ended; None if well."""
    if exited.out_of_memory:
        used, allowed = format_bytes(exited.peak_memory_bytes), format_bytes(limits.memory_bytes or 0)
        return BurnishError(Reason.OutOfMemory, f"{step.value} used {used}, more than its limit of {allowed}; raise --step-memory")
    if exited.deadline_exceeded:
        return BurnishError(
            Reason.DeadlineExceeded, f"{step.value} was ended when the time for all steps was over; raise it", field="spec.jobs.deadline"
        )
    if exited.code == 0:
        return None
    failure: Failure | None = work.load_failure(step)
    if failure is not None:
        return BurnishError(failure.reason, failure.message, field=failure.field)
    if exited.code is not None and shutil.disk_usage(work.root).free < _FAILURE_BYTES:
        return BurnishError(Reason.DiskFull, DISK_FULL)  # not even the reason could be written
    if exited.signal is not None:
        return BurnishError(
            Reason.StepKilled,
            f"{step.value} was ended by signal {exited.signal} from outside (the kernel's out-of-memory killer sends 9); its log is {work.log(step)}",
        )
    return BurnishError(Reason.InternalError, f"{step.value} ended with exit code {exited.code} and left no reason; its log is {work.log(step)}")


def leave_reproduce_script(work: WorkDir, step: StepName, command: Sequence[str]) -> None:
    """A failed step can be repeated alone, with a debugger if need be."""
    script = work.folder(step) / "reproduce.sh"
    lines = [
        "#!/bin/sh",
        f"# Repeats step {step.value} of this work directory.",
        f"cd {shlex.quote(str(work.root))} || exit",
        f"exec {shlex.join(command)}",
        "",
    ]
    script.write_text("\n".join(lines))
    script.chmod(0o755)
