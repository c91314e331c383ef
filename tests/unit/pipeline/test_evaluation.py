"""Answers compared and scored, of models that are numpy functions: what counts as a sample, who is left out, what is refused when."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from burnish.api.job_contract import PipelineRequest, ResolvedInput
from burnish.api.v1alpha1.optimized_model import Datasets, Evaluation, Metric
from burnish.errors import BurnishError, Reason
from burnish.measurement import equivalence
from burnish.measurement.client import ModelError, TritonClient
from burnish.pipeline import evaluation
from burnish.pipeline.datasets import Dataset
from burnish.pipeline.samples import Samples
from burnish.plugins.base import Arrays, DataType

Model = Callable[[np.ndarray], np.ndarray]


class Models(TritonClient):
    """Answers in this process."""

    def __init__(self, **models: Model) -> None:
        self.models, self.asked = models, 0

    def infer(self, model: str, arrays: Arrays, output_names: object = None) -> dict[str, np.ndarray]:
        self.asked += 1
        return {"y": self.models[model](arrays["x"])}


def evaluate(client: Models, *, samples: int, batch: int = 1, labels: np.ndarray | None = None, fixed: bool = False) -> tuple[object, dict[str, str]]:
    x = np.arange(samples * 3, dtype=np.float32).reshape(samples, 3) + 1
    data = Dataset({"x": x}, labels, is_batched=not fixed, keeps_axis=True)
    entry = ResolvedInput(name="x", data_type=DataType.FP32, shape=(1 if fixed else -1, 3), is_batched=not fixed)
    metric = Metric.Agreement if labels is None else Metric.Accuracy
    request = PipelineRequest.model_construct(datasets=Datasets(evaluation=Evaluation(uri="file:x.npz", metric=metric)))
    dropped: dict[str, str] = {}
    found = evaluation.evaluate(
        client, list(client.models), Samples(None, data, (entry,)), request, batch=batch, drop=lambda name, why: dropped.update({name: why})
    )
    return found, dropped


def test_request_to_a_fixed_batch_of_1_is_one_sample_whatever_it_answers() -> None:
    found, _ = evaluate(Models(baseline=lambda x: x.repeat(2, axis=0), int8=lambda x: x.repeat(2, axis=0)), samples=40, fixed=True)
    assert found.samples == len(found.baseline_scores) == len(found.evaluated["int8"].candidate) == 40


def test_last_batch_is_completed_and_its_surplus_not_counted() -> None:
    shapes = set()

    def baseline(x: np.ndarray) -> np.ndarray:
        shapes.add(x.shape)
        return x

    found, _ = evaluate(Models(baseline=baseline, int8=lambda x: x), samples=10, batch=4)
    assert shapes == {(4, 3)}
    assert found.samples == len(found.baseline_scores) == len(found.equivalence["int8"][0].cosine) == 10


def test_candidate_whose_output_has_another_shape_is_left_out() -> None:
    found, dropped = evaluate(Models(baseline=lambda x: x, narrow=lambda x: x[:, :2], same=lambda x: x), samples=8, batch=4)
    assert "shape (4, 2), the reference (4, 3)" in dropped["narrow"]
    assert set(found.evaluated) == set(found.equivalence) == {"same"}


def test_one_bad_sample_after_the_listed_ones_is_seen() -> None:
    def bad(at: int, value: float) -> Model:
        return lambda x: np.where(x[:, :1] == at * 3 + 1, np.float32(value), x)

    client = Models(baseline=lambda x: x, nan=bad(evaluation.MAX_LISTED + 50, np.nan), turned=bad(evaluation.MAX_LISTED + 70, -1))
    found, _ = evaluate(client, samples=evaluation.MAX_LISTED + 100, batch=100)
    assert equivalence.non_finite_samples(found.equivalence["nan"]) == 1
    assert (equivalence.worst_cosine(found.equivalence["turned"]) or 0) < -0.9
    assert found.samples == evaluation.MAX_LISTED + 100
    assert len(found.equivalence["turned"][0].cosine) == evaluation.MAX_LISTED


def test_labels_that_can_not_be_right_are_refused_after_the_first_answer() -> None:
    client = Models(baseline=lambda x: x, int8=lambda x: x)
    with pytest.raises(BurnishError, match="values from 0 to 39, the output has classes 0 to 2") as caught:
        evaluate(client, samples=40, labels=np.arange(40))
    assert caught.value.reason is Reason.InvalidDataset
    assert client.asked == 1


def test_chunks_of_any_size_give_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(7)
    noise = generator.normal(scale=0.4, size=(90, 3)).astype(np.float32)

    def noisy(x: np.ndarray) -> np.ndarray:
        return np.sin(x) + noise[((x[:, 0] - 1) / 3).astype(int)]

    found = []
    for chunk_bytes in (1, 100, 2**20):
        monkeypatch.setattr(evaluation, "CHUNK_BYTES", chunk_bytes)
        found.append(evaluate(Models(baseline=np.sin, noisy=noisy), samples=90, batch=4)[0])
    assert found[0].equivalence["noisy"][0].cosine == pytest.approx(found[2].equivalence["noisy"][0].cosine)
    assert found[0].equivalence["noisy"][0].max_absolute_error == found[1].equivalence["noisy"][0].max_absolute_error
    assert found[0].evaluated == found[1].evaluated == found[2].evaluated
    assert 0.3 < np.mean(found[0].evaluated["noisy"].candidate) < 1


def test_outputs_whose_shape_changes_from_sample_to_sample_are_compared() -> None:
    def lengths(x: np.ndarray) -> np.ndarray:
        return np.tile(x, (1, 1 + int(x[0, 0]) % 3))

    found, dropped = evaluate(Models(baseline=lengths, same=lengths, shorter=lambda x: lengths(x)[:, :4]), samples=12, fixed=True)
    assert (found.samples, len(found.equivalence["same"][0].cosine)) == (12, 12)
    assert equivalence.worst_cosine(found.equivalence["same"]) == pytest.approx(1)
    assert set(dropped) == {"shorter"}


def test_candidate_that_fails_in_the_middle_of_a_chunk_is_left_out_and_the_others_are_not() -> None:
    def fails(x: np.ndarray) -> np.ndarray:
        if x[0, 0] > 30:
            raise ModelError(500, "out of luck")
        return x

    found, dropped = evaluate(Models(baseline=lambda x: x, fails=fails, same=lambda x: x), samples=40)
    assert dropped == {"fails": "out of luck"}
    assert set(found.evaluated) == set(found.equivalence) == {"same"}
    assert len(found.evaluated["same"].candidate) == 40
