"""Scores of every metric against scikit-learn's and scipy's, what is kept of outputs, and what can't be scored."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.spatial import distance
from sklearn import metrics as sklearn

from burnish.api.v1alpha1.optimized_model import Evaluation, Metric
from burnish.errors import BurnishError, Reason
from burnish.measurement import statistics
from burnish.measurement.scoring import scoring

RNG = np.random.default_rng(5)


def spec(metric: str, **options: str) -> Evaluation:
    return Evaluation(uri="file:e.npz", metric=Metric(metric), **options)  # type: ignore[arg-type]


def scores(evaluation: Evaluation, output: np.ndarray, labels: np.ndarray | None = None, baseline: np.ndarray | None = None) -> np.ndarray:
    """In two chunks, as an evaluation does it."""
    made = scoring(evaluation, labels, len(output))
    half = max(1, len(output) // 3)

    def kept(array: np.ndarray) -> list[Any]:
        return [*made.keep(array[:half], 0, "y"), *made.keep(array[half:], half, "y")]

    made.check(output, "y")
    reference = kept(output if baseline is None else baseline)
    made.check_baseline(reference)
    return np.array(made.scores(kept(output), reference))


def classified(samples: int, classes: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Outputs (N, C) that are mostly right, and labels of unequal frequency."""
    labels = RNG.choice(classes, samples, p=np.arange(1, classes + 1) / np.arange(1, classes + 1).sum())
    return np.eye(classes)[labels] + RNG.normal(0, noise, (samples, classes)), labels


def test_accuracy_is_scikit_learns() -> None:
    output, labels = classified(500, 10, 0.6)
    found = scores(spec("Accuracy"), output, labels)
    assert found.mean() == sklearn.accuracy_score(labels, output.argmax(-1))
    assert set(found) == {0.0, 1.0}


@pytest.mark.parametrize("noise", [0.0, 0.4, 0.9])
def test_mean_of_the_f1_figures_is_scikit_learns_macro_f1(noise: float) -> None:
    output, labels = classified(700, 6, noise)
    assert scores(spec("F1"), output, labels).mean() == pytest.approx(sklearn.f1_score(labels, output.argmax(-1), average="macro"), abs=1e-12)


def test_f1_of_a_class_that_no_label_has_is_no_class_but_its_answers_are_wrong() -> None:
    output, labels = np.eye(4)[[0, 0, 1, 3]], np.array([0, 0, 1, 1])  # class 3 is answered, and stands in no label
    expected = sklearn.f1_score(labels, output.argmax(-1), average="macro", labels=[0, 1])
    assert scores(spec("F1"), output, labels).mean() == pytest.approx(expected)


def test_f1_counts_each_position_of_a_sequence() -> None:
    labels = RNG.integers(0, 3, (40, 7))
    output = np.eye(3)[labels] + RNG.normal(0, 0.7, (40, 7, 3))
    expected = sklearn.f1_score(labels.ravel(), output.argmax(-1).ravel(), average="macro")
    assert scores(spec("F1"), output, labels).mean() == pytest.approx(expected)


def test_interval_of_an_f1_drop_is_that_of_resampling_f1_itself() -> None:
    output, labels = classified(600, 5, 0.45)
    worse = output + RNG.normal(0, 0.35, output.shape)
    before, after = (scores(spec("F1"), found, labels) for found in (output, worse))
    ours = statistics.score_drop(before.tolist(), after.tolist(), largest_loss=scoring(spec("F1"), labels, 600).largest_loss)

    def f1(found: np.ndarray, chosen: np.ndarray) -> float:
        return float(sklearn.f1_score(labels[chosen], found[chosen].argmax(-1), average="macro"))

    resampled = [f1(output, chosen) - f1(worse, chosen) for chosen in RNG.integers(0, 600, (1000, 600))]
    low, high = np.quantile(resampled, [0.05, 0.95])
    width = high - low
    assert ours.estimate == pytest.approx(f1(output, np.arange(600)) - f1(worse, np.arange(600)))
    assert ours.low == pytest.approx(low, abs=0.12 * width) and ours.high == pytest.approx(high, abs=0.12 * width)


def test_an_f1_without_any_loss_is_as_sure_as_its_rarest_class_allows() -> None:
    labels = np.array([0] * 90 + [1] * 10)
    largest = scoring(spec("F1"), labels, 100).largest_loss
    assert largest == pytest.approx(5.0)  # one of ten lost takes 0.1 of one class' F1 of two, a hundredth of the samples
    same = scores(spec("F1"), np.eye(2)[labels], labels).tolist()
    assert statistics.score_drop(same, same, largest_loss=largest).high == pytest.approx(5 * 3 / 100, rel=0.01)


def test_errors_and_cosine_are_scikit_learns_and_scipys() -> None:
    output, labels = RNG.normal(size=(60, 3, 4)).astype(np.float32), RNG.normal(size=(60, 3, 4))
    flat, wanted = output.reshape(60, -1).astype(np.float64), labels.reshape(60, -1)
    assert scores(spec("MSE"), output, labels).mean() == pytest.approx(sklearn.mean_squared_error(wanted, flat))
    assert scores(spec("MAE"), output, labels).mean() == pytest.approx(sklearn.mean_absolute_error(wanted, flat))
    expected = [1 - distance.cosine(a, b) for a, b in zip(flat, wanted, strict=True)]
    assert scores(spec("CosineSimilarity"), output, labels) == pytest.approx(expected)


