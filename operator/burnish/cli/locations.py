"""Where local mode keeps things that outlive a run: the user's cache directory, as the XDG convention has it."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path

from burnish.store.store import Store, open_store
from burnish.toolchains import environments

MAX_STORE_LENGTH = 850
"""Characters of a store's path: with cluster, namespace and digest it is an artifact's URI, which the API bounds at 1,024."""


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
    parser.add_argument("--store", metavar="DIR", default=default_store(), type=store_location, help="artifact store (default: %(default)s)")


def store_location(text: str) -> str:
    """`--store`, absolute: every step looks from a directory of its own. A URI stays as it is."""
    if not text.strip():
        raise argparse.ArgumentTypeError("names no directory; write a path such as ./store")
    is_uri = re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", text)
    found = text if is_uri else str(Path(os.path.expanduser(text)).absolute())  # noqa: PTH111  # raises nothing for a user who isn't there
    if len(found) > MAX_STORE_LENGTH:
        raise argparse.ArgumentTypeError(f"has {len(found)} characters, and at most {MAX_STORE_LENGTH} are allowed; choose a shorter path")
    return found


def add_namespace_option(parser: argparse.ArgumentParser) -> None:
    """`--namespace`, for commands that read no manifest."""
    parser.add_argument("-n", "--namespace", default="default", help="namespace of the model (default: %(default)s)")
