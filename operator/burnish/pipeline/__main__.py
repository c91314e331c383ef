"""Runs one step in a process of its own: `python -m burnish.pipeline STEP --work DIR`.

The same entry point serves the local runner, `reproduce.sh` and the containers of a pipeline Job. It leaves a record or a failure in the
step's folder and ends with an exit code that says whether trying again may help.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import sys
import time
import traceback
from pathlib import Path

from burnish.api import requests
from burnish.api.job_contract import Failure, Record, ResolveRequest, StepName
from burnish.errors import BurnishError, Reason, StepExit
from burnish.pipeline import ahead, container, no_network, source_options, store_options, team, usage
from burnish.pipeline.progress import emit
from burnish.pipeline.workdir import WorkDir


def main(arguments: list[str] | None = None) -> int:
    """Run one step; returns its exit code (`StepExit`)."""
    parser = argparse.ArgumentParser(prog="python -m burnish.pipeline", description=__doc__)
    parser.add_argument("step", choices=[s.value for s in StepName])
    parser.add_argument("--work", type=Path, required=True, help="work directory of one target")
    store_options.add(parser)
    source_options.add(parser)
    parser.add_argument("--server-url", help="Triton's HTTP endpoint (measure); default: start one")
    parser.add_argument("--server-pid", type=int, help="Triton's process where it can be seen (measure)")
    parser.add_argument("--cpu-enforcement", default="container", help="how the server is held to its CPU limit (measure)")
    parser.add_argument("--job", action="store_true", help="run as a container of a cluster's Job")
    parser.add_argument("--request", type=Path, help="what the Job is for (resolve and stage of a Job)")
    parser.add_argument("--termination-log", type=Path, default=Path("/dev/termination-log"), help="where a Job's container leaves its message")
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_args(arguments)
    if options.job:
        container.end_on_sigterm()
    work, step = WorkDir(options.work.resolve()), StepName(options.step)
    if step in requests.OFFLINE_STEPS:
        _leave_network(step, work)
    more = ahead.wait_for_go(step, work)
    if more is None:
        return StepExit.OK
    options = parser.parse_args([*arguments, *more])
    started = time.monotonic()
    try:
        work.folder(step).mkdir(parents=True, exist_ok=True)
        if work.is_finished(step):
            emit(f"{step.value}: done by an earlier attempt, whose work the store has")
            return StepExit.OK
        if options.job:
            _run_job(step, work, options)
        else:
            work.save(step, _run(step, work, options))
        work.save_usage(step, usage.of_process(started))
        return StepExit.OK
    except BurnishError as error:
        found = error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            found = _bug(step)
        else:
            text = f"no room left for {step.value} in the work directory; free some, or choose another with --work"
            found = BurnishError(Reason.DiskFull, text)
    except MemoryError:
        text = f"{step.value} could not get the memory it needs; raise --step-memory, or use a larger machine"
        found = BurnishError(Reason.OutOfMemory, text)
    except Exception:  # a bug: the traceback belongs into the log, the user gets a sentence
        found = _bug(step)
    return _fail(work, step, found, options)


def _leave_network(step: StepName, work: WorkDir) -> None:
    """Before anything of a model is opened. Processes that train side by side need sockets to each other, nobody else needs any."""
    if step is StepName.train and team.size_of(work.load_request()) > 1:
        if not no_network.separate():
            emit("the processes that train have the network of the pod, under its NetworkPolicy: no network namespace can be made here", warning=True)
    elif not no_network.drop():
        emit(f"{step.value} runs with the network in reach: this machine has no seccomp filters", warning=True)


def _run(step: StepName, work: WorkDir, options: argparse.Namespace) -> Record:
    """Each step imports what it needs only when it runs: no step's environment has the libraries of all."""
    if step is StepName.export:
        from burnish.pipeline import export

        return export.run(work)
    if step is StepName.train:
        from burnish.pipeline import train

        return train.run(work)
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
        from burnish.pipeline.sidecar import START_SECONDS, measuring_server

        with measuring_server(work, work.load_request(), deadline=time.monotonic() + START_SECONDS, progress=emit) as server:
            return measure.run(work, url=server.url, server_pid=server.pid, cpu_enforcement=server.enforcement)
    from burnish.pipeline import publish, resolve, stage

    store = store_options.open_from(options)
    if step is StepName.resolve:
        return resolve.run(work.load_request(ResolveRequest), store)
    if step is StepName.stage:
        return stage.run(work, store)
    return publish.run(work, store)


def _run_job(step: StepName, work: WorkDir, options: argparse.Namespace) -> None:
    """A step as a container of a Job: the first one makes the work directory, the last one tells what came of it."""
    from burnish.pipeline import job

    if step not in requests.STORE_STEPS:
        if job.is_needed(step, work):
            work.save(step, _run(step, work, options))
        else:
            emit("nothing to do: the store has it")
        return

    store = store_options.open_from(options)
    if step is StepName.stage:
        work.save(step, job.run_stage(job.load_request(options.request), work, store))
        return
    if step is StepName.resolve:
        resolved, message = job.run_resolve(job.load_request(options.request), store, source_options.access_from(options))
        work.save(step, resolved)
    else:
        result, message = job.run_publish(work, store)
        work.save(step, result)
    job.leave_message(options.termination_log, step, message)


def _fail(work: WorkDir, step: StepName, error: BurnishError, options: argparse.Namespace) -> int:
    emit(f"{step.value}: {error.reason.value}: {error}", warning=True)
    failure = Failure(step=step.value, reason=error.reason, message=error.message, field=error.field, retriable=error.retriable)
    with contextlib.suppress(OSError):  # a full disk: the exit code and the log say it, and the runner looks at the disk
        work.save_failure(failure)
    if options.job:
        from burnish.pipeline import job

        name, namespace = _whose(work, options)
        job.leave_message(options.termination_log, step, job.failure_message(failure, name=name, namespace=namespace))
    return StepExit.RETRIABLE if error.retriable else StepExit.NOT_RETRIABLE


def _whose(work: WorkDir, options: argparse.Namespace) -> tuple[str, str]:
    """Name and namespace of the resource, as far as they are known."""
    with contextlib.suppress(BurnishError, OSError):
        if options.request is not None:
            from burnish.pipeline import job

            found = job.load_request(options.request).resolve
            return found.name, found.namespace
        request = work.load_request()
        return request.name, request.namespace
    return "NAME", options.namespace


def _bug(step: StepName) -> BurnishError:
    traceback.print_exc()
    lines = traceback.format_exc().strip().splitlines()
    return BurnishError(Reason.InternalError, f"{step.value} failed unexpectedly ({lines[-1][:300]}); its log has the details")


if __name__ == "__main__":
    sys.exit(main())
