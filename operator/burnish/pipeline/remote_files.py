"""What a place that lists its files tells of them before any is read; sources of several clouds are fetched alike from here on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from burnish.errors import BurnishError, Reason

Pieces = Iterator[tuple[bytes, int | None]]
"""Of a body, each with the length that is announced for all of it; see `https.download`."""


@dataclass(frozen=True)
class RemoteFile:
    """One file, at one version."""

    path: str
    """Below the URI; of a URI that names a file, that file's own path."""
    size: int
    """As listed, bytes."""
    download: Callable[[], Pieces]


@dataclass(frozen=True)
class RemoteFiles:
    """All that a URI names."""

    files: Sequence[RemoteFile]
    is_directory: bool
    version: str = ""
    """For people, where there is one of them all."""


def below(uri: str, name: str, folder: str) -> str:
    """The path of an object below the folder that a URI names.

    Raises:
        BurnishError: UnsafeSource, where it leads out of it.
    """
    relative = name.removeprefix(folder).lstrip("/")
    if ".." in relative.split("/") or not relative:
        raise BurnishError(Reason.UnsafeSource, f"{uri} holds an object named {name!r}, which leads out of its folder; rename it")
    return relative
