"""From output tensors to per-sample scores, for every metric: what is kept of an output, and the figure per sample that comes of it.

A score is the mean of its per-sample figures, whatever the metric, so that one paired interval serves all. F1 is no such mean; it is linearized, and the
mean of the linearized figures is F1 itself. Only what a metric needs is kept of an output: a class, a mask of bits, one number.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from burnish.api.v1alpha1.optimized_model import Decode, Evaluation, Metric
from burnish.errors import BurnishError, Reason
from burnish.measurement import metrics

THRESHOLD = 0.5
AGREEMENT_COSINE = 0.99
_EVALUATION = "spec.datasets.evaluation"

Array = NDArray[Any]
Kept = Any
"""What is kept of one sample's output."""


@dataclasses.dataclass(frozen=True)
class Decoder:
    """How an output becomes answers, and how alike two answers are."""

    decode: Callable[[Array, str], list[Kept]]
    """(N, ...) and the tensor's name -> one answer per sample; None: no answer, and like none."""
    alike: Callable[[Kept, Kept], float]
    """1.0 the same, 0.0 another."""


def decoder(spec: Evaluation | None) -> Decoder:
    """As the evaluation says; ArgMax where there is none.

    ArgMax, CTC: equal or not. Threshold: intersection over union of the elements at or above the threshold, 1.0 where neither has any. Cosine: whether
    the cosine of the two outputs reaches the limit.
    """
    decode = (spec.decoding if spec else None) or Decode.ArgMax
    if decode is Decode.Threshold:
        threshold = float(spec.threshold) if spec and spec.threshold is not None else THRESHOLD
        return Decoder(lambda output, name: _masks(output, threshold, name), _overlap)
    if decode is Decode.Cosine:
        limit = float(spec.agreement_cosine) if spec and spec.agreement_cosine is not None else AGREEMENT_COSINE
        return Decoder(_vectors, lambda one, other: float(_cosine(one, other) >= limit))
    return Decoder(lambda output, name: metrics.decode_answers(output, decode, name=name), lambda one, other: float(one == other))


class Scoring(abc.ABC):
    """Scores samples by one metric."""

    def __init__(self, spec: Evaluation, labels: Array | None, samples: int) -> None:
        """`labels`: (samples, ...), where the metric needs them."""
        self.spec, self.labels, self.samples = spec, labels, samples

    @property
    def largest_loss(self) -> float | None:
        """The most that one sample's figure can lose; None where there is no bound."""
        return 1.0

    @abc.abstractmethod
    def check(self, output: Array, name: str) -> None:
        """Refuse an output (N, ...) of some samples that can't be scored, and labels that can't be its.

        Raises:
            BurnishError: InvalidManifest, LabelsMissing, InvalidDataset.
        """

    @abc.abstractmethod
    def keep(self, output: Array, first: int, name: str) -> list[Kept]:
        """What is kept of the outputs (N, ...) to the samples from `first` on, one entry each."""

    @abc.abstractmethod
    def scores(self, kept: Sequence[Kept], baseline: Sequence[Kept]) -> tuple[float, ...]:
        """One figure per sample, of a model of which `kept` was kept; their mean is the score.

        Args:
            baseline: what was kept of the baseline, the same samples.
        """

    def check_baseline(self, kept: Sequence[Kept]) -> None:  # noqa: B027  # most metrics compare with anything
        """Refuse what the baseline says to all samples where nothing can be compared with it.

        Raises:
            BurnishError: InvalidDataset.
        """


def scoring(spec: Evaluation, labels: Array | None, samples: int) -> Scoring:
    """How the evaluation is scored.

    Args:
        spec: metric and decode.
        labels: of the dataset, where it has them, (samples, ...).
        samples: of the dataset.
    """
    made = _Values if spec.metric.compares_values else _F1 if spec.metric is Metric.F1 else _Answers
    return made(spec, labels if spec.metric.needs_labels else None, samples)


