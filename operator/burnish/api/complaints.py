"""What is wrong with one field of a manifest, in the manifest's own words, and the cure.

The text is made from the schema of the field (its values, bounds, pattern, examples), never from the validating library's message: so a new field
gets a good message from its declaration alone.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from burnish import names
from burnish.api import scalars
from burnish.api.base import FieldError
from burnish.api.schema import Schema
from burnish.api.uris import scrub, scrub_if_uri
from burnish.api.yaml_reader import is_plain, show
from burnish.errors import Reason

_LINE_LIMIT = 600
_PATTERNS = {
    scalars.DURATION_PATTERN: "a duration (a number and one of ns us ms s m h)",
    scalars.QUANTITY_PATTERN: "a quantity (a number, and maybe one of m k M G T Ki Mi Gi Ti)",
    scalars.DECIMAL_PATTERN: "a decimal number of zero or more",
    scalars.DIGEST_PATTERN: "a digest",
    scalars.LINE_PATTERN: "one line of text without control characters",
    scalars.NAMESPACE_PATTERN: "a name of lower-case letters, digits and '-'",
    scalars.KEYWORD_PATTERN: "a keyword of a Python function (letters, digits and '_')",
    names.NAME_PATTERN: "a name of lower-case letters, digits and '-' that begins with a letter",
    scalars.SUBDOMAIN_PATTERN: "a name of lower-case letters, digits, '-' and '.'",
    scalars.LABEL_KEY_PATTERN: "a label's key (letters, digits, '-', '_', '.', and maybe a domain and '/' before them)",
    scalars.LABEL_VALUE_PATTERN: "a label's value (letters, digits, '-', '_' and '.')",
}
_SOURCES_OF_BOOLEANS = {True: "yes, on, y and true", False: "no, off, n and false"}


@dataclasses.dataclass(frozen=True)
class Complaint:
    """One wrong field: its path (`spec.targets[0].runtime`), and what is wrong with the cure, on one line."""

    field: str
    message: str
    reason: Reason = Reason.InvalidManifest

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message


def explain(error: Mapping[str, Any], root: Schema, document: Any) -> Complaint:
    """One validation error as a complaint.

    Args:
        error: an entry of pydantic's `ValidationError.errors()`.
        root: flattened schema of the whole object.
        document: the manifest as it was written.
    """
    location = tuple(error["loc"])
    if error["type"] == "extra_forbidden":
        return _complaint(location, _unknown(str(location[-1]), _node(root, location[:-1])))
    node, value = _node(root, location), _value(document, location)
    if error["type"] == "missing":
        parent = _value(document, location[:-1])
        return _complaint(location, f"is {'empty' if location[-1] in parent else 'missing'}; {_cure(str(location[-1]), node)}")
    if error["type"] == "value_error":
        cause = error["ctx"]["error"]
        if not isinstance(cause, FieldError):
            return _complaint(location, str(cause))
        return dataclasses.replace(_complaint(location, str(cause), cause.field), reason=cause.reason)
    return _complaint(location, _wrong(location, node, value))


def about_pattern(name: str, node: Schema, *, in_list: bool = False) -> str:
    """What to say of a text that does not match its field's pattern, whatever it is; empty where there are no words for the pattern.

    Args:
        name: the field's.
        node: its flattened schema.
        in_list: the text is an entry of a list of that name.
    """
    words = _PATTERNS.get(node.get("pattern", ""))
    return f"is not {words}; {_cure(name, node, in_list)}" if words else ""


def non_finite(document: Any, root: Schema, location: tuple[str | int, ...] = ()) -> list[Complaint]:
    """Complaints about NaN and infinity, which YAML has and the API does not."""
    if isinstance(document, float) and not math.isfinite(document):
        return [_complaint(location, f"is not a finite number; {_cure(_name(location), _node(root, location), _in_list(location))}")]
    children = document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    return [complaint for key, child in children for complaint in non_finite(child, root, (*location, key))]


def describe(value: Any) -> str:
    """A value for a message: its kind, and what it is where that is short. Never raw text from outside."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return f"the boolean {str(value).lower()} (YAML reads {_SOURCES_OF_BOOLEANS[value]} so)"
    if isinstance(value, int | float):
        return f"the number {_number(value)}"
    if isinstance(value, str):
        return f"the text {quote(value)}"
    return "a map" if isinstance(value, dict) else "a list"


def quote(text: str) -> str:
    """Text in quotes, on one line, escaped and shortened; a URI without its secrets."""
    return f"'{show(scrub_if_uri(text), 60)}'"


