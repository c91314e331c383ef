"""Judging: a measurement's summary and the user's limits in, a verdict per limit out. Pure, and free of numeric libraries.

A limit holds when the interval lies on its good side, is broken when the interval lies on its bad side, and is undecided in between: an
estimate alone decides nothing.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterator, Sequence

from burnish import names
from burnish.api import numbers
from burnish.api.job_contract import EquivalenceSummary, Estimate, LatencySummary, LoadTrace, ScoreSummary, SideFacts, SpeedSummary, Summary
from burnish.api.scalars import duration_seconds, format_decimal
from burnish.api.v1alpha1.optimized_model import Constraints, LatencyLimit, Metric, OnInfeasible, OnUndecided, Percentile
from burnish.api.v1alpha1.status import Verdict
from burnish.errors import Reason

MIN_ROUNDS = 20
"""Fewer rounds are no ground for a verdict: the fewest for which the interval was tried."""

_QUANTILES = {Percentile.P50: 0.5, Percentile.P95: 0.95, Percentile.P99: 0.99}
_CURE = "raise measurement.timeout, change the limit, or set onUndecided"


@dataclasses.dataclass(frozen=True)
class LimitVerdict:
    """One limit, with the numbers behind its verdict."""

    name: str
    """`candidate`, `outputs.finite`, `score.maxDrop`, `equivalence.minCosine`, `maxSlowdownPercent`, `minSpeedup`, `latency[<load>].<percentile>`."""
    verdict: Verdict
    reason: Reason
    message: str
    value: float | None = None
    """In the limit's unit: score, cosine, ratio candidate/baseline, speedup, milliseconds."""
    low: float | None = None
    high: float | None = None
    limit: float | None = None
    more_rounds_help: bool = False
    """Undecided, and measuring longer may decide it."""


@dataclasses.dataclass(frozen=True)
class Judgement:
    """All limits of one model. Refused if any is, else undecided if any is, else accepted."""

    candidate: str
    limits: tuple[LimitVerdict, ...]

    @property
    def verdict(self) -> Verdict:
        """Over all limits; without any limit Accepted."""
        found = {limit.verdict for limit in self.limits}
        return next((v for v in (Verdict.Refused, Verdict.Undecided) if v in found), Verdict.Accepted)

    @property
    def reason(self) -> Reason:
        """Of the first limit that has the overall verdict; NoLimits where there was none."""
        return next((limit.reason for limit in self.limits if limit.verdict is self.verdict), Reason.NoLimits)

    @property
    def message(self) -> str:
        """The limits that made the verdict, in one line."""
        return "; ".join(limit.message for limit in self.limits if limit.verdict is self.verdict)

    @property
    def more_rounds_help(self) -> bool:
        """True if some limit is undecided only because too little was measured."""
        return any(limit.more_rounds_help for limit in self.limits)


def judge(facts: SideFacts, summary: Summary, candidate: str, constraints: Constraints) -> Judgement:
    """Hold one candidate to the limits.

    Args:
        facts: of the candidate.
        summary: of the whole measurement.
        candidate: its name in `summary`.
        constraints: the limits.

    Raises:
        KeyError: the summary has no such candidate.
    """
    found = summary.candidates[candidate]
    if not found.identical and not facts.loaded:
        return Judgement(candidate, (_refused("candidate", Reason.CandidateNotLoadable, facts.message or "Triton did not load it"),))
    if not found.identical and facts.failed:
        return Judgement(candidate, (_refused("candidate", Reason.CandidateFailed, facts.message or "it failed while it answered requests"),))
    verdicts: list[LimitVerdict] = []
    if found.equivalence and (count := found.equivalence.non_finite_samples):
        message = f"NaN or infinite in {count} of {found.equivalence.samples} samples where the baseline is finite"
        verdicts.append(_refused("outputs.finite", Reason.NonFiniteOutputs, message))
    if constraints.score:
        verdicts.append(_judge_score(found.score, float(constraints.score.max_drop)))
    if constraints.equivalence:
        verdicts.append(_judge_equivalence(found.equivalence, float(constraints.equivalence.min_cosine)))
    first = summary.baseline_latencies[0].load if summary.baseline_latencies else None
    verdicts += _judge_speed(next((speed for speed in found.speeds if speed.load == first), None), constraints)
    verdicts += _judge_latencies(found.latencies, constraints.latency)
    return Judgement(candidate, tuple(verdicts))


def judge_baseline(facts: SideFacts, summary: Summary, constraints: Constraints) -> Judgement:
    """Hold the baseline itself to the absolute limits: convert-only, and onInfeasible: ServeBaseline."""
    if not facts.loaded or facts.failed:
        return Judgement(names.BASELINE, (_refused("baseline", Reason.BaselineFailed, facts.message or "it does not answer requests"),))
    return Judgement(names.BASELINE, tuple(_judge_latencies(summary.baseline_latencies, constraints.latency)))


