"""Shared weights on a real server: the example on both runtimes, and what is refused."""

from __future__ import annotations

import json

import onnx
import pytest

from burnish.api.scalars import quantity_bytes

SHARE = {"type": "ShareWeights"}


@pytest.mark.long
def test_the_example_is_served_on_both_runtimes_at_a_seventh_of_the_size_and_never_called_faster(project, examples):
    ran = project.run(examples / "shared.yaml", "--work", project.path / "work")
    assert ran.code == 0, ran.stderr
    plain = (examples / "digits" / "model.onnx").stat().st_size
    for target in ran.status["targets"]:
        assert target["artifact"]["served"] == "Candidate"
        assert float(target["score"]["value"]) >= 0.9844
        assert quantity_bytes(target["artifact"]["size"]) < 0.15 * plain
    records = [json.loads(path.read_text()) for path in (project.path / "work").glob("**/04-compress/record.json")]
    for record in records:
        (candidate,) = record["candidates"]
        assert candidate["summary"].startswith("16 different values per weight: smaller; not faster; 5 weights shared")
        assert "zstd (level 19) packs the plain weights" in candidate["summary"]
    assert len(records) == 2


@pytest.mark.parametrize("runtime", ["ONNXRuntime", "OpenVINO"])
def test_more_clusters_than_any_weight_has_elements_are_refused_with_the_numbers(project, make_mlp, make_spec, runtime):
    onnx.save(make_mlp(hidden=10), project.path / "model.onnx")
    targets = [{"name": "cpu", "runtime": runtime, "resources": {"cpu": "1", "memory": "1Gi"}}]
    ran = project.run(project.write(make_spec(passes=[{**SHARE, "shareWeights": {"clusters": 256}}], targets=targets)))
    assert (ran.code, ran.failure["reason"], ran.steps[-1]) == (2, "PassNotApplicable", "compress")
    assert "clusters: 256 is more than any weight has elements: the largest" in ran.failure["message"]


@pytest.mark.parametrize(
    ("passes", "words"),
    [
        ([SHARE, {"type": "Quantize"}], "undoes ShareWeights"),
        ([{"type": "Quantize"}, SHARE], "needs weights in floating point"),
        ([SHARE, SHARE], "second"),
    ],
)
def test_passes_that_undo_each_other_are_refused_before_anything_runs(project, make_mlp, make_spec, passes, words):
    onnx.save(make_mlp(), project.path / "model.onnx")
    ran = project.run(project.write(make_spec(passes=passes)))
    assert (ran.code, ran.failure["reason"], ran.steps) == (2, "PassNotApplicable", [])
    assert "spec.passes[1]" in ran.failure["message"]
    assert words in ran.failure["message"]
