"""`burnish crd`: the CustomResourceDefinition, and the other files that are generated from the models."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from burnish.api import crd, generated


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the subcommand."""
    parser = commands.add_parser(
        "crd", help="print the CustomResourceDefinition", description="Print the CustomResourceDefinition that this release understands."
    )
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--write", type=Path, metavar="DIR", help="write all generated files (CRD and reference) below a checkout")
    group.add_argument("--check", type=Path, metavar="DIR", help="exit 1 if a generated file below a checkout is out of date")
    parser.set_defaults(function=main)


def main(options: argparse.Namespace) -> int:
    """Print, write or check; returns the exit code."""
    if options.write is None and options.check is None:
        print(crd.render(), end="")
        return 0
    stale = 0
    for relative, text in generated.generated_files().items():
        path = (options.write or options.check) / relative
        if path.is_file() and path.read_text() == text:
            continue
        stale += 1
        if options.check is not None:
            print(f"{path} is out of date; run `make generate`", file=sys.stderr)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        print(f"wrote {path}")
    return 1 if stale and options.check is not None else 0
