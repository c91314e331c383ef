"""The digits example as a user runs it: accepted, published, told in every format, found again, pulled, reported."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnxruntime
import pytest
import yaml
from pydantic import BaseModel

from burnish.api import manifest
from burnish.api.scalars import quantity_bytes
from burnish.api.v1alpha1.optimized_model import OptimizedModel
from burnish.api.v1alpha1.status import Status

pytestmark = pytest.mark.alone

CACHED_RUN_S = 20.0
"""Far above what looking up takes, far below a measurement; `make bench` holds the real figure."""


def test_digits_are_accepted_and_published(digits):
    assert digits.first.code == 0, digits.first.stderr
    assert digits.first.status["phase"] == "Ready"
    assert digits.first.target["state"] == "Published"
    assert digits.first.target["reason"] == "Published"
    assert "lastFailure" not in digits.first.status
    assert digits.first.steps == ["resolve", "stage", "export", "compress", "build", "measure", "publish"]


def test_digits_int8_is_served_and_smaller_and_faster(digits):
    target = digits.first.target
    artifact, baseline, (load,) = target["artifact"], target["baseline"], target["measurements"]
    assert artifact["served"] == "Candidate"
    assert artifact["candidate"] in ("static", "static-ends")
    assert artifact["digest"] != baseline["digest"]
    assert artifact["uri"].endswith(f"@{artifact['digest']}")
    assert quantity_bytes(artifact["size"]) < 0.3 * quantity_bytes(baseline["size"])
    assert float(load["speedup"]["low"]) > 1
    assert float(load["speedup"]["low"]) <= float(load["speedup"]["p50"]) <= float(load["speedup"]["high"])
    assert load["verdict"] == "Accepted"


def test_digits_score_holds_within_its_interval(digits):
    score = digits.first.target["score"]
    assert score["verdict"] == "Accepted"
    assert score["samples"] == 899
    assert float(score["value"]) > 0.95
    assert float(score["drop"]) <= float(score["high"]) <= 0.01


def test_digits_every_candidate_is_told_with_its_numbers(digits):
    candidates = {c["name"]: c for c in digits.first.target["candidates"]}
    assert set(candidates) == {"static", "dynamic", "static-ends"}
    for candidate in candidates.values():
        assert candidate["verdict"] in ("Accepted", "Refused", "Undecided")
        assert candidate["message"]
        assert float(candidate["speedup"]) > 0
    assert candidates[digits.first.target["artifact"]["candidate"]]["message"] == "served"


def test_digits_conditions_are_all_true(digits):
    conditions = digits.first.conditions
    assert conditions == {
        "Ready": ("True", "Published"),
        "SourceResolved": ("True", "SourcePinned"),
        "Optimized": ("True", "Published"),
        "ScoreGatePassed": ("True", "LimitsHeld"),
        "LatencyGatePassed": ("True", "LimitsHeld"),
    }


def test_digits_object_is_the_manifest_with_a_status(digits):
    found = OptimizedModel.model_validate_json(digits.first.stdout)
    assert found.model_copy(update={"status": None}) == manifest.load(digits.manifest)


ON_CLUSTERS_ONLY = {
    *("replicas", "selector", "url", "grpcURL"),
    *(f"targets[].{name}" for name in ("jobRef", "jobRef.name", "revision", "replicas", "readyReplicas", "url")),
}


def test_digits_status_fills_every_documented_field_that_applies(digits):
    """A field that is documented and never filled would be found here."""
    absent = set(_fields(Status)) - set(_paths(digits.first.status))
    assert absent == {
        "targets[].step",  # nothing is running any more
        *ON_CLUSTERS_ONLY,
        "targets[].equivalence.verdict",  # the manifest sets no limit on it
        "targets[].equivalence.exactMatch",  # of outputs that are not floats
        "targets[].candidates[].exactMatch",
        *(f"lastFailure{rest}" for rest in ("", ".target", ".step", ".reason", ".message", ".time")),
    }


def test_digits_report_stands_where_it_was_asked_for(digits):
    page = (digits.project.path / "report.html").read_text()
    assert page.lower().startswith("<!doctype html>")
    assert digits.first.target["measurements"][0]["speedup"]["p50"] in page
    assert "report.html" in digits.first.stderr


def test_digits_work_directory_is_removed_after_a_good_run(digits):
    assert list((digits.project.cache / "runs").iterdir()) == []


def test_second_run_only_looks_up_and_says_so(digits):
    again = digits.project.run(digits.manifest)
    assert again.code == 0
    assert again.target["cache"] == {"artifact": "Hit", "measurement": "Hit"}
    assert again.steps == ["resolve"]
    assert "built and measured before" in again.stderr
    assert again.seconds < CACHED_RUN_S
    assert _numbers(again.status) == _numbers(digits.first.status)


def test_output_yaml_is_the_same_object_as_json(digits):
    found = digits.project.burnish("run", digits.manifest, "--store", digits.project.store, "-o", "yaml")
    assert found.code == 0
    whole = yaml.safe_load(found.stdout)
    assert {**whole, "status": _numbers(whole["status"])} == {**digits.first.object, "status": _numbers(digits.first.status)}


def test_output_table_shows_the_numbers_and_nothing_else_on_stdout(digits):
    found = digits.project.burnish("run", digits.manifest, "--store", digits.project.store)
    assert found.code == 0
    target = digits.first.target
    assert found.stdout.startswith("digits/cpu  Published")
    for text in (target["baseline"]["score"], target["measurements"][0]["speedup"]["p50"], target["artifact"]["digest"], "static-ends", "dynamic"):
        assert text in found.stdout
    assert "started" not in found.stdout


def test_report_is_written_again_from_the_store(digits):
    found = digits.project.burnish("report", "digits", "--store", digits.project.store)
    assert (found.code, found.stdout) == (0, "digits-cpu.html\n")
    assert digits.first.target["baseline"]["score"] in (digits.project.path / "digits-cpu.html").read_text()


def test_report_of_an_unknown_model_names_what_there_is(digits):
    found = digits.project.burnish("report", "numbers", "--store", digits.project.store)
    assert found.code == 5
    assert found.stdout == ""
    assert "NotInStore" in found.stderr
    assert "digits/cpu" in found.stderr


def test_pull_leaves_files_that_onnxruntime_answers_the_golden_request_with(digits, tmp_path):
    found = digits.project.burnish("pull", "digits", "-o", tmp_path / "pulled", "--store", digits.project.store)
    assert found.code == 0
    names = {"artifact.json", "CARD.md", "golden.npz", "golden.request", "manifest.json", "model/model.onnx"}
    assert set(found.stdout.split()) == {str(tmp_path / "pulled" / name) for name in names}
    assert all((tmp_path / "pulled" / name).is_file() for name in names)

    session = onnxruntime.InferenceSession(tmp_path / "pulled" / "model" / "model.onnx", providers=["CPUExecutionProvider"])
    with np.load(tmp_path / "pulled" / "golden.npz") as golden:
        answer = session.run(["logits"], {"image": golden["input:image"]})[0]
        assert np.allclose(answer, golden["output:logits"], rtol=1e-3, atol=1e-4)


def test_pull_describes_what_it_pulled(digits, tmp_path):
    digits.project.burnish("pull", "digits/cpu", "-o", tmp_path / "pulled", "--store", digits.project.store)
    oci = json.loads((tmp_path / "pulled" / "manifest.json").read_text())
    assert {layer["annotations"]["org.opencontainers.image.title"] for layer in oci["layers"]} == {"golden.npz", "golden.request", "model/model.onnx"}
    card = (tmp_path / "pulled" / "CARD.md").read_text()
    assert digits.first.target["artifact"]["digest"] in card
    assert digits.first.target["score"]["value"] in card


def test_pull_takes_the_baseline_by_digest(digits, tmp_path):
    digest = digits.first.target["baseline"]["digest"]
    assert digits.project.burnish("pull", digest, "-o", tmp_path / "pulled", "--store", digits.project.store).code == 0
    size = (tmp_path / "pulled" / "model" / "model.onnx").stat().st_size
    assert size == pytest.approx(quantity_bytes(digits.first.target["baseline"]["size"]), rel=0.01)


@pytest.mark.parametrize("there", ["directory with a file", "file"])
def test_pull_refuses_a_place_that_is_taken(digits, tmp_path, there):
    place = tmp_path / "pulled"
    if there == "file":
        place.write_text("mine")
    else:
        place.mkdir()
        (place / "mine").write_text("mine")
    found = digits.project.burnish("pull", "digits", "-o", place, "--store", digits.project.store)
    assert found.code == 2
    assert str(place) in found.stderr
    assert "empty directory" in found.stderr
    assert (place if there == "file" else place / "mine").read_text() == "mine"


def _numbers(status: dict[str, Any]) -> dict[str, Any]:
    """A status without what differs between a run that measured and one that looked up."""
    targets = [{k: v for k, v in t.items() if k != "cache"} for t in status["targets"]]
    conditions = [{k: v for k, v in c.items() if k != "lastTransitionTime"} for c in status["conditions"]]
    return {**status, "targets": targets, "conditions": conditions}


def _fields(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted paths of all fields of a model, as they are called in JSON."""
    for name, field in model.model_fields.items():
        path = f"{prefix}{field.alias or name}"
        yield path
        inner, is_list = _inner(field.annotation)
        if inner is not None:
            yield from _fields(inner, f"{path}[]." if is_list else f"{path}.")


def _inner(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """The model inside `X`, `X | None`, `list[X]`, and whether there is a list around it."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    origin = typing.get_origin(annotation)
    for argument in typing.get_args(annotation):
        found, is_list = _inner(argument)
        if found is not None:
            return found, is_list or origin is list
    assert origin is None or origin in (list, typing.Union, types.UnionType, typing.Annotated)
    return None, False


def _paths(value: Any, prefix: str = "") -> Iterator[str]:
    """Dotted paths of all keys in a JSON value."""
    if isinstance(value, dict):
        for key, child in value.items():
            yield f"{prefix}{key}"
            yield from _paths(child, f"{prefix}{key}.")
    elif isinstance(value, list):
        for child in value:
            yield from _paths(child, f"{prefix.removesuffix('.')}[].")
