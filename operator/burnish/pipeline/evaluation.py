"""Answers of several models to the same samples: scores against labels or against the baseline, and differences of every output.

Batch by batch, so that memory stays bounded: of a model with large outputs only answers and per-sample figures are kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from burnish import names
from burnish.api.job_contract import Evaluated, PipelineRequest, TensorDifference
from burnish.api.v1alpha1.optimized_model import Evaluation as EvaluationSpec
from burnish.api.v1alpha1.optimized_model import Metric
from burnish.errors import BurnishError, Reason
from burnish.measurement import equivalence, metrics
from burnish.measurement.client import ModelError, ServerUnreachableError, TritonClient
from burnish.pipeline.progress import emit
from burnish.pipeline.samples import MADE_UP, Samples, as_batch

MAX_COMPARED = 1000
"""Samples on which outputs are compared element by element; all of them are scored."""


@dataclasses.dataclass
class Evaluation:
    """What came of it."""

    evaluated: dict[str, Evaluated]
    """Candidate -> per-sample scores; empty without evaluation data."""
    baseline_scores: tuple[float, ...]
    equivalence: dict[str, tuple[TensorDifference, ...]]
    """Candidate -> one entry per output."""
    samples: int
    """Samples that were compared."""


def evaluate(
    client: TritonClient, models: Sequence[str], data: Samples, request: PipelineRequest, *, batch: int, drop: Callable[[str, str], None]
) -> Evaluation:
    """Send every sample to every model.

    Args:
        client: of the server that has them all.
        models: the baseline and the candidates that answer.
        data: evaluation data where there is any; else calibration data or made-up requests are compared, and nothing is scored.
        request: says metric, decode and output.
        batch: samples per request.
        drop: told of a candidate that fails, with Triton's words; it is left out from then on.

    Raises:
        BurnishError: BaselineFailed, ServerLost; InvalidDataset, LabelsMissing, where labels do not fit the outputs.
    """
    keeps_axis = data.best.keeps_axis if data.best else all(i.is_batched for i in data.inputs)
    feeds = data.best.feeds(batch) if data.best else data.feeds(MADE_UP, 1)
    run = _Evaluation(client, models, request.datasets.evaluation if data.evaluation else None, keeps_axis, drop)
    for number, feed in enumerate(feeds):
        run.add(feed)
        emit(f"answers compared: {run.samples}", done=(number + 1) / len(feeds))
    emit(f"{run.samples} samples answered by {len(run.answers)} models")
    return run.result(data.evaluation.labels if data.evaluation else None)


class _Evaluation:
    """Answers and differences so far."""

    def __init__(
        self, client: TritonClient, models: Sequence[str], spec: EvaluationSpec | None, keeps_axis: bool, drop: Callable[[str, str], None]
    ) -> None:
        self.client, self.spec, self.keeps_axis, self.drop = client, spec, keeps_axis, drop
        self.answers: dict[str, list[metrics.Answer]] = {name: [] for name in models}
        self.differences: dict[str, list[tuple[TensorDifference, ...]]] = {name: [] for name in models if name != names.BASELINE}
        self.samples = self.compared = 0
        self.output = ""
        self.output_shape: tuple[int, ...] = ()

    def add(self, feed: dict[str, np.ndarray]) -> None:
        baseline = self._infer(names.BASELINE, feed)
        if baseline is None:
            return
        count = len(next(iter(baseline.values())))
        self._decode(names.BASELINE, baseline)
        for name in list(self.differences):
            outputs = self._infer(name, feed)
            if outputs is None:
                continue
            self._decode(name, outputs)
            if self.compared < MAX_COMPARED:
                self.differences[name].append(equivalence.compare(baseline, outputs))
        self.samples += count
        if self.compared < MAX_COMPARED:
            self.compared += count

    def result(self, labels: np.ndarray | None) -> Evaluation:
        differences = {name: equivalence.concatenate(parts) for name, parts in self.differences.items() if parts}
        if self.spec is None:
            return Evaluation({}, (), differences, self.compared)
        expected = self.answers[names.BASELINE]
        if self.spec.metric is Metric.Accuracy:
            expected = metrics.label_answers(labels, self.output_shape, self.samples)
        scores = {name: metrics.answer_scores(expected, answers) for name, answers in self.answers.items()}
        baseline = scores.pop(names.BASELINE)
        evaluated = {
            name: Evaluated(metric=self.spec.metric.value, decode=self.spec.decode.value, output=self.output, baseline=baseline, candidate=candidate)
            for name, candidate in scores.items()
        }
        return Evaluation(evaluated, baseline, differences, self.compared)

    def _infer(self, name: str, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray] | None:
        try:
            return as_batch(self.client.infer(name, feed), self.keeps_axis)
        except ModelError as error:
            if name == names.BASELINE:
                raise BurnishError(Reason.BaselineFailed, f"the baseline does not answer an evaluation sample: {error}") from error
            self.drop(name, str(error))
            del self.differences[name], self.answers[name]
            return None
        except ServerUnreachableError as error:
            raise BurnishError(Reason.ServerLost, f"Triton was lost while {name} answered evaluation samples: {error}") from error

    def _decode(self, name: str, outputs: dict[str, np.ndarray]) -> None:
        if self.spec is None:
            return
        self.output = self.spec.output or next(iter(outputs))
        self.output_shape = outputs[self.output].shape
        self.answers[name] += metrics.decode_answers(outputs[self.output], self.spec.decode, name=self.output)
