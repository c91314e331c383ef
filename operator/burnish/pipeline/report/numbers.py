"""Numbers as text, with no more digits than their interval carries."""

from __future__ import annotations

import math

from burnish.api.job_contract import Estimate


def text(value: float, interval: Estimate, digits: int = 1) -> str:
    """`value`, one of the interval's numbers or one in its unit: as many decimals as show `digits` digits of the interval's width, one more
    where the first of them is a 1 (rounding it would move the ends by half the width).
    """
    width = interval.high - interval.low
    if not 0 < width < math.inf:
        return f"{value:.4g}"
    exponent = math.floor(math.log10(width))
    places = digits - 1 - exponent + (digits == 1 and width / 10**exponent < 2.5)
    shown = f"{value:.{min(7, max(0, places))}f}"
    return shown.removeprefix("-") if float(shown) == 0 else shown


def center(interval: Estimate, unit: str = "", digits: int = 1) -> str:
    """The estimate: `8.13 ms`."""
    return f"{text(interval.estimate, interval, digits)}{unit}"


def between(interval: Estimate) -> str:
    """The ends: `8.05–8.20`."""
    return f"{text(interval.low, interval)}–{text(interval.high, interval)}"


def reciprocal(interval: Estimate) -> Estimate:
    """The interval of 1/x: a ratio's as a speedup's."""
    return Estimate(estimate=1 / interval.estimate, low=1 / interval.high, high=1 / interval.low)
