"""Each training pass on all-MiniLM-L6-v2, in PyTorch's own environment: `minilm_cases.py DIRECTORY` leaves outcome.json, case -> what came of it.

One epoch over few sentences: what is asked is whether a pass works on a transformer, not how good it gets. test_minilm_passes.py reads the outcome.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from training_cases import Bench, weights

from burnish.errors import BurnishError
from burnish.plugins import base, registry
from burnish.plugins.formats import _onnx_torch, huggingface
from burnish.plugins.runtimes import _onnxruntime_session as ort
from burnish.serving import images

FOLDER = Path(sys.argv[1])
EXAMPLE = Path(__file__).parents[2] / "examples" / ".work" / "minilm"
SENTENCES = 32
RATE = "0.00002"
"""A transformer forgets what it knows at the default of convolutional networks."""
TRAINING = {"epochs": 1, "batchSize": 16, "learningRate": RATE, "distill": {"alpha": "0"}}
STUDENT = {"alpha": "0", "epochs": 1, "batchSize": 16, "learningRate": RATE, "compareSeeds": 0}
PASSES: dict[str, tuple[str, dict[str, Any]]] = {
    "Finetune": ("Finetune", TRAINING),
    "Prune, Structured": ("Prune", {"sparsityPercent": 25, "finetune": TRAINING}),
    "Prune, Neuron": ("Prune", {"method": "Neuron", "sparsityPercent": 25, "finetune": TRAINING}),
    "Prune, Magnitude": ("Prune", {"method": "Magnitude", "sparsityPercent": 50, "finetune": TRAINING}),
    "Factorize": ("Factorize", {"macsPercent": 70, "finetune": TRAINING}),
    "Distill, depthPercent": ("Distill", {"student": {"depthPercent": 50}} | STUDENT),
    "Distill, widthPercent": ("Distill", {"student": {"widthPercent": 50}} | STUDENT),
    "QuantizeAwareTrain": ("QuantizeAwareTrain", TRAINING),
}


class Unscored(Bench):
    """Without evaluation data."""

    def score(self, model: Any) -> float | None:
        return None


def sentences(file: str) -> dict[str, np.ndarray]:
    with np.load(EXAMPLE / file) as data:
        return {name: data[name][:SENTENCES] for name in ("input_ids", "attention_mask", "token_type_ids")}


def model() -> Any:
    """As the format gives it to passes."""
    source = base.SourceModel(EXAMPLE / "model", base.SourceOptions(), (), base.silent)
    return huggingface.HuggingFace().module(source)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Of the worst sentence."""
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


def applied(name: str) -> dict[str, Any]:
    kind, options = PASSES[name]
    training, judged, original = sentences("calibration.npz"), sentences("evaluation.npz"), model()
    (output,) = original.run(training)
    before, whole = original.run(judged)[output], weights(original)
    lesson = base.Lesson(
        inputs=training, output=output, labels=None, answers=original.run(training)[output], is_classification=False, holds_probabilities=False
    )
    bench = Unscored(lesson, [{key: value[n : n + 1] for key, value in training.items()} for n in range(8)])
    plugin = registry.passes()[kind]
    assert isinstance(plugin, base.TrainingPass)
    made = plugin.apply(plugin.config.model_validate(options), original, bench)
    path = FOLDER / f"{len(list(FOLDER.iterdir()))}.onnx"
    made.model.module.eval()
    made.model.export(path, image=images.LOCAL_CPU)
    answers = ort.open_session(path, threads=2).infer({key: value[:5] for key, value in judged.items()})[output]
    return {
        "share": weights(made.model) / whole,
        "cosine": cosine(before[:5], answers),
        "difference": float(np.abs(answers - made.model.run({key: value[:5] for key, value in judged.items()})[output]).max()),
        "summary": made.summary,
    }


def from_onnx() -> dict[str, Any]:
    """The same model after its export, of which nothing is known but the graph."""
    path = FOLDER / "exported.onnx"
    signature, _ = model().export(path, image=images.LOCAL_CPU)
    _onnx_torch.convert(path, signature, [sentences("calibration.npz")], FOLDER, {})
    return {}


def outcome_of(case: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return case()
    except BurnishError as error:
        return {"reason": error.reason.value, "message": error.message}


if __name__ == "__main__":
    torch.use_deterministic_algorithms(True, warn_only=True)
    found = {name: outcome_of(functools.partial(applied, name)) for name in PASSES}
    (FOLDER / "outcome.json").write_text(json.dumps(found | {"as ONNX": outcome_of(from_onnx)}, indent=1))
