"""Files that people take for data and that no dataset is made of, known by how they begin."""

from __future__ import annotations

from pathlib import Path

_IMAGE = "is a single image; put images into a folder for each class"
_IMAGES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")
_OTHERS = {
    b"\x93NUMPY": "is a single array (.npy); save it under its input's name: numpy.savez_compressed('data.npz', NAME=array)",
    b"PAR1": "is Parquet, which is not read; write it as JSONL (pandas: to_json(orient='records', lines=True)) or as npz",
    b"7z\xbc\xaf\x27\x1c": "is a 7z archive; pack it as tar.gz or zip",
    b"Rar!": "is a rar archive; pack it as tar.gz or zip",
    b"BZh": "is packed with bzip2; pack it as tar.gz or zip",
    b"\xfd7zXZ": "is packed with xz; pack it as tar.gz or zip",
    b"\x89HDF": "is HDF5, which is not read; write its arrays as npz",
    b"\x80": "is a pickle, which is never read; write its arrays as npz",
    b"\0\0\0\0": "begins with zeros, as an empty tar does, or a file that was never written; make it again",
}
_TEXT = {b"[": "is a JSON array; write one object per line (JSONL)"}
_BYTES = 16


def objection_to_rows(path: Path) -> str | None:
    """Why a file can't be rows of text, with the cure; None where it may be."""
    return _objection(path, {**dict.fromkeys(_IMAGES, _IMAGE), **_OTHERS, **_TEXT})


def objection_to_image(path: Path) -> str | None:
    """Why a file can't be an image, with the cure; None where its reader shall say."""
    return _objection(path, _OTHERS)


def _objection(path: Path, known: dict[bytes, str]) -> str | None:
    with path.open("rb") as stream:
        start = stream.read(_BYTES)
    if not start:
        return "is empty; give it again, or remove it"
    return next((what for begin, what in known.items() if start.lstrip(b" \t\r\n").startswith(begin)), None)
