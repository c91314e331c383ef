"""npz files that are parts of one: arrays of equal names, joined along their first axis with one part in memory at a time."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from burnish.errors import BurnishError, Reason
from burnish.pipeline.archives import Member
from burnish.pipeline.datasets import MAX_BYTES, MAX_MEMBERS


class Part(NamedTuple):
    """An array before its bytes are there."""

    shape: tuple[int, ...]
    dtype: np.dtype

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"

    @property
    def size_bytes(self) -> int:
        """Of the whole array."""
        return self.dtype.itemsize * int(np.prod(self.shape, dtype=object))


def join(members: Sequence[Member], target: Path, *, field: str) -> None:
    """Write the npz that the parts make together, in the order given.

    Raises:
        BurnishError: InvalidDataset: a part can't be read, has other arrays than the first one, or all together are too large.
    """
    heads = [_heads(member, field) for member in members]
    first = heads[0]
    for member, found in zip(members, heads, strict=True):
        for name in sorted(first.keys() | found.keys()):
            a, b = first.get(name), found.get(name)
            if a is None or b is None or a.dtype != b.dtype or a.shape[1:] != b.shape[1:]:
                message = f"{member.name} has {name!r} as {b or 'nothing'}, and {members[0].name} as {a or 'nothing'}; parts differ in their first axis only"
                raise BurnishError(Reason.InvalidDataset, message, field=field)
    if sum(part.size_bytes for found in heads for part in found.values()) > MAX_BYTES:
        raise BurnishError(Reason.InvalidDataset, f"the parts unpack to more than {MAX_BYTES} bytes; use fewer samples", field=field)
    count = sum(next(iter(found.values())).shape[0] for found in heads)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, part in first.items():
            write_array(archive, name, Part((count, *part.shape[1:]), part.dtype), (_load(member, name, field) for member in members))


def write_array(archive: zipfile.ZipFile, name: str, whole: Part, pieces: Sequence[np.ndarray] | Iterator[np.ndarray]) -> None:
    """One array of an npz, piece by piece along its first axis."""
    info = zipfile.ZipInfo(f"{name}.npy")  # of a fixed date: equal arrays give equal bytes
    header = {"descr": np.lib.format.dtype_to_descr(whole.dtype), "fortran_order": False, "shape": whole.shape}
    with archive.open(info, "w", force_zip64=True) as stream:
        np.lib.format.write_array_header_2_0(stream, header)
        for piece in pieces:
            stream.write(np.ascontiguousarray(piece).tobytes())


def _heads(member: Member, field: str) -> dict[str, Part]:
    try:
        with zipfile.ZipFile(member.path) as archive:
            infos = archive.infolist()
            if len(infos) > MAX_MEMBERS:
                raise ValueError(f"it has {len(infos)} members; at most {MAX_MEMBERS} are read")
            found = {info.filename.removesuffix(".npy"): _head(archive, info) for info in infos}
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, RuntimeError, NotImplementedError) as error:
        raise _unreadable(member, error, field) from error
    counts = {part.shape[:1] for part in found.values()}
    if len(counts) != 1 or counts == {()}:
        raise BurnishError(Reason.InvalidDataset, f"{member.name} holds no arrays, or arrays that differ in their number of samples", field=field)
    return found


def _head(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Part:
    with archive.open(info) as stream:
        version = np.lib.format.read_magic(stream)
        shape, _, dtype = (np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0)(stream)
        if dtype.hasobject:
            raise ValueError("it holds Python objects, which are never loaded")
        part = Part(tuple(shape), dtype)
        if stream.tell() + part.size_bytes != info.file_size:
            raise ValueError(f"{info.filename} is not as long as it announces")
    return part


def _load(member: Member, name: str, field: str) -> np.ndarray:
    try:
        with np.load(member.path, allow_pickle=False) as archive:
            array: np.ndarray = archive[name]
            return array
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, RuntimeError, KeyError) as error:  # a checksum shows only now
        raise _unreadable(member, error, field) from error


def _unreadable(member: Member, error: Exception, field: str) -> BurnishError:
    message = f"{member.name} is no readable .npz file ({error}); write it with numpy.savez_compressed"
    return BurnishError(Reason.InvalidDataset, message, field=field)
