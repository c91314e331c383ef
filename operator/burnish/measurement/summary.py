"""Boils a measurement down to numbers with intervals, independent of any limit.

Here the heavy libraries end: judging compares these numbers, so limits can be changed and judged again by a process that has none of them.
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
    SpeedSummary,
    Summary,
    TensorDifference,
)
from burnish.api.v1alpha1.optimized_model import Percentile
from burnish.measurement import equivalence as differences
from burnish.measurement import readings, statistics
from burnish.measurement.statistics import Interval


def summarize(
    sides: Mapping[str, SideFacts],
    loads: Sequence[LoadTrace],
    evaluated: Mapping[str, Evaluated],
    baseline_scores: Sequence[float],
    equivalence: Mapping[str, Sequence[TensorDifference]],
) -> Summary:
    """The summary of everything that a measurement recorded.

    Args:
        sides: model -> facts; the baseline and every candidate.
        loads: the traces, the first load point first.
        evaluated: candidate -> per-sample scores.
        baseline_scores: per-sample scores of the baseline; empty without evaluation data.
        equivalence: candidate -> differences of its outputs from the baseline's.
    """
    baseline = sides[names.BASELINE].artifact.content_digest
    candidates = {
        name: CandidateSummary(
            identical=facts.artifact.content_digest == baseline,
            latencies=_latencies(loads, name),
            speeds=tuple(speed(load, name) for load in loads if is_measured(load, name)),
            score=_score(evaluated[name]) if name in evaluated else None,
            equivalence=_equivalence(equivalence[name]) if name in equivalence else None,
        )
        for name, facts in sides.items()
        if name != names.BASELINE
    }
    return Summary(
        baseline_score=sum(baseline_scores) / len(baseline_scores) if baseline_scores else None,
        samples=len(baseline_scores),
        baseline_latencies=_latencies(loads, names.BASELINE),
        candidates=candidates,
    )


def is_measured(load: LoadTrace, side: str) -> bool:
    """True if there are enough rounds of a model at a load point to say anything."""
    return readings.has_rounds(load, side) and load.rounds >= statistics.MIN_ROUNDS


def speed(load: LoadTrace, candidate: str) -> SpeedSummary:
    """A candidate's p50 against the baseline's at one load point."""
    return SpeedSummary(
        load=load.load.name, ratio=_estimate(readings.speedup(load, candidate).reciprocal), compute_speedup=readings.compute_speedup(load, candidate)
    )


def latency(load: LoadTrace, side: str) -> LatencySummary:
    """One model's percentiles at one load point."""
    p50, p95, p99 = (_estimate(readings.percentile_ms(load, side, p)) for p in (Percentile.P50, Percentile.P95, Percentile.P99))
    return LatencySummary(
        load=load.load.name,
        rounds=load.rounds,
        requests=readings.request_count(load, side),
        p50=p50,
        p95=p95,
        p99=p99,
        throughput_per_second=readings.throughput_per_second(load, side),
    )


def _latencies(loads: Sequence[LoadTrace], side: str) -> tuple[LatencySummary, ...]:
    return tuple(latency(load, side) for load in loads if is_measured(load, side))


def _score(evaluated: Evaluated) -> ScoreSummary:
    drop = readings.score_drop(evaluated)
    pairs = list(zip(evaluated.baseline, evaluated.candidate, strict=True))
    return ScoreSummary(
        metric=evaluated.metric,
        baseline=sum(evaluated.baseline) / len(pairs),
        candidate=sum(evaluated.candidate) / len(pairs),
        drop=drop.estimate,
        low=drop.low,
        high=drop.high,
        samples=len(pairs),
        changed=sum(before != after for before, after in pairs),
    )


def _equivalence(found: Sequence[TensorDifference]) -> EquivalenceSummary:
    return EquivalenceSummary(
        cosine=differences.median_cosine(found),
        worst_cosine=differences.worst_cosine(found),
        max_absolute_error=differences.largest_error(found),
        exact_match=differences.worst_exact_match(found),
        non_finite_samples=differences.non_finite_samples(found),
        samples=max((len(d.cosine) or len(d.exact_match) for d in found), default=0),
    )


def _estimate(interval: Interval) -> Estimate:
    return Estimate(estimate=interval.estimate, low=interval.low, high=interval.high)
