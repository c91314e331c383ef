"""The flags with which a cluster's resolve step is told what it may read sources with."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from burnish.store import credentials

if TYPE_CHECKING:
    from burnish.pipeline.fetch import Access


def add(parser: argparse.ArgumentParser) -> None:
    """Add them."""
    parser.add_argument("--source-credentials", type=Path, help="directory of a mounted Secret with the sources' credentials (resolve of a Job)")
    parser.add_argument(
        "--pvc", action="append", default=[], metavar="CLAIM=PATH", type=_claim, help="where a volume claim is mounted (resolve of a Job)"
    )
    parser.add_argument(
        "--allow-private-addresses",
        action="store_true",
        help="https: sources may be on private addresses of the cluster's network (resolve of a Job)",
    )


def access_from(options: argparse.Namespace) -> Access:
    """What the flags allow to a Job; the environment's own credentials are never used.

    Raises:
        BurnishError: SecretNotFound, where the credentials are not there.
    """
    from burnish.pipeline.fetch import Access

    found = credentials.Credentials()
    if options.source_credentials is not None:
        found = credentials.read_secret(options.source_credentials, field="spec.source.secretRef")
    return Access(credentials=found, claims=dict(options.pvc), has_private_addresses=options.allow_private_addresses)


def _claim(text: str) -> tuple[str, Path]:
    name, _, path = text.partition("=")
    if not name or not path:
        raise argparse.ArgumentTypeError(f"{text!r} is not CLAIM=PATH")
    return name, Path(path)
