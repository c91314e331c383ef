"""External tensor data: checked before any library follows a path in it, then inlined.

Paths in an ONNX file are the author's choice; loaders that follow them have read files outside the model's directory (CVE-2022-25882,
CVE-2024-27318, GHSA-538c-55jv-c5g9). So every location is held to: relative, inside the directory, a regular file reached without any link.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath
from typing import Any

from burnish.errors import BurnishError, Reason
from burnish.plugins.formats import _onnx_graph

MAX_FILE_BYTES = 2**31 - 2**20
"""Above this a model doesn't fit a protobuf file (2 GiB), with a margin for the graph itself; its data stays in one file beside it."""


def check(model: Any, directory: Path) -> None:
    """Check where external data lies, without reading it.

    Raises:
        BurnishError: UnsafeExternalData.
    """
    for name, tensor in _onnx_graph.tensors(model):
        if _is_external(tensor):
            _check_location(name, tensor, directory)


def inline(model: Any, directory: Path) -> None:
    """Check external data, then read it into the model.

    Raises:
        BurnishError: UnsafeExternalData; InvalidModel where a file holds less data than the model says.
    """
    from onnx.external_data_helper import load_external_data_for_tensor

    check(model, directory)
    for name, tensor in _onnx_graph.tensors(model):
        if _is_external(tensor):
            try:
                load_external_data_for_tensor(tensor, str(directory))
            except Exception as error:  # the library raises its own, untyped, kinds
                raise BurnishError(Reason.InvalidModel, f"the external data of tensor {name!r} can't be read: {error}") from error
            tensor.data_location = type(tensor).DEFAULT
            del tensor.external_data[:]


def save(model: Any, target: Path) -> None:
    """Write the model to `target`; its data goes to `<target>.data` only where one file can't hold it."""
    import onnx

    if model.ByteSize() <= MAX_FILE_BYTES:
        target.write_bytes(model.SerializeToString(deterministic=True))
        return
    onnx.save(model, target, save_as_external_data=True, all_tensors_to_one_file=True, location=f"{target.name}.data", convert_attribute=True)
    inline(model, target.parent)  # onnx.save has moved the data out of the model in memory too


def _is_external(tensor: Any) -> bool:
    return bool(tensor.data_location == type(tensor).EXTERNAL or tensor.external_data)


def _check_location(name: str, tensor: Any, directory: Path) -> None:
    locations = [entry.value for entry in tensor.external_data if entry.key == "location"]
    location = locations[0] if len(locations) == 1 else ""
    pure = PurePosixPath(location.replace("\\", "/"))
    if not pure.parts:
        raise _unsafe(name, "names no file, or several")
    if pure.is_absolute() or ":" in pure.parts[0] or "\0" in location:
        raise _unsafe(name, f"lies at the absolute path {location!r}")
    if ".." in pure.parts:
        raise _unsafe(name, f"lies outside the model's directory ({location!r})")
    path = directory
    for part in pure.parts:
        path = path / part
        try:
            info = os.lstat(path)
        except OSError:
            raise _unsafe(name, f"is in {location!r}, which is missing") from None
        if stat.S_ISLNK(info.st_mode):
            raise _unsafe(name, f"is reached through the link {str(path.relative_to(directory))!r}")
    if not stat.S_ISREG(info.st_mode):
        raise _unsafe(name, f"is in {location!r}, which is no regular file")
    if info.st_nlink > 1:
        raise _unsafe(name, f"is in {location!r}, which is a hard link to another file")


def _unsafe(name: str, what: str) -> BurnishError:
    return BurnishError(
        Reason.UnsafeExternalData,
        f"the external data of tensor {name!r} {what}; put a plain copy of the data file beside the .onnx file and name it there",
    )
