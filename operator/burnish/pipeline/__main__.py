"""Runs one step in a process of its own: `python -m burnish.pipeline STEP --work DIR`.

The same entry point serves the local runner, `reproduce.sh` and the containers of a pipeline Job. It leaves a record or a failure in the
step's folder and ends with an exit code that says whether trying again may help.
"""

from __future__ import annotations

import argparse
import errno
import sys
import time
import traceback
from pathlib import Path

from burnish.api.job_contract import Failure, Record, ResolveRequest, StepName
from burnish.errors import BurnishError, Reason, StepExit
from burnish.pipeline.progress import emit
from burnish.pipeline.sidecar import START_SECONDS, measuring_server
from burnish.pipeline.workdir import WorkDir


def main(arguments: list[str] | None = None) -> int:
    """Run one step; returns its exit code (`StepExit`)."""
    parser = argparse.ArgumentParser(prog="python -m burnish.pipeline", description=__doc__)
    parser.add_argument("step", choices=[s.value for s in StepName])
    parser.add_argument("--work", type=Path, required=True, help="work directory of one target")
    parser.add_argument("--store", help="artifact store (resolve, stage, publish)")
    parser.add_argument("--namespace", default="default", help="whose part of the store")
    parser.add_argument("--server-url", help="Triton's HTTP endpoint (measure); default: start one")
    parser.add_argument("--server-pid", type=int, help="Triton's process where it can be seen (measure)")
    parser.add_argument("--cpu-enforcement", default="container", help="how the server is held to its CPU limit (measure)")
    options = parser.parse_args(arguments)
    work, step = WorkDir(options.work.resolve()), StepName(options.step)
    work.folder(step).mkdir(parents=True, exist_ok=True)
    try:
        work.save(step, _run(step, work, options))
        return StepExit.OK
    except BurnishError as error:
        return _fail(work, step, error)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            return _bug(work, step)
        return _fail(
            work,
            step,
            BurnishError(Reason.DiskFull, f"no room left for {step.value} in the work directory; free some, or choose another with --work"),
        )
    except MemoryError:
        return _fail(
            work,
            step,
            BurnishError(Reason.OutOfMemory, f"{step.value} could not get the memory it needs; raise --step-memory, or use a larger machine"),
        )
    except Exception:  # a bug: the traceback belongs into the log, the user gets a sentence
        return _bug(work, step)


def _run(step: StepName, work: WorkDir, options: argparse.Namespace) -> Record:
    """Each step imports what it needs only when it runs: no step's environment has the libraries of all."""
    if step is StepName.export:
        from burnish.pipeline import export

        return export.run(work)
    if step is StepName.compress:
        from burnish.pipeline import compress

        return compress.run(work)
    if step is StepName.build:
        from burnish.pipeline import build

        return build.run(work)
    if step is StepName.measure:
        from burnish.pipeline import measure

        if options.server_url is not None:
            return measure.run(work, url=options.server_url, server_pid=options.server_pid, cpu_enforcement=options.cpu_enforcement)
        with measuring_server(work, work.load_request(), deadline=time.monotonic() + START_SECONDS, progress=emit) as server:
            return measure.run(work, url=server.url, server_pid=server.pid, cpu_enforcement=server.enforcement)
    from burnish.pipeline import publish, resolve, stage
    from burnish.store.store import open_store

    store = open_store(options.store, namespace=options.namespace)
    if step is StepName.resolve:
        return resolve.run(work.load_request(ResolveRequest), store)
    if step is StepName.stage:
        return stage.run(work, store)
    return publish.run(work, store)


def _fail(work: WorkDir, step: StepName, error: BurnishError) -> int:
    emit(f"{step.value}: {error.reason.value}: {error}", warning=True)
    work.save_failure(Failure(step=step.value, reason=error.reason, message=error.message, field=error.field, retriable=error.retriable))
    return StepExit.RETRIABLE if error.retriable else StepExit.NOT_RETRIABLE


def _bug(work: WorkDir, step: StepName) -> int:
    traceback.print_exc()
    lines = traceback.format_exc().strip().splitlines()
    return _fail(work, step, BurnishError(Reason.InternalError, f"{step.value} failed unexpectedly ({lines[-1][:300]}); its log has the details"))


if __name__ == "__main__":
    sys.exit(main())
