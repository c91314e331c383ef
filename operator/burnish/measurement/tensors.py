"""Arrays as the binary tensor data extension of the KServe v2 protocol carries them: little-endian, C order, strings with length prefixes."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from burnish.plugins.base import Arrays, DataType, Signature, Tensor

_WIRE = {kind: np.dtype(kind.numpy_name).newbyteorder("<") for kind in DataType if kind is not DataType.BYTES}
_KINDS = {np.dtype(kind.numpy_name): kind for kind in DataType if kind is not DataType.BYTES}


def to_served(arrays: Arrays, signature: Signature) -> dict[str, NDArray[np.generic]]:
    """Inputs of the model's own rank as Triton takes them.

    Triton has no tensor without a dimension besides the batch, so `serving.config` declares such a tensor as `[1]`: (N,) is sent as (N, 1),
    a scalar of a model without a batch axis as (1,).
    """
    scalars = _scalars(signature.inputs, signature)
    return {name: array[..., None] if name in scalars else array for name, array in arrays.items()}


def from_served(arrays: Arrays, signature: Signature) -> dict[str, NDArray[np.generic]]:
    """Outputs as Triton sends them in the model's own rank: what `to_served` does to inputs, undone."""
    scalars = _scalars(signature.outputs, signature)
    return {name: array[..., 0] if name in scalars and array.shape[-1:] == (1,) else array for name, array in arrays.items()}


def _scalars(tensors: Sequence[Tensor], signature: Signature) -> set[str]:
    """Names of the tensors with no dimension besides the batch."""
    return {tensor.name for tensor in tensors if len(tensor.shape) == int(signature.is_batched)}


def data_type(array: NDArray[np.generic]) -> DataType:
    """The protocol's name for an array's dtype; str, bytes and object arrays are BYTES.

    Raises:
        ValueError: the protocol has no such type.
    """
    if array.dtype.kind in "OSU":
        return DataType.BYTES
    try:
        return _KINDS[array.dtype.newbyteorder("=")]
    except KeyError:
        raise ValueError(f"dtype {array.dtype} can't be sent to Triton") from None


def to_bytes(array: NDArray[np.generic]) -> bytes:
    """An array's elements on the wire; text as UTF-8.

    Raises:
        ValueError: the protocol has no such type.
    """
    kind = data_type(array)
    if kind is not DataType.BYTES:
        return array.astype(_WIRE[kind], copy=False).tobytes()
    texts = (x if isinstance(x, bytes) else str(x).encode() for x in array.ravel().tolist())
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def from_bytes(data: memoryview, kind: DataType, shape: tuple[int, ...]) -> NDArray[np.generic]:
    """The array of a wire representation; BYTES gives an object array of bytes. Other types share the memory of `data`, read-only.

    Raises:
        ValueError: the bytes do not make up an array of this type and shape.
    """
    if kind is not DataType.BYTES:
        return np.frombuffer(data, dtype=_WIRE[kind]).reshape(shape)
    texts: list[bytes] = []
    offset = 0
    while offset < len(data):
        if offset + 4 > len(data):
            raise ValueError("a string's length prefix is cut off")
        end = offset + 4 + struct.unpack_from("<I", data, offset)[0]
        if end > len(data):
            raise ValueError("a string is cut off")
        texts.append(bytes(data[offset + 4 : end]))
        offset = end
    array = np.empty(len(texts), dtype=object)
    array[:] = texts
    return array.reshape(shape)