def is_acceptable(verdict: Verdict, on_undecided: OnUndecided) -> bool:
    """Whether what was judged so may be served."""
    return verdict is Verdict.Accepted or (verdict is Verdict.Undecided and on_undecided is OnUndecided.Accept)


def best_candidate(judgements: Sequence[Judgement], summary: Summary, on_undecided: OnUndecided = OnUndecided.Refuse) -> str | None:
    """The acceptable candidate with the highest p50 speedup, an accepted one before any undecided one; None: none is acceptable."""

    def merit(judgement: Judgement) -> tuple[bool, float]:
        speeds = summary.candidates[judgement.candidate].speeds
        return judgement.verdict is Verdict.Accepted, 1 / speeds[0].ratio.estimate if speeds else 0.0

    acceptable = [judgement for judgement in judgements if is_acceptable(judgement.verdict, on_undecided)]
    return max(acceptable, key=merit).candidate if acceptable else None


def is_decided(loads: Sequence[LoadTrace], candidates: Collection[str], constraints: Constraints) -> bool:
    """True if more rounds at the last load point of `loads` would change no verdict: the engine's early stop.

    A candidate with one refused limit is decided. One that is not in the trace was dropped, or is identical to the baseline. The baseline's
    own limits count where it, or its like, may be served: when a candidate is missing, without candidates, and under ServeBaseline.
    """
    from burnish.measurement import summary  # the only part that reads traces, and so needs a numeric library

    current = loads[-1]
    if not summary.is_measured(current, names.BASELINE):
        return False
    limits = [limit for limit in constraints.latency if limit.load == current.load.name]
    judged = [candidate for candidate in candidates if candidate in current.sides]

    def is_open(side: str) -> bool:
        verdicts = list(_judge_latencies([summary.summarize_latency(current, side)], limits)) if limits else []
        if side != names.BASELINE and len(loads) == 1:
            verdicts += _judge_speed(summary.summarize_speed(current, side), constraints)
        return Judgement(side, tuple(verdicts)).verdict is Verdict.Undecided

    if any(is_open(candidate) for candidate in judged):
        return False
    baseline_counts = not judged or len(judged) < len(candidates) or constraints.on_infeasible is OnInfeasible.ServeBaseline
    return not (baseline_counts and is_open(names.BASELINE))


def smallest_decidable_drop(samples: int) -> float:
    """The smallest maxDrop that a perfect candidate can be shown to hold: the rule of three, -ln(0.05)/n, as `statistics.binary_drop` has it.

    0.0083 for 360 samples, 0.0033 for 900.
    """
    return min(1.0, -math.log(0.05) / samples)


def requests_needed(percentile: Percentile) -> int:
    """Requests below which a percentile has no upper end: the largest of n lies below the true one with probability q^n (here up to 0.5 %)."""
    return math.ceil(math.log(0.005) / math.log(_QUANTILES[percentile]))


# --- what is judged -------------------------------------------------------------------------------------------------------------------


def _judge_score(score: ScoreSummary | None, max_drop: float) -> LimitVerdict:
    name = "score.maxDrop"
    if score is None:
        return _undecided(name, "no evaluation samples were scored", limit=max_drop)
    drop = Estimate(estimate=score.drop, low=score.low, high=score.high)
    verdict = _verdict(drop, max_drop)
    bound = f"at least {numbers.text(drop.low, drop, 2)}" if verdict is Verdict.Refused else f"at most {numbers.text(drop.high, drop, 2)}"
    what = f"{score.metric} rises" if score.metric and Metric(score.metric).is_error else "score drops"
    text = f"{what} by {numbers.text(drop.estimate, drop, 2)} on {score.samples} samples, {bound} with 95 %; limit {format_decimal(max_drop)}"
    if verdict is Verdict.Undecided:
        text = f"{text}; {_samples_advice(score, max_drop)}"
    return _judged(name, Reason.ScoreBelowLimit, drop, max_drop, text)


def _judge_equivalence(found: EquivalenceSummary | None, minimum: float) -> LimitVerdict:
    """Float outputs by cosine, all others by their share of equal elements; the worse of the two counts."""
    name = "equivalence.minCosine"
    units = ((found.worst_cosine, "cosine"), (found.exact_match, "share of equal elements")) if found else ()
    figures = [(value, unit) for value, unit in units if value is not None]
    if not figures:
        return _undecided(name, "no outputs were compared", limit=minimum)
    worst, unit = min(figures)
    text = f"{unit} of the worst sample is {numbers.cosine(worst)}; limit {format_decimal(minimum)}"
    return _judged(name, Reason.OutputsDiffer, Estimate(estimate=worst, low=worst, high=worst), minimum, text, at_least=True)


