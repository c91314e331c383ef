"""What a measurement amounts to, independent of any limit.

Intervals are computed here, once, beside the traces; judging, the status and the report only compare and print them, so they can never
differ, and changed limits are judged where no numeric library is installed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from burnish import names
from burnish.api.job_contract import (
    CandidateSummary,
    EquivalenceSummary,
    Estimate,
    Evaluated,
    LatencySummary,
    LoadTrace,
    ScoreSummary,
    SideFacts,
    SideTrace,
    SpeedSummary,
    Summary,
    TensorDifference,
)
from burnish.api.v1alpha1.optimized_model import Metric
from burnish.measurement import equivalence, statistics
from burnish.measurement.statistics import Interval

_ONE = Estimate(estimate=1.0, low=1.0, high=1.0)


def summarize(
    sides: Mapping[str, SideFacts],
    loads: Sequence[LoadTrace],
    evaluated: Mapping[str, Evaluated],
    baseline_scores: Sequence[float],
    differences: Mapping[str, Sequence[TensorDifference]],
) -> Summary:
    """Sum up one measurement.

    A candidate whose loadable bytes are the baseline's was not measured: its latencies and scores are the baseline's, its speedup and cosine 1.

    Args:
        sides: the baseline and every candidate, loaded or not.
        loads: rounds per load point; a candidate that failed is missing from some.
        evaluated: candidate -> per-sample scores.
        baseline_scores: per sample; empty without evaluation data.
        differences: candidate -> outputs against the baseline's.
    """
    same = sides[names.BASELINE].artifact.content_digest
    metric = next((found.metric for found in evaluated.values()), "")
    baseline = tuple(summarize_latency(load, names.BASELINE) for load in loads if is_measured(load, names.BASELINE))
    candidates = {
        name: _identical(baseline, baseline_scores, metric)
        if facts.artifact.content_digest == same
        else _compared(name, loads, evaluated.get(name), differences.get(name, ()))
        for name, facts in sides.items()
        if name != names.BASELINE
    }
    return Summary(baseline_score=_mean(baseline_scores), samples=len(baseline_scores), baseline_latencies=baseline, candidates=candidates)


def is_measured(load: LoadTrace, side: str) -> bool:
    """True if a model has rounds at this load point, however few."""
    return load.rounds > 0 and side in load.sides


def summarize_latency(load: LoadTrace, side: str) -> LatencySummary:
    """Latency percentiles of one model at the client, milliseconds with 99 % intervals; see `is_measured`."""
    trace = load.sides[side]
    p50, p95, p99 = (_estimate(statistics.pooled_percentile(trace.latencies_ms, quantile)) for quantile in (0.5, 0.95, 0.99))
    return LatencySummary(
        load=load.load.name,
        p50=p50,
        p95=p95,
        p99=p99,
        throughput_per_second=sum(trace.throughput_per_second) / len(trace.throughput_per_second),
        rounds=load.rounds,
        requests=sum(len(block) for block in trace.latencies_ms),
    )


def summarize_speed(load: LoadTrace, candidate: str) -> SpeedSummary:
    """Candidate p50 / baseline p50 at the client, paired per round, 99 %; see `is_measured`."""
    baseline, optimized = load.sides[names.BASELINE], load.sides[candidate]
    ratio = statistics.paired_ratio(statistics.block_medians(optimized.latencies_ms), statistics.block_medians(baseline.latencies_ms))
    return SpeedSummary(load=load.load.name, ratio=_estimate(ratio), compute_speedup=_compute_speedup(baseline, optimized), rounds=load.rounds)


def _compared(name: str, loads: Sequence[LoadTrace], evaluated: Evaluated | None, differences: Sequence[TensorDifference]) -> CandidateSummary:
    measured = [load for load in loads if is_measured(load, name)]
    # Speed is judged on the first load point; where that has no rounds, another must not be taken for it.
    comparable = measured if loads and is_measured(loads[0], names.BASELINE) else []
    return CandidateSummary(
        latencies=tuple(summarize_latency(load, name) for load in measured),
        speeds=tuple(summarize_speed(load, name) for load in comparable),
        score=summarize_score(evaluated) if evaluated and evaluated.baseline else None,
        equivalence=summarize_equivalence(differences) if differences else None,
    )


def _identical(baseline: tuple[LatencySummary, ...], scores: Sequence[float], metric: str) -> CandidateSummary:
    mean = _mean(scores)
    return CandidateSummary(
        identical=True,
        latencies=baseline,
        speeds=tuple(SpeedSummary(load=latency.load, ratio=_ONE, compute_speedup=1.0, rounds=latency.rounds) for latency in baseline),
        score=None if mean is None else ScoreSummary(metric=metric, baseline=mean, candidate=mean, drop=0.0, low=0.0, high=0.0, samples=len(scores)),
        equivalence=EquivalenceSummary(exact_match=1.0),
    )


def summarize_score(evaluated: Evaluated) -> ScoreSummary:
    """Both scores, and the drop with its one-sided 95 % bounds."""
    better, worse = evaluated.baseline, evaluated.candidate
    if Metric(evaluated.metric).is_error:
        better, worse = worse, better
    drop = statistics.score_drop(better, worse, largest_loss=evaluated.largest_loss)
    before, after = (sum(scores) / len(scores) for scores in (evaluated.baseline, evaluated.candidate))
    return ScoreSummary(
        metric=evaluated.metric,
        baseline=before,
        candidate=after,
        drop=drop.estimate,
        low=drop.low,
        high=drop.high,
        largest_loss=evaluated.largest_loss,
        samples=len(evaluated.baseline),
    )


def summarize_equivalence(differences: Sequence[TensorDifference]) -> EquivalenceSummary:
    """Figures of the worst output; `differences` is not empty."""
    return EquivalenceSummary(
        cosine=equivalence.median_cosine(differences),
        worst_cosine=equivalence.worst_cosine(differences),
        max_absolute_error=equivalence.largest_error(differences),
        exact_match=equivalence.worst_exact_match(differences),
        non_finite_samples=equivalence.non_finite_samples(differences),
        samples=max(equivalence.sample_count(d) for d in differences),
    )


def _compute_speedup(baseline: SideTrace, optimized: SideTrace) -> float | None:
    return baseline.compute_us / optimized.compute_us if baseline.compute_us and optimized.compute_us else None


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _estimate(interval: Interval) -> Estimate:
    return Estimate(estimate=interval.estimate, low=interval.low, high=interval.high)
