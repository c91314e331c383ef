"""How numbers are written for people."""

from __future__ import annotations

import pytest

from burnish.api import numbers
from burnish.api.job_contract import Estimate


@pytest.mark.parametrize(
    ("share", "shown"),
    [(0, "0 %"), (1, "100 %"), (0.5, "50 %"), (0.983, "98.3 %"), (0.9999, "99.99 %"), (0.00001, "0.001 %"), (0.99999999999, "99.9999999 %")],
)
def test_percent_is_all_or_nothing_only_where_it_is(share: float, shown: str) -> None:
    assert numbers.percent(share) == shown


@pytest.mark.parametrize(("value", "shown"), [(1.0, "1"), (0.99931, "0.99931"), (0.5, "0.500"), (0.9999999, "0.9999999")])
def test_cosine_has_two_digits_after_its_nines(value: float, shown: str) -> None:
    assert numbers.cosine(value) == shown


@pytest.mark.parametrize(
    ("written", "unit", "shown"),
    [("8.13ms", "", "8.13 ms"), ("98Mi", "B", "98 MiB"), ("412", "B", "412 B"), ("", "B", ""), ("odd one", "", "odd one")],
)
def test_reading_puts_a_space_before_the_unit(written: str, unit: str, shown: str) -> None:
    assert numbers.reading(written, unit) == shown


def test_size_and_times() -> None:
    assert (numbers.size(786 * 1024), numbers.times(3.9123), numbers.times("2.40")) == ("786 KiB", "3.91×", "2.40×")


def test_interval_with_its_ends_has_two_digits_of_its_width() -> None:
    assert numbers.with_ends(Estimate(estimate=1.05191, low=1.04861, high=1.05621)) == "1.0519 (1.0486 to 1.0562)"
    assert numbers.with_ends(Estimate(estimate=1, low=1, high=1)) == "1 (1 to 1)"
