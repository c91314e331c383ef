"""Intervals: the only thing a verdict may rest on.

Speed is compared *within* a round, where both models met the same machine, and rounds are what is resampled: consecutive runs of one and the
same model differ by more than 5 % a sixth of the time on a shared machine, paired rounds do not (Abedi and Brecht, ICPE 2017,
doi 10.1145/3030207.3030229; Bulej et al., ICPE 2020, arXiv 2001.05811). Everything here is pure and deterministic: equal data, equal interval.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.99
"""Two-sided, for speed and latency: rounds are looked at several times, so a single look has to be stricter than the usual 95 %."""
SCORE_CONFIDENCE = 0.95
"""One-sided, for scores: they are looked at once."""
RESAMPLES = 2000
"""Bootstrap resamples: ten of them lie beyond each end of a 99 % interval."""
_SEED = 20261123

Floats = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Interval:
    """An estimate and the ends of its confidence interval, in one unit."""

    estimate: float
    low: float
    high: float


# --- speed ----------------------------------------------------------------------------------------------------------------------------


def block_medians(blocks: Sequence[Sequence[float]]) -> Floats:
    """Median of each round's block; blocks may differ in length."""
    return np.array([np.median(block) for block in blocks], dtype=np.float64)


def paired_ratio(numerators: Sequence[float] | Floats, denominators: Sequence[float] | Floats, confidence: float = CONFIDENCE) -> Interval:
    """Median over rounds of numerator/denominator, with a percentile bootstrap over rounds.

    The median is taken of logarithms, so that swapping the two sides gives exactly the reciprocal interval.

    Args:
        numerators: one positive number per round, e.g. the baseline's block medians.
        denominators: the other side's, same rounds.
        confidence: two-sided.

    Raises:
        ValueError: no rounds, or different numbers of rounds.
    """
    top, bottom = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    if top.shape != bottom.shape or not top.size:
        raise ValueError(f"a paired ratio needs the same rounds on both sides, at least one; got {top.size} and {bottom.size}")
    ratios = np.log(top) - np.log(bottom)
    medians = np.median(ratios[_resampled_rounds(ratios.size)], axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(medians, [tail, 1 - tail])
    return Interval(*(float(np.exp(x)) for x in (np.median(ratios), low, high)))


def paired_speedup(baseline: Sequence[Sequence[float]], candidate: Sequence[Sequence[float]], confidence: float = CONFIDENCE) -> Interval:
    """Baseline p50 / candidate p50 from paired blocks of latencies: above 1 the candidate is faster."""
    return paired_ratio(block_medians(baseline), block_medians(candidate), confidence)


def pooled_percentile(blocks: Sequence[Sequence[float]], quantile: float, confidence: float = CONFIDENCE) -> Interval:
    """A percentile of all requests together, with a percentile bootstrap over rounds (requests of one round are not independent).

    The bootstrap distribution is inverted instead of listed: the resampled percentile is at most v exactly when at least `quantile` of the
    resample's requests are at most v, so each end is found by bisection over the sorted requests. Same numbers, a hundredth of the work.

    Args:
        blocks: round -> latencies.
        quantile: 0.5, 0.95 or 0.99; percentiles are observed values (inverse of the empirical distribution, no interpolation).
        confidence: two-sided.

    Raises:
        ValueError: no requests.
    """
    values = np.concatenate([np.asarray(block, dtype=np.float64) for block in blocks]) if len(blocks) else np.empty(0)
    if not values.size:
        raise ValueError("a percentile needs at least one request")
    sizes = np.array([len(block) for block in blocks])
    order = np.argsort(values, kind="stable")
    values, round_of = values[order], np.repeat(np.arange(sizes.size), sizes)[order]
    weights = _resample_counts(sizes.size)
    needed = quantile * (weights @ sizes) - 1e-9

    def share_at_most(position: int) -> float:
        reached = np.bincount(round_of[: position + 1], minlength=sizes.size)
        return float(np.mean(weights @ reached >= needed))

    tail = (1 - confidence) / 2
    ends = (bisect.bisect_left(range(values.size), level - 1e-9, key=share_at_most) for level in (tail, 1 - tail))
    low, high = (values[min(position, values.size - 1)] for position in ends)
    return Interval(float(np.quantile(values, quantile, method="inverted_cdf")), float(low), float(high))


@functools.lru_cache(maxsize=8)
def _resampled_rounds(rounds: int) -> NDArray[np.int64]:
    """(RESAMPLES, rounds) indices of rounds, drawn with replacement."""
    return np.random.default_rng(_SEED).integers(0, rounds, (RESAMPLES, rounds))


@functools.lru_cache(maxsize=8)
def _resample_counts(rounds: int) -> Floats:
    """(RESAMPLES, rounds): how often each round was drawn."""
    flat = _resampled_rounds(rounds) + rounds * np.arange(RESAMPLES)[:, None]
    return np.bincount(flat.ravel(), minlength=RESAMPLES * rounds).reshape(RESAMPLES, rounds).astype(np.float64)


# --- scores ---------------------------------------------------------------------------------------------------------------------------


def score_drop(
    baseline: Sequence[float], candidate: Sequence[float], confidence: float = SCORE_CONFIDENCE, *, largest_loss: float | None = 1.0
) -> Interval:
    """Mean loss of score on the same samples, and the one-sided bounds of it (each end alone holds with `confidence`).

    Losses of 0 and 1 are counted (`binary_drop`), others resampled. Without any difference resampling would claim certainty: what wasn't seen in n samples
    may still happen at the rate that the rule of three leaves, -ln(1 - confidence)/n, and cost the largest loss each time.

    Args:
        baseline: per-sample scores.
        candidate: the same samples', in the same order.
        confidence: one-sided.
        largest_loss: that one sample can make; None where there is no bound, and what was seen has to do.

    Raises:
        ValueError: no samples, or different numbers of samples.
    """
    before, after = np.asarray(baseline, dtype=np.float64), np.asarray(candidate, dtype=np.float64)
    if before.shape != after.shape or not before.size:
        raise ValueError(f"a paired drop needs the same samples on both sides, at least one; got {before.size} and {after.size}")
    losses = before - after
    if largest_loss == 1.0 and np.isin(losses, (-1.0, 0.0, 1.0)).all():
        return binary_drop(int((losses > 0).sum()), int((losses < 0).sum()), losses.size, confidence)
    if not losses.any():
        unseen = -math.log(1 - confidence) / losses.size * (largest_loss or 0.0)
        return Interval(0.0, -unseen, unseen)
    low, high = np.quantile(_resampled_means(losses), [1 - confidence, confidence])
    return Interval(float(losses.mean()), float(low), float(high))


def binary_drop(lost: int, gained: int, samples: int, confidence: float = SCORE_CONFIDENCE) -> Interval:
    """Drop of a share of right answers, with one-sided bounds, from paired counts (McNemar's table).

    Lost and gained samples are taken as Poisson with means n(d+q) and nq; the upper bound is the drop d at which seeing so small a
    difference has probability 1 - confidence, with q at its maximum-likelihood value under d (the constrained-likelihood treatment of the
    nuisance parameter of Tango, Statistics in Medicine 17, 1998, with the exact Skellam distribution instead of the normal one, because
    losses are rare). With nothing lost in n samples this is the rule of three: -ln(0.05)/n.

    Args:
        lost: baseline right, candidate wrong.
        gained: baseline wrong, candidate right.
        samples: all of them.
        confidence: one-sided.
    """
    alpha = 1 - confidence
    return Interval((lost - gained) / samples, -_upper_drop(gained, lost, samples, alpha), _upper_drop(lost, gained, samples, alpha))


def _upper_drop(lost: int, gained: int, samples: int, alpha: float) -> float:
    def is_plausible(drop: float) -> bool:
        shared = _shared_rate(drop, lost, gained, samples)
        mean_lost, mean_gained = (max(samples * rate, 1e-9) for rate in (drop + shared, shared))
        return _skellam_cdf(lost - gained, mean_lost, mean_gained) >= alpha

    low, high = (lost - gained) / samples, 1.0
    if is_plausible(high):
        return high
    while high - low > 1e-7:
        middle = (low + high) / 2
        low, high = (middle, high) if is_plausible(middle) else (low, middle)
    return high


def _skellam_cdf(difference: int, mean_first: float, mean_second: float) -> float:
    """P(X - Y <= difference) for Poisson X and Y, by the non-central chi-squared distribution (Johnson, Biometrika 46, 1959).

    The same as scipy.stats.skellam.cdf; scipy.stats takes seconds to import, which a run that only judges a stored record would notice.
    """
    from scipy import special

    if difference < 0:
        return float(special.chndtr(2 * mean_second, -2 * difference, 2 * mean_first))
    return float(1 - special.chndtr(2 * mean_first, 2 * (difference + 1), 2 * mean_second))


def _resampled_means(values: Floats) -> Floats:
    """Bootstrap means, a few resamples at a time to bound memory."""
    rng = np.random.default_rng(_SEED)
    at_once = max(1, 2_000_000 // values.size)
    parts = [
        values[rng.integers(0, values.size, (min(at_once, RESAMPLES - start), values.size))].mean(axis=1) for start in range(0, RESAMPLES, at_once)
    ]
    return np.concatenate(parts)


def _shared_rate(drop: float, lost: int, gained: int, samples: int) -> float:
    """Maximum-likelihood q of lost ~ Poisson(n(drop+q)), gained ~ Poisson(nq): larger root of 2nq^2 + (2n drop - lost - gained)q - gained drop."""
    linear = 2 * samples * drop - lost - gained
    root = math.sqrt((2 * samples * drop - (lost - gained)) ** 2 + 4 * lost * gained)
    if linear > 0:  # the same root, without cancellation
        return 2 * gained * drop / (linear + root)
    return (root - linear) / (4 * samples)
