"""`burnish sweep`: free the store of what no record refers to."""

from __future__ import annotations

import argparse
import re
import time
from typing import Any

from burnish import names
from burnish.api.scalars import duration_seconds, format_bytes
from burnish.cli import locations, output
from burnish.pipeline import store_options
from burnish.store import sweep
from burnish.store.backend import Found

DESCRIPTION = """Delete the blobs of a namespace that no record refers to, and that are older than a grace time: what killed runs left, and sources
that nothing needs; also the temporary files of runs that were killed more than a day ago. Every result stays. Runs that publish meanwhile lose
nothing."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the subcommand."""
    parser = commands.add_parser("sweep", help="delete what no record of the store refers to", description=DESCRIPTION)
    locations.add_store_option(parser)
    store_options.add_credentials(parser)
    locations.add_namespace_option(parser)
    parser.add_argument("--cluster", default=names.LOCAL_CLUSTER, help="cluster part of the store (default: %(default)s, which burnish run writes)")
    parser.add_argument("--older-than", type=_age, default="7d", metavar="AGE", help="grace time: 36h, 7d; at least 24h (default: %(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="only print what would be deleted")
    output.add_option(parser)
    parser.set_defaults(function=main)


def main(options: argparse.Namespace) -> int:
    """Sweep; returns the exit code."""
    sweep.check_grace(options.older_than)
    before = time.time() - options.older_than
    store = store_options.open_from(options, is_tidied=False)
    is_table = options.output == "table"
    leftovers = store.leftovers() if options.dry_run else store.tidy()
    if is_table:
        for file in leftovers:
            print(f"{file.name}  {format_bytes(file.size)}")
    garbage = sweep.find(store, before=before)
    gone = []
    for blob in garbage if options.dry_run else sweep.remove(store, garbage, before=before):
        gone.append(blob)
        if is_table:
            print(f"{blob.digest}  {format_bytes(blob.size)}", flush=True)
    if is_table:
        counts = [sweep.describe("blob", [blob.size for blob in gone])]
        if leftovers:
            counts.append(sweep.describe("temporary file", [file.size for file in leftovers]))
        print(f"{'would delete' if options.dry_run else 'deleted'} {'; '.join(counts)}")
    else:
        output.dump(_document(gone, leftovers, options.dry_run), options.output)
    return 0


def _document(gone: list[sweep.Garbage], leftovers: list[Found], is_dry: bool) -> dict[str, Any]:
    return {
        "dryRun": is_dry,
        "blobs": {
            "count": len(gone),
            "bytes": sum(blob.size for blob in gone),
            "items": [{"digest": blob.digest, "bytes": blob.size} for blob in gone],
        },
        "temporaryFiles": {
            "count": len(leftovers),
            "bytes": sum(file.size for file in leftovers),
            "items": [{"name": file.name, "bytes": file.size} for file in leftovers],
        },
    }


def _age(text: str) -> float:
    days = re.fullmatch(r"([0-9]{1,5})d", text)
    try:
        return int(days[1]) * 86400.0 if days else duration_seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not an age; write 36h or 7d") from error
