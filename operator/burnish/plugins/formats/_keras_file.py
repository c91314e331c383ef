"""Looking into a file of Keras before Keras does: what it is, how large it gets, and whether it asks for code or for other files."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from burnish.errors import BurnishError, Reason
from burnish.plugins.files import MAX_JSON_BYTES, Files, head, zip_entries

HDF5 = b"\x89HDF\r\n\x1a\n"
"""How such a file begins (HDF5 File Format Specification, superblock)."""
_CONFIG, _METADATA, _WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
_MAX_ENTRIES = 10_000
_MAX_GROWTH, _GRACE_BYTES = 16, 2**24
"""Keras compresses neither archive nor weights: what unpacks to many times its size was made for that."""
_CODE = {"Lambda": "a Lambda layer", "__lambda__": "a Python function", "TFSMLayer": "a layer that loads a SavedModel"}
"""class_name -> what it is. Keras' safe mode refuses them too."""
_TEXT = frozenset({"TextVectorization", "StringLookup", "IntegerLookup", "Hashing", "HashedCrossing"})
"""Layers of Keras that prepare text and ids by a table or a hash, which ONNX doesn't have."""
_EXPORT = "export it where its code is, and use that folder as the source: model.export('folder')"
_LISTED = 5


def is_archive(files: Files) -> bool:
    """True for a zip file with the entries of a .keras file."""
    if files.is_directory or not files.paths or head(files, files.paths[0], 2) != b"PK":
        return False
    return {_CONFIG, _METADATA} <= set(zip_entries(files, files.paths[0]))


def is_hdf5(files: Files) -> bool:
    """True for an HDF5 file."""
    return not files.is_directory and bool(files.paths) and head(files, files.paths[0], len(HDF5)) == HDF5


def check(path: Path) -> str:
    """Refuse a file that needs code, reaches for other files, or unpacks beyond measure; returns the suffix by which Keras knows its kind.

    Raises:
        BurnishError: UnsafeSource, ArchitectureMismatch, UnsupportedOperator, InvalidModel.
    """
    with path.open("rb") as file:
        is_zip = file.read(2) == b"PK"
    config, suffix = (_of_archive(path), ".keras") if is_zip else (_of_hdf5(path, path.name, path.stat().st_size), ".h5")
    if config is None:
        cure = "save the whole model: model.save('model.keras')"
        raise BurnishError(Reason.InvalidModel, f"{path.name} holds no description of a model, only weights or other data; {cure}")
    _check_config(_json(config, path.name), path.name)
    return suffix