class _Answers(Scoring):
    """Accuracy and Agreement: how alike answers are to the labels, or to the baseline's."""

    def __init__(self, spec: Evaluation, labels: Array | None, samples: int) -> None:
        super().__init__(spec, labels, samples)
        self.decoder = decoder(spec)
        self.output_shape: tuple[int, ...] = ()

    def check(self, output: Array, name: str) -> None:
        self.decoder.decode(output, name)
        if self.spec.metric.needs_labels:
            metrics.label_answers(self.labels, output.shape, self.samples, metric=self.spec.metric.value)

    def keep(self, output: Array, first: int, name: str) -> list[Kept]:
        self.output_shape = output.shape
        return self.decoder.decode(output, name)

    def scores(self, kept: Sequence[Kept], baseline: Sequence[Kept]) -> tuple[float, ...]:
        expected = self._expected() if self.spec.metric.needs_labels else baseline
        return tuple(0.0 if a is None or b is None else self.decoder.alike(a, b) for a, b in zip(expected, kept, strict=True))

    def check_baseline(self, kept: Sequence[Kept]) -> None:
        if self.spec.decoding is not Decode.Threshold:
            return
        shares = [_share(mask) for mask in kept if mask is not None]
        if shares and (max(shares) == 0 or min(shares) == 1):
            found, cure = ("nothing", "lower") if max(shares) == 0 else ("everything", "raise")
            raise BurnishError(
                Reason.InvalidDataset,
                f"the baseline finds {found} in any of {len(kept)} samples, so agreement would say nothing; {cure} threshold, or use other samples",
                field=f"{_EVALUATION}.threshold",
            )

    def _expected(self) -> Sequence[Kept]:
        return metrics.label_answers(self.labels, self.output_shape, self.samples, metric=self.spec.metric.value)


class _F1(_Answers):
    """F1, the mean over the classes that stand in the labels (scikit-learn's `f1_score(average="macro", labels=those)`).

    F1 of class c is A/B with A the mean over samples of 2 TP and B that of 2 TP + FP + FN. The figure of sample i is F1 + mean over c of (a_i - F1_c b_i) / B_c,
    its linearization (Woodruff, JASA 66, 1971): the figures' mean is F1, and resampling them is resampling F1 to first order.
    """

    @property
    def largest_loss(self) -> float | None:
        """Of a sample of the rarest class, by which one class' F1 loses 1 / its samples."""
        if self.labels is None:
            return 1.0
        counts = np.unique(self.labels, return_counts=True)[1]
        return float(self.labels.size / (len(counts) * counts.min()))

    def scores(self, kept: Sequence[Kept], baseline: Sequence[Kept]) -> tuple[float, ...]:
        expected = np.array(self._expected())
        width = expected.shape[1]
        found = np.array([answer if answer is not None else (-1,) * width for answer in kept])
        classes, truth = np.unique(expected, return_inverse=True)
        truth = truth.reshape(expected.shape)
        slots = np.searchsorted(classes, found).clip(max=len(classes) - 1)
        counted = classes[slots] == found  # an answer that no label gives is no class' false positive
        right = expected == found
        count, samples = len(classes), len(expected)
        positives = np.bincount(truth[right], minlength=count) * 2.0
        totals = positives + np.bincount(truth[~right], minlength=count) + np.bincount(slots[~right & counted], minlength=count)
        each, weight = positives / totals, samples / totals
        figures = np.where(right, (2 - 2 * each[truth]) * weight[truth], -(each * weight)[truth] - np.where(counted, (each * weight)[slots], 0.0))
        return tuple((each.mean() + figures.sum(axis=1) / count).tolist())


