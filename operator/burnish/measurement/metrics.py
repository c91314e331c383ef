"""From output tensors to answers by ArgMax and CTC, and from labels to the answers they ask for.

An answer is what a user of the model acts on: a class, a tuple of classes, a line of text as symbol indices.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from burnish import names
from burnish.api.v1alpha1.optimized_model import Decode
from burnish.errors import BurnishError, Reason

Answer = tuple[int, ...] | None
"""Indices of the chosen classes or symbols; None where the output holds NaN: no answer, and never right."""

CTC_BLANK = 0

_EVALUATION = "spec.datasets.evaluation"


def decode_answers(output: NDArray[np.generic], decode: Decode, *, name: str = "output") -> list[Answer]:
    """One answer per sample (axis 0) of a batch.

    Args:
        output: ArgMax: (N, ..., C), the last axis holds the classes. CTC: (N, T, C), one distribution per time step, class 0 is the blank.
        decode: which of the two.
        name: of the tensor, for messages.

    Raises:
        BurnishError: InvalidManifest: the output can't be decoded like this.
    """
    _check_decodable(output, decode, name)
    choices = output.argmax(axis=-1).reshape(len(output), -1)
    answers: list[Answer] = [_collapse(row) if decode is Decode.CTC else tuple(row) for row in choices.tolist()]
    if output.dtype.kind == "f":
        for sample in np.flatnonzero(np.isnan(output).reshape(len(output), -1).any(axis=1)):
            answers[sample] = None
    return answers


def labels_missing(metric: str) -> BurnishError:
    """That a metric has nothing to compare with."""
    return BurnishError(
        Reason.LabelsMissing,
        f"metric {metric} compares with labels, and there is no array {names.LABEL!r}; add it to the dataset, or use metric: Agreement",
        field=f"{_EVALUATION}.uri",
    )


def label_answers(labels: NDArray[np.generic] | None, output_shape: Sequence[int], samples: int, *, metric: str = "Accuracy") -> list[Answer]:
    """The labels of an evaluation dataset as answers, checked against the output they will be compared with.

    Args:
        labels: (N,) or (N, ...) integer class indices; None where the dataset has none.
        output_shape: (N, ..., C) of the decoded output, for any N.
        samples: N of the dataset's inputs.
        metric: for the message.

    Raises:
        BurnishError: LabelsMissing, or InvalidDataset where count, dtype, shape or values can't be right.
    """
    field = f"{_EVALUATION}.uri"
    if labels is None:
        raise labels_missing(metric)
    classes, wanted = output_shape[-1], (samples, *output_shape[1:-1])
    if labels.shape != wanted and labels.shape != (*wanted, 1):
        hint = "; one-hot labels have to be class indices: np.argmax(label, axis=-1)" if labels.shape == (*wanted, classes) else ""
        raise BurnishError(Reason.InvalidDataset, f"{names.LABEL} has shape {labels.shape}, the output asks for {wanted}{hint}", field=field)
    if labels.dtype.kind not in "iu":
        raise BurnishError(
            Reason.InvalidDataset, f"{names.LABEL} has dtype {labels.dtype}; class indices are integers: save label.astype('int64')", field=field
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise BurnishError(
            Reason.InvalidDataset,
            f"{names.LABEL} holds values from {low} to {high}, the output has classes 0 to {classes - 1}; number the classes as the model does",
            field=field,
        )
    return [tuple(row) for row in labels.reshape(samples, -1).tolist()]


def _collapse(symbols: Sequence[int]) -> tuple[int, ...]:
    """CTC best path: repeats count once, then blanks go (Graves et al., ICML 2006, section 3.2)."""
    return tuple(now for before, now in zip((CTC_BLANK, *symbols), symbols, strict=False) if now not in (before, CTC_BLANK))


def _check_decodable(output: NDArray[np.generic], decode: Decode, name: str) -> None:
    field = f"{_EVALUATION}.output"
    if output.dtype.kind not in "fiub":
        raise BurnishError(Reason.InvalidManifest, f"output {name!r} has dtype {output.dtype}; name a numeric output", field=field)
    wanted = "(N, T, C)" if decode is Decode.CTC else "(N, ..., C)"
    if output.ndim < 2 or (decode is Decode.CTC and output.ndim != 3):
        raise BurnishError(Reason.InvalidManifest, f"decode {decode} needs an output {wanted}; {name!r} has shape {output.shape}", field=field)
    if output.shape[-1] < 2:
        raise BurnishError(
            Reason.InvalidManifest,
            f"the last axis of {name!r} has size {output.shape[-1]}, so decode {decode} gives every sample the same answer; name another output",
            field=field,
        )
