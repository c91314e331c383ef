"""What an ONNX file tells without the onnx library, and without its weights in memory: its fields are walked where they lie.

Sources: onnx.proto3 for the fields; protobuf.dev/programming-guides/encoding for how they are written.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

# Fields of ModelProto by number -> protobuf wire type.
_MODEL_FIELDS = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2, 26: 2}
HEAD_BYTES = 64
"""Of a file, to recognise it by."""

_IR_VERSION, _GRAPH, _OPSET_IMPORT = 1, 7, 8  # of ModelProto
_NODE, _INITIALIZER, _INPUT, _OUTPUT = 1, 5, 11, 12  # of GraphProto
_NODE_OUTPUT, _NODE_NAME, _TENSOR_NAME, _VALUE_NAME = 2, 3, 8, 1
_MAX_FIELD_BYTES = 4096
"""Of an opset_import: a name and a number."""


def looks_like_model(head: bytes) -> bool:
    """True if a file with this head starts with `ir_version`, a small integer, followed by another field of a ModelProto.

    Every exporter writes the fields in order, so field 1 comes first; a full parse needs the onnx library and belongs to export. IR version 3 is the
    first whose operators have a version; TensorFlow's saved_model.pb begins as IR version 1 would.
    """
    return len(head) > 3 and head[0] == 0x08 and 3 <= head[1] <= 127 and _MODEL_FIELDS.get(head[2] >> 3) == head[2] & 7


def declared_versions(stream: BinaryIO) -> tuple[int, int] | None:
    """Opset of the default domain and IR version of a model; None where the fields don't say so."""
    try:
        opset, ir_version = _versions(stream)
    except ValueError:
        return None
    return None if opset is None or ir_version is None else (opset, ir_version)


def versions(path: Path) -> tuple[int, int]:
    """Opset of the default domain and IR version of the ONNX file at `path`; 0 for one that it does not name.

    Raises:
        ValueError: it is no protobuf message.
    """
    with path.open("rb") as stream:
        opset, ir_version = _versions(stream)
    return opset or 0, ir_version or 0


class Names(NamedTuple):
    """What an ONNX graph calls its own."""

    inputs: list[str]
    """Without those that are weights."""
    outputs: list[str]
    operations: set[str]
    """Nodes, and the tensors that they make; of the main graph alone."""


def names(path: Path) -> Names:
    """The names in the ONNX file at `path`.

    Raises:
        ValueError: it is no protobuf message.
    """
    found: dict[int, list[str]] = {_NODE: [], _INITIALIZER: [], _INPUT: [], _OUTPUT: []}
    wanted = {_NODE: (_NODE_NAME, _NODE_OUTPUT), _INITIALIZER: (_TENSOR_NAME,), _INPUT: (_VALUE_NAME,), _OUTPUT: (_VALUE_NAME,)}
    with path.open("rb") as stream:
        for number, graph in _fields(stream, path.stat().st_size):
            if number == _GRAPH and isinstance(graph, _Part):
                for kind, part in graph.fields():
                    if kind in wanted and isinstance(part, _Part):
                        found[kind] += [text.read().decode() for name, text in part.fields() if name in wanted[kind] and isinstance(text, _Part)]
    weights = set(found[_INITIALIZER])
    return Names([name for name in found[_INPUT] if name not in weights], found[_OUTPUT], set(found[_NODE]))


def _versions(stream: BinaryIO) -> tuple[int | None, int | None]:
    opset, ir_version = None, None
    for number, value in _fields(stream):
        if number == _IR_VERSION and isinstance(value, int):
            ir_version = value
        elif number == _OPSET_IMPORT and isinstance(value, _Part) and value.size <= _MAX_FIELD_BYTES:
            domain, version = _opset_import(value.read())
            if domain in (b"", b"ai.onnx") and version is not None:
                opset = max(version, opset or 0)
    return opset, ir_version


def _opset_import(data: bytes) -> tuple[bytes, int | None]:
    """Domain and version."""
    domain, version = b"", None
    for number, value in _fields(io.BytesIO(data)):
        if number == 1 and isinstance(value, _Part):
            domain = value.read()
        elif number == 2 and isinstance(value, int):
            version = value
    return domain, version


class _Part:
    """A field of bytes at the stream's position, to be read or walked before the stream goes on; what is left of it is skipped."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self.size = size
        self._stream, self._is_done = stream, False

    def read(self) -> bytes:
        """All of it."""
        self._is_done = True
        data = self._stream.read(self.size)
        if len(data) < self.size:
            raise ValueError("the message is cut off")
        return data

    def fields(self) -> Iterator[tuple[int, int | _Part | None]]:
        """Those of the message that it is; to the end."""
        self._is_done = True
        return _fields(self._stream, self._stream.tell() + self.size)

    def skip(self) -> None:
        """Move behind it, if that has not been done."""
        if not self._is_done:
            self._stream.seek(self.size, io.SEEK_CUR)


def _fields(stream: BinaryIO, end: int | None = None) -> Iterator[tuple[int, int | _Part | None]]:
    """The number of each field and its value: an integer, bytes, or None for what is of another kind.

    Args:
        end: where the message ends; None where the stream does.

    Raises:
        ValueError: it is no protobuf message.
    """
    while end is None or stream.tell() < end:
        key = _varint(stream)
        if key is None:
            if end is not None:
                raise ValueError("the message is cut off")
            return
        kind = key & 7
        if kind == 0:
            yield key >> 3, _known(_varint(stream))
        elif kind == 2:
            part = _Part(stream, _known(_varint(stream)))
            yield key >> 3, part
            part.skip()
        elif kind in (1, 5):
            stream.seek(8 if kind == 1 else 4, io.SEEK_CUR)
            yield key >> 3, None
        else:
            raise ValueError(f"there is no wire type {kind}")
    if stream.tell() > end:
        raise ValueError("the message is cut off")


def _varint(stream: BinaryIO) -> int | None:
    """The next one; None at the end."""
    found = 0
    for shift in range(0, 70, 7):
        byte = stream.read(1)
        if not byte:
            return None if shift == 0 else _known(None)
        found |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return found
    raise ValueError("a number has too many bytes")


def _known(value: int | None) -> int:
    if value is None:
        raise ValueError("the message is cut off")
    return value
