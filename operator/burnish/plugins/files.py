"""The files of a source, wherever they lie: what a format's detection looks at.

Detection runs where a source was just pinned, in the store or on a disk, and a model may have gigabytes; so it opens a few files and reads a
few bytes of them.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

MAX_JSON_BYTES = 16 * 2**20


class Files(Protocol):
    """A file, or a directory of files."""

    @property
    def name(self) -> str:
        """The name that the user knows."""

    @property
    def is_directory(self) -> bool:
        """False for a single file."""

    @property
    def paths(self) -> Sequence[str]:
        """Relative paths, sorted; of a single file its name."""

    def open(self, path: str) -> BinaryIO:
        """Open one of `paths`; the stream can seek. Its bytes are not verified: for looking, not for using."""


class LocalFiles:
    """What lies at a path of this machine; nothing, where there is nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self._path.name

    @property
    def is_directory(self) -> bool:
        """As the path is."""
        return self._path.is_dir()

    @property
    def paths(self) -> Sequence[str]:
        """Regular files only."""
        if not self.is_directory:
            return [self._path.name] if self._path.is_file() else []
        return sorted(p.relative_to(self._path).as_posix() for p in self._path.rglob("*") if p.is_file() and not p.is_symlink())

    def open(self, path: str) -> BinaryIO:
        """As `Path.open`."""
        return (self._path / path if self.is_directory else self._path).open("rb")


def head(files: Files, path: str, count: int) -> bytes:
    """The first `count` bytes of a file, or fewer."""
    with files.open(path) as stream:
        return stream.read(count)


def read_json(files: Files, path: str) -> object:
    """What a small JSON file holds; None where it is not there, too large, or no JSON."""
    if path not in files.paths:
        return None
    try:
        return json.loads(head(files, path, MAX_JSON_BYTES))
    except (ValueError, RecursionError):  # the second of brackets within brackets
        return None


def zip_entries(files: Files, path: str) -> list[str]:
    """Names of the entries of a zip file; empty where it is none."""
    with files.open(path) as stream:
        try:
            with zipfile.ZipFile(stream) as archive:
                return archive.namelist()
        except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
            return []
