"""Reading files that somebody else put there: regular files below a root, no link followed, sizes capped.

A source directory comes from a user, an artifact directory from a step that ran a model's code. Neither may make a process that holds
credentials read what it was not given, so every component of a path is opened by itself, relative to its parent, and refused if it is a link.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from burnish.errors import BurnishError, Reason

CHUNK_BYTES = 2**20
MAX_BYTES = 64 * 2**30
"""Default limit on the sum of a directory's file sizes."""
MAX_FILES = 10_000
"""Default limit on the number of files in a directory."""
MAX_DEPTH = 32
"""Limit on nested directories."""


class Entry(NamedTuple):
    """A regular file: path relative to the root, `/`-separated, and size in bytes."""

    path: str
    size: int


class Readable(Protocol):
    """What `chunks` reads."""

    def read(self, size: int, /) -> bytes | None:
        """At most `size` bytes; empty at the end."""


@contextlib.contextmanager
def reading(path: Path | str) -> Iterator[None]:
    """Turn the operating system's errors into the user's.

    Raises:
        BurnishError: SourceNotFound, SourceForbidden, UnsafeSource (a link where none is followed), SourceUnavailable.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise BurnishError(Reason.SourceNotFound, f"there is no file {path}; correct the path") from error
    except PermissionError as error:
        raise BurnishError(Reason.SourceForbidden, f"{path} may not be read; change its permissions") from error
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise BurnishError(Reason.UnsafeSource, f"{path} is a link or passes one; put the file itself there") from error
        raise BurnishError(Reason.SourceUnavailable, f"{path} can't be read: {error.strerror}") from error


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name a full disk as such; other errors of the operating system pass.

    Raises:
        BurnishError: DiskFull.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise BurnishError(Reason.DiskFull, f"no room left to write {path}; free some space") from error
        raise


@contextlib.contextmanager
def new_file(target: Path) -> Iterator[BinaryIO]:
    """A file outside the store that appears as `target` when the context ends without an error.

    Raises:
        BurnishError: DiskFull.
    """
    partial = target.parent / f".{uuid.uuid4().hex}.partial"
    try:
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("xb") as file:
                yield file
            partial.replace(target)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def list_files(root: Path, *, max_bytes: int = MAX_BYTES, max_files: int = MAX_FILES) -> list[Entry]:
    """All files below the directory `root`, sorted by path.

    Raises:
        BurnishError: UnsafeSource (a link, device, socket or pipe; a name that is not UTF-8; too deep), SourceTooLarge, and as `reading`.
    """
    found: list[Entry] = []
    with reading(root):
        top = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        _scan(top, root, "", 0, found, max_files)
    finally:
        os.close(top)
    total = sum(entry.size for entry in found)
    if total > max_bytes:
        raise BurnishError(
            Reason.SourceTooLarge, f"{root} holds {total} bytes, more than the limit of {max_bytes}; leave out what the model doesn't need"
        )
    return sorted(found)


def _scan(directory: int, root: Path, prefix: str, depth: int, found: list[Entry], max_files: int) -> None:
    if depth > MAX_DEPTH:
        raise BurnishError(Reason.UnsafeSource, f"{root}/{prefix} is nested more than {MAX_DEPTH} directories deep; flatten it")
    with reading(root / prefix):
        names = os.listdir(directory)
    for name in names:
        path = prefix + name
        with reading(root / path):
            mode = os.stat(name, dir_fd=directory, follow_symlinks=False)
        _check_name(root, path)
        if stat.S_ISDIR(mode.st_mode):
            with reading(root / path):
                child = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
            try:
                _scan(child, root, path + "/", depth + 1, found, max_files)
            finally:
                os.close(child)
        elif stat.S_ISREG(mode.st_mode):
            found.append(Entry(path, mode.st_size))
        else:
            kind = "a symbolic link" if stat.S_ISLNK(mode.st_mode) else "neither a file nor a directory"
            raise BurnishError(Reason.UnsafeSource, f"{root / path} is {kind}; put the file itself there, or remove it")
    if len(found) > max_files:
        raise BurnishError(Reason.SourceTooLarge, f"{root} holds more than {max_files} files; leave out what the model doesn't need")


def _check_name(root: Path, path: str) -> None:
    try:
        path.encode()
    except UnicodeEncodeError:
        raise BurnishError(Reason.UnsafeSource, f"a file name in {root} is not UTF-8: {path.encode(errors='surrogateescape')!r}; rename it") from None


def open_file(root: Path, path: str) -> BinaryIO:
    """Open the regular file `path` (relative) below the directory `root` for reading.

    Raises:
        BurnishError: UnsafeSource, and as `reading`.
    """
    parts = split(path)
    with contextlib.ExitStack() as opened, reading(root / path):
        parent = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        opened.callback(os.close, parent)
        for part in parts[:-1]:
            parent = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
            opened.callback(os.close, parent)
        # O_NONBLOCK: opening a pipe must not wait for its writer
        file = os.fdopen(os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=parent), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise BurnishError(Reason.UnsafeSource, f"{root / path} is not a regular file; name a file or a directory of files")
    return file


def split(path: str) -> list[str]:
    """The components of a relative path.

    Raises:
        BurnishError: UnsafeSource if it is absolute, empty, or leads out of its root.
    """
    parts = path.split("/")
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise BurnishError(Reason.UnsafeSource, f"the path {path!r} leads out of its directory; only plain relative paths are followed")
    return parts


def chunks(stream: Readable) -> Iterator[bytes]:
    """What `stream` holds, in pieces of at most `CHUNK_BYTES`."""
    while chunk := stream.read(CHUNK_BYTES):
        yield chunk


def digest(file: BinaryIO) -> str:
    """`sha256:<hex>` of the rest of an open file."""
    total = hashlib.sha256()
    for chunk in chunks(file):
        total.update(chunk)
    return f"sha256:{total.hexdigest()}"
