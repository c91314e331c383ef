"""Passes that train, one by one on small models: training_cases.py does the work in PyTorch's environment, once; here its outcome is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.pipeline.format_outcomes import run_script

SCRIPT = Path(__file__).with_name("training_cases.py")


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run_script("torch", SCRIPT, tmp_path_factory.mktemp("training")) / "outcome.json").read_text())
    return found


@pytest.mark.parametrize(
    ("case", "widths"),
    [
        ("structured L2", [8, 16, 16, 4]),
        ("structured Taylor", [8, 16, 16, 4]),
        ("structured in steps", [4, 8, 8, 4]),
        ("structured without training", [8, 16, 16, 4]),
    ],
)
def test_structured_removes_channels_and_the_answer_keeps_its_own(outcome: dict[str, Any], case: str, widths: list[int]) -> None:
    found = outcome[case]
    assert found["widths"] == widths
    assert found["difference"] < 1e-5  # its ONNX answers as it does, also with another batch
    assert f"{round(found['share'] * 41860):,} of 41,860 weights are left" in found["summary"]


def test_layers_weighed_against_each_other_lose_different_shares(outcome: dict[str, Any]) -> None:
    first, second, third, answer = outcome["structured global"]["widths"]
    assert answer == 4 and len({first / 16, second / 32, third / 32}) == 3


def test_training_after_pruning_brings_the_loss_down(outcome: dict[str, Any]) -> None:
    for case in ("structured L2", "structured Taylor", "structured in steps"):
        losses = outcome[case]["losses"]
        assert losses[-1] < losses[0]
        assert outcome[case]["accuracy"] > outcome["structured without training"]["accuracy"]
    assert sum(line.startswith("step ") for line in outcome["structured in steps"]["said"]) == 3


def test_neurons_that_never_fire_go_whatever_their_weights(outcome: dict[str, Any]) -> None:
    assert outcome["neuron"] == {"same": True, "widths": [8, 16, 16, 4]}


def test_taylor_asks_what_follows_and_l2_does_not(outcome: dict[str, Any]) -> None:
    assert outcome["taylor"] == {"L2": 8, "Taylor": 0}


def test_step_of_training_is_on_one_device_whatever_the_model_is(outcome: dict[str, Any]) -> None:
    """A captured graph too, which notes the device that it was captured on."""
    assert outcome["elsewhere"] == {case: ["meta"] for case in ("network", "distilled", "rounded", "captured")}
    assert outcome["back again"] == {"meanwhile": "meta", "same": True}


def test_gpu_that_cannot_train_a_model_is_told_with_the_cure(outcome: dict[str, Any]) -> None:
    assert outcome["own tensors on the CPU"]["reason"] == "PassNotApplicable"
    assert "device=x.device" in outcome["own tensors on the CPU"]["message"]
    assert outcome["GPU without memory"]["reason"] == "OutOfMemory"
    assert "batchSize" in outcome["GPU without memory"]["message"]


def test_processes_with_a_gpu_each_meet_over_nccl(outcome: dict[str, Any]) -> None:
    assert outcome["meeting"] == {"backend": "nccl", "device": "cuda:1", "known": True}


def test_even_few_zeros_stay_zero(outcome: dict[str, Any]) -> None:
    assert outcome["slightly sparse"]["zeros"] > 300
    assert outcome["slightly sparse"]["same"]


def test_no_process_gets_a_single_sample_of_a_batch(outcome: dict[str, Any]) -> None:
    assert outcome["shares"] == [[[4, 4], [3, 2], [2, 2], [3, 0], [2, 0]], [[3, 3, 2], [5, 0, 0], [4, 0, 0], [3, 0, 0], [2, 0, 0]]]


def test_operators_that_can_not_be_repeated_are_named_each_time(outcome: dict[str, Any]) -> None:
    assert outcome["undetermined"] == ["max_unpooling2d_forward_out"] * 2


@pytest.mark.parametrize(
    ("case", "said", "kept"),
    [
        ("infinite in an epoch's last step", "weights became infinite after epoch 2", 1),
        ("infinite in the last step of all", "weights became infinite after epoch 3", 2),
        ("infinite in between", "the loss became nan in epoch 3 of 3, step 3 of 6", 2),
    ],
)
def test_diverging_training_keeps_the_last_good_checkpoint(outcome: dict[str, Any], case: str, said: str, kept: int) -> None:
    found = outcome[case]
    assert found["reason"] == "TrainingDiverged"
    assert said in found["message"] and f"the checkpoint after epoch {kept} is kept" in found["message"]
    assert found["finite"] == [True] * kept


@pytest.mark.parametrize("scope", ["per layer", "global"])
def test_magnitude_sets_that_share_of_weights_to_zero_and_training_keeps_it(outcome: dict[str, Any], scope: str) -> None:
    found = outcome[f"magnitude {scope}"]
    assert found["whole"] == pytest.approx(0.8, abs=0.005)
    assert (max(found["shares"]) - min(found["shares"]) < 0.01) is (scope == "per layer")
    assert found["accuracy"] > 0.9
    assert "nothing gets faster" in found["summary"]


def test_training_that_goes_on_from_a_checkpoint_ends_as_if_never_interrupted(outcome: dict[str, Any]) -> None:
    found = outcome["resumed"]
    assert found["equal"] and found["losses"] == found["whole"] and found["epochs"] == 2
    assert found["seed matters"]
    pruned = outcome["pruned and resumed"]
    assert pruned["equal"] and (pruned["kept"], pruned["again"]) == (4, 2)


def test_loss_is_alpha_times_hard_and_the_rest_times_squared_temperature_times_soft(outcome: dict[str, Any]) -> None:
    assert all(abs(difference) < 1e-5 for difference in outcome["formula"].values())


def test_batches_hold_every_sample_once_and_never_one_alone(outcome: dict[str, Any]) -> None:
    assert outcome["batches"] == {"parts": [[16, 17], [16, 16], [16], [2], [16, 16, 8]], "all": True}


@pytest.mark.parametrize(
    ("case", "reason", "words"),
    [
        ("diverging loss", "TrainingDiverged", "lower learningRate (1000)"),
        ("channels that can't be followed", "PassNotApplicable", "use method: Magnitude"),
        ("no channels to lose", "PassNotApplicable", "no layer lost a channel"),
        ("neuron without data", "CalibrationMissing", "set spec.datasets.calibration"),
        ("unknown operator", "PassNotApplicable", "onnx2torch has no LpNormalization"),
        ("quantized", "PassNotApplicable", "onnx2torch has no DequantizeLinear"),
    ],
)
def test_what_can_not_be_done_is_refused_with_the_cure(outcome: dict[str, Any], case: str, reason: str, words: str) -> None:
    assert outcome[case]["reason"] == reason
    assert words in outcome[case]["message"]


@pytest.mark.parametrize(("case", "layers"), [("same padding", ["Conv2d"]), ("same padding with strides", ["Conv2d"]), ("products", ["Linear"])])
def test_graph_becomes_layers_with_weights_that_train_and_exports_again(outcome: dict[str, Any], case: str, layers: list[str]) -> None:
    found = outcome[case]
    assert found["signature"] and found["difference"] < 1e-5
    assert found["layers"] == layers
    assert found["trainable"] == {"same padding": 216, "same padding with strides": 216, "products": 12 * 16 + 16 + 16 * 5}[case]
