"""The statistics against libraries, against simulation, and against the figures they were chosen by."""

from __future__ import annotations

import time

import numpy as np
import pytest
from scipy import stats

from burnish.measurement import statistics


def drifting_blocks(rng: np.random.Generator, rounds: int, slowdown: float = 1.0, requests: int = 25) -> list[np.ndarray]:
    """Latencies (rounds, requests) of two models on a shared machine: drift that both meet, disturbances that only one block meets, tails.

    The sizes are those of the trace that the method was studied on: block medians correlate from round to round (0.58 there), their ratios
    don't, and the 99 % interval of 40 rounds is 6 % wide.
    """
    drift = np.zeros(rounds)
    level = rng.normal(0, 0.12)
    for index in range(rounds):
        level = 0.8 * level + rng.normal(0, 0.075)
        drift[index] = level
    sides = []
    for factor in (1.0, slowdown):
        block = rng.normal(0, 0.035, rounds) + (rng.random(rounds) < 0.04) * rng.exponential(0.3, rounds)
        sides.append(factor * np.exp((drift + block)[:, None] + rng.gamma(1.2, 0.08, (rounds, requests))))
    return sides


def sequential_verdict(rng: np.random.Generator, slowdown: float, limit: float) -> tuple[str, int]:
    """Verdict on candidate/baseline and the rounds it took, with the engine's looks: after 40 rounds, then every 20, 400 at most."""
    baseline, candidate = (np.median(side, axis=1) for side in drifting_blocks(rng, 400, slowdown))
    for rounds in range(40, 401, 20):
        interval = statistics.paired_ratio(candidate[:rounds], baseline[:rounds])
        if interval.high < limit:
            return "Accepted", rounds
        if interval.low > limit:
            return "Refused", rounds
    return "Undecided", 400


def lag_one(series: np.ndarray) -> float:
    centred = series - series.mean()
    return float((centred[:-1] * centred[1:]).mean() / (centred * centred).mean())


def test_simulated_noise_has_the_shape_of_the_studied_trace() -> None:
    baseline, candidate = (np.median(side, axis=1) for side in drifting_blocks(np.random.default_rng(1), 2000))
    widths = [statistics.paired_ratio(candidate[i : i + 40], baseline[i : i + 40]) for i in range(0, 2000, 40)]
    assert 0.45 < lag_one(np.log(baseline)) < 0.75
    assert abs(lag_one(np.log(candidate / baseline))) < 0.1
    assert 0.045 < np.mean([w.high - w.low for w in widths]) < 0.075


def test_consecutive_windows_of_one_model_differ_where_interleaved_ones_do_not() -> None:
    """Why rounds are interleaved at all: 16-24 % of back-to-back comparisons of a model with itself were off by more than 5 %."""
    first, second = (np.median(side, axis=1) for side in drifting_blocks(np.random.default_rng(2), 4000))
    back_to_back = [abs(np.median(first[i + 20 : i + 40]) / np.median(first[i : i + 20]) - 1) > 0.05 for i in range(0, 4000, 40)]
    paired = [abs(statistics.paired_ratio(second[i : i + 20], first[i : i + 20]).estimate - 1) > 0.05 for i in range(0, 4000, 40)]
    assert np.mean(back_to_back) > 0.15
    assert np.mean(paired) < 0.02


def test_identical_model_is_accepted_at_a_margin_of_three_percent() -> None:
    rng = np.random.default_rng(3)
    found = [sequential_verdict(rng, 1.0, 1.03) for _ in range(200)]
    assert sum(verdict == "Refused" for verdict, _ in found) <= 5
    assert sum(verdict == "Undecided" for verdict, _ in found) <= 20
    assert np.mean([rounds for _, rounds in found]) < 100


def test_five_percent_slowdown_is_refused_at_margin_zero() -> None:
    rng = np.random.default_rng(4)
    assert sum(sequential_verdict(rng, 1.05, 1.0)[0] == "Refused" for _ in range(100)) >= 93


