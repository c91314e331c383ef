"""The flags with which a container is told where the store is, the same for every step that uses it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from burnish import names
from burnish.store import credentials

if TYPE_CHECKING:
    from burnish.store.store import Store


def add(parser: argparse.ArgumentParser) -> None:
    """Add them."""
    parser.add_argument("--store", help="artifact store: a directory, file:// or s3://bucket/prefix")
    add_credentials(parser)
    parser.add_argument("--cluster", default=names.LOCAL_CLUSTER, help="whose part of the store, first half")
    parser.add_argument("--namespace", default="default", help="whose part of the store, second half")


def add_credentials(parser: argparse.ArgumentParser) -> None:
    """Add the one that says with what it is opened."""
    parser.add_argument(
        "--store-credentials", type=Path, metavar="DIR", help="a mounted Secret with the store's credentials (default: the AWS_... variables)"
    )


def open_from(options: argparse.Namespace, *, is_tidied: bool = True) -> Store:
    """The store that the flags name; `is_tidied` as in `open_store`.

    Raises:
        BurnishError: SecretNotFound, where the credentials are not there; as `open_store`.
    """
    from burnish.store.store import open_store

    access = credentials.read_secret(options.store_credentials, field="the store's Secret") if options.store_credentials else None
    return open_store(options.store, cluster=options.cluster, namespace=options.namespace, access=access, is_tidied=is_tidied)
