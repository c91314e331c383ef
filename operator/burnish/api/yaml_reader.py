"""Reads a manifest's YAML as kubectl reads it, and refuses what could mislead or harm.

PyYAML's own safe loader takes the last of two equal keys in silence, turns `2026-11-23` into a date and `1:30` into 90 (kubectl keeps both
as text), and lets a few aliases grow into gigabytes. Here the document is checked as a graph of nodes, before any value is made of it.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from burnish.api.uris import scrub_if_uri
from burnish.errors import BurnishError, Reason

MAX_BYTES = 1 << 20
"""Largest manifest; an object in Kubernetes can't be larger than about 1.5 MiB."""
_MAX_EXPANDED = 4 * MAX_BYTES
"""Largest document after aliases are expanded, in characters plus nodes."""
_MAX_DEPTH = 64

_BOOLEANS = {"y": True, "yes": True, "true": True, "on": True, "n": False, "no": False, "false": False, "off": False}
_BOOL = re.compile(r"^(?:[yYnN]|[yY]es|YES|[nN]o|NO|[tT]rue|TRUE|[fF]alse|FALSE|[oO]n|ON|[oO]ff|OFF)$")
_INT = re.compile(r"^[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F]+|0o?[0-7]+|0b[01]+)$")
_FLOAT = re.compile(r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$")
_NULL = re.compile(r"^(?:~|null|Null|NULL|)$")
_MERGE = re.compile(r"^<<$")
_TAG = "tag:yaml.org,2002:"
_SCALARS = {_TAG + "int": _INT, _TAG + "float": _FLOAT, _TAG + "bool": _BOOL, _TAG + "null": _NULL}
_PLAIN_TAGS = frozenset(_TAG + name for name in ("map", "seq", "str", "int", "float", "bool", "null", "merge", "value"))
_CURES = {
    "found character '\\t'": "indent with spaces; tabs are not allowed",
    "cannot start any token": "put text that begins with a special character in quotes",
    "unexpected end of stream": "close the quotes",
    "mapping values are not allowed here": "put text that contains ': ' in quotes, and check the indentation",
    "expected <block end>": "check the indentation",
    "could not find expected ':'": "write a ':' and a space after the field's name",
    "expected ',' or": "check commas and closing brackets",
    "undefined alias": "define the anchor before it is used, or put text that begins with * in quotes",
}


class _Loader(yaml.SafeLoader):
    """Safe loader with kubectl's scalars and a bound on nesting."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  # PyYAML's own declaration; filled below
    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]  # PyYAML's stubs
            problem = f"nested deeper than {_MAX_DEPTH} levels; put text that begins with [ or {{ in quotes"
            raise yaml.composer.ComposerError(None, None, problem, mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


for _tag, _pattern in (*_SCALARS.items(), (_TAG + "merge", _MERGE)):
    _Loader.add_implicit_resolver(_tag, _pattern, None)


def _construct_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = node.value.replace("_", "").lower()
    base = 16 if "0x" in text else 2 if "0b" in text else 8 if re.match(r"^[-+]?0o?[0-7]+$", text) else 10
    value = int(text.replace("0o", ""), base) if len(text) < 80 else 1 << 64
    if not -(1 << 63) <= value < 1 << 63:
        raise yaml.constructor.ConstructorError(None, None, f"{_clip(node.value)} does not fit into 64 bits; write a smaller number", node.start_mark)
    return value


def _construct_bool(loader: _Loader, node: yaml.ScalarNode) -> bool:
    return _BOOLEANS[node.value.lower()]


_Loader.add_constructor(_TAG + "int", _construct_int)
_Loader.add_constructor(_TAG + "bool", _construct_bool)


def read(text: str, source: str) -> list[Any]:
    """The documents of a YAML text, as dicts, lists, str, int, float, bool and None; empty documents are left out.

    Args:
        text: YAML 1.1, as kubectl takes it.
        source: what to call it in messages, such as the file's name.

    Raises:
        BurnishError: InvalidManifest, with line and column: no YAML, a key twice, a tag, aliases that explode, a number beyond 64 bits.
    """
    if len(text.encode(errors="surrogatepass")) > MAX_BYTES:
        raise BurnishError(Reason.InvalidManifest, f"{show(source)} is larger than {MAX_BYTES >> 20} MiB; is this the manifest?")
    try:
        return _documents(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise BurnishError(Reason.InvalidManifest, f"{show(source)}{where}: {_problem(error)}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        code = error.character if isinstance(error.character, int) else ord(error.character)
        raise BurnishError(Reason.InvalidManifest, f"{show(source)}, line {line}: the character U+{code:04X} is not allowed; remove it") from None


def is_plain(text: str) -> bool:
    """True where YAML reads `text`, written without quotes, as this very text."""
    try:
        return bool(_documents(text) == [text])
    except yaml.YAMLError:
        return False


def show(text: str, limit: int = 80) -> str:
    """Text from outside for a message: on one line, control and direction characters escaped, shortened."""
    return _clip("".join(c if c.isprintable() else repr(c)[1:-1] for c in text), limit)


def _clip(text: str, limit: int = 40) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _documents(text: str) -> list[Any]:
    loader = _Loader(text)
    try:
        found = []
        while loader.check_node():
            if node := loader.get_node():
                _check(node, {})
                found.append(loader.construct_document(node))
        return [document for document in found if document is not None]
    finally:
        loader.dispose()


def _check(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Refuse what a node graph must not hold; returns its size after aliases are expanded.

    `sizes` remembers finished nodes by identity, so that a bomb of aliases is counted without being expanded; 0 marks a node in progress.
    """
    if id(node) in sizes:
        if sizes[id(node)] == 0:
            raise _error(node, "an anchor that contains itself is not allowed; write the value out")
        return sizes[id(node)]
    sizes[id(node)] = 0
    if node.tag not in _PLAIN_TAGS:
        raise _error(node, f"the tag {show(node.tag.replace(_TAG, '!!'))} is not allowed; write plain text, numbers, lists and maps")
    if isinstance(node, yaml.ScalarNode) and node.tag in _SCALARS and not _SCALARS[node.tag].match(node.value):
        raise _error(node, f"{show(scrub_if_uri(node.value), 40)} is not of the type its tag says; remove the tag {node.tag.replace(_TAG, '!!')}")
    if isinstance(node, yaml.ScalarNode) and (bad := re.search("[\0\ud800-\udfff]", node.value)):
        raise _error(node, f"the character U+{ord(bad[0]):04X} is not allowed; remove it")
    size = 1 + (len(node.value) if isinstance(node, yaml.ScalarNode) else sum(_check(child, sizes) for child in _children(node)))
    if size > _MAX_EXPANDED:
        raise _error(node, "aliases expand to more than 4 MiB; write the values out")
    sizes[id(node)] = size
    return size


def _children(node: yaml.Node) -> list[yaml.Node]:
    if not isinstance(node, yaml.MappingNode):
        return list(node.value)
    first: dict[str, int] = {}
    for key, _ in node.value:
        if key.tag == _TAG + "merge":
            continue
        if key.tag != _TAG + "str":
            what = show(key.value, 40) if isinstance(key, yaml.ScalarNode) else "a list or map"
            raise _error(key, f"a field's name must be text, and {what} is none; put it in quotes if it is meant")
        line = key.start_mark.line + 1
        if key.value in first:
            raise _error(key, f"{show(key.value)} stands twice in one map (first on line {first[key.value]}); keep one")
        first[key.value] = line
    return [child for pair in node.value for child in pair]


def _error(node: yaml.Node, problem: str) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _problem(error: yaml.MarkedYAMLError) -> str:
    problem = show(error.problem or error.context or "is not YAML", 200)
    cure = next((cure for words, cure in _CURES.items() if words in problem), None)
    return f"{problem}; {cure}" if cure else problem