def test_false_verdicts_exactly_at_the_limit_stay_rare_over_all_looks() -> None:
    """The worst case: the truth is the limit itself, and 19 looks have 19 chances. A single look would err in 1 of 100."""
    rng = np.random.default_rng(5)
    found = [sequential_verdict(rng, 1.0, 1.0)[0] for _ in range(50)]
    assert found.count("Refused") <= 4
    assert found.count("Accepted") <= 4


def test_one_look_after_forty_rounds_rarely_errs_and_sees_five_percent() -> None:
    rng = np.random.default_rng(6)
    intervals = [statistics.paired_speedup(*drifting_blocks(rng, 40)) for _ in range(300)]
    slower = [statistics.paired_speedup(*drifting_blocks(rng, 40, 1.05)) for _ in range(100)]
    assert sum(i.low > 1 or i.high < 1 for i in intervals) <= 9
    assert sum(i.high < 1 for i in slower) >= 80


def test_swapping_the_sides_gives_the_reciprocal() -> None:
    first, second = drifting_blocks(np.random.default_rng(7), 41, 1.3)
    there, back = statistics.paired_speedup(first, second), statistics.paired_speedup(second, first)
    assert (there.estimate, there.low, there.high) == pytest.approx((1 / back.estimate, 1 / back.high, 1 / back.low), rel=0.01)
    assert there.estimate * back.estimate == pytest.approx(1, rel=1e-12)


def test_paired_interval_agrees_with_scipy() -> None:
    first, second = (np.median(side, axis=1) for side in drifting_blocks(np.random.default_rng(8), 60))
    ours = statistics.paired_ratio(first, second)
    theirs = stats.bootstrap((first / second,), np.median, confidence_level=0.99, n_resamples=9999, method="percentile", rng=1).confidence_interval
    assert ours.low == pytest.approx(theirs.low, abs=0.005)
    assert ours.high == pytest.approx(theirs.high, abs=0.005)


