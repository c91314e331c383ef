"""Equivalence of outputs: first that the check can fail at all, then what it says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

from burnish.errors import BurnishError, Reason
from burnish.measurement import equivalence


@pytest.fixture(scope="module")
def digits_outputs() -> dict[str, np.ndarray]:
    """Class probabilities (297, 10) and labels of a network trained on half of the digits."""
    x, y = load_digits(return_X_y=True)
    x = x / 16
    model = MLPClassifier((32,), max_iter=60, tol=0.01, random_state=0).fit(x[:1500], y[:1500])
    return {"scores": model.predict_log_proba(x[1500:]).astype(np.float32), "label": model.predict(x[1500:])}


def test_baseline_against_itself_is_equal_and_with_shuffled_inputs_is_refused(digits_outputs: dict[str, np.ndarray]) -> None:
    shuffled = {name: np.roll(array, 1, axis=0) for name, array in digits_outputs.items()}
    same, other = equivalence.compare(digits_outputs, digits_outputs), equivalence.compare(digits_outputs, shuffled)
    assert equivalence.preserving_violation(same) is None
    assert equivalence.worst_cosine(same) == pytest.approx(1)
    assert equivalence.worst_exact_match(same) == 1
    assert "scores" in str(equivalence.preserving_violation(other))
    assert equivalence.worst_cosine(other) < 0.9  # type: ignore[operator]
    assert equivalence.worst_exact_match(other) == 0
    assert "label" in str(equivalence.preserving_violation(other[1:]))


def test_one_wrong_sample_is_not_hidden_by_the_batch() -> None:
    reference = np.random.default_rng(0).normal(size=(1000, 64)).astype(np.float32)
    outputs = reference.copy()
    outputs[500] = -outputs[500]
    found = equivalence.compare({"y": reference}, {"y": outputs})
    flat = float((reference * outputs).sum() / np.linalg.norm(reference) / np.linalg.norm(outputs))
    assert flat > 0.99
    assert equivalence.worst_cosine(found) == pytest.approx(-1)
    assert equivalence.median_cosine(found) == pytest.approx(1)
    assert "sample 500" in str(equivalence.preserving_violation(found))


@pytest.mark.parametrize(("factor", "ok"), [(1 + 0.9e-3, True), (1 + 1.2e-3, False)])
def test_preserving_tolerance_is_relative_to_the_largest_value(factor: float, ok: bool) -> None:
    reference = np.array([[100.0, 1.0], [0.5, -2.0]])
    assert (equivalence.preserving_violation(equivalence.compare({"y": reference}, {"y": reference * factor})) is None) is ok


def test_preserving_tolerance_has_an_absolute_floor() -> None:
    zero = np.zeros((2, 3), dtype=np.float32)
    assert equivalence.preserving_violation(equivalence.compare({"y": zero}, {"y": zero + np.float32(9e-6)})) is None
    assert equivalence.preserving_violation(equivalence.compare({"y": zero}, {"y": zero + np.float32(2e-5)}))


def test_non_finite_where_the_reference_is_finite_is_counted_per_sample() -> None:
    reference = np.array([[1.0, 2.0], [3.0, np.inf], [5.0, 6.0]], dtype=np.float32)
    outputs = np.array([[np.nan, np.inf], [3.0, np.inf], [5.0, 6.0]], dtype=np.float32)
    found = equivalence.compare({"y": reference}, {"y": outputs})
    assert equivalence.non_finite_samples(found) == 1
    assert "NaN or infinite in 1 samples" in str(equivalence.preserving_violation(found))
    assert found[0].cosine[0] == 0.0
    assert all(np.isfinite(found[0].max_absolute_error))
    assert equivalence.non_finite_samples(equivalence.compare({"y": reference}, {"y": reference})) == 0


def test_zeros_are_alike_and_unlike_anything_else() -> None:
    reference, outputs = np.array([[0.0, 0.0], [0.0, 0.0], [1.0, 1.0]]), np.array([[0.0, 0.0], [0.0, 1e-9], [0.0, 0.0]])
    assert equivalence.compare({"y": reference}, {"y": outputs})[0].cosine == (1.0, 0.0, 0.0)


@pytest.mark.parametrize("size", [1e-300, 1e300])
def test_cosine_survives_extreme_magnitudes(size: float) -> None:
    reference = np.array([[size, size]])
    found = equivalence.compare({"y": reference}, {"y": np.array([[size, -size / 2]])})[0]
    assert found.cosine[0] == pytest.approx(0.5 / np.sqrt(2 * 1.25))


def test_strings_and_integers_give_the_share_of_equal_elements() -> None:
    reference = {
        "text": np.array([["a", "ü"], ["c", "d"]], dtype=object),
        "id": np.array([[1, 2, 3, 4], [5, 6, 7, 8]]),
        "ok": np.array([True, False]),
    }
    outputs = {
        "text": np.array([[b"a", "ü".encode()], [b"c", b"x"]], dtype=object),
        "id": np.array([[1, 2, 3, 4], [5, 6, 7, 0]]),
        "ok": np.array([True, True]),
    }
    found = equivalence.compare(reference, outputs)
    assert [d.exact_match for d in found] == [(1.0, 0.5), (1.0, 0.75), (1.0, 0.0)]
    assert all(d.cosine == () for d in found)
    assert equivalence.worst_cosine(found) is None
    assert "'text'" in str(equivalence.preserving_violation(found))


def test_worst_output_is_the_one_with_the_worst_sample() -> None:
    rng = np.random.default_rng(1)
    good, bad = rng.normal(size=(9, 8)), rng.normal(size=(9, 8))
    changed = bad.copy()
    changed[4] = 0
    found = equivalence.compare({"good": good, "bad": bad}, {"good": good * 1.001, "bad": changed})
    worst = equivalence.worst_output(found)
    assert worst is not None
    assert worst.output == "bad"
    assert equivalence.worst_cosine(found) == 0
    assert equivalence.median_cosine(found) == pytest.approx(1)
    assert equivalence.largest_error(found) == pytest.approx(np.abs(bad[4]).max())


@pytest.mark.parametrize(("outputs", "message"), [({}, "missing"), ({"y": np.zeros((2, 4))}, r"shape \(2, 4\)")])
def test_outputs_that_can_not_be_compared_are_refused(outputs: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(BurnishError, match=message) as caught:
        equivalence.compare({"y": np.zeros((2, 3))}, outputs)
    assert caught.value.reason is Reason.OutputsDiffer


@given(hnp.arrays(np.float32, (6, 5), elements=st.floats(width=32, allow_nan=True, allow_infinity=True)), st.integers(1, 5))
def test_batches_together_are_the_whole_and_always_json(reference: np.ndarray, cut: int) -> None:
    outputs = np.where(np.arange(5) == 2, reference + 1, reference)
    whole = equivalence.compare({"y": reference}, {"y": outputs})
    parts = [equivalence.compare({"y": reference[s]}, {"y": outputs[s]}) for s in (slice(0, cut), slice(cut, 6))]
    assert equivalence.concatenate(parts) == whole
    assert type(whole[0]).model_validate_json(whole[0].model_dump_json()) == whole[0]
    assert np.isfinite([*whole[0].cosine, *whole[0].max_absolute_error, *whole[0].reference_max]).all()


def test_unbatched_output_is_one_sample() -> None:
    scalar = equivalence.compare({"y": np.float32(3.0)}, {"y": np.float32(3.0)})
    whole = equivalence.compare({"y": np.ones((4, 4))}, {"y": np.ones((4, 4))}, batched=False)
    assert scalar[0].cosine == (1.0,)
    assert len(whole[0].cosine) == 1


def test_extremes_of_unlisted_samples_still_count() -> None:
    reference = {"f": np.ones((6, 2)), "i": np.ones((6, 2), int)}
    other = {"f": reference["f"].copy(), "i": reference["i"].copy()}
    other["f"][4], other["i"][5, 0] = -3, 0
    whole, short = (equivalence.concatenate([equivalence.compare(reference, other)], listed=listed) for listed in (None, 2))
    assert [len(d.cosine or d.exact_match) for d in short] == [2, 2]
    for figure in (equivalence.worst_cosine, equivalence.largest_error, equivalence.worst_exact_match):
        assert figure(short) == figure(whole)
    assert [equivalence.sample_count(d) for d in short] == [6, 6]
    assert equivalence.known_cosines(short[0]) == (*whole[0].cosine[:2], min(whole[0].cosine))