def _judge_speed(speed: SpeedSummary | None, constraints: Constraints) -> Iterator[LimitVerdict]:
    margin = 1 + constraints.max_slowdown_percent / 100
    minimum = None if constraints.min_speedup is None else float(constraints.min_speedup)
    if speed is None or (speed.rounds < MIN_ROUNDS and speed.ratio.low < speed.ratio.high):
        why = _too_few_rounds(speed.rounds if speed else 0)
        yield _undecided("maxSlowdownPercent", why, limit=margin, more_rounds_help=True)
        if minimum is not None:
            yield _undecided("minSpeedup", why, limit=minimum, more_rounds_help=True)
        return
    ratio = speed.ratio
    text = f"p50 is {numbers.with_ends(ratio)} times the baseline's with 99 %; limit {format_decimal(margin)}"
    yield _judged("maxSlowdownPercent", Reason.SlowerThanBaseline, ratio, margin, text, from_rounds=True)
    if minimum is not None:
        speedup = numbers.reciprocal(ratio)
        text = f"speedup is {numbers.with_ends(speedup)} with 99 %; limit {format_decimal(minimum)}"
        yield _judged("minSpeedup", Reason.SpeedupBelowLimit, speedup, minimum, text, at_least=True, from_rounds=True)


def _judge_latencies(latencies: Sequence[LatencySummary], limits: Sequence[LatencyLimit]) -> Iterator[LimitVerdict]:
    by_load = {latency.load: latency for latency in latencies}
    return (_judge_latency(by_load.get(limit.load), limit) for limit in limits)


def _judge_latency(latency: LatencySummary | None, limit: LatencyLimit) -> LimitVerdict:
    name, max_ms, what = f"latency[{limit.load}].{limit.percentile}", duration_seconds(limit.max) * 1e3, f"{limit.percentile} at load {limit.load}"
    if latency is None or latency.rounds < MIN_ROUNDS:
        why = _too_few_rounds(latency.rounds if latency else 0)
        return _undecided(name, f"{what}: {why}", limit=max_ms, more_rounds_help=True)
    found = {Percentile.P50: latency.p50, Percentile.P95: latency.p95, Percentile.P99: latency.p99}[limit.percentile]
    text = f"{what} is {numbers.with_ends(found)} ms with 99 %; limit {format_decimal(max_ms)} ms"
    needed = requests_needed(limit.percentile)
    if latency.requests < needed and found.low <= max_ms:  # the largest latency seen is no upper bound yet
        why = f"{text}; {latency.requests} requests were measured, an upper end needs {needed}: raise measurement.timeout"
        return _undecided(name, why, limit=max_ms, more_rounds_help=True)
    return _judged(name, Reason.LatencyAboveLimit, found, max_ms, text, from_rounds=True)


# --- verdicts -------------------------------------------------------------------------------------------------------------------------


def _verdict(interval: Estimate, limit: float, *, at_least: bool = False) -> Verdict:
    """On which side of a limit an interval lies; `at_least`: the limit is a minimum."""
    holds, broken = (interval.low >= limit, interval.high < limit) if at_least else (interval.high <= limit, interval.low > limit)
    return Verdict.Accepted if holds else Verdict.Refused if broken else Verdict.Undecided


def _judged(
    name: str, broken: Reason, interval: Estimate, limit: float, text: str, *, at_least: bool = False, from_rounds: bool = False
) -> LimitVerdict:
    verdict = _verdict(interval, limit, at_least=at_least)
    reason = {Verdict.Accepted: Reason.LimitsHeld, Verdict.Refused: broken, Verdict.Undecided: Reason.Undecided}[verdict]
    is_open = from_rounds and verdict is Verdict.Undecided
    text = f"{text}; {_CURE}" if is_open else text
    return LimitVerdict(name, verdict, reason, text, interval.estimate, interval.low, interval.high, limit, is_open)


def _refused(name: str, reason: Reason, message: str) -> LimitVerdict:
    return LimitVerdict(name, Verdict.Refused, reason, message)


def _undecided(name: str, message: str, *, limit: float, more_rounds_help: bool = False) -> LimitVerdict:
    return LimitVerdict(name, Verdict.Undecided, Reason.Undecided, message, limit=limit, more_rounds_help=more_rounds_help)


def _too_few_rounds(rounds: int) -> str:
    return f"{rounds} rounds were measured, {MIN_ROUNDS} are needed: raise measurement.timeout"


def _samples_advice(score: ScoreSummary, max_drop: float) -> str:
    """About how many samples would show the drop to hold, if losses went on at the rate seen.

    The bound's distance from the estimate is taken as a/sqrt(n) + 1.7/n, the second part being that of an exact Poisson bound.
    """
    room = max_drop - score.drop
    if room <= 0:
        return "the loss seen is itself above the limit"
    spread = max(0.0, (score.high - score.drop) - 1.7 / score.samples) * math.sqrt(score.samples)
    wanted = ((spread + math.sqrt(spread**2 + 4 * room * 1.7)) / (2 * room)) ** 2
    unit = 10 ** max(0, math.floor(math.log10(wanted)) - 1)
    return f"about {math.ceil(wanted / unit) * unit} samples would decide it if losses went on like this"
