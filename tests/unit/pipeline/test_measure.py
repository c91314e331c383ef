"""What becomes of a model that does not answer the golden request as it should."""

from __future__ import annotations

import pytest

from burnish import names
from burnish.errors import BurnishError, Reason
from burnish.pipeline.measure import _Measurement


@pytest.fixture
def measurement() -> _Measurement:
    made = _Measurement.__new__(_Measurement)
    made.failed = {}
    return made


def differ(_: str) -> None:
    raise BurnishError(Reason.OutputsDiffer, "output 'y' has shape (1, 2), the reference (1, 3)")


def test_candidate_whose_golden_answer_has_another_shape_is_left_out(measurement: _Measurement) -> None:
    measurement._attempt("int8", differ)
    assert "shape (1, 2)" in measurement.failed["int8"]


def test_baseline_whose_golden_answer_has_another_shape_has_failed(measurement: _Measurement) -> None:
    with pytest.raises(BurnishError, match=r"shape \(1, 2\)") as caught:
        measurement._attempt(names.BASELINE, differ)
    assert caught.value.reason is Reason.BaselineFailed


def test_any_other_refusal_ends_the_step(measurement: _Measurement) -> None:
    def full(_: str) -> None:
        raise BurnishError(Reason.DiskFull, "no room")

    with pytest.raises(BurnishError, match="no room"):
        measurement._attempt("int8", full)
