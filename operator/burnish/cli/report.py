"""`burnish report`: the HTML report of a result in the store.

Plots need libraries that the light environment doesn't have, so the page is rendered by a child process in the toolchain that measured.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from burnish.api.job_contract import Result
from burnish.cli import locations
from burnish.errors import BurnishError, Reason
from burnish.pipeline import records
from burnish.pipeline.processes import child_environment
from burnish.pipeline.runner import Outcome
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
    for result in found:
        model, _, target = result.partition(".")
        path = page_path(options.output, Path(), model, target, several=len(found) > 1)
        render(options.store, options.namespace, result, path)
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


def write_all(outcome: Outcome, store: str, wanted: Path | None) -> dict[str, Path]:
    """The reports of a finished run: target -> file. A page that is there already and would come out the same is left as it is: drawing takes seconds.

    Args:
        wanted: the user's choice, see `page_path`.
    """
    written = {}
    name, namespace = outcome.model.metadata.name, outcome.model.metadata.namespace
    for target, result in outcome.results.items():
        try:
            path = page_path(wanted, locations.cache() / "reports", name, target, several=len(outcome.results) > 1)
            stamp = _stamp(result)
            if not _ends_with(path, stamp):
                render(store, namespace, records.result_name(name, target), path)
                with path.open("ab") as page:
                    page.write(stamp)
            written[target] = path
        except (OSError, BurnishError) as error:  # the verdict stands; a report can be written again
            print(f"burnish: the report of {target} was not written: {error}", file=sys.stderr)
    return written


def render(store: str, namespace: str, result: str, path: Path) -> None:
    """Render one result's report into `path`, whose directory is made.

    Raises:
        BurnishError: InvalidManifest: nothing can be written there; ToolchainUnavailable, DeadlineExceeded, InternalError.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="burnish-report-") as folder:
            page = Path(folder).resolve() / "page.html"
            _draw(store, namespace, result, page)
            path.write_bytes(page.read_bytes())
    except OSError as error:
        raise BurnishError(Reason.InvalidManifest, f"the report can't be written to {path}: {error}; name another file") from error


def _draw(store: str, namespace: str, result: str, page: Path) -> None:
    python = environments.ensure(TOOLCHAIN, lambda text: print(text, file=sys.stderr)).python
    command = [
        str(python),
        "-m",
        "burnish.pipeline.report",
        "--store",
        store,
        "--namespace",
        namespace,
        "--result",
        result,
        "--output",
        str(page),
    ]
    try:
        done = subprocess.run(command, env=child_environment(), capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise BurnishError(Reason.DeadlineExceeded, f"the report was not ready after {TIMEOUT_S} s; try again with `burnish report`") from error
    if done.returncode:
        raise BurnishError(Reason.InternalError, f"the report could not be rendered: {done.stderr.strip()[-500:]}")


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