def _of_archive(path: Path) -> bytes:
    try:
        with zipfile.ZipFile(path) as archive:
            _check_entries(archive, path)
            names = archive.namelist()
            if _WEIGHTS in names:
                _of_hdf5(io.BytesIO(archive.read(_WEIGHTS)), f"{path.name}/{_WEIGHTS}", path.stat().st_size)
            return archive.read(_CONFIG)
    except (zipfile.BadZipFile, KeyError, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise BurnishError(Reason.InvalidModel, f"{path.name} is damaged ({error}); copy or save it again") from error


def _check_entries(archive: zipfile.ZipFile, path: Path) -> None:
    entries = archive.infolist()
    size, unpacked = path.stat().st_size, sum(entry.file_size for entry in entries)
    config = archive.getinfo(_CONFIG).file_size
    if len(entries) > _MAX_ENTRIES or unpacked > _limit(size) or config > MAX_JSON_BYTES:
        text = f"{path.name} has {len(entries)} entries of {unpacked} bytes in {size}, which Keras does not write; it was not unpacked"
        raise BurnishError(Reason.UnsafeSource, text)
    for entry in entries:
        name = PurePosixPath(entry.filename.replace("\\", "/"))
        is_link = entry.external_attr >> 28 == 0o12
        if name.is_absolute() or ".." in name.parts or is_link:
            raise BurnishError(
                Reason.UnsafeSource, f"{path.name} holds {entry.filename!r}, which lies outside of it or is a link; it was not unpacked"
            )


def _limit(size: int) -> int:
    return _MAX_GROWTH * size + _GRACE_BYTES


def _of_hdf5(source: Any, name: str, size: int) -> bytes | None:
    """The description in an HDF5 file, if there is one; and the file keeps to itself.

    Args:
        source: path, or stream.
        name: for messages.
        size: bytes in which all this came.
    """
    import h5py

    try:
        with h5py.File(source, "r") as file:
            outside = list(_outside(file))
            total = sum(dataset.nbytes for dataset in _datasets(file))
            config = file.attrs.get("model_config")
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        said = " ".join(str(error).split())[:200]
        raise BurnishError(Reason.InvalidModel, f"{name} is no complete HDF5 file ({said}); copy or save it again") from error
    if outside:
        text = f"{name} takes {', '.join(outside[:_LISTED])} from other files of the machine that reads it; it was not loaded; save the model again"
        raise BurnishError(Reason.UnsafeSource, text)
    if total > _limit(size):
        raise BurnishError(Reason.UnsafeSource, f"{name} declares {total} bytes of weights in {size}, which Keras does not write; it was not loaded")
    return config.encode() if isinstance(config, str) else config


def _outside(file: Any) -> Iterator[str]:
    import h5py

    links = list[str]()
    file.visititems_links(lambda name, link: links.append(name) if isinstance(link, h5py.ExternalLink) else None)
    yield from links
    yield from (dataset.name for dataset in _datasets(file) if dataset.external or dataset.is_virtual)


def _datasets(file: Any) -> list[Any]:
    import h5py

    found = list[Any]()
    file.visititems(lambda _, item: found.append(item) if isinstance(item, h5py.Dataset) else None)
    return found


def _json(config: bytes, name: str) -> Any:
    try:
        return json.loads(config)
    except (ValueError, RecursionError) as error:
        raise BurnishError(Reason.InvalidModel, f"the description of the model in {name} is no JSON; copy or save it again") from error


def _check_config(config: Any, name: str) -> None:
    """What is to be built is Keras' own. How the model was trained (`compile_config`) is not built.

    Raises:
        BurnishError: UnsafeSource for code in the file, ArchitectureMismatch for classes whose code is elsewhere, UnsupportedOperator for layers
            that prepare text.
    """
    objects = list(_objects({key: value for key, value in config.items() if key != "compile_config"} if isinstance(config, dict) else config))
    code = sorted({_CODE[found["class_name"]] + _called(found) for found in objects if found["class_name"] in _CODE})
    if code:
        text = f"{name} holds {', '.join(code[:_LISTED])}: code of its author's, which is never run; replace it by layers of Keras, or {_EXPORT}"
        raise BurnishError(Reason.UnsafeSource, text)
    custom = sorted({found["class_name"].rpartition(">")[2] for found in objects if _is_custom(found)})
    if custom:
        raise needs_code(name, custom)
    preparing = sorted({found["class_name"] + _called(found) for found in objects if found["class_name"] in _TEXT})
    if preparing:
        listed = ", ".join(preparing[:_LISTED])
        cure = "the client prepares the text: save the part of the model behind them, which takes numbers"
        raise BurnishError(Reason.UnsupportedOperator, f"{name} prepares text or ids with {listed}, which ONNX has no operators for; {cure}")


def needs_code(name: str, classes: Sequence[str]) -> BurnishError:
    """The refusal of a model with classes of its author's."""
    return BurnishError(
        Reason.ArchitectureMismatch, f"{name} needs {', '.join(classes[:_LISTED])}, which Keras does not have, and no other code is run; {_EXPORT}"
    )


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """Every description of an object, at any depth."""
    pending = [value]
    while pending:
        found = pending.pop()
        if isinstance(found, dict):
            if isinstance(found.get("class_name"), str):
                yield found
            pending += found.values()
        elif isinstance(found, list):
            pending += found


def _is_custom(described: dict[str, Any]) -> bool:
    module, registered = described.get("module"), described.get("registered_name")
    if isinstance(module, str):
        return module.partition(".")[0] not in ("keras", "builtins")
    name = described["class_name"]  # of releases that tell no module: `package>Name`, where somebody registered it
    return ">" in name or (isinstance(registered, str) and registered not in (name, ""))


def _called(described: dict[str, Any]) -> str:
    config = described.get("config")
    name = config.get("name") if isinstance(config, dict) else None
    return f" ({name})" if isinstance(name, str) else ""
