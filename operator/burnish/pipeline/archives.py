"""Archives of data from anybody: unpacked into numbered files below a step's own folder, under caps.

Nothing of an archive decides where a byte is written: members get numbers as names, and only what they were called is kept. Tars are read as a
stream, so that what they unpack to is counted while it appears.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple

import zstandard

from burnish.errors import BurnishError, Reason
from burnish.store import files

MAX_ENTRIES = 200_000
MAX_DEPTH = 8
"""Directories above a member."""
MAX_RATIO = 200
"""Unpacked bytes per byte of the archive, above `FREE_BYTES`."""
FREE_BYTES = 64 * 2**20
_MAX_READ = 2 * 2**20
"""Largest piece that is read at once: tarfile would read a header of any announced size."""


_DAMAGED = (
    *(tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zstandard.ZstdError, zlib.error),
    *(EOFError, ValueError, NotImplementedError, RuntimeError),
)


class Member(NamedTuple):
    """A file of a dataset: what it is called (`/`-separated), and where it lies."""

    name: str
    path: Path


@dataclass
class Content:
    """What a folder or an archive holds."""

    members: list[Member] = field(default_factory=list)
    """Sorted by name; without hidden files, which file browsers leave."""
    folders: set[str] = field(default_factory=set)
    """Directories that are named by themselves: an archive keeps empty ones."""


class _UnsafeError(Exception):
    """What is wrong with a member; the message has no name of the archive yet."""


class _BrokenError(Exception):
    """A cap was hit."""


def kind_of(path: Path) -> str:
    """`zip`, `tar`, `tar.gz`, `tar.zst`, or nothing where the file is no archive; from its first bytes."""
    with path.open("rb") as stream:
        start = stream.read(512)
    if start[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return "zip"
    if start[:2] == b"\x1f\x8b":
        return "tar.gz"
    if start[:4] == b"\x28\xb5\x2f\xfd":
        return "tar.zst"
    return "tar" if start[257:262] == b"ustar" else ""


def list_folder(path: Path) -> Content:
    """The files below a directory.

    Raises:
        BurnishError: UnsafeSource, SourceTooLarge; as `files.list_files`.
    """
    found = files.list_files(path, max_files=MAX_ENTRIES)
    return Content([Member(e.path, path / e.path) for e in found if not _is_hidden(e.path)])


def unpack(path: Path, target: Path, *, max_bytes: int, field: str) -> Content:
    """Unpack an archive into numbered files below `target`, which is made.

    Args:
        path: a file of which `kind_of` says something.
        max_bytes: of all members together.
        field: of the manifest, for messages.

    Raises:
        BurnishError: UnsafeSource: a link, a device, a path that leads out; InvalidDataset: damaged, encrypted, or larger than the caps.
    """
    target.mkdir(parents=True)
    room = min(max_bytes, FREE_BYTES + MAX_RATIO * path.stat().st_size)
    try:
        content = _unpack_zip(path, target, room) if kind_of(path) == "zip" else _unpack_tar(path, target, room)
    except _UnsafeError as error:
        raise BurnishError(Reason.UnsafeSource, f"{path.name} {error}; pack plain files and folders only", field=field) from None
    except _BrokenError as error:
        raise BurnishError(Reason.InvalidDataset, f"{path.name} {error}", field=field) from None
    except _DAMAGED as error:
        raise BurnishError(Reason.InvalidDataset, f"{path.name} is no readable archive ({error}); pack it again", field=field) from error
    content.members.sort()
    return content


def _unpack_zip(path: Path, target: Path, room: int) -> Content:
    content = Content()
    with zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
        _check_count(len(infos))
        if sum(info.file_size for info in infos) > room:
            raise _BrokenError(_too_large(room))
        for number, info in enumerate(infos):
            name = _checked_name(info.filename)
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _UnsafeError(f"holds {name!r}, which is a link or a device")
            if info.is_dir():
                content.folders.add(name)
                continue
            if info.flag_bits & 1:
                raise _BrokenError(f"holds {name!r} encrypted; pack it without a password")
            with archive.open(info) as stream:
                _add(content, name, stream, target / str(number))
    return content


def _unpack_tar(path: Path, target: Path, room: int) -> Content:
    content = Content()
    with _decompressed(path) as raw, tarfile.open(fileobj=_Counted(raw, room), mode="r:") as archive:  # type: ignore[call-overload]  # it reads, seeks, tells
        for number, member in enumerate(archive):
            _check_count(number + 1)
            name = _checked_name(member.name)
            if member.isdir():
                content.folders.add(name)
                continue
            stream = archive.extractfile(member) if member.isreg() and not member.issparse() else None
            if stream is None:
                raise _UnsafeError(f"holds {name!r}, which is a link, a device or a sparse file")
            _add(content, name, stream, target / str(number))
            archive.members.clear()  # it would keep every header
    return content


@contextlib.contextmanager
def _decompressed(path: Path) -> Iterator[IO[bytes]]:
    kind = kind_of(path)
    with path.open("rb") as file:
        if kind == "tar.gz":
            with gzip.GzipFile(fileobj=file) as stream:
                yield stream  # type: ignore[misc]  # it is what it says
        elif kind == "tar.zst":
            with zstandard.ZstdDecompressor(max_window_size=2**27).stream_reader(file, read_across_frames=True) as stream:
                yield stream
        else:
            yield file


class _Counted:
    """A stream that is only read forwards and never gives more than `room` bytes; what tarfile needs of a file."""

    def __init__(self, stream: IO[bytes], room: int) -> None:
        self._stream, self._room, self._position = stream, room, 0

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MAX_READ:
            raise _BrokenError(f"has a header of {size} bytes; at most {_MAX_READ} are read, pack it again")
        parts = io.BytesIO()
        while parts.tell() < size and (part := self._stream.read(size - parts.tell())):
            parts.write(part)
        self._position += parts.tell()
        if self._position > self._room:
            raise _BrokenError(_too_large(self._room))
        return parts.getvalue()

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> int:
        if position < self._position:
            raise _BrokenError("can't be read in one go; pack it again")
        while self._position < position and self.read(min(files.CHUNK_BYTES, position - self._position)):
            pass
        return self._position


def _add(content: Content, name: str, stream: IO[bytes], target: Path) -> None:
    if _is_hidden(name):
        return
    with files.writing(target), target.open("wb") as file:
        for chunk in files.chunks(stream):
            file.write(chunk)
    content.members.append(Member(name, target))


def _checked_name(name: str) -> str:
    parts = [part for part in name.removeprefix("./").rstrip("/").split("/") if part != "."]
    if name.startswith("/") or "\\" in name or "\0" in name or ".." in parts or ("" in parts and name not in ("./", ".")):
        raise _UnsafeError(f"holds a member named {name!r}, which leads out of its folder")
    if len(parts) > MAX_DEPTH + 1:
        raise _BrokenError(f"holds {name!r}, more than {MAX_DEPTH} folders deep; flatten it")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise _BrokenError(f"holds a member whose name is not UTF-8: {name.encode(errors='surrogateescape')!r}; rename it") from None
    return "/".join(parts)


def _check_count(count: int) -> None:
    if count > MAX_ENTRIES:
        raise _BrokenError(f"holds more than {MAX_ENTRIES} entries; use fewer samples")


def _too_large(room: int) -> str:
    return f"unpacks to more than {room} bytes ({MAX_RATIO} times its size and {FREE_BYTES}, or the limit of all data); use fewer samples, or less compression"


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))
