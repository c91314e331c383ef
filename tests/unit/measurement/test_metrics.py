"""Decoding: the whole answer counts, NaN is none, wrong labels are named."""

from __future__ import annotations

import numpy as np
import pytest

from burnish.api.v1alpha1.optimized_model import Decode
from burnish.errors import BurnishError, Reason
from burnish.measurement import metrics


def one_hot(symbols: list[list[int]], classes: int) -> np.ndarray:
    """(N, T) indices as (N, T, C) float32 outputs."""
    return np.eye(classes, dtype=np.float32)[np.array(symbols)]


def test_argmax_of_more_axes_counts_the_whole_sample_as_one_answer() -> None:
    output = one_hot([[1, 2, 0], [1, 2, 2]], 3)
    assert metrics.decode_answers(output, Decode.ArgMax) == [(1, 2, 0), (1, 2, 2)]


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ([0, 3, 3, 0, 3, 1, 0], (3, 3, 1)),
        ([0, 0, 0, 0, 0, 0, 0], ()),
        ([2, 2, 2, 2, 2, 2, 2], (2,)),
        ([1, 2, 1, 2, 0, 2, 2], (1, 2, 1, 2, 2)),
    ],
)
def test_ctc_collapses_repeats_and_then_drops_blanks(path: list[int], line: tuple[int, ...]) -> None:
    assert metrics.decode_answers(one_hot([path], 4), Decode.CTC) == [line]


def test_nan_is_no_answer() -> None:
    output = np.array([[0.1, 0.9], [np.nan, 0.2], [np.inf, 0.0]], dtype=np.float32)
    assert metrics.decode_answers(output, Decode.ArgMax) == [(1,), None, (0,)]


def test_integer_outputs_are_decoded_too() -> None:
    assert metrics.decode_answers(np.array([[3, 200], [9, 1]], dtype=np.uint8), Decode.ArgMax) == [(1,), (0,)]


def test_missing_labels_are_named_with_the_cure() -> None:
    with pytest.raises(BurnishError, match=r"spec.datasets.evaluation.uri.*'label'.*Agreement") as caught:
        metrics.label_answers(None, (1, 10), 5)
    assert caught.value.reason is Reason.LabelsMissing


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(4, dtype=np.int64), r"shape \(4,\).*\(5,\)"),
        (np.eye(10)[np.zeros(5, dtype=int)], "one-hot"),
        (np.zeros(5), "integers"),
        (np.array(["a"] * 5), "integers"),
        (np.array([1, 2, 3, 4, 10]), "classes 0 to 9"),
        (np.array([-1, 2, 3, 4, 5]), "from -1"),
        (np.zeros((5, 2), dtype=np.int64), r"\(5, 2\)"),
    ],
)
def test_wrong_labels_are_refused(labels: np.ndarray, message: str) -> None:
    with pytest.raises(BurnishError, match=message) as caught:
        metrics.label_answers(labels, (1, 10), 5)
    assert caught.value.reason is Reason.InvalidDataset


def test_column_of_labels_is_taken() -> None:
    assert metrics.label_answers(np.array([[3], [4]]), (1, 10), 2) == [(3,), (4,)]


@pytest.mark.parametrize(
    ("output", "decode", "message"),
    [
        (np.zeros(5, dtype=np.float32), Decode.ArgMax, r"shape \(5,\)"),
        (np.zeros((5, 1), dtype=np.float32), Decode.ArgMax, "same answer"),
        (np.zeros((5, 7), dtype=np.float32), Decode.CTC, r"\(N, T, C\)"),
        (np.array([[b"a", b"b"]], dtype=object), Decode.ArgMax, "numeric"),
    ],
)
def test_output_that_can_not_be_decoded_is_refused(output: np.ndarray, decode: Decode, message: str) -> None:
    with pytest.raises(BurnishError, match=message) as caught:
        metrics.decode_answers(output, decode, name="y")
    assert caught.value.reason is Reason.InvalidManifest
    assert caught.value.field == "spec.datasets.evaluation.output"
