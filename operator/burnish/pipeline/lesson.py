"""The training data as passes learn from it: arrays, labels that fit the loss, and the original's own answers, asked once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from burnish import names
from burnish.api.job_contract import PipelineRequest, StageRecord, StepName
from burnish.api.v1alpha1.optimized_model import Decode, Loss, TrainingData
from burnish.errors import BurnishError, Reason
from burnish.measurement import scoring
from burnish.pipeline import prepare
from burnish.pipeline.datasets import Dataset, load_dataset
from burnish.pipeline.progress import emit
from burnish.pipeline.workdir import WorkDir
from burnish.plugins.base import Lesson, Session, Signature

FIELD = "spec.datasets.training"
ASKED = 64
"""Samples per request to the original."""
_CURE = 'or learn from the original\'s answers alone: distill: {alpha: "0"}'


def load(work: WorkDir, request: PipelineRequest, signature: Signature) -> Dataset | None:
    """The training data, where there is some.

    Raises:
        BurnishError: InvalidDataset; PassNotApplicable where the model takes one sample at a time.
    """
    staged, spec = work.load(StepName.stage, StageRecord), request.datasets.training
    if spec is None or staged.training is None:
        return None
    path = prepare.dataset_path(work, "training", staged.training)
    data = load_dataset(path, request.inputs, signature, samples=spec.samples, field=FIELD, any_labels=True)
    if not data.is_batched:
        raise BurnishError(
            Reason.PassNotApplicable,
            "the model takes one sample at a time, and training needs batches; export it with a batch axis that varies",
            field="spec.passes",
        )
    if len(data) < 2:
        raise BurnishError(Reason.InvalidDataset, "there is only one sample; training needs at least two", field=FIELD)
    return data


def make(data: Dataset, request: PipelineRequest, signature: Signature, original: Session, *, needs_labels: bool, asks_original: bool) -> Lesson:
    """What passes learn.

    Args:
        original: answers as the uncompressed model.
        needs_labels: some pass has a hard loss.
        asks_original: some pass has a soft loss.

    Raises:
        BurnishError: LabelsMissing, InvalidDataset, InputsMismatch.
    """
    spec = request.datasets.training
    assert spec is not None  # noqa: S101  # else there is no data
    output = _output(spec, request, signature)
    if needs_labels and data.labels is None:
        raise BurnishError(Reason.LabelsMissing, f"the loss needs labels and the data has no array {names.LABEL!r}; add it, {_CURE}", field=FIELD)
    some = original.infer(data.feeds(min(ASKED, len(data)), fill=True)[0])[output]
    classes = _is_classification(spec, request, data.labels, some)
    if needs_labels:
        _check_labels(data.labels, some, len(data), classes=classes)
    answers = None
    if asks_original:
        emit(f"asking the original for its answers to {len(data)} training samples")
        answers = np.concatenate([original.infer(feed)[output] for feed in data.feeds(ASKED)])
    return Lesson(
        inputs=data.arrays,
        output=output,
        labels=data.labels if needs_labels else None,
        answers=answers,
        is_classification=classes,
        holds_probabilities=classes and _are_probabilities(some),
    )


def _output(spec: TrainingData, request: PipelineRequest, signature: Signature) -> str:
    evaluation = request.datasets.evaluation
    known = [t.name for t in signature.outputs]
    wanted = spec.output or (evaluation.output if evaluation else None) or known[0]
    if wanted not in known:
        raise BurnishError(Reason.InputsMismatch, f"the model has no output {wanted!r}; it has {', '.join(known)}", field=f"{FIELD}.output")
    if not next(t for t in signature.outputs if t.name == wanted).data_type.is_float:
        raise BurnishError(
            Reason.InputsMismatch, f"output {wanted!r} is no floating-point tensor, so nothing can be learned from it", field=f"{FIELD}.output"
        )
    return wanted


def _is_classification(spec: TrainingData, request: PipelineRequest, labels: np.ndarray | None, some: np.ndarray) -> bool:
    if spec.loss is not None:
        return spec.loss is Loss.CrossEntropy
    if labels is not None:
        return labels.dtype.kind in "iub"
    evaluation = request.datasets.evaluation
    return evaluation is not None and evaluation.decoding in (Decode.ArgMax, Decode.CTC) and some.ndim > 1


def _check_labels(labels: np.ndarray | None, some: np.ndarray, samples: int, *, classes: bool) -> None:
    """Labels that can't be the output's are refused before an hour's training."""
    assert labels is not None  # noqa: S101  # asked before
    if classes:
        wanted = some.shape[1:-1]
        if labels.dtype.kind not in "iub" or labels.shape[1:] != wanted:
            raise _invalid(f"label is {labels.dtype} of shape {list(labels.shape)}; CrossEntropy takes class indices of shape {[samples, *wanted]}")
        if labels.min() < 0 or labels.max() >= some.shape[-1]:
            raise _invalid(
                f"label has values from {labels.min()} to {labels.max()}, and the output has {some.shape[-1]} classes (0 to {some.shape[-1] - 1})"
            )
    elif int(np.prod(labels.shape[1:])) != int(np.prod(some.shape[1:])):
        raise _invalid(
            f"label has shape {list(labels.shape)}; MeanSquaredError takes a value for each element of the output, {[samples, *some.shape[1:]]}"
        )
    elif labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise _invalid("label holds NaN or infinity; remove such samples")


def _are_probabilities(some: np.ndarray) -> bool:
    """Nothing below zero, and each row's sum is one."""
    return bool((some >= 0).all() and np.allclose(some.sum(axis=-1), 1, atol=1e-3))


def _invalid(message: str) -> BurnishError:
    return BurnishError(Reason.InvalidDataset, message, field=FIELD)


class Examined:
    """Answers of each model of a chain to the evaluation samples, so that each can be compared with the one before and with the original."""

    def __init__(self, request: PipelineRequest, data: Dataset | None, feeds: Sequence[dict[str, np.ndarray]]) -> None:
        self.spec = request.datasets.evaluation if data else None
        self.labels = data.labels[:MAX_EXAMINED] if data and data.labels is not None else None
        self.feeds = feeds
        self._samples = min(len(data), MAX_EXAMINED) if data else 0

    def answers(self, session: Session) -> dict[str, np.ndarray]:
        """Output name -> (samples, ...)."""
        parts = [session.infer(feed) for feed in self.feeds]
        return {name: np.concatenate([np.atleast_1d(part[name]) for part in parts]) for name in parts[0]}

    def scores(self, answers: dict[str, np.ndarray], original: dict[str, np.ndarray]) -> tuple[float, ...]:
        """One figure per sample; none without evaluation data."""
        if self.spec is None:
            return ()
        name = self.spec.output or next(iter(answers))
        count = len(answers[name])
        found = scoring.scoring(self.spec, self.labels, count)
        kept, baseline = (found.keep(side[name], 0, name) for side in (answers, original))
        return found.scores(kept, baseline)

    @property
    def scores_errors(self) -> bool:
        """The figures are errors: less is better."""
        return self.spec is not None and self.spec.metric.is_error

    @property
    def largest_loss(self) -> float | None:
        """As `Scoring.largest_loss`."""
        return scoring.scoring(self.spec, self.labels, self._samples).largest_loss if self.spec else None


MAX_EXAMINED = 2000
"""Evaluation samples of which each model of a chain is asked; all are when it is measured."""


def scratch(folder: Path) -> Path:
    """A folder for what is only needed while the step runs."""
    made = folder / "scratch"
    made.mkdir(parents=True, exist_ok=True)
    return made
