"""`burnish pull`: an artifact out of the store as plain files, with its manifest and a model card."""

from __future__ import annotations

import argparse
import errno
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from burnish.api.job_contract import Result
from burnish.cli import locations
from burnish.errors import BurnishError, Reason
from burnish.pipeline import card, records
from burnish.store.artifacts import get_artifact
from burnish.store.store import Store, open_store


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the subcommand."""
    description = "Copy an artifact out of the store: its files, its OCI manifest and a card. Every digest is verified."
    parser = commands.add_parser("pull", help="copy an artifact out of the store", description=description)
    parser.add_argument(
        "artifact", help="NAME or NAME/TARGET (what is marked as served), an artifact's digest sha256:..., or its uri from the status"
    )
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", required=True, help="directory to make")
    locations.add_store_option(parser)
    locations.add_namespace_option(parser)
    parser.set_defaults(function=main)


def main(options: argparse.Namespace) -> int:
    """Pull; returns the exit code."""
    store, reference = _open(options)
    digest, result = _find(store, reference)
    with _appearing(options.output) as folder:
        config = get_artifact(store, digest, folder)
        (folder / "manifest.json").write_bytes(store.read_blob(digest))
        (folder / "CARD.md").write_text(card.render(config, digest, result, _preprocess(folder)))
    for path in sorted(p for p in options.output.rglob("*") if p.is_file()):
        print(path)
    return 0


def _preprocess(folder: Path) -> str:
    path = folder / "companions" / "preprocess.json"
    return path.read_text().strip() if path.is_file() else ""


def _open(options: argparse.Namespace) -> tuple[Store, str]:
    """The store, and what is looked for in it. A URI from a status names both: `/srv/store/local/default@sha256:...`."""
    location, _, digest = options.artifact.rpartition("@")
    if not location or not digest.startswith("sha256:"):
        return locations.open_from(options), options.artifact
    root, _, namespace = location.rpartition("/")  # text, not a path: s3:// has to keep its slashes
    root, _, cluster = root.rpartition("/")
    return open_store(root or "/", cluster=cluster, namespace=namespace), digest


@contextmanager
def _appearing(directory: Path) -> Iterator[Path]:
    """A folder that becomes `directory` when the context ends without an error, and leaves nothing behind when it does not."""
    try:
        _check_free(directory)
        is_there = directory.exists()
        beside = directory if is_there else directory.absolute().parent  # what is there may be a mount, which can't be replaced
        beside.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".pull-", dir=beside))
        try:
            whole = partial / "whole"
            whole.mkdir()  # with the user's own permissions, which a temporary directory does not have
            yield whole
            for child in list(whole.iterdir()) if is_there else []:
                child.rename(directory / child.name)
            if not is_there:
                whole.rename(directory)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise BurnishError(Reason.DiskFull, f"no room left at {directory}; free some, or name another directory", field="--output") from error
        raise BurnishError(
            Reason.InvalidManifest, f"can't write {directory}: {error.strerror}; name a directory that can be made", field="--output"
        ) from error


def _check_free(directory: Path) -> None:
    """Pull never writes among other files."""
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise BurnishError(Reason.InvalidManifest, f"{directory} is not an empty directory; name a new one", field="--output")


def _find(store: Store, reference: str) -> tuple[str, Result | None]:
    if reference.startswith("sha256:"):
        return reference, None
    found = records.find_results(store, reference)
    if len(found) > 1:
        raise BurnishError(Reason.NotInStore, f"{reference} has several targets; name one: {', '.join(n.replace('.', '/') for n in found)}")
    result = store.get_record(records.RESULTS, found[0], Result)
    if result is None or result.status.artifact is None:
        raise BurnishError(Reason.NotInStore, f"nothing of {reference} is marked as served; its candidates can be pulled by digest")
    return result.status.artifact.digest, result