def test_error_of_one_output_per_sample_takes_labels_of_either_shape() -> None:
    output = np.array([[1.0], [2.0], [4.0]])
    for labels in (np.array([1.0, 1.0, 1.0]), np.array([[1], [1], [1]])):
        assert scores(spec("MSE"), output, labels).tolist() == [0.0, 1.0, 9.0]


def test_mask_agreement_is_the_jaccard_score_of_scikit_learn() -> None:
    baseline = RNG.random((12, 1, 9, 7))
    output = np.clip(baseline + RNG.normal(0, 0.1, baseline.shape), 0, 1)
    evaluation = spec("Agreement", decode="Threshold", threshold="0.6")
    expected = [sklearn.jaccard_score((a >= 0.6).ravel(), (b >= 0.6).ravel()) for a, b in zip(baseline, output, strict=True)]
    assert scores(evaluation, output, baseline=baseline) == pytest.approx(expected)
    assert scores(evaluation, baseline, baseline=baseline).tolist() == [1.0] * 12


def test_masks_of_samples_in_which_nothing_is_found_agree() -> None:
    baseline = np.zeros((4, 16))
    baseline[0, :4] = 1
    output = baseline.copy()
    output[1, 0] = 1  # found where the baseline finds nothing
    assert scores(spec("Agreement", decode="Threshold"), output, baseline=baseline).tolist() == [1.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize(("value", "found"), [(0.0, "nothing"), (1.0, "everything")])
def test_baseline_whose_masks_say_nothing_is_refused(value: float, found: str) -> None:
    with pytest.raises(BurnishError, match=f"finds {found} in any of 6 samples.*threshold") as caught:
        scores(spec("Agreement", decode="Threshold"), np.full((6, 20), value))
    assert (caught.value.reason, caught.value.field) == (Reason.InvalidDataset, "spec.datasets.evaluation.threshold")


def test_cosine_agreement_asks_for_the_limit() -> None:
    baseline = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    output = np.array([[1.0, 0.05], [1.0, 0.2], [0.0, 0.0], [1.0, 0.0]])
    assert scores(spec("Agreement", decode="Cosine"), output, baseline=baseline).tolist() == [1.0, 0.0, 1.0, 0.0]
    assert scores(spec("Agreement", decode="Cosine", agreement_cosine="0.9"), output, baseline=baseline).tolist() == [1.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize(("metric", "options"), [("Agreement", {}), ("Agreement", {"decode": "Threshold"}), ("Agreement", {"decode": "Cosine"})])
def test_nan_agrees_with_nothing_not_even_with_nan(metric: str, options: dict[str, str]) -> None:
    output = np.array([[0.1, 0.9], [np.nan, 0.2]])
    assert scores(spec(metric, **options), output).tolist() == [1.0, 0.0]


def test_nan_of_a_candidate_is_the_worst_figure_and_no_nan() -> None:
    labels = np.ones((2, 2))
    for metric, worst in (("MSE", np.finfo(np.float32).max), ("MAE", np.finfo(np.float32).max), ("CosineSimilarity", -1.0)):
        output = np.array([[1.0, 1.0], [np.nan, np.inf]])
        made = scoring(spec(metric), labels, 2)
        assert made.keep(output, 0, "y")[1] == worst
        with pytest.raises(BurnishError, match="sample 1"):
            made.check_baseline(made.keep(output, 0, "y"))


@pytest.mark.parametrize(
    ("metric", "labels", "message"),
    [
        ("MSE", None, "metric MSE compares with labels.*add it"),
        ("F1", None, "metric F1 compares with labels"),
        ("MSE", np.zeros((5, 3)), r"label has shape \(5, 3\).*\(5, 2\)"),
        ("MAE", np.array([[0, 1], [1, np.nan], [0, 0], [0, 0], [0, 0]]), "NaN or infinity, first in sample 1"),
        ("CosineSimilarity", np.eye(5, 2), "vector of zeros"),
        ("F1", np.array([0, 1, 2, 1, 0]), "classes 0 to 1"),
    ],
)
def test_labels_that_can_not_be_right_are_refused(metric: str, labels: np.ndarray | None, message: str) -> None:
    with pytest.raises(BurnishError, match=message) as caught:
        scoring(spec(metric), labels, 5).check(np.ones((5, 2)), "y")
    assert caught.value.field == "spec.datasets.evaluation.uri"
    assert caught.value.reason in (Reason.InvalidDataset, Reason.LabelsMissing)


@pytest.mark.parametrize("options", [{"decode": "Threshold"}, {"decode": "Cosine"}])
def test_outputs_that_can_not_be_decoded_are_refused(options: dict[str, str]) -> None:
    for output in (np.array([["a"]], dtype=object), np.ones(5)):
        with pytest.raises(BurnishError, match="'y'") as caught:
            scoring(spec("Agreement", **options), None, len(output)).check(output, "y")
        assert caught.value.field == "spec.datasets.evaluation.output"