def test_paired_ratio_refuses_unequal_or_no_rounds() -> None:
    with pytest.raises(ValueError, match="same rounds"):
        statistics.paired_ratio([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="at least one"):
        statistics.paired_ratio([], [])


@pytest.mark.parametrize("quantile", [0.5, 0.95, 0.99])
def test_pooled_percentile_equals_the_listed_bootstrap(quantile: float) -> None:
    rng = np.random.default_rng(9)
    blocks = [rng.lognormal(0, 0.4, size).tolist() for size in rng.integers(3, 40, 50)]
    drawn = statistics._resampled_rounds(50)
    listed = [np.quantile(np.concatenate([blocks[i] for i in row]), quantile, method="inverted_cdf") for row in drawn]
    low, high = np.quantile(listed, [0.005, 0.995], method="inverted_cdf")
    found = statistics.pooled_percentile(blocks, quantile)
    assert found.estimate == np.quantile(np.concatenate(blocks), quantile, method="inverted_cdf")
    assert (found.low, found.high) == (low, high)


def test_pooled_percentile_is_fast() -> None:
    blocks = np.random.default_rng(10).lognormal(0, 0.3, (200, 25)).tolist()
    best = min(_seconds(lambda: statistics.pooled_percentile(blocks, 0.99)) for _ in range(3))
    assert best < 0.3


def test_pooled_percentile_refuses_no_requests() -> None:
    with pytest.raises(ValueError, match="at least one request"):
        statistics.pooled_percentile([], 0.5)


@pytest.mark.parametrize(("samples", "points"), [(360, 0.83), (900, 0.33)])
def test_no_loss_still_leaves_the_drop_of_the_rule_of_three(samples: int, points: float) -> None:
    found = statistics.binary_drop(0, 0, samples)
    exact = stats.binomtest(0, samples).proportion_ci(confidence_level=0.90, method="exact").high  # one-sided 95 %
    assert round(found.high * 100, 2) == points
    assert found.high == pytest.approx(exact, rel=0.01)
    assert found.high >= exact
    assert found.low == -found.high


@pytest.mark.parametrize("lost", [1, 3, 10])
def test_one_sided_losses_give_the_exact_poisson_bound(lost: int) -> None:
    exact = stats.chi2.ppf(0.95, 2 * lost + 2) / 2 / 900
    assert statistics.binary_drop(lost, 0, 900).high == pytest.approx(exact, rel=1e-3)


@pytest.mark.parametrize(("difference", "first", "second"), [(0, 3, 1e-9), (2, 9, 3), (-5, 2, 9), (5000, 20300, 15200), (-300, 10, 500)])
def test_skellam_cdf_equals_scipys(difference: int, first: float, second: float) -> None:
    assert statistics._skellam_cdf(difference, first, second) == pytest.approx(stats.skellam.cdf(difference, first, second), abs=1e-12)


@pytest.mark.parametrize(
    ("lost_rate", "gained_rate", "samples"),
    [(0.01, 0.0, 300), (0.01, 0.01, 900), (0.02, 0.005, 900), (0.05, 0.04, 360), (0.002, 0.001, 2000), (0.1, 0.1, 500), (0.005, 0.02, 900)],
)
def test_drop_bounds_err_in_five_percent_and_are_not_timid(lost_rate: float, gained_rate: float, samples: int) -> None:
    rng = np.random.default_rng(11)
    runs = 4000
    counts = rng.multinomial(samples, [lost_rate, gained_rate, 1 - lost_rate - gained_rate], size=runs)[:, :2]
    pairs, times = np.unique(counts, axis=0, return_counts=True)
    bounds = [statistics.binary_drop(int(lost), int(gained), samples) for lost, gained in pairs]
    truth = lost_rate - gained_rate
    too_low = sum(n for b, n in zip(bounds, times, strict=True) if b.high < truth) / runs
    too_high = sum(n for b, n in zip(bounds, times, strict=True) if b.low > truth) / runs
    assert too_low <= 0.06
    assert too_high <= 0.06
    spread = np.sqrt((lost_rate + gained_rate - truth**2) / samples)
    typical = sum(n * (b.high - b.estimate) for b, n in zip(bounds, times, strict=True)) / runs
    assert typical < 1.645 * spread + 3.2 / samples


def test_drop_bounds_are_worth_their_words_at_the_extremes() -> None:
    assert statistics.binary_drop(10, 0, 10).high == 1.0
    assert statistics.binary_drop(0, 10, 10).low == -1.0
    assert statistics.binary_drop(0, 0, 1).high == 1.0
    better = statistics.binary_drop(0, 50, 1000)
    assert better.high < 0
    swapped = statistics.binary_drop(50, 0, 1000)
    assert (better.low, better.high) == (-swapped.high, -swapped.low)


def test_score_drop_counts_right_and_wrong_answers() -> None:
    baseline, candidate = [1.0] * 900, [1.0] * 895 + [0.0] * 5
    assert statistics.score_drop(baseline, candidate) == statistics.binary_drop(5, 0, 900)


def test_score_drop_of_graded_scores_agrees_with_scipy() -> None:
    rng = np.random.default_rng(12)
    baseline = rng.beta(8, 2, 500)
    candidate = np.clip(baseline - rng.normal(0.01, 0.05, 500), 0, 1)
    ours = statistics.score_drop(baseline.tolist(), candidate.tolist())
    theirs = stats.bootstrap((baseline - candidate,), np.mean, confidence_level=0.90, method="percentile", rng=1).confidence_interval
    assert ours.low == pytest.approx(theirs.low, abs=5e-4)
    assert ours.high == pytest.approx(theirs.high, abs=5e-4)
    assert ours.low < 0.01 < ours.high


def test_score_drop_of_equal_graded_scores_claims_no_certainty() -> None:
    scores = [0.5, 0.7, 0.9] * 100
    assert statistics.score_drop(scores, scores).high == pytest.approx(0.01, rel=0.01)


def test_score_drop_refuses_different_samples() -> None:
    with pytest.raises(ValueError, match="same samples"):
        statistics.score_drop([1.0], [1.0, 0.0])


def _seconds(action: object) -> float:
    started = time.perf_counter()
    action()  # type: ignore[operator]
    return time.perf_counter() - started
