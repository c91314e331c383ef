"""Verdicts: where the interval lies decides, and every refusal names its numbers."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from burnish import names
from burnish.api.job_contract import (
    ArtifactRef,
    CandidateSummary,
    EquivalenceSummary,
    Estimate,
    LatencySummary,
    LoadTrace,
    ScoreSummary,
    SideFacts,
    SideTrace,
    SpeedSummary,
    Summary,
)
from burnish.api.v1alpha1.optimized_model import Constraints, Load, OnUndecided, Percentile
from burnish.api.v1alpha1.status import Verdict
from burnish.errors import Reason
from burnish.measurement import limits
from burnish.measurement.limits import Judgement, LimitVerdict

LOADED = SideFacts(artifact=ArtifactRef(digest="sha256:" + "0" * 64, size_bytes=1, stored_bytes=1, content_digest="sha256:" + "1" * 64), loaded=True)


def estimate(low: float, high: float) -> Estimate:
    return Estimate(estimate=(low + high) / 2, low=low, high=high)


def latency(low: float = 9.0, high: float = 10.0, *, load: str = "single", rounds: int = 40, requests: int = 1000) -> LatencySummary:
    one = estimate(low, high)
    return LatencySummary(load=load, p50=one, p95=one, p99=one, throughput_per_second=100, rounds=rounds, requests=requests)


def summary(
    ratio: tuple[float, float] = (0.4, 0.5),
    drop: tuple[float, float] = (-0.001, 0.004),
    cosine: float = 0.999,
    rounds: int = 40,
    **equivalence: object,
) -> Summary:
    """One candidate `int8` whose intervals are the given ones."""
    score = ScoreSummary(baseline=0.98, candidate=0.978, drop=0.002, low=drop[0], high=drop[1], samples=900)
    fields = {"cosine": 1.0, "worst_cosine": cosine, "max_absolute_error": 0.1, "samples": 64} | equivalence
    candidate = CandidateSummary(
        latencies=(latency(4, 5, rounds=rounds),),
        speeds=(SpeedSummary(load="single", ratio=estimate(*ratio), rounds=rounds),),
        score=score,
        equivalence=EquivalenceSummary(**fields),  # type: ignore[arg-type]
    )
    return Summary(baseline_score=0.98, samples=900, baseline_latencies=(latency(rounds=rounds),), candidates={"int8": candidate})


def judge(found: Summary, facts: SideFacts = LOADED, **constraints: object) -> Judgement:
    return limits.judge(facts, found, "int8", Constraints.model_validate(constraints))


def the(judgement: Judgement, name: str) -> LimitVerdict:
    return next(limit for limit in judgement.limits if limit.name == name)


@pytest.mark.parametrize(
    ("ratio", "percent", "verdict"),
    [
        ((0.98, 1.02), 3, Verdict.Accepted),
        ((1.04, 1.06), 3, Verdict.Refused),
        ((1.01, 1.05), 3, Verdict.Undecided),
        ((0.98, 1.02), 0, Verdict.Undecided),
        ((0.4, 0.5), 0, Verdict.Accepted),
    ],
)
def test_slowdown_is_judged_by_where_the_interval_lies(ratio: tuple[float, float], percent: int, verdict: Verdict) -> None:
    found = the(judge(summary(ratio), maxSlowdownPercent=percent), "maxSlowdownPercent")
    assert found.verdict is verdict
    assert (
        found.reason
        is {Verdict.Accepted: Reason.LimitsHeld, Verdict.Refused: Reason.SlowerThanBaseline, Verdict.Undecided: Reason.Undecided}[verdict]
    )
    assert (found.low, found.high, found.limit) == (*ratio, 1 + percent / 100)
    assert found.more_rounds_help is (verdict is Verdict.Undecided)


@pytest.mark.parametrize(
    ("minimum", "verdict"), [("2.0", Verdict.Accepted), ("2.5", Verdict.Undecided), ("2.51", Verdict.Refused), ("2.2", Verdict.Undecided)]
)
def test_speedup_has_to_reach_its_limit_with_the_lower_end(minimum: str, verdict: Verdict) -> None:
    assert the(judge(summary((0.4, 0.5)), minSpeedup=minimum), "minSpeedup").verdict is verdict


@pytest.mark.parametrize(
    ("drop", "verdict"), [((-0.01, 0.01), Verdict.Accepted), ((0.0101, 0.03), Verdict.Refused), ((0.001, 0.012), Verdict.Undecided)]
)
def test_score_is_judged_on_the_one_sided_bounds(drop: tuple[float, float], verdict: Verdict) -> None:
    found = judge(summary(drop=drop), score={"maxDrop": "0.01"})
    assert the(found, "score.maxDrop").verdict is verdict
    assert found.verdict is verdict
    assert not found.more_rounds_help


def test_undecided_score_says_how_many_samples_would_tell() -> None:
    message = the(judge(summary(drop=(-0.001, 0.012)), score={"maxDrop": "0.01"}), "score.maxDrop").message
    assert "about 1400 samples" in message
    assert "limit 0.01" in message


@pytest.mark.parametrize(("cosine", "verdict"), [(0.99, Verdict.Accepted), (0.9899, Verdict.Refused)])
def test_equivalence_is_judged_on_the_worst_sample(cosine: float, verdict: Verdict) -> None:
    assert the(judge(summary(cosine=cosine), equivalence={"minCosine": "0.99"}), "equivalence.minCosine").verdict is verdict


def test_model_with_only_integer_outputs_is_judged_on_equal_elements() -> None:
    found = judge(summary(worst_cosine=None, cosine=None, exact_match=0.5), equivalence={"minCosine": "0.99"})  # type: ignore[arg-type]
    assert "share of equal elements" in the(found, "equivalence.minCosine").message
    assert found.reason is Reason.OutputsDiffer


def test_non_finite_outputs_are_refused_without_any_limit() -> None:
    found = judge(summary(non_finite_samples=3))
    assert (found.verdict, found.reason) == (Verdict.Refused, Reason.NonFiniteOutputs)
    assert "3 of 64" in found.message


@pytest.mark.parametrize(("maximum", "verdict"), [("5ms", Verdict.Accepted), ("4.5ms", Verdict.Undecided), ("3900us", Verdict.Refused)])
def test_latency_is_judged_on_the_candidates_own_interval(maximum: str, verdict: Verdict) -> None:
    found = the(judge(summary(), latency=[{"load": "single", "percentile": "P99", "max": maximum}]), "latency[single].P99")
    assert found.verdict is verdict
    assert (found.low, found.high) == (4, 5)


@pytest.mark.parametrize(("percentile", "needed"), [("P50", 8), ("P95", 104), ("P99", 528)])
def test_percentile_of_too_few_requests_has_no_upper_end(percentile: str, needed: int) -> None:
    assert limits.requests_needed(Percentile(percentile)) == needed
    constraints = Constraints.model_validate({"latency": [{"load": "single", "percentile": percentile, "max": "1s"}]})
    few, enough = (Summary(baseline_latencies=(latency(requests=n),)) for n in (needed - 1, needed))
    assert limits.judge_baseline(LOADED, few, constraints).verdict is Verdict.Undecided
    assert limits.judge_baseline(LOADED, few, constraints).more_rounds_help
    assert limits.judge_baseline(LOADED, enough, constraints).verdict is Verdict.Accepted
    too_slow = Summary(baseline_latencies=(latency(2000, 3000, requests=needed - 1),))
    assert limits.judge_baseline(LOADED, too_slow, constraints).verdict is Verdict.Refused


@pytest.mark.parametrize("rounds", [0, 1, 19])
def test_too_few_rounds_decide_nothing(rounds: int) -> None:
    found = judge(summary((0.4, 0.5), rounds=rounds), minSpeedup="1.2", latency=[{"load": "single", "percentile": "P50", "max": "1s"}])
    assert {limit.verdict for limit in found.limits} == {Verdict.Undecided}
    assert all(f"{rounds} rounds" in limit.message and "measurement.timeout" in limit.message for limit in found.limits)


def test_candidate_that_was_never_measured_is_undecided() -> None:
    bare = Summary(baseline_latencies=(latency(),), candidates={"int8": CandidateSummary()})
    found = judge(bare, score={"maxDrop": "0.01"}, equivalence={"minCosine": "0.9"}, latency=[{"load": "single", "percentile": "P50", "max": "1s"}])
    assert [limit.verdict for limit in found.limits] == [Verdict.Undecided] * 4


@pytest.mark.parametrize(
    ("facts", "reason"),
    [({"loaded": False, "message": "bad graph"}, Reason.CandidateNotLoadable), ({"failed": True, "message": "stub died"}, Reason.CandidateFailed)],
)
def test_candidate_that_does_not_serve_is_refused_with_tritons_words(facts: dict[str, object], reason: Reason) -> None:
    found = judge(summary(), LOADED.model_copy(update=facts))
    assert (found.verdict, found.reason, found.message) == (Verdict.Refused, reason, facts["message"])


def test_identical_candidate_holds_relative_limits_and_answers_for_absolute_ones() -> None:
    one = Estimate(estimate=1, low=1, high=1)
    same = CandidateSummary(
        identical=True,
        latencies=(latency(rounds=40),),
        speeds=(SpeedSummary(load="single", ratio=one, rounds=0),),
        score=ScoreSummary(baseline=1, candidate=1, drop=0, low=0, high=0, samples=9),
        equivalence=EquivalenceSummary(cosine=1, worst_cosine=1),
    )
    found = Summary(baseline_latencies=(latency(),), candidates={"int8": same})
    not_loaded = LOADED.model_copy(update={"loaded": False})
    strict = {"score": {"maxDrop": "0"}, "equivalence": {"minCosine": "1"}, "maxSlowdownPercent": 0, "minSpeedup": "1"}
    assert judge(found, not_loaded, **strict).verdict is Verdict.Accepted
    assert judge(found, not_loaded, minSpeedup="1.01").reason is Reason.SpeedupBelowLimit
    assert judge(found, not_loaded, latency=[{"load": "single", "percentile": "P50", "max": "8ms"}]).reason is Reason.LatencyAboveLimit


def test_refused_beats_undecided_beats_accepted() -> None:
    open_and_broken = judge(summary((1.01, 1.05), drop=(0.02, 0.03)), score={"maxDrop": "0.01"})
    assert (open_and_broken.verdict, open_and_broken.reason) == (Verdict.Refused, Reason.ScoreBelowLimit)
    assert judge(summary((1.01, 1.05))).verdict is Verdict.Undecided
    assert Judgement("x", ()).reason is Reason.NoLimits


def test_on_undecided_decides_what_undecided_counts_as() -> None:
    assert not limits.is_acceptable(Verdict.Undecided, OnUndecided.Refuse)
    assert limits.is_acceptable(Verdict.Undecided, OnUndecided.Accept)
    assert not limits.is_acceptable(Verdict.Refused, OnUndecided.Accept)


def test_best_candidate_is_the_fastest_accepted_one() -> None:
    ratios = {"a": 0.5, "b": 0.4, "c": 0.3}
    found = Summary(candidates={n: CandidateSummary(speeds=(SpeedSummary(load="l", ratio=estimate(r, r), rounds=40),)) for n, r in ratios.items()})
    verdicts = {"a": Verdict.Accepted, "b": Verdict.Accepted, "c": Verdict.Undecided}
    judged = [Judgement(n, (LimitVerdict("minSpeedup", v, Reason.Undecided, ""),)) for n, v in verdicts.items()]
    assert limits.best_candidate(judged, found) == "b"
    assert limits.best_candidate(judged[2:], found) is None
    assert limits.best_candidate(judged, found, OnUndecided.Accept) == "b"
    assert limits.best_candidate(judged[2:], found, OnUndecided.Accept) == "c"


def test_messages_carry_no_more_digits_than_the_interval() -> None:
    assert "0.45 (0.40 to 0.50)" in judge(summary((0.40012, 0.50034))).limits[0].message
    assert "0.40020 (0.39999 to 0.40041)" in judge(summary((0.3999912, 0.4004134))).limits[0].message


def test_smallest_decidable_drop_is_the_rule_of_three() -> None:
    assert round(limits.smallest_decidable_drop(360), 4) == 0.0083
    assert round(limits.smallest_decidable_drop(900), 4) == 0.0033
    assert limits.smallest_decidable_drop(1) == 1


def test_judging_loads_no_numeric_library() -> None:
    code = "import sys, burnish.measurement.limits; print([m for m in ('numpy', 'scipy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


# --- the engine's early stop ----------------------------------------------------------------------------------------------------------


def trace(load: str = "single", rounds: int = 40, **factors: float) -> LoadTrace:
    """Ten requests of about 10 ms per round for every model, times its factor."""
    rng = np.random.default_rng(0)
    sides = {}
    for name, factor in ({names.BASELINE: 1.0} | factors).items():
        blocks = 10 * factor * rng.normal(1, 0.03, (rounds, 10))
        sides[name] = SideTrace(latencies_ms=tuple(map(tuple, blocks.tolist())), throughput_per_second=(100.0,) * rounds)
    return LoadTrace(load=Load(name=load), rounds=rounds, block_seconds=0.1, sides=sides)


def decided(loads: list[LoadTrace], candidates: list[str], **constraints: object) -> bool:
    return limits.is_decided(loads, candidates, Constraints.model_validate(constraints))


def test_early_stop_waits_for_every_candidate() -> None:
    assert decided([trace(a=0.5, b=1.5)], ["a", "b"])
    assert not decided([trace(a=0.5, b=1.03)], ["a", "b"])


def test_early_stop_does_not_wait_for_limits_of_a_refused_candidate() -> None:
    close = [{"load": "single", "percentile": "P50", "max": "15ms"}]
    assert decided([trace(a=1.5)], ["a"], latency=close)
    assert not decided([trace(a=1.0)], ["a"], latency=[{"load": "single", "percentile": "P50", "max": "10ms"}])


def test_early_stop_at_later_loads_asks_only_for_their_latency() -> None:
    assert decided([trace(a=1.03), trace("busy", a=1.03)], ["a"])
    assert not decided([trace(), trace("busy", a=1.0)], ["a"], latency=[{"load": "busy", "percentile": "P50", "max": "10ms"}])


def test_early_stop_waits_for_the_baseline_where_it_may_be_served() -> None:
    tight = [{"load": "single", "percentile": "P50", "max": "10ms"}]
    assert decided([trace(a=0.5)], ["a"], latency=tight)
    assert not decided([trace(a=0.5)], ["a"], latency=tight, onInfeasible="ServeBaseline")
    assert not decided([trace(a=0.5)], ["a", "identical"], latency=tight)
    assert not decided([trace()], [], latency=tight)
    assert decided([trace()], [])


def test_early_stop_waits_for_requests_that_a_tail_needs() -> None:
    tail = [{"load": "single", "percentile": "P99", "max": "1s"}]
    assert not decided([trace(a=0.5)], ["a"], latency=tail)
    assert decided([trace(rounds=60, a=0.5)], ["a"], latency=tail)


@pytest.mark.parametrize(("cosine", "match", "unit"), [(0.9, 0.995, "cosine"), (0.995, 0.9, "share of equal elements")])
def test_model_with_float_and_integer_outputs_is_judged_on_the_worse(cosine: float, match: float, unit: str) -> None:
    found = the(judge(summary(cosine=cosine, exact_match=match), equivalence={"minCosine": "0.99"}), "equivalence.minCosine")
    assert (found.verdict, found.value) == (Verdict.Refused, 0.9)
    assert found.message.startswith(unit)
