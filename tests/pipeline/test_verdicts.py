"""Verdicts as the user gets them: worse, slower, not loadable, undecided, limits on latency, no passes, several targets."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from burnish.toolchains import environments

pytestmark = pytest.mark.alone

DYNAMIC = {"type": "Quantize", "quantize": {"mode": "Dynamic"}}


def model(nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], x: list[object], y: list[object]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, y)],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def save_outliers(directory: Path) -> None:
    """A classifier that INT8 ruins, and its data: one huge weight per class sets the scale, on an input that is always zero."""
    generator = np.random.default_rng(0)
    weights = generator.standard_normal((16, 4))
    weights[0] = 1e4
    onnx.save(model([helper.make_node("MatMul", ["x", "w"], ["y"], name="layer")], {"w": weights}, ["n", 16], ["n", 4]), directory / "model.onnx")
    x = generator.standard_normal((200, 16)).astype(np.float32)
    x[:, 0] = 0
    np.savez(directory / "data.npz", x=x, label=(x @ weights).argmax(axis=1))


@pytest.fixture(scope="module")
def three_targets(tmp_path_factory, make_project, make_spec):
    """One manifest, three fates: convert only; a candidate that is worse; a request that can't be met."""
    project = make_project(tmp_path_factory.mktemp("three"))
    save_outliers(project.path)
    passes = {"plain": [], "worse": [DYNAMIC], "unmet": [{"type": "Quantize", "quantize": {"mode": "Dynamic", "excludedNodes": ["nowhere"]}}]}
    spec = make_spec(
        datasets={"evaluation": {"uri": "file:data.npz", "metric": "Accuracy"}},
        targets=[{"name": name, "runtime": "ONNXRuntime", "resources": {"memory": "1Gi"}, "passes": entries} for name, entries in passes.items()],
        constraints={"score": {"maxDrop": "0.01"}, "maxSlowdownPercent": 1000},
    )
    return project, spec, project.run(project.write(spec), "--report", project.path / "report.html")


def targets(ran) -> dict[str, dict[str, Any]]:
    return {t["name"]: t for t in ran.status["targets"]}


def test_several_targets_each_have_their_state_and_the_highest_exit_code_counts(three_targets):
    project, _, ran = three_targets
    assert ran.code == 3, ran.stderr
    assert {name: (t["state"], t["reason"]) for name, t in targets(ran).items()} == {
        "plain": ("Published", "Published"),
        "worse": ("Refused", "ScoreBelowLimit"),
        "unmet": ("Failed", "PassNotApplicable"),
    }
    assert ran.status["phase"] == "Failed"
    assert ran.conditions["Ready"][0] == "False"
    assert project.records("results") == ["tiny.plain.json", "tiny.worse.json"]
    assert (project.path / "report-plain.html").is_file()
    assert (project.path / "report-worse.html").is_file()


def test_candidate_that_is_worse_is_refused_with_its_numbers(three_targets):
    worse = targets(three_targets[2])["worse"]
    assert "artifact" not in worse
    assert worse["baseline"]["score"] == "1"
    assert float(worse["score"]["drop"]) > 0.1
    assert worse["score"]["verdict"] == "Refused"
    assert worse["score"]["drop"][:4] in worse["message"]
    (candidate,) = worse["candidates"]
    assert (candidate["name"], candidate["verdict"], candidate["reason"]) == ("dynamic", "Refused", "ScoreBelowLimit")


def test_no_passes_publish_the_converted_model(three_targets):
    plain = targets(three_targets[2])["plain"]
    assert (plain["artifact"]["served"], plain["artifact"]["digest"]) == ("Baseline", plain["baseline"]["digest"])
    assert plain["candidates"] == []
    assert plain["baseline"]["score"] == "1"
    assert [set(m) for m in plain["measurements"]] == [{"name", "rounds", "baseline"}]


def test_pull_of_several_targets_asks_for_one(three_targets, tmp_path):
    project, _, _ = three_targets
    several = project.burnish("pull", "tiny", "-o", tmp_path / "a", "--store", project.store)
    assert several.code == 5
    assert "tiny/plain" in several.stderr
    refused = project.burnish("pull", "tiny/worse", "-o", tmp_path / "b", "--store", project.store)
    assert refused.code == 5
    assert project.burnish("pull", "tiny/plain", "-o", tmp_path / "c", "--store", project.store).code == 0


def test_candidate_that_is_slower_is_refused(project, make_spec):
    """Of many small layers each gets a quantization, a cast and a product more."""
    layers = 400
    nodes = [helper.make_node("MatMul", [f"h{i}" if i else "x", "w"], [f"h{i + 1}" if i + 1 < layers else "y"], name=f"m{i}") for i in range(layers)]
    onnx.save(model(nodes, {"w": np.eye(8)}, ["n", 8], ["n", 8]), project.path / "model.onnx")
    ran = project.run(project.write(make_spec(passes=[DYNAMIC])))
    assert ran.code == 3, ran.stderr
    assert (ran.failure["reason"], ran.failure["step"], ran.failure["target"]) == ("SlowerThanBaseline", "measure", "cpu")
    assert ran.conditions["LatencyGatePassed"] == ("False", "SlowerThanBaseline")
    (load,) = ran.target["measurements"]
    assert float(load["speedup"]["high"]) < 1
    assert load["verdict"] == "Refused"
    assert project.run(project.write(make_spec(passes=[DYNAMIC]))).steps == ["resolve"], "a refusal is an answer too"