def path(location: tuple[str | int, ...]) -> str:
    """A field's path as people write it: `spec.targets[0].runtime`."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        elif re.fullmatch(r"[A-Za-z0-9_-]{1,64}", part):
            text += f".{part}" if text else part
        else:
            text += f"[{quote(part)}]"
    return text


def _complaint(location: tuple[str | int, ...], message: str, below: str = "") -> Complaint:
    field = path(location)
    separator = "." if field and below and not below.startswith("[") else ""
    message = message if len(message) <= _LINE_LIMIT else message[: _LINE_LIMIT - 1] + "…"
    return Complaint(field + separator + below, message)


def _node(root: Schema, location: tuple[str | int, ...]) -> Schema:
    for part in location:
        root = root.get("items", {}) if isinstance(part, int) else root.get("properties", {}).get(part, {})
    return root


def _value(document: Any, location: tuple[str | int, ...]) -> Any:
    for part in location:
        try:
            document = document[part]
        except (KeyError, IndexError, TypeError):
            return None
    return document


def _unknown(name: str, parent: Schema) -> str:
    known = list(parent.get("properties", {}))
    if close := _closest(name, known):
        return f"there is no such field; did you mean {close}?"
    return f"there is no such field; {_known_fields(known)}"


def _known_fields(known: list[str]) -> str:
    return f"the fields here are {', '.join(known)}"


def _closest(word: str, words: list[str]) -> str | None:
    plain = {re.sub(r"[^a-z0-9]", "", candidate.lower()): candidate for candidate in words}
    close = difflib.get_close_matches(re.sub(r"[^a-z0-9]", "", word.lower())[:64], plain, n=1, cutoff=0.6)
    return plain[close[0]] if close else None


def _wrong(location: tuple[str | int, ...], node: Schema, value: Any) -> str:
    name, in_list = _name(location), _in_list(location)
    if "enum" in node and isinstance(value, str) and node.get("type") == "string":
        close = _closest(value, node["enum"])
        one_of = "write one of them" if len(node["enum"]) > 1 else _cure(name, node, in_list)
        return f"{quote(value)} is not one of {', '.join(node['enum'])}; {f'did you mean {close}?' if close else one_of}"
    if not _has_type(node, value):
        return f"is {describe(value)}; {_type_cure(name, node, value, in_list)}"
    if isinstance(value, str):
        return _wrong_text(name, node, value, in_list)
    if isinstance(value, list):
        return _wrong_length(node, value)
    return f"{describe(value).removeprefix('the number ')} is out of range; {_cure(name, node, in_list)}"


def _name(location: tuple[str | int, ...]) -> str:
    return next((part for part in reversed(location) if isinstance(part, str)), "")


def _in_list(location: tuple[str | int, ...]) -> bool:
    return bool(location) and isinstance(location[-1], int)


def _has_type(node: Schema, value: Any) -> bool:
    kinds = {"string": str, "integer": int, "object": dict, "array": list, "boolean": bool}
    expected = kinds.get(node.get("type", ""), object)
    return isinstance(value, expected) and not (expected is int and isinstance(value, bool))


def _wrong_text(name: str, node: Schema, value: str, in_list: bool) -> str:
    value, length = scrub(value) if name == "uri" else value, len(value)
    if length > node.get("maxLength", length):
        return f"has {length} characters, and at most {node['maxLength']} are allowed; shorten {quote(value[:20] + '…')}"
    if length < node.get("minLength", 0):
        return f"is empty; {_cure(name, node, in_list)}"
    pattern = node.get("pattern", "")
    return f"{quote(value)} is not {_PATTERNS.get(pattern, f'of the form {pattern}')}; {_cure(name, node, in_list, _nearest(value, node))}"


def _wrong_length(node: Schema, value: list[Any]) -> str:
    if len(value) > node.get("maxItems", len(value)):
        return f"has {len(value)} entries, and at most {node['maxItems']} are allowed; remove some"
    return f"has {len(value)} entries, and at least {node.get('minItems', 1)} must be there; add one"


def _type_cure(name: str, node: Schema, value: Any, in_list: bool) -> str:
    kind = node.get("type")
    if kind == "object":
        required = node.get("required", [])
        others = [field for field in node.get("properties", {}) if field not in required]
        return f"write a map with {', '.join(required)}{' and maybe ' if required and others else ''}{', '.join(others)}"
    if kind == "array":
        if "examples" in node:
            return f"write for example {name}: {node['examples'][0]}"
        if isinstance(value, str) and re.fullmatch(r"[\w./-]{1,40}", value):
            return f"write a list: {name}: [{value}]"
        return "write a list, with '- ' before each entry"
    if kind == "integer":
        if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,9}", value):
            return f"write it without quotes: {_assign(name, value, in_list)}"
        if isinstance(value, float) and value.is_integer():
            return f"write it as a whole number: {_assign(name, str(int(value)), in_list)}"
        return _cure(name, node, in_list)
    if kind == "boolean":
        return _boolean_cure(name, value, in_list)
    if isinstance(value, bool):
        return "put it in quotes if text is meant" if _takes_any_text(node) else _cure(name, node, in_list)
    if isinstance(value, int | float):
        return _text_for_number(name, node, value, in_list)
    return _cure(name, node, in_list)


def _boolean_cure(name: str, value: Any, in_list: bool) -> str:
    known = {"true": "true", "yes": "true", "on": "true", "1": "true", "false": "false", "no": "false", "off": "false", "0": "false"}
    meant = known.get(str(value).lower())
    return f"write {_assign(name, meant, in_list)}, without quotes" if meant else f"write {name}: true or {name}: false"


def _takes_any_text(node: Schema) -> bool:
    return "enum" not in node and "pattern" not in node


def _text_for_number(name: str, node: Schema, value: float, in_list: bool) -> str:
    text = _number(value)
    if node.get("pattern") == scalars.DURATION_PATTERN and value > 0:
        return f"a duration needs a unit; {_cure(name, node, in_list, f'{text}s')}"
    if "enum" in node or not re.search(node.get("pattern", ""), text):
        return _cure(name, node, in_list)
    return f"text is expected here; write {_assign(name, _quoted(text), in_list)}"


def _cure(name: str, node: Schema, in_list: bool = False, suggestion: str | None = None) -> str:
    """What to write into a field, from its schema."""
    if "enum" in node:
        values = [str(each) for each in node["enum"]]
        return f"write {_assign(name, values[0], in_list)}" if len(values) == 1 else f"write one of {', '.join(values)}"
    kind = node.get("type")
    if kind in {"object", "array"}:
        return _type_cure(name, node, None, in_list)
    if kind == "integer":
        return f"write a whole number {_range(node)}"
    if suggestion is None and node.get("pattern") == scalars.DIGEST_PATTERN:
        return "write sha256: and the 64 hexadecimal digits that sha256sum prints"
    if suggestion is None and "examples" not in node:
        return "write text"
    example = suggestion if suggestion is not None else node["examples"][0]
    such_as = "" if suggestion is not None else "for example "
    return f"write {such_as}{_assign(name, _quoted(example) if _needs_quotes(example, node) else example, in_list)}"


def _needs_quotes(text: str, node: Schema) -> bool:
    return node.get("pattern") == scalars.DECIMAL_PATTERN or not is_plain(text)


def _quoted(text: str) -> str:
    return f'"{text}"'


def _assign(name: str, value: str, in_list: bool) -> str:
    return f"- {value}" if in_list or not name else f"{name}: {value}"


def _range(node: Schema) -> str:
    low, high = node.get("minimum"), node.get("maximum")
    if low is not None and high is not None:
        return f"from {low} to {high}"
    return f"of at least {low}" if low is not None else f"of at most {high}" if high is not None else "without quotes"


def _number(value: float) -> str:
    """A number as a manifest would write it: no exponent."""
    if isinstance(value, int) or not math.isfinite(value):
        return str(value)
    text = format(Decimal(repr(value)), "f")
    return text if len(text) <= 40 else repr(value)


def _nearest(value: str, node: Schema) -> str | None:
    """What was probably meant by a text that does not match its pattern: the first small change that does."""
    pattern, longest = node.get("pattern", ""), node.get("maxLength", 0)
    if pattern == scalars.LINE_PATTERN or len(value) > 200:
        return None
    slug = re.sub(r"[^a-z0-9]+", "-", value.lower()).strip("-")
    guesses = [value.strip(), value.strip().lower(), value.replace(",", "."), value.replace(" ", ""), value.removesuffix("B")]
    if pattern in {names.NAME_PATTERN, scalars.NAMESPACE_PATTERN}:
        guesses += [slug, f"m-{slug}"]
    if re.fullmatch(r"[0-9.]{1,9}[eE]-?[0-9]", value):
        guesses.append(_number(float(value)))
    return next((guess for guess in guesses if re.fullmatch(pattern, guess) and len(guess) <= longest), None)
