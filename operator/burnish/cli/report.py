"""`burnish report`: the HTML report of a result in the store.

Plots need libraries that the light environment doesn't have, so the page is rendered by a child process in the toolchain that measured.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import selectors
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from burnish.api.job_contract import Result
from burnish.cli import locations
from burnish.errors import BurnishError, Reason
from burnish.pipeline import records
from burnish.pipeline.processes import child_environment
from burnish.pipeline.runner import Outcome
from burnish.store.store import open_store
from burnish.toolchains import environments

TOOLCHAIN = "onnx"
TIMEOUT_S = 600


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the subcommand."""
    parser = commands.add_parser(
        "report", help="write the HTML report of a result in the store", description="Write the HTML report of a model's newest result."
    )
    parser.add_argument("model", help="NAME or NAME/TARGET, as in the manifest")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="file to write (default: NAME-TARGET.html here)")
    locations.add_store_option(parser)
    locations.add_namespace_option(parser)
    parser.set_defaults(function=main)


def main(options: argparse.Namespace) -> int:
    """Render; returns the exit code."""
    store = locations.open_from(options)
    found = records.find_results(store, options.model)
    with Drawing(options.store, options.namespace) as drawing:
        for result in found:
            model, _, target = result.partition(".")
            path = page_path(options.output, Path(), model, target, several=len(found) > 1)
            render(drawing, result, path)
            print(path)
    return 0


def page_path(wanted: Path | None, folder: Path, model: str, target: str, *, several: bool) -> Path:
    """The file of one target's page.

    Args:
        wanted: the user's choice; of several targets, each one's name is put before the suffix.
        folder: where it goes without a choice.

    Raises:
        BurnishError: InvalidManifest: the choice has no file name.
    """
    if wanted is None:
        return folder / f"{model}-{target}.html"
    if not wanted.name or os.path.isdir(wanted):  # noqa: PTH112  # raises nothing where nobody may look
        raise BurnishError(Reason.InvalidManifest, f"the report can't be written to {wanted}, which is a directory; name a file in it")
    return wanted.with_name(f"{wanted.stem}-{target}{wanted.suffix}") if several else wanted


class Drawing:
    """The child process that draws pages. A context manager: leaving it ends the child.

    `start` it early, and its libraries are loaded while something else is done; `page` starts it where that was not.
    """

    def __init__(self, store: str, namespace: str) -> None:
        self._store, self._namespace = store, namespace
        self._near = tempfile.TemporaryDirectory(prefix="burnish-report-") if store.startswith("s3:") else None
        self._process: subprocess.Popen[str] | None = None
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  # ours until we are left

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        self._log.close()
        if self._near is not None:
            self._near.cleanup()

    def start_if_possible(self) -> None:
        """Start, where nothing has to be installed for it."""
        environment = environments.find(TOOLCHAIN)
        if environment is not None:
            self._start(environment.python)

    def page(self, result: str, page: Path) -> None:
        """Draw one result's page into the file `page`.

        Raises:
            BurnishError: ToolchainUnavailable, DeadlineExceeded, InternalError.
        """
        if self._near is not None:
            self._bring_near(result, self._near.name)
        if self._process is None:
            self._start(environments.ensure(TOOLCHAIN, lambda text: print(text, file=sys.stderr)).python)
        process = self._process
        assert process is not None  # noqa: S101  # started
        assert process.stdin is not None  # noqa: S101  # Popen was told so
        with contextlib.suppress(BrokenPipeError):  # then there is no answer either
            process.stdin.write(json.dumps({"result": result, "output": str(page)}) + "\n")
            process.stdin.flush()
        answer = self._answer(process)
        if "error" in answer:
            raise BurnishError(Reason.InternalError, f"the report could not be rendered: {answer['error']}")

    def _bring_near(self, name: str, directory: str) -> None:
        """Copy what a page is made of into a store in a directory: the child has plotting libraries, but neither S3's nor its credentials."""
        far, near = (open_store(store, namespace=self._namespace) for store in (self._store, directory))
        result = far.get_record(records.RESULTS, name, Result)
        if result is None:
            raise BurnishError(Reason.NotInStore, f"the store has no result {name}; run the manifest again to make it")
        near.put_blob(far.read_blob(result.measurement.record))
        near.put_record(records.RESULTS, name, result, replace=True)

    def _start(self, python: Path) -> None:
        store = self._near.name if self._near is not None else self._store
        command = [str(python), "-m", "burnish.pipeline.report", "--store", store, "--namespace", self._namespace]
        self._process = subprocess.Popen(
            command,
            env=child_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            start_new_session=True,  # Ctrl-C is ours to handle; when we are gone its stdin ends, and so does it
        )

    def _answer(self, process: subprocess.Popen[str]) -> dict[str, str]:
        with selectors.DefaultSelector() as selector:
            assert process.stdout is not None  # noqa: S101  # Popen was told so
            selector.register(process.stdout, selectors.EVENT_READ)
            if not selector.select(TIMEOUT_S):
                raise BurnishError(Reason.DeadlineExceeded, f"the report was not ready after {TIMEOUT_S} s; try again with `burnish report`")
            line = process.stdout.readline()
        if line:
            found: dict[str, str] = json.loads(line)
            return found
        self._log.seek(0)
        return {"error": self._log.read().strip()[-500:] or "its process ended"}


def write_all(outcome: Outcome, drawing: Drawing, wanted: Path | None) -> dict[str, Path]:
    """The reports of a finished run: target -> file. A page that is there already and would come out the same is left as it is: drawing takes seconds.

    Args:
        wanted: the user's choice, see `page_path`.
    """
    written = {}
    name = outcome.model.metadata.name
    for target, result in outcome.results.items():
        try:
            path = page_path(wanted, locations.cache() / "reports", name, target, several=len(outcome.results) > 1)
            stamp = _stamp(result)
            if not _ends_with(path, stamp):
                render(drawing, records.result_name(name, target), path)
                with path.open("ab") as page:
                    page.write(stamp)
            written[target] = path
        except (OSError, BurnishError) as error:  # the verdict stands; a report can be written again
            print(f"burnish: the report of {target} was not written: {error}", file=sys.stderr)
    return written


def render(drawing: Drawing, result: str, path: Path) -> None:
    """Render one result's report into `path`, whose directory is made.

    Raises:
        BurnishError: InvalidManifest: nothing can be written there; ToolchainUnavailable, DeadlineExceeded, InternalError.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="burnish-report-") as folder:
            page = Path(folder).resolve() / "page.html"
            drawing.page(result, page)
            path.write_bytes(page.read_bytes())
    except OSError as error:
        raise BurnishError(Reason.InvalidManifest, f"the report can't be written to {path}: {error}; name another file") from error


def _stamp(result: Result) -> bytes:
    """The page's last line: a digest of all that it is made from, which is the result with the measurement's digest in it, and our own code."""
    made_from = [result.model_dump_json(exclude={"status": {"cache"}}).encode()]
    made_from += [path.read_bytes() for path in sorted(environments.PACKAGE.rglob("*")) if path.suffix in (".py", ".j2")]
    digest = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in made_from)).hexdigest()
    return f"<!-- {digest} -->\n".encode()


def _ends_with(path: Path, stamp: bytes) -> bool:
    with contextlib.suppress(OSError):
        return path.read_bytes().endswith(stamp)
    return False
