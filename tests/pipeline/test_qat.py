"""QuantizeAwareTrain: rounding_cases.py trains small models in PyTorch's environment, loaded_cases.py loads them in the runtimes; and one whole run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.pipeline.conftest import EXAMPLES, Project
from tests.pipeline.format_outcomes import run_script

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_script("torch", HERE / "rounding_cases.py", tmp_path_factory.mktemp("rounding"))


@pytest.fixture(scope="module")
def trained(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "outcome.json").read_text())
    return found


@pytest.fixture(scope="module")
def loaded(folder: Path, trained: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run_script("onnx", HERE / "loaded_cases.py", folder) / "outcome.json").read_text())
    return found


@pytest.mark.parametrize(
    ("case", "kernels"),
    [
        ("convolutions", {"QLinearConv": 2, "QGemm": 2}),
        ("residual", {"QLinearConv": 3, "QLinearAdd": 2, "QGemm": 1}),
        ("words", {"MatMulIntegerToFloat": 1, "QGemm": 1}),
    ],
)
def test_onnxruntime_runs_every_layer_on_integers(loaded: dict[str, Any], case: str, kernels: dict[str, int]) -> None:
    found = loaded[case]["operators"]
    assert {name: found.get(name) for name in kernels} == kernels
    assert not {"Conv", "FusedConv", "Gemm", "MatMul", "FusedMatMul"} & set(found)


@pytest.mark.parametrize(("case", "layers"), [("convolutions", 4), ("residual", 4), ("words", 2)])
def test_openvino_runs_every_layer_on_integers(loaded: dict[str, Any], case: str, layers: int) -> None:
    assert [precision for _, precision in loaded[case]["layers"]] == ["u8"] * layers


@pytest.mark.parametrize("case", ["convolutions", "residual", "words"])
def test_both_runtimes_answer_as_the_trained_module(trained: dict[str, Any], loaded: dict[str, Any], case: str) -> None:
    # a rounding at the edge of two steps may fall to either side: a few of 255 steps
    assert trained[case]["difference"] < 0.02
    assert loaded[case]["difference"] < 0.02


def test_model_keeps_its_accuracy_and_its_signature(trained: dict[str, Any]) -> None:
    found = trained["convolutions"]
    assert found["shapes"] == [[-1, 1, 12, 12], [-1, 4]]
    assert found["before"] == 1 and found["accuracy"] > 0.97
    assert found["losses"][-1] < found["losses"][0]
    assert found["summary"].startswith("INT8, trained for it: 4 of 4 layers, 3 epochs, loss ")
    assert trained["words"]["shapes"] == [[-1, -1], [-1, 4]]


def test_biases_are_integers_so_that_a_last_product_needs_no_float(trained: dict[str, Any]) -> None:
    assert "INT32" in trained["convolutions"]["integers"]


def test_weights_get_seven_bits_where_sums_saturate(trained: dict[str, Any]) -> None:
    assert trained["convolutions"]["largest"] == 127
    found = trained["sparse"]
    assert found["largest"] == 63 and found["accuracy"] > 0.9
    assert "7-bit weights" in found["summary"] and "7-bit" not in trained["convolutions"]["summary"]


def test_zeros_of_a_pruned_model_stay_zeros(trained: dict[str, Any]) -> None:
    found = trained["sparse"]
    assert all(after >= before for before, after in zip(found["before"], found["after"], strict=True))


def test_training_that_goes_on_from_a_checkpoint_ends_as_if_never_interrupted(trained: dict[str, Any]) -> None:
    found = trained["resumed"]
    assert found["equal"] and found["losses"] == found["whole"] and found["epochs"] == 2


@pytest.mark.parametrize(
    ("case", "words"),
    [("nothing to round", "no Conv2d or Linear layer"), ("not to be captured", "PyTorch can't capture the model to train it with rounding")],
)
def test_model_that_can_not_be_rounded_is_refused(trained: dict[str, Any], case: str, words: str) -> None:
    assert trained[case]["reason"] == "PassNotApplicable"
    assert words in trained[case]["message"]


def spec(**changes: Any) -> dict[str, Any]:
    """The digits CNN, trained for a moment."""
    digits = EXAMPLES / "digits"
    return {
        "source": {"uri": f"file:{digits / 'model.onnx'}"},
        "datasets": {
            "training": {"uri": f"file:{digits / 'training.npz'}", "samples": 256},
            "calibration": {"uri": f"file:{digits / 'calibration.npz'}", "samples": 64},
            "evaluation": {"uri": f"file:{digits / 'evaluation.npz'}", "metric": "Accuracy", "samples": 400},
        },
        "passes": [{"type": "QuantizeAwareTrain", "quantizeAwareTrain": {"epochs": 1}}],
        "targets": [{"name": "cpu", "runtime": "ONNXRuntime", "resources": {"cpu": "1", "memory": "1Gi"}}],
        "measurement": {"loads": [{"name": "one"}]},
    } | changes


@pytest.mark.parametrize("runtime", ["ONNXRuntime", pytest.param("OpenVINO", marks=pytest.mark.long)])
def test_trained_integers_are_measured_beside_plain_static_ones(tmp_path: Path, runtime: str) -> None:
    project = Project(tmp_path)
    targets = [{"name": "cpu", "runtime": runtime, "resources": {"cpu": "1", "memory": "1Gi"}}]
    ran = project.run(project.write(spec(targets=targets)))
    found = {c["name"]: c for c in ran.target["candidates"]}
    assert set(found) == {"qat", "static"}, ran.stderr
    assert all(c["reason"] != "CandidateNotLoadable" for c in found.values())


@pytest.mark.long  # the unit test of `lower` says so too
def test_report_says_why_there_is_no_comparison_without_calibration_data(tmp_path: Path) -> None:
    project = Project(tmp_path)
    datasets = {name: entry for name, entry in spec()["datasets"].items() if name != "calibration"}
    ran = project.run(project.write(spec(datasets=datasets)))
    found = {c["name"]: c for c in ran.target["candidates"]}
    assert found["static"]["reason"] == "CandidateSkipped"
    assert "set spec.datasets.calibration" in found["static"]["message"]
