"""The JSON schema of an API model, flattened: what the CRD, the reference page and the manifest's error messages are all made from.

pydantic writes `$defs` and `$ref`, `anyOf [T, null]` for what may be left out, and `const`. A structural schema may hold none of these, and a
person who reads a message shouldn't have to either, so one walk takes them out here.
"""

from __future__ import annotations

import copy
from typing import Any

from pydantic import BaseModel

Schema = dict[str, Any]

_DROPPED = frozenset({"title", "additionalProperties", "$defs", "discriminator", "uniqueItems", "const", "$ref", "anyOf", "allOf", "oneOf"})


def flatten(model: type[BaseModel]) -> Schema:
    """The schema of `model` without references: `type`, `properties`, `required`, `items`, `enum`, bounds, `pattern`, `description`, `default`,
    `examples`; fields in the order of the class, under their camelCase names. `x-model` says which class an object is of.

    Raises:
        ValueError: the model holds something that a structural schema can't say (a real union, a free map, a tuple of mixed types).
    """
    raw = model.model_json_schema(by_alias=True, mode="validation")
    flat = _inline({**raw, "x-model": model.__name__}, raw.get("$defs", {}), model.__name__)
    return copy.deepcopy(flat)


def _inline(node: Schema, definitions: dict[str, Schema], where: str) -> Schema:
    node = _resolve(node, definitions, where)
    flat: Schema = {key: value for key, value in node.items() if key not in _DROPPED}
    if "const" in node:
        flat["enum"] = [node["const"]]
    if "default" in flat and flat["default"] is None:
        del flat["default"]
    if "properties" in node:
        flat["properties"] = {name: _inline(child, definitions, f"{where}.{name}") for name, child in node["properties"].items()}
    elif flat.get("type") == "object":
        raise ValueError(f"{where}: a free map has no place in the API; name its fields")
    if "prefixItems" in node:
        raise ValueError(f"{where}: a tuple has no place in the API; make it an object with named fields")
    if "items" in node:
        flat["items"] = _inline(node["items"], definitions, f"{where}[]")
    if "type" not in flat:
        raise ValueError(f"{where}: has no single type")
    return flat


def _resolve(node: Schema, definitions: dict[str, Schema], where: str) -> Schema:
    """Follow `$ref` and take null out of a union; what stands beside them (description, default) wins over what they point to."""
    beside = {key: value for key, value in node.items() if key not in {"$ref", "anyOf", "allOf"}}
    if "$ref" in node:
        name = node["$ref"].rsplit("/", 1)[1]
        target = definitions[name]
        if "properties" in target:
            target = {**target, "x-model": name}
    elif "anyOf" in node or "allOf" in node:
        members = [member for member in [*node.get("anyOf", ()), *node.get("allOf", ())] if member.get("type") != "null"]
        if len(members) != 1:
            raise ValueError(f"{where}: a union of {len(members)} types has no place in the API")
        target = members[0]
    else:
        return node
    return _resolve({**target, **beside}, definitions, where)
