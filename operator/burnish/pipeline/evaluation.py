"""Answers of several models to the same samples: scores against labels or against the baseline, and differences of every output.

In chunks of several requests, since comparing one sample costs as much as comparing a hundred, and bounded ones, so that of a model with large
outputs only answers and per-sample figures are kept.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from burnish import names
from burnish.api.job_contract import Evaluated, PipelineRequest, TensorDifference
from burnish.api.v1alpha1.optimized_model import Evaluation as EvaluationSpec
from burnish.errors import BurnishError, Reason
from burnish.measurement import equivalence, scoring
from burnish.measurement.client import ModelError, ServerUnreachableError, TritonClient
from burnish.pipeline.progress import emit
from burnish.pipeline.samples import MADE_UP, Samples

MAX_LISTED = 1000
"""Samples whose differences are kept one by one; of those after them, the extremes."""
CHUNK_BYTES = 4 * 2**20
"""Of the baseline's outputs that wait to be compared together."""
NEWS_S = 0.2
"""Between two lines of progress: each wakes the runner, which shares the CPUs with the client."""


Outputs = Mapping[str, np.ndarray]
"""Output name -> (samples, ...)."""


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
        batch: samples per request; without data, the smallest that is allowed.
        drop: told of a candidate that fails, with Triton's words; it is left out from then on.

    Raises:
        BurnishError: BaselineFailed, ServerLost; what `check_scorable` and `Samples.check_answer` raise.
    """
    batch = batch if data.best else data.smallest_batch
    feeds = data.feeds(len(data.best or range(MADE_UP)), batch)
    samples = len(data.best) if data.best else len(feeds) * batch
    run = _Evaluation(client, models, request, data, drop)
    told = 0.0
    for number, feed in enumerate(feeds):
        run.add(feed, batch, min(batch, samples - run.samples))
        if (now := time.monotonic()) - told >= NEWS_S:
            told = now
            emit(f"samples answered: {run.samples}", done=(number + 1) / len(feeds))
    emit(f"{run.samples} samples answered by {len(run.kept)} models")
    return run.result()


def check_scorable(outputs: Mapping[str, np.ndarray], data: Samples, request: PipelineRequest) -> None:
    """Refuse outputs that can't be decoded as the manifest says, and labels that can't be theirs: one answer tells, so ask before the many.

    Args:
        outputs: of the baseline or the source, any number of samples, (N, ...).
        data: with the labels.
        request: says metric, decode and output.

    Raises:
        BurnishError: InvalidManifest, LabelsMissing, InvalidDataset.
    """
    spec = request.datasets.evaluation
    if spec is None or data.evaluation is None:
        return
    name, scored = _scored(spec, outputs)
    scoring.scoring(spec, data.evaluation.labels, len(data.evaluation)).check(scored, name)


def largest_loss(data: Samples, request: PipelineRequest) -> float | None:
    """The most that the score of one evaluation sample can lose; None where there is no bound."""
    spec = request.datasets.evaluation
    if spec is None or data.evaluation is None:
        return None
    return scoring.scoring(spec, data.evaluation.labels, len(data.evaluation)).largest_loss


def _scored(spec: EvaluationSpec, outputs: Mapping[str, np.ndarray]) -> tuple[str, np.ndarray]:
    name = spec.output or next(iter(outputs))
    return name, outputs[name]


class _Evaluation:
    """Answers and differences so far."""

    def __init__(
        self, client: TritonClient, models: Sequence[str], request: PipelineRequest, data: Samples, drop: Callable[[str, str], None]
    ) -> None:
        self.client, self.request, self.data, self.drop = client, request, data, drop
        self.spec = request.datasets.evaluation if data.evaluation else None
        labels = data.evaluation.labels if data.evaluation else None
        self.scoring = scoring.scoring(self.spec, labels, len(data.evaluation or ())) if self.spec else None
        self.kept: dict[str, list[scoring.Kept]] = {name: [] for name in models}
        """Model -> what is kept of each output."""
        self.differences: dict[str, list[tuple[TensorDifference, ...]]] = {name: [] for name in models if name != names.BASELINE}
        self.samples = 0
        self.output = ""
        self.waiting: dict[str, list[Outputs]] = {name: [] for name in models}
        """Model -> outputs that are not compared yet; all of them of the same shapes but for the number of samples."""
        self.waiting_bytes = 0

    def add(self, feed: dict[str, np.ndarray], sent: int, kept: int) -> None:
        """Ask everybody. `sent` samples are in the request, of which the first `kept` count; the others complete it."""
        raw = self._infer(names.BASELINE, feed)
        self.data.check_answer(raw, sent)
        baseline = self._samples(raw, sent, kept)
        if not self.samples:
            check_scorable(baseline, self.data, self.request)
        found = {names.BASELINE: baseline}
        for name in list(self.differences):
            try:
                found[name] = self._samples(self._infer(name, feed), sent, kept)
                equivalence.check_comparable(baseline, found[name])
            except ModelError as error:
                self._leave_out(name, str(error))
            except BurnishError as error:
                if error.reason is not Reason.OutputsDiffer:
                    raise
                self._leave_out(name, error.message)
        self._wait(found)
        self.samples += kept

    def result(self) -> Evaluation:
        self._compare()
        differences = {name: equivalence.concatenate(parts, listed=MAX_LISTED) for name, parts in self.differences.items() if parts}
        if self.spec is None or self.scoring is None:
            return Evaluation({}, (), differences, self.samples)
        expected = self.kept[names.BASELINE]
        self.scoring.check_baseline(expected)
        scores = {name: self.scoring.scores(kept, expected) for name, kept in self.kept.items()}
        baseline = scores.pop(names.BASELINE)
        evaluated = {
            name: Evaluated(
                metric=self.spec.metric.value,
                decode=self.spec.decoding.value if self.spec.decoding else None,
                output=self.output,
                baseline=baseline,
                candidate=candidate,
                largest_loss=self.scoring.largest_loss,
            )
            for name, candidate in scores.items()
        }
        return Evaluation(evaluated, baseline, differences, self.samples)

    def _samples(self, outputs: dict[str, np.ndarray], sent: int, kept: int) -> dict[str, np.ndarray]:
        return {name: array[:kept] for name, array in self.data.as_batch(outputs, sent).items()}

    def _leave_out(self, name: str, message: str) -> None:
        self.drop(name, message)
        del self.differences[name], self.kept[name], self.waiting[name]

    def _wait(self, found: Mapping[str, Outputs]) -> None:
        """Put one request's answers beside those that wait; compare when that is enough, or when the shapes change."""
        before, now = self.waiting[names.BASELINE], found[names.BASELINE]
        if before and _sample_shapes(before[-1]) != _sample_shapes(now):
            self._compare()
        for name, parts in self.waiting.items():
            parts.append(found[name])
        self.waiting_bytes += sum(array.nbytes for array in now.values())
        if self.waiting_bytes >= CHUNK_BYTES:
            self._compare()

    def _compare(self) -> None:
        """Compare and decode what waits."""
        if not self.waiting[names.BASELINE]:
            return
        baseline = _joined(self.waiting[names.BASELINE])
        self._decode(names.BASELINE, baseline)
        for name, differences in self.differences.items():
            outputs = _joined(self.waiting[name])
            differences.append(equivalence.compare(baseline, outputs))
            self._decode(name, outputs)
        for parts in self.waiting.values():
            parts.clear()
        self.waiting_bytes = 0

    def _infer(self, name: str, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        try:
            return self.client.infer(name, feed)
        except ModelError as error:
            if name == names.BASELINE:
                raise BurnishError(Reason.BaselineFailed, f"the baseline does not answer an evaluation sample: {error}") from error
            raise
        except ServerUnreachableError as error:
            raise BurnishError(Reason.ServerLost, f"Triton was lost while {name} answered evaluation samples: {error}") from error

    def _decode(self, name: str, outputs: Outputs) -> None:
        if self.spec is None or self.scoring is None:
            return
        self.output, scored = _scored(self.spec, outputs)
        kept = self.kept[name]
        kept += self.scoring.keep(scored, len(kept), self.output)


def _sample_shapes(outputs: Outputs) -> dict[str, tuple[int, ...]]:
    return {name: array.shape[1:] for name, array in outputs.items()}


def _joined(parts: Sequence[Outputs]) -> Outputs:
    """Several requests' outputs as if they had been one."""
    return parts[0] if len(parts) == 1 else {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
