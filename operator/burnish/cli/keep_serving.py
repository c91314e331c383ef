"""`burnish run --keep-serving`: the published model on a real Triton on this machine, until Ctrl-C."""

from __future__ import annotations

import shlex
import sys
import tempfile
import time
from pathlib import Path

from burnish.api.v1alpha1.optimized_model import OptimizedModel, Target
from burnish.api.v1alpha1.status import Served
from burnish.errors import BurnishError, Reason
from burnish.pipeline.runner import Outcome
from burnish.pipeline.server import TritonServer
from burnish.plugins import registry
from burnish.serving.config import ServingOptions
from burnish.serving.repository import write_repository
from burnish.store.artifacts import get_artifact
from burnish.store.store import open_store
from burnish.toolchains import environments

READY_SECONDS = 120.0


def serve(outcome: Outcome, store: str, work: Path, port: int) -> None:
    """Serve the first target's published model under the manifest's name; returns when the user presses Ctrl-C.

    Raises:
        BurnishError: ServerNotReady, ServerLost, OutOfMemory, ResourcesNotEnforceable.
    """
    model = outcome.model
    target = model.spec.targets[0]
    folder = Path(tempfile.mkdtemp(prefix="serving.", dir=work))  # no target's name holds a dot
    artifact = folder / "artifact"
    published = outcome.results[target.name].status.artifact
    assert published is not None  # noqa: S101  # only published results are served
    config = get_artifact(open_store(store, namespace=model.metadata.namespace), published.digest, artifact)
    write_repository(folder / "repository", {model.metadata.name: artifact}, _options(model, target))
    serving = environments.ensure("triton", lambda text: print(text, file=sys.stderr))
    with TritonServer.start(
        folder / "repository", toolchain_python=serving.python, resources=target.resources, log=folder / "triton.log", http_port=port
    ) as server:
        server.wait_ready(READY_SECONDS)
        golden = artifact / "golden.request"
        with golden.open("rb") as file:
            header = len(file.readline())
        what = published.candidate if published.served is Served.Candidate else "the baseline"
        print(f"\nserving {what} ({config.summary}) as {model.metadata.name} at {server.url}; Ctrl-C ends it. Try:", file=sys.stderr)
        url = f"{server.url}/v2/models/{model.metadata.name}/infer"
        headers = (
            f"-H 'Content-Type: application/octet-stream' -H 'Inference-Header-Content-Length: {header}'"  # curl's own kind kills Triton at 12 MiB
        )
        print(f"  curl -s {headers} --data-binary @{shlex.quote(str(golden))} {url}", file=sys.stderr)
        try:
            while server.is_alive():
                time.sleep(0.5)
        except KeyboardInterrupt:
            print("\nburnish: stopped serving", file=sys.stderr)
            return
        server.raise_if_ended()
        raise BurnishError(Reason.ServerLost, "Triton ended")


def _options(model: OptimizedModel, target: Target) -> ServingOptions:
    runtime = registry.runtimes()[target.runtime.value]
    threads = target.resources.threads
    return ServingOptions(
        threads=threads, parameters=runtime.parameters(threads), max_batch_size=max(load.batch_size for load in model.spec.measurement.loads)
    )
