"""Layers as two of low rank: factorize_cases.py does the work in PyTorch's environment, once; here its outcome is read. And the example, served."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.pipeline.format_outcomes import run_script

SCRIPT = Path(__file__).with_name("factorize_cases.py")


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run_script("torch", SCRIPT, tmp_path_factory.mktemp("factorize")) / "outcome.json").read_text())
    return found


@pytest.mark.parametrize("case", ["rank", "rank without training"])
def test_layers_that_get_smaller_at_a_rank_become_two_and_the_others_are_listed(outcome: dict[str, Any], case: str) -> None:
    found = outcome[case]
    assert found["ranks"] == {"0": 5, "4": 5, "8": 5}
    assert found["difference"] < 1e-5  # its ONNX answers as it does, also with another batch
    assert "left alone: 10 (4 x 32, rank 5: only up to rank 3 it gets smaller)" in found["notes"]
    assert f"{round(found['share'] * 41860):,} of 41,860 weights and {found['macs']:.0%} of the multiply-accumulates are left" in found["summary"]


def test_training_afterwards_brings_the_loss_down(outcome: dict[str, Any]) -> None:
    assert outcome["rank"]["losses"][-1] < outcome["rank"]["losses"][0]
    assert outcome["rank"]["accuracy"] > outcome["rank without training"]["accuracy"]
    assert outcome["rank without training"]["losses"] == []


def test_energy_decides_the_ranks_as_by_hand(outcome: dict[str, Any]) -> None:
    assert outcome["energy"]["ranks"] == outcome["energy"]["wanted"] != {}


@pytest.mark.parametrize("percent", [60, 30])
def test_counted_products_meet_the_target_and_come_near_it(outcome: dict[str, Any], percent: int) -> None:
    assert percent - 10 < 100 * outcome[f"macs {percent}"]["macs"] <= percent


def test_weights_of_low_rank_lose_nothing_whatever_the_layers_options_are(outcome: dict[str, Any]) -> None:
    found = outcome["exact"]
    assert found["ranks"] == {"strided": 3, "plain": 3, "last": 3}
    assert found["size"] > 0.01 and found["difference"] < 1e-5 * max(1, found["size"])


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        ("grouped", "a convolution in groups"),
        ("turned", "ConvTranspose2d is not split"),
        ("attention.out_proj", "attention reads its weight without it"),
        ("first", "another layer has the same weight"),
        ("second", "another layer has the same weight"),
        ("idle", "the model does not run it"),
    ],
)
def test_what_can_not_be_split_is_left_alone_and_says_why(outcome: dict[str, Any], layer: str, why: str) -> None:
    (note,) = (note for note in outcome["exact"]["notes"] if note.startswith("left alone"))
    assert f"{layer} ({why})" in note


def test_nmf_of_mixed_signs_stands_beside_svd(outcome: dict[str, Any]) -> None:
    found = outcome["nmf"]
    assert found["ranks"] == {"4": 6, "8": 6}
    told = [re.search(r"relative error ([\d.]+) by NMF, ([\d.]+) by SVD at the same rank 6", note) for note in found["notes"]]
    errors = [(float(match[1]), float(match[2])) for match in told if match]
    assert len(errors) == 2 and all(1 > own >= best > 0 for own, best in errors)
    assert re.search(r"relative error of those weights 0\.\d+ \(SVD at the same ranks: 0\.\d+\)", found["summary"])
    assert found["losses"][-1] < found["losses"][0]


def test_nmf_of_a_weight_without_negative_values_has_factors_without(outcome: dict[str, Any]) -> None:
    found = outcome["positive"]
    assert found["smallest"] >= 0
    assert found["best"] <= found["error"] < 1.3 * found["best"]
    assert f"relative error {found['error']:.3f} by NMF, {found['best']:.3f} by SVD" in " ".join(found["notes"])


def test_factors_are_the_same_again(outcome: dict[str, Any]) -> None:
    assert outcome["same again"]["equal"]


def test_one_that_goes_on_from_a_checkpoint_ends_as_if_never_interrupted_without_factoring_again(outcome: dict[str, Any]) -> None:
    assert outcome["resumed"]["equal"] == {f"after {epochs} epochs": True for epochs in range(4)}


def test_products_of_a_graph_are_split_too(outcome: dict[str, Any]) -> None:
    found = outcome["from a graph"]
    assert found["shape"]
    assert found["summary"].startswith("2 of 2 layers as two by SVD: 163 of 288 weights")


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("rank above the layer's", "rank: 500 makes no layer smaller: the largest possible rank is 31, of 8 (32 x 1152)"),
        ("energy of everything", "energyPercent: 99 makes no layer smaller: 1, the nearest, would need rank 64 and gets smaller up to 44; lower it"),
        ("macs out of reach", "macsPercent: 1 is out of reach"),
        ("nothing to split", "no Linear or Conv2d layer that can be split"),
        ("code that reads the weight", "the model does not run with layers as two"),
    ],
)
def test_what_can_not_be_done_is_refused_with_the_cure(outcome: dict[str, Any], case: str, words: str) -> None:
    assert outcome[case]["reason"] == "PassNotApplicable"
    assert words in outcome[case]["message"]


@pytest.mark.long
def test_the_factorize_example_is_served(project, examples) -> None:
    ran = project.run(examples / "factorize.yaml", "--work", project.path / "work", timeout=600)
    assert ran.code == 0, ran.stderr
    assert ran.target["artifact"]["served"] == "Candidate"
    (record,) = (json.loads(path.read_text()) for path in (project.path / "work").glob("**/03-train/record.json"))
    (made,) = record["passes"]
    assert made["facts"]["macs"] <= 0.3 * record["original"]["macs"]
    assert made["facts"]["score"]["drop"] <= 0.01
    assert any(note.startswith("left alone") for note in made["notes"])