def test_undecided_for_lack_of_time_is_refused_accepted_or_measured_longer(project, make_mlp, make_spec):
    onnx.save(make_mlp(), project.path / "model.onnx")

    def run(timeout: str, **limits: object):
        whole = make_spec(passes=[DYNAMIC], measurement={"timeout": timeout}, constraints={"maxSlowdownPercent": 1000, **limits})
        return project.run(project.write(whole))

    undecided = run("1s")
    assert (undecided.code, undecided.target["state"], undecided.failure["reason"]) == (4, "Undecided", "Undecided"), undecided.stderr
    assert "measurement.timeout" in undecided.failure["message"]
    assert undecided.conditions["Ready"] == ("False", "Undecided")
    assert "artifact" not in undecided.target

    again = run("1s")
    assert (again.code, again.steps) == (4, ["resolve"]), "an answer too, for the same time"

    accepted = run("1s", onUndecided="Accept")
    assert (accepted.code, accepted.steps, accepted.target["artifact"]["served"]) == (0, ["resolve"], "Candidate")
    assert "undecided" in accepted.target["message"]

    longer = run("20s")
    assert (longer.code, longer.steps) == (0, ["resolve", "stage", "measure", "publish"]), longer.stderr
    assert longer.target["candidates"][0]["verdict"] == "Accepted"


@pytest.mark.parametrize(
    ("limits", "code", "reason"),
    [
        pytest.param({"latency": [{"load": "single", "percentile": "P50", "max": "1h"}]}, 0, "Published", id="far above"),
        pytest.param({"latency": [{"load": "single", "percentile": "P50", "max": "1us"}]}, 3, "LatencyAboveLimit", id="far below"),
        pytest.param(
            {"latency": [{"load": "single", "percentile": "P99", "max": "1us"}], "onInfeasible": "ServeBaseline"},
            3,
            "LatencyAboveLimit",
            id="not even the baseline",
        ),
    ],
)
def test_latency_limit_is_judged_on_both_sides(tiny, project, copy_of, limits, code, reason):
    copy_of(tiny.project)
    ran = project.run(project.write({**tiny.spec, "constraints": {**tiny.spec["constraints"], **limits}}))
    assert (ran.code, ran.target["reason"], ran.steps) == (code, reason, ["resolve"]), ran.stderr
    (load,) = ran.target["measurements"]
    assert load["verdict"] == ("Refused" if code else "Accepted")
    assert ran.conditions["LatencyGatePassed"] == (("False", reason) if code else ("True", "LimitsHeld"))


def test_passes_that_find_nothing_refuse_or_serve_the_baseline(project, make_spec):
    """Auto without calibration data has nothing for a graph of convolutions."""
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], name="conv", pads=[1, 1, 1, 1])]
    onnx.save(model(nodes, {"w": np.ones((2, 1, 3, 3))}, ["n", 1, 8, 8], ["n", 2, 8, 8]), project.path / "model.onnx")
    ran = project.run(project.write(make_spec(passes=[{"type": "Quantize"}])))
    assert (ran.code, ran.failure["reason"]) == (3, "NoCandidate"), ran.stderr
    assert "calibration" in ran.failure["message"]
    assert {c["reason"] for c in ran.target["candidates"]} == {"CandidateSkipped"}
    served = project.run(project.write(make_spec(passes=[{"type": "Quantize"}], constraints={"onInfeasible": "ServeBaseline"})))
    assert (served.code, served.steps, served.target["reason"]) == (0, ["resolve"], "BaselineServed")


# --- what Triton does not load ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def built(tiny, tmp_path) -> Path:
    """The work directory of the tiny example as it was before `measure`."""
    work = tmp_path / "work"
    (made,) = (tiny.project.path / "work").glob("*/cpu")
    shutil.copytree(made, work)
    for name in ("06-measure", "07-publish"):
        shutil.rmtree(work / "steps" / name)
    return work


def step(work: Path, name: str, *options: object) -> subprocess.CompletedProcess[str]:
    """One step, as reproduce.sh or a Job's container runs it."""
    python = environments.ensure("onnx", print).python
    return subprocess.run(
        [python, "-m", "burnish.pipeline", name, "--work", work, *options], capture_output=True, text=True, timeout=120, check=False
    )


def spoil(work: Path, name: str) -> None:
    """Cut the model that Triton will load; the artifact stays whole."""
    path = work / "steps" / "05-build" / "repository" / name / "1" / "model.onnx"
    data = path.read_bytes()
    path.unlink()  # it may be a hard link to the artifact's
    path.write_bytes(data[: len(data) // 2])


def test_candidate_that_triton_does_not_load_is_refused_in_its_words(built, tmp_path):
    spoil(built, "dynamic")
    assert step(built, "measure").returncode == 0, "a finding, not a failure"
    published = step(built, "publish", "--store", tmp_path / "store")
    assert published.returncode == 0, published.stderr
    status = json.loads((built / "steps" / "07-publish" / "record.json").read_text())["status"]
    assert (status["state"], status["reason"]) == ("Refused", "CandidateNotLoadable")
    (candidate,) = status["candidates"]
    assert (candidate["verdict"], candidate["reason"]) == ("Refused", "CandidateNotLoadable")
    assert "model.onnx" in candidate["message"]
    assert "artifact" not in status
    assert status["measurements"][0]["rounds"] >= 40, "the baseline was measured all the same"


def test_baseline_that_triton_does_not_load_is_a_failure(built):
    spoil(built, "baseline")
    assert step(built, "measure").returncode == 65
    failure = json.loads((built / "steps" / "06-measure" / "failure.json").read_text())
    assert failure["reason"] == "BaselineNotLoadable"
    assert not (built / "steps" / "06-measure" / "record.json").exists()
