"""Where local mode keeps things that outlive a run: the user's cache directory, as the XDG convention has it."""

from __future__ import annotations

import argparse
from pathlib import Path

from burnish.store.store import Store, open_store
from burnish.toolchains import environments


def cache() -> Path:
    """`$XDG_CACHE_HOME/burnish`, by default `~/.cache/burnish`."""
    return environments.cache_directory()


def default_store() -> str:
    """The artifact store where `--store` is not given."""
    return str(cache() / "store")


def open_from(options: argparse.Namespace) -> Store:
    """The store that the options name."""
    return open_store(options.store, namespace=options.namespace)


def add_store_option(parser: argparse.ArgumentParser) -> None:
    """`--store`, the same for every command."""
    parser.add_argument("--store", metavar="DIR", default=default_store(), help="artifact store (default: %(default)s)")


def add_namespace_option(parser: argparse.ArgumentParser) -> None:
    """`--namespace`, for commands that read no manifest."""
    parser.add_argument("-n", "--namespace", default="default", help="namespace of the model (default: %(default)s)")
