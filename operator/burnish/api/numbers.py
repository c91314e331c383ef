"""Numbers as people read them, in one place: tables, reports, messages and progress write a size, a share or a ratio the same way.

No number has more digits than its interval carries. What the API holds is written by `burnish.api.scalars` instead, for programs.
"""

from __future__ import annotations

import math
import re
from typing import Protocol

from burnish.api.job_contract import Estimate
from burnish.api.scalars import format_bytes

_MOST_PLACES = 7


class Interval(Protocol):
    """An estimate with its ends."""

    @property
    def estimate(self) -> float:
        """The likeliest value."""

    @property
    def low(self) -> float:
        """Lower end."""

    @property
    def high(self) -> float:
        """Upper end."""


def text(value: float, interval: Interval, digits: int = 1) -> str:
    """`value`, one of the interval's numbers or one in its unit: as many decimals as show `digits` digits of the interval's width (two are the
    custom: JCGM 100:2008, 7.2.6), one more where `digits` is 1 and that digit a 1 or 2 (rounding it would move the ends by half the width).
    """
    width = interval.high - interval.low
    if not 0 < width < math.inf:
        return f"{value:.4g}"
    exponent = math.floor(math.log10(width))
    places = digits - 1 - exponent + (digits == 1 and width / 10**exponent < 2.5)
    shown = f"{value:.{min(_MOST_PLACES, max(0, places))}f}"
    return shown.removeprefix("-") if float(shown) == 0 else shown


def center(interval: Interval, unit: str = "", digits: int = 1) -> str:
    """The estimate: `8.13 ms`."""
    return f"{text(interval.estimate, interval, digits)}{unit}"


def between(interval: Interval) -> str:
    """The ends: `8.05–8.20`."""
    return f"{text(interval.low, interval)}–{text(interval.high, interval)}"


def with_ends(interval: Interval) -> str:
    """Estimate and ends for a message, with one digit more: `1.052 (1.049 to 1.056)`."""
    return f"{text(interval.estimate, interval, 2)} ({text(interval.low, interval, 2)} to {text(interval.high, interval, 2)})"


def reciprocal(interval: Interval) -> Estimate:
    """The interval of 1/x: a ratio's as a speedup's."""
    return Estimate(estimate=1 / interval.estimate, low=1 / interval.high, high=1 / interval.low)


def times(factor: str | float) -> str:
    """A factor: `2.41×`. Text stays as it is."""
    return f"{factor}×" if isinstance(factor, str) else f"{factor:.3g}×"


def counted(number: int, what: str) -> str:
    """`1 epoch`, `3 epochs`: of words whose plural takes an s."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def size(size_bytes: int) -> str:
    """`98 MiB`."""
    return reading(format_bytes(size_bytes), "B")


def reading(written: str, unit: str = "") -> str:
    """What the API writes, as people do: `8.13ms` is `8.13 ms`; with unit B, `98Mi` is `98 MiB`."""
    found = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", written)
    return f"{found[1]} {found[2]}{unit}".rstrip() if found else written


def percent(share: float) -> str:
    """A share: `98.3 %`; 100 % only where it is 1, 0 % only where it is 0."""
    places, nearly = 1, 10.0 ** -(_MOST_PLACES + 2)
    if 0 < share < 1:
        share = min(max(share, nearly), 1 - nearly)
    while 0 < share < 1 and places < _MOST_PLACES and float(f"{100 * share:.{places}f}") in (0, 100):
        places += 1
    shown = f"{100 * share:.{places}f}"
    return f"{shown.removesuffix('.0')} %"


def cosine(value: float) -> str:
    """A cosine with two digits after its nines: `0.99931`."""
    if value >= 1:
        return "1"
    digits = 2
    while digits < _MOST_PLACES and round(value, digits - 1) >= 1:
        digits += 1
    return f"{value:.{min(_MOST_PLACES, digits + 1)}f}"
