"""The CRD obeys Kubernetes' rules for structural schemas and this project's own, whatever the models become.

A real apiserver has the last word; these are the rules it applies that can be checked without one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from pydantic import BaseModel, Field

from burnish.api import crd, rules, schema
from burnish.api.base import ApiModel
from burnish.api.scalars import Decimal, Duration, Quantity, Time
from burnish.api.v1alpha1 import optimized_model
from burnish.api.v1alpha1.optimized_model import OptimizedModel, Serving
from burnish.api.v1alpha1.status import Condition

GOLDEN = Path(__file__).parents[2] / "golden" / "crd"
EXAMPLES = Path(__file__).parents[3] / "examples"

ALLOWED = {
    *("type", "format", "description", "enum", "pattern", "minLength", "maxLength", "minimum", "maximum", "minItems", "maxItems"),
    *("properties", "required", "items", "default", "x-kubernetes-list-type", "x-kubernetes-list-map-keys", "x-kubernetes-validations"),
}
INT_OR_STRING = {"description", "anyOf", "pattern", "maxLength", "x-kubernetes-int-or-string", "x-kubernetes-validations"}


def walk(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from walk(child, f"{path}.{name}")
    if "items" in node:
        yield from walk(node["items"], f"{path}[]")


NODES = list(walk(crd.build_schema()))
OURS = [(path, node) for path, node in NODES if path.startswith((".spec", ".status"))]


def test_walk_reaches_the_whole_schema() -> None:
    paths = {path for path, _ in NODES}
    assert {".spec.targets[].passes[].quantize.excludedNodes[]", ".status.targets[].measurements[].speedup.low"} <= paths


def test_schema_holds_only_keys_that_a_structural_schema_may() -> None:
    for path, node in NODES:
        assert set(node) <= (INT_OR_STRING if node.get("x-kubernetes-int-or-string") else ALLOWED), path


def test_schema_has_one_type_everywhere_and_no_floats() -> None:
    for path, node in NODES:
        if node.get("x-kubernetes-int-or-string"):
            assert node["anyOf"] == [{"type": "integer"}, {"type": "string"}], path
        else:
            assert node["type"] in {"object", "array", "string", "integer", "boolean"}, path


def test_schema_bounds_every_text_and_list() -> None:
    for path, node in OURS:
        if node.get("type") == "string" or node.get("x-kubernetes-int-or-string"):
            assert "maxLength" in node or node.get("enum") or node.get("format") == "date-time", path
        if node.get("type") == "array":
            assert node["maxItems"] <= 256, path


def test_schema_names_the_fields_of_every_object() -> None:
    for path, node in OURS:
        if node.get("type") == "object":
            assert node["properties"], path
            assert set(node.get("required", ())) <= set(node["properties"]), path


def test_schema_describes_every_field() -> None:
    for path, node in OURS:
        if not path.endswith("[]"):
            assert len(node.get("description", "")) > 3, path


def test_lists_say_how_they_merge_and_keys_are_required() -> None:
    keyed = {}
    for path, node in NODES:
        if node.get("type") != "array":
            continue
        assert node["x-kubernetes-list-type"] in {"map", "atomic", "set"}, path
        assert (node["x-kubernetes-list-type"] == "set") == (node["items"]["type"] == "string"), path
        if node["x-kubernetes-list-type"] == "map":
            (key,) = node["x-kubernetes-list-map-keys"]
            assert key in node["items"]["required"], path
            assert node["items"]["properties"][key]["type"] in {"string", "integer"}, path
            keyed[path] = key
        elif node["items"]["type"] == "object":
            assert "name" not in node["items"]["properties"], path
    assert keyed[".status.conditions"] == "type"
    assert keyed[".spec.targets"] == keyed[".spec.inputs"] == keyed[".spec.measurement.loads"] == keyed[".status.targets"] == "name"
    assert keyed[".spec.inputs[].dynamic"] == "axis"


def test_enums_are_not_empty_and_hold_each_value_once() -> None:
    for path, node in NODES:
        if "enum" in node:
            assert node["enum"], path
            assert len(node["enum"]) == len(set(node["enum"])), path


def test_patterns_are_in_the_syntax_that_the_apiserver_knows() -> None:
    """RE2: no look-around, no back references."""
    for path, node in NODES:
        if pattern := node.get("pattern"):
            re.compile(pattern)
            assert pattern.startswith("^"), path
            assert pattern.endswith("$"), path
            assert not re.search(r"\(\?[=!<]|\\[1-9]", pattern), path


def test_required_fields_are_those_without_a_default() -> None:
    spec = dict(NODES)[".spec"]
    assert spec["required"] == ["source", "targets"]
    assert dict(NODES)[".spec.constraints"].get("required") is None


def test_quantities_take_numbers() -> None:
    assert dict(NODES)[".spec.targets[].resources.cpu"]["x-kubernetes-int-or-string"] is True
    assert "x-kubernetes-int-or-string" not in dict(NODES)[".spec.constraints.score.maxDrop"]


def test_columns_show_fields_that_exist() -> None:
    nodes = dict(NODES)
    for column in crd.COLUMNS:
        path = re.sub(r"\[[^\]]*\]", "[]", column.json_path.replace('[?(@.type=="Ready")]', "[]"))
        if path != ".metadata.creationTimestamp":
            assert nodes[path].get("type", "string") == column.type, column.name


def test_columns_are_those_of_the_design() -> None:
    assert [c.name for c in crd.COLUMNS if not c.wide] == ["Ready", "Phase", "Speedup", "P99", "Score", "Size", "Age"]
    assert [c.name for c in crd.COLUMNS if c.wide] == ["Served", "Reason", "Message"]


def test_crd_names_fit_together() -> None:
    made = yaml.safe_load(crd.render())
    assert made["metadata"]["name"] == f"{made['spec']['names']['plural']}.{made['spec']['group']}"
    assert made["spec"]["names"]["shortNames"] == ["om"]
    (version,) = made["spec"]["versions"]
    assert set(version["subresources"]) == {"status", "scale"}
    assert (version["served"], version["storage"]) == (True, True)
    assert made == crd.build_crd()


def test_scale_has_its_fields_and_replicas_are_always_there() -> None:
    """GET scale of an object without them is an error of the apiserver."""
    nodes = dict(NODES)
    replicas = nodes[crd.SCALE["specReplicasPath"]]
    assert (replicas["type"], nodes[crd.SCALE["statusReplicasPath"]]["type"], nodes[crd.SCALE["labelSelectorPath"]]["type"]) == (
        "integer",
        "integer",
        "string",
    )
    assert {path: node["default"] for path, node in NODES if "default" in node} == {".spec.serving": {}, ".spec.serving.replicas": 1}
    assert Serving().replicas == 1


def test_rules_tell_what_is_wrong_and_the_cure_on_one_line() -> None:
    checked = 0
    for path, node in NODES:
        for rule in node.get("x-kubernetes-validations", ()):
            checked += 1
            assert set(rule) <= {"rule", "message", "messageExpression", "fieldPath"}, path
            assert "; " in rule["message"], path
            assert rule["message"].isprintable(), path
            assert len(rule["message"]) <= 2048, path
            if "fieldPath" in rule:
                assert path + rule["fieldPath"] in dict(NODES), path
    assert checked > 80


def test_rules_are_on_the_spec_only_and_each_text_has_words_for_its_pattern() -> None:
    for path, node in OURS:
        if path.startswith(".spec"):
            assert "pattern" not in node, path
        else:
            assert "x-kubernetes-validations" not in node, path


def test_every_model_with_rules_is_in_the_schema() -> None:
    """A model that was renamed would lose its rules in silence."""
    assert set(rules._BY_MODEL) <= set(re.findall(r'"x-model": "(\w+)"', json.dumps(schema.flatten(OptimizedModel))))


def test_every_validator_of_the_models_has_a_rule_beside_it() -> None:
    """What the models refuse between fields, the apiserver refuses too (in which words: tests/cluster/test_crd.py)."""
    flat = json.dumps(schema.flatten(OptimizedModel))
    checked = {
        name: model
        for name, model in vars(optimized_model).items()
        if isinstance(model, type)
        and issubclass(model, BaseModel)
        and f'"x-model": "{name}"' in flat
        and model.__pydantic_decorators__.model_validators
    }
    assert checked
    without = {name for name in checked if name not in rules._BY_MODEL}
    assert without == {"PassEntry"}  # made from the registry, where there is more than one pass


def unknown_fields(value: Any, node: dict[str, Any], path: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for name, child in value.items():
            if name not in node.get("properties", {}):
                yield f"{path}.{name}"
            else:
                yield from unknown_fields(child, node["properties"][name], f"{path}.{name}")
    elif isinstance(value, list):
        for child in value:
            yield from unknown_fields(child, node["items"], f"{path}[]")


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_examples_have_no_field_that_the_apiserver_would_drop(path: Path) -> None:
    assert list(unknown_fields(yaml.safe_load(path.read_text()), crd.build_schema())) == []


class Color(StrEnum):
    Red = "Red"
    Blue = "Blue"


class Part(ApiModel):
    """A named part."""

    name: Annotated[str, Field(max_length=8, pattern="^[a-z]+$")] = Field(description="Its name.")
    color: Color = Field(default=Color.Red, description="Its color.")


class Sample(ApiModel):
    """One of every construct that the API may use."""

    kind: Literal["Sample"] = Field(default="Sample", description="Constant.")
    part: Part = Field(description="An object.")
    maybe: Part | None = Field(default=None, description="An object that may be left out.")
    parts: Annotated[list[Part], Field(min_length=1, max_length=4)] = Field(description="A list with keys.")
    words: Annotated[list[Annotated[str, Field(max_length=8)]], Field(max_length=4)] = Field(default_factory=list, description="A list without.")
    conditions: Annotated[list[Condition], Field(max_length=4)] = Field(default_factory=list)
    count: Annotated[int, Field(ge=1, le=9)] = Field(default=3, description="A number.")
    on: bool = Field(default=True, description="A boolean.")
    cpu: Quantity = Field(default="1", description="A quantity.")
    ratio: Decimal | None = Field(default=None, description="A decimal.")
    timeout: Duration = Field(default="5m", description="A duration.")
    at: Time | None = Field(default=None, description="A time.")


def test_structural_translates_every_construct_as_the_golden_file_says() -> None:
    made = crd.structural(schema.flatten(Sample))
    made["properties"]["conditions"]["items"]["properties"]["reason"]["enum"] = ["..."]  # the list of reasons is tested elsewhere
    assert made == yaml.safe_load((GOLDEN / "sample.yaml").read_text())


class Free(ApiModel):
    labels: dict[str, str] = Field(default_factory=dict)


class Either(ApiModel):
    value: int | str


class Pair(ApiModel):
    value: tuple[int, str]


@pytest.mark.parametrize(("model", "words"), [(Free, "free map"), (Either, "union"), (Pair, "tuple")])
def test_flatten_refuses_what_a_structural_schema_cannot_say(model: type[ApiModel], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        schema.flatten(model)
