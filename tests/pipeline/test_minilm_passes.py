"""What the training passes make of a transformer, and what they refuse: minilm_cases.py does the work once. docs/passes.md tells it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.pipeline.format_outcomes import run_script

pytestmark = pytest.mark.long
SCRIPT = Path(__file__).with_name("minilm_cases.py")


@pytest.fixture(scope="module")
def outcome(toolchains: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run_script("torch", SCRIPT, tmp_path_factory.mktemp("minilm")) / "outcome.json").read_text())
    return found


@pytest.mark.parametrize(
    ("case", "share"),
    [
        ("Finetune", 1.0),
        ("Prune, Structured", 0.88),
        ("Prune, Neuron", 0.88),
        ("Prune, Magnitude", 1.0),
        ("Factorize", 0.86),
        ("Distill, depthPercent", 0.77),
        ("Distill, widthPercent", 0.77),
    ],
)
def test_pass_works_on_a_huggingface_transformer(outcome: dict[str, Any], case: str, share: float) -> None:
    """So much of its weights is left (half of them are the vocabulary's, which nothing makes smaller), and its ONNX answers as it does."""
    found = outcome[case]
    assert found["share"] == pytest.approx(share, abs=0.01), found
    assert found["difference"] < 1e-5


def test_training_alone_keeps_what_the_transformer_knows(outcome: dict[str, Any]) -> None:
    assert outcome["Finetune"]["cosine"] > 0.99


def test_training_for_integers_rounds_every_layer_and_keeps_the_vectors(outcome: dict[str, Any]) -> None:
    found = outcome["QuantizeAwareTrain"]
    assert "37 of 37 layers" in found["summary"]
    assert found["cosine"] > 0.98


def test_the_same_transformer_as_onnx_is_refused_with_what_stands_in_the_way(outcome: dict[str, Any]) -> None:
    assert outcome["as ONNX"]["reason"] == "PassNotApplicable"
    assert "can't be brought to PyTorch for training: a val_95 that is computed" in outcome["as ONNX"]["message"]
    assert "give Burnish the model in its own framework" in outcome["as ONNX"]["message"]