class _Values(Scoring):
    """MSE, MAE, CosineSimilarity: the output itself against `label`, sample by sample."""

    @property
    def largest_loss(self) -> float | None:
        return None

    def check(self, output: Array, name: str) -> None:
        if output.dtype.kind not in "fiub":
            raise BurnishError(
                Reason.InvalidManifest, f"output {name!r} has dtype {output.dtype}; name a numeric output", field=f"{_EVALUATION}.output"
            )
        if self.labels is None:
            raise metrics.labels_missing(self.spec.metric.value)
        wanted = (self.samples, *output.shape[1:])
        if int(np.prod(self.labels.shape[1:])) != int(np.prod(wanted[1:])) or len(self.labels) != self.samples:
            raise _invalid(f"label has shape {self.labels.shape}, output {name!r} asks for {wanted}: a value for each of its elements")
        if self.labels.dtype.kind == "f" and not np.isfinite(self.labels).all():
            sample = int(np.argwhere(~np.isfinite(self.labels.reshape(self.samples, -1)))[0][0])
            raise _invalid(f"label holds NaN or infinity, first in sample {sample}; remove that sample")
        if self.spec.metric is Metric.CosineSimilarity and not self.labels.reshape(self.samples, -1).any(axis=1).all():
            raise _invalid("label holds a vector of zeros, which has no direction; remove that sample, or use metric: MSE")

    def keep(self, output: Array, first: int, name: str) -> list[Kept]:
        if self.labels is None:
            raise metrics.labels_missing(self.spec.metric.value)
        found = output.reshape(len(output), -1).astype(np.float64)
        wanted = self.labels[first : first + len(output)].reshape(len(output), -1).astype(np.float64)
        if found.shape != wanted.shape:
            raise _invalid(f"label has {wanted.shape[1]} values per sample, output {name!r} {found.shape[1]} in sample {first}")
        if self.spec.metric is Metric.CosineSimilarity:
            figures = np.array([_cosine(one, other) for one, other in zip(found, wanted, strict=True)])
            return list(np.nan_to_num(figures, nan=-1.0).tolist())
        with np.errstate(over="ignore", invalid="ignore"):
            errors = np.abs(found - wanted)
            figures = (np.square(errors) if self.spec.metric is Metric.MSE else errors).mean(axis=1)
        return list(np.nan_to_num(figures, nan=_WORST, posinf=_WORST).clip(max=_WORST).tolist())

    def scores(self, kept: Sequence[Kept], baseline: Sequence[Kept]) -> tuple[float, ...]:
        return tuple(kept)

    def check_baseline(self, kept: Sequence[Kept]) -> None:
        worst = -1.0 if self.spec.metric is Metric.CosineSimilarity else _WORST
        if worst in kept:
            raise _invalid(f"the baseline's output to sample {list(kept).index(worst)} is not finite, or opposite to its label; remove that sample")


_WORST = float(np.finfo(np.float32).max)
"""The error of an output that isn't finite: records hold no infinity."""


def _invalid(message: str) -> BurnishError:
    return BurnishError(Reason.InvalidDataset, message, field=f"{_EVALUATION}.uri")


def _masks(output: Array, threshold: float, name: str) -> list[Kept]:
    """Of each sample, which elements are found: (bits, number of elements)."""
    if output.dtype.kind not in "fiub" or output.ndim < 2:
        raise BurnishError(
            Reason.InvalidManifest,
            f"decode Threshold needs a numeric output (N, ...); {name!r} is {output.dtype} of shape {output.shape}",
            field=f"{_EVALUATION}.output",
        )
    rows = output.reshape(len(output), -1)
    hit = np.packbits(rows >= threshold, axis=1)
    return [None if np.isnan(row).any() else (bits, row.size) for bits, row in zip(hit, rows, strict=True)]


def _overlap(one: tuple[Array, int], other: tuple[Array, int]) -> float:
    """Intersection over union (Jaccard) of two masks."""
    if one[1] != other[1]:
        return 0.0
    union = int(np.bitwise_count(one[0] | other[0]).sum())
    return int(np.bitwise_count(one[0] & other[0]).sum()) / union if union else 1.0


def _share(mask: tuple[Array, int]) -> float:
    return int(np.bitwise_count(mask[0]).sum()) / mask[1]


def _vectors(output: Array, name: str) -> list[Kept]:
    if output.dtype.kind not in "fiub" or output.ndim < 2 or output.size == len(output):
        raise BurnishError(
            Reason.InvalidManifest,
            f"decode Cosine needs a numeric output (N, ...) of several elements per sample; {name!r} is {output.dtype} of shape {output.shape}",
            field=f"{_EVALUATION}.output",
        )
    rows = output.reshape(len(output), -1)
    return [None if np.isnan(row).any() else row.copy() for row in rows]


def _cosine(one: Array, other: Array) -> float:
    """Cosine of two vectors; two zero vectors are alike, one is like nothing."""
    a, b = one.astype(np.float64), other.astype(np.float64)
    if a.shape != b.shape:
        return 0.0
    power = float(np.sqrt((a @ a) * (b @ b)))
    if power == 0:
        return float(not a.any() and not b.any())
    return float(a @ b) / power
