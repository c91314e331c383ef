"""`burnish run`: the whole pipeline on this machine."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from burnish.api import manifest
from burnish.api.scalars import quantity_bytes
from burnish.api.v1alpha1.optimized_model import OptimizedModel
from burnish.cli import keep_serving, locations, output, report, terminal
from burnish.cli.display import display
from burnish.errors import BurnishError, ExitCode, Reason
from burnish.pipeline import machine, processes, runner
from burnish.pipeline.step_process import DISK_FULL

DESCRIPTION = """Fetch, convert and compress the model of a manifest, measure every candidate against the uncompressed
baseline in one Triton server, and judge it against the manifest's limits. What is in the store is not done again."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the subcommand."""
    parser = commands.add_parser("run", help="run a manifest's pipeline on this machine", description=DESCRIPTION)
    parser.add_argument("manifest", type=Path, help="OptimizedModel, YAML or JSON")
    locations.add_store_option(parser)
    output.add_option(parser)
    parser.add_argument("--report", type=Path, metavar="FILE", help="where to write the HTML report (default: the user's cache directory)")
    parser.add_argument(
        "--work", type=Path, metavar="DIR", help="keep the steps' files and logs, in a new directory in DIR (default: removed after a good run)"
    )
    parser.add_argument(
        "--step-memory", metavar="SIZE", type=memory_size, help="memory limit of each step, e.g. 8Gi (default: 80%% of this machine's memory)"
    )
    parser.add_argument("--keep-serving", action="store_true", help="serve the published model on 127.0.0.1 until Ctrl-C")
    parser.add_argument("--port", type=int, default=8000, help="HTTP port for --keep-serving (default: %(default)s)")
    parser.set_defaults(function=main)


def main(options: argparse.Namespace) -> int:
    """Run; returns the exit code."""
    signal.signal(signal.SIGTERM, _as_interrupt)
    memory = options.step_memory or int(machine.memory_bytes() * 0.8)
    try:
        model = manifest.load(options.manifest)
    except BurnishError as error:
        terminal.complain(error)
        with _readers_may_leave():
            output.print_unreadable(options.manifest, error, options.output)
        return error.exit_code
    try:
        work = _work_directory(options.work, model.metadata.name)
    except BurnishError as error:
        terminal.complain(error)
        return _show(runner.not_run(model, error), options)
    keep = options.work is not None
    try:
        with report.Drawing(options.store, model.metadata.namespace) as drawing:
            drawing.start_if_possible()  # half a second's work on another CPU, while the first steps run
            outcome = _run(model, options, work, memory)
            keep = keep or outcome.exit_code == ExitCode.FAILED
            code = _tell(outcome, options, drawing, work if keep else None)
        if options.keep_serving and code == ExitCode.OK:
            processes.end_all()
            keep_serving.serve(outcome, options.store, work, options.port)
        return code
    finally:
        try:
            processes.end_all()
        finally:
            if not keep:
                shutil.rmtree(work, ignore_errors=True)


def _run(model: OptimizedModel, options: argparse.Namespace, work: Path, memory: int) -> runner.Outcome:
    settings = runner.Options(store=options.store, work=work, step_memory_bytes=memory)
    try:
        with display(sys.stderr) as listener:
            outcome = runner.run(model, options.manifest.resolve().parent, settings, listener)
    except KeyboardInterrupt:
        outcome = runner.interrupted(model)
    if outcome.exit_code == ExitCode.INTERRUPTED:
        print("burnish: interrupted; nothing is left running", file=sys.stderr)
    return outcome


def _tell(outcome: runner.Outcome, options: argparse.Namespace, drawing: report.Drawing, work: Path | None) -> ExitCode:
    """The object first: who waits for the verdict need not wait for the plots. Returns the exit code."""
    code = _show(outcome, options)
    with _readers_may_leave():
        output.print_places(outcome.model, report.write_all(outcome, drawing, options.report), work)
    return code


def _show(outcome: runner.Outcome, options: argparse.Namespace) -> ExitCode:
    with _readers_may_leave():
        output.print_object(outcome.model, options.output)
    return outcome.exit_code


@contextlib.contextmanager
def _readers_may_leave() -> Iterator[None]:
    """The exit code tells the verdict also where nobody reads it (`burnish run ... | head -1`)."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        terminal.drop_readers()


def memory_size(text: str) -> int:
    """A memory quantity of the command line in bytes."""
    try:
        return quantity_bytes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _work_directory(wanted: Path | None, name: str) -> Path:
    """A new directory, so that nothing which is there is touched and concurrent runs keep apart."""
    runs = (wanted or locations.cache() / "runs").absolute()
    try:
        runs.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=runs.resolve()))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise BurnishError(Reason.DiskFull, DISK_FULL) from error
        raise BurnishError(
            Reason.InvalidManifest, f"can't make a work directory: {error}; name one that can be written with --work", field="--work"
        ) from error


def _as_interrupt(number: int, frame: FrameType | None) -> None:
    """SIGTERM ends a run as Ctrl-C does."""
    os.kill(os.getpid(), signal.SIGINT)
