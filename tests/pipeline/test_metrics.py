"""Every metric through a whole run: what the candidate scores, what a limit on it says, and what can't be scored."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest

SAMPLES = 64


@pytest.fixture
def scored(tiny, copy_of):
    """A function that runs the tiny model, whose build is known, with an evaluation; labels are the baseline's own outputs or classes."""
    project = copy_of(tiny.project)
    session = onnxruntime.InferenceSession(project.path / "model.onnx")
    x = np.random.default_rng(1).normal(size=(SAMPLES, 16)).astype(np.float32)
    (y,) = session.run(None, {"x": x})
    labels = {"values": y.astype(np.float64), "classes": y.argmax(-1), "ones": np.ones(SAMPLES)}
    for name, label in labels.items():
        np.savez_compressed(project.path / f"{name}.npz", x=x, label=label)

    def run(data: str, evaluation: dict[str, Any], max_drop: str):
        constraints = {"maxSlowdownPercent": 1000, "score": {"maxDrop": max_drop}}
        spec = {**tiny.spec, "constraints": constraints, "datasets": {"evaluation": {"uri": f"file:{data}.npz", **evaluation}}}
        return project.run(project.write(spec))

    return run


def test_an_error_that_rises_above_the_limit_is_refused_with_its_numbers(scored) -> None:
    ran = scored("values", {"metric": "MSE"}, "0.0000001")
    assert ran.code == 3
    assert ran.failure["reason"] == "ScoreBelowLimit" and "MSE rises by" in ran.failure["message"]
    score = ran.target["score"]
    assert float(ran.target["baseline"]["score"]) < 1e-10 < float(score["drop"]) == pytest.approx(float(score["value"]), rel=0.02)


@pytest.mark.parametrize(
    ("data", "evaluation", "baseline"),
    [
        pytest.param("classes", {"metric": "F1"}, 1.0, id="F1"),
        pytest.param("values", {"metric": "CosineSimilarity"}, 1.0, id="CosineSimilarity", marks=pytest.mark.long),
        pytest.param("values", {"metric": "Agreement", "decode": "Threshold", "threshold": "0.1"}, 1.0, id="Threshold"),
        pytest.param("values", {"metric": "Agreement", "decode": "Cosine", "agreementCosine": "0.9"}, 1.0, id="Cosine", marks=pytest.mark.long),
    ],
)
def test_a_score_that_holds_its_limit_is_published(scored, data: str, evaluation: dict[str, Any], baseline: float) -> None:
    ran = scored(data, evaluation, "1")
    assert ran.code == 0, ran.stderr
    assert float(ran.target["baseline"]["score"]) == pytest.approx(baseline, abs=1e-6)
    assert 0.5 < float(ran.target["artifact"]["score"]) <= 1
    assert ran.target["score"]["verdict"] == "Accepted" and ran.target["score"]["samples"] == SAMPLES


@pytest.mark.parametrize(
    ("data", "evaluation", "reason", "text"),
    [
        ("values", {"metric": "Agreement", "decode": "Threshold", "threshold": "1000"}, "InvalidDataset", "finds nothing in any of 64 samples"),
        ("values", {"metric": "F1"}, "InvalidDataset", "labels are integers"),
        ("ones", {"metric": "MAE"}, "InvalidDataset", "label has shape (64,), output 'y' asks for (64, 4)"),
    ],
    ids=["nothing found", "no classes", "wrong shape"],
)
def test_what_can_not_be_scored_is_refused(scored, data: str, evaluation: dict[str, Any], reason: str, text: str) -> None:
    ran = scored(data, evaluation, "0.1")
    assert ran.code == 2
    assert ran.failure["reason"] == reason and text in ran.failure["message"]
