"""`burnish pull`: an artifact out of the store as plain files, with its manifest and a model card."""

from __future__ import annotations

import argparse
from pathlib import Path

from burnish.api.job_contract import Result
from burnish.cli import locations
from burnish.errors import BurnishError, Reason
from burnish.pipeline import card, records
from burnish.store.artifacts import get_artifact
from burnish.store.store import Store


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the subcommand."""
    description = "Copy an artifact out of the store: its files, its OCI manifest and a card. Every digest is verified."
    parser = commands.add_parser("pull", help="copy an artifact out of the store", description=description)
    parser.add_argument("artifact", help="NAME or NAME/TARGET (what is marked as served), or an artifact's digest sha256:...")
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", required=True, help="directory to make")
    locations.add_store_option(parser)
    locations.add_namespace_option(parser)
    parser.set_defaults(function=main)


def main(options: argparse.Namespace) -> int:
    """Pull; returns the exit code."""
    store = locations.open_from(options)
    digest, result = _find(store, options.artifact)
    _check_free(options.output)
    config = get_artifact(store, digest, options.output)
    (options.output / "manifest.json").write_bytes(store.read_blob(digest))
    (options.output / "CARD.md").write_text(card.render(config, digest, result))
    for path in sorted(p for p in options.output.rglob("*") if p.is_file()):
        print(path)
    return 0


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
