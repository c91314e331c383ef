"""Writes protobuf's text format, so that a value can never become syntax, and reads back the one field that decides which code runs.

Only what config.pbtxt needs (https://protobuf.dev/reference/protobuf/textformat-spec/). Names in a model are chosen by whoever made the
model: every string goes through `quote`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator

_INDENT = "  "
_TOKEN = re.compile(r"""\s+|\#[^\n]*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|[A-Za-z_]\w*|.""", re.DOTALL)


class Enum(str):
    """A value that is written bare: `TYPE_FP32`, `KIND_CPU`."""


@dataclasses.dataclass(frozen=True)
class Message:
    """Fields of a message, in order; a list is a repeated field, an empty list is left out."""

    fields: tuple[tuple[str, Value], ...]

    def __init__(self, *fields: tuple[str, Value]) -> None:
        object.__setattr__(self, "fields", fields)


Value = str | int | bool | Message | list["Message"] | list[int]


def quote(text: str) -> str:
    """A string literal: printable ASCII as it is, every other byte of the UTF-8 text as an octal escape."""
    return '"' + "".join(chr(b) if 0x20 <= b < 0x7F and b not in b'"\\' else f"\\{b:03o}" for b in text.encode("utf-8", "surrogateescape")) + '"'


def render(message: Message) -> str:
    """The message as text, one field per line, ends with a newline."""
    return "".join(f"{line}\n" for line in _lines(message))


def _lines(message: Message) -> Iterator[str]:
    for name, value in message.fields:
        if isinstance(value, Message):
            yield from _block(name, value)
        elif isinstance(value, list) and all(isinstance(entry, Message) for entry in value):
            for entry in value:
                if isinstance(entry, Message):
                    yield from _block(name, entry)
        elif isinstance(value, list):
            yield f"{name}: [{', '.join(str(entry) for entry in value)}]"
        else:
            yield f"{name}: {_scalar(value)}"


def _block(name: str, message: Message) -> Iterator[str]:
    inner = list(_lines(message))
    if inner:
        yield f"{name} {{"
        yield from (_INDENT + line for line in inner)
        yield "}"
    else:
        yield f"{name} {{ }}"


def _scalar(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Enum):
        return str(value)
    return quote(value) if isinstance(value, str) else str(value)


def words_and_strings(text: str) -> Iterable[str]:
    """Tokens of a text-format file without white space and comments; strings keep their quotes."""
    return (token for token in _TOKEN.findall(text) if not token.isspace() and not token.startswith("#"))
