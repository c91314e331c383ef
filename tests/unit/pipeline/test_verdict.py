"""Decisions over judged candidates, a table of what competes and what becomes of the target, and the status that tells of it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from burnish import names
from burnish.api.job_contract import (
    ArtifactConfig,
    ArtifactRef,
    BuildRecord,
    CandidateBuild,
    CandidateSummary,
    Environment,
    EquivalenceSummary,
    Estimate,
    LatencySummary,
    MeasurementIndex,
    Plan,
    Result,
    ScoreSummary,
    SideFacts,
    SpeedSummary,
    Summary,
    TargetPlan,
    Warned,
)
from burnish.api.v1alpha1.optimized_model import Constraints
from burnish.api.v1alpha1.status import ConditionStatus, ConditionType, Lookup, Phase, Served, State, Status, TargetStatus
from burnish.errors import BurnishError, Reason
from burnish.pipeline import card, status, verdict
from burnish.plugins.base import DataType, GraphFacts, HardwareClass, Signature, Tensor

HARDWARE = HardwareClass(architecture="x86-64", vendor="GenuineIntel", isa=("AVX2",))
LATENCY = LatencySummary(
    load="single",
    p50=Estimate(estimate=10, low=9.9, high=10.1),
    p95=Estimate(estimate=12, low=11, high=13),
    p99=Estimate(estimate=15, low=13, high=20),
    throughput_per_second=100,
    rounds=40,
    requests=1000,
)


def ref(letter: str) -> ArtifactRef:
    digest = "sha256:" + letter * 64
    return ArtifactRef(digest=digest, size_bytes=1000, stored_bytes=900, content_digest=digest)


def candidate(ratio: tuple[float, float, float], *, drop: tuple[float, float, float] = (0.0, -0.003, 0.003)) -> CandidateSummary:
    """A measured candidate: ratio of p50 to the baseline's (low, estimate, high), and its score's drop (estimate, low, high)."""
    low, estimate, high = ratio
    return CandidateSummary(
        latencies=(LATENCY,),
        speeds=(SpeedSummary(load="single", ratio=Estimate(estimate=estimate, low=low, high=high), rounds=40),),
        score=ScoreSummary(baseline=0.98, candidate=0.98 - drop[0], drop=drop[0], low=drop[1], high=drop[2], samples=900),
        equivalence=EquivalenceSummary(cosine=0.999, worst_cosine=0.99, max_absolute_error=0.1, samples=900),
    )


FASTER, FASTEST = candidate((0.48, 0.5, 0.52)), candidate((0.38, 0.4, 0.42))
SLOWER = candidate((1.2, 1.25, 1.3))
UNCLEAR = candidate((0.98, 1.02, 1.06))
WORSE = candidate((0.48, 0.5, 0.52), drop=(0.05, 0.03, 0.07))

IDENTICAL = candidate((1.0, 1.0, 1.0), drop=(0.0, 0.0, 0.0)).model_copy(update={"identical": True})


def measured(
    candidates: dict[str, CandidateSummary], *, unbuilt: tuple[str, ...] = (), not_loaded: tuple[str, ...] = ()
) -> tuple[MeasurementIndex, BuildRecord]:
    refs = {name: ref("bcdef"[number]) for number, name in enumerate(candidates)}
    sides = {names.BASELINE: SideFacts(artifact=ref("a"), loaded=True)}
    sides |= {name: SideFacts(artifact=refs[name], loaded=name not in not_loaded, message="no such operator") for name in candidates}
    index = MeasurementIndex(
        measurement_key="0" * 64,
        environment=Environment(
            node="n1",
            hardware_class=HARDWARE,
            cpu_model="cpu",
            cpus=2,
            kernel="6",
            memory_bytes=1,
            triton="local-cpu",
            versions={},
            threads=1,
            cpu_limit="1",
            cpu_enforcement="affinity",
            memory_limit="2Gi",
        ),
        sides=sides,
        summary=Summary(baseline_score=0.98, samples=900, baseline_latencies=(LATENCY,), candidates=candidates),
        rounds={"single": 40},
        record=ref("9").digest,
        measured_at="2026-11-23T00:00:00Z",
        decided_for=Constraints(),
    )
    built = [CandidateBuild(name=name, artifact=refs[name]) for name in candidates]
    built += [CandidateBuild(name=name, reason=Reason.CandidateNotBuildable, message="nothing to do") for name in unbuilt]
    tensor = Tensor(name="x", data_type=DataType.FP32, shape=(-1, 4))
    build = BuildRecord(
        artifact_key="1" * 64,
        hardware_class=HARDWARE,
        baseline=ref("a"),
        candidates=tuple(built),
        signature=Signature(inputs=(tensor,), outputs=(tensor,)),
        graph=GraphFacts(opset=18, op_counts={}, weighted_ops={}, parameters=1),
        source_format="ONNX",
        created_at="2026-11-23T00:00:00Z",
    )
    return index, build


def limits(**changes: object) -> Constraints:
    return Constraints.model_validate({"score": {"maxDrop": "0.01"}} | changes)


TABLE = [
    pytest.param({"a": FASTER}, limits(), (State.Published, Reason.Published, Served.Candidate, "a"), id="one accepted"),
    pytest.param({"a": FASTER, "b": FASTEST}, limits(), (State.Published, Reason.Published, Served.Candidate, "b"), id="the fastest accepted wins"),
    pytest.param(
        {"a": FASTER, "b": WORSE}, limits(), (State.Published, Reason.Published, Served.Candidate, "a"), id="a refused one does not compete"
    ),
    pytest.param({"a": WORSE}, limits(), (State.Refused, Reason.ScoreBelowLimit, None, None), id="score refused"),
    pytest.param({"a": SLOWER}, limits(), (State.Refused, Reason.SlowerThanBaseline, None, None), id="slower refused"),
    pytest.param({"a": FASTER}, limits(minSpeedup="3"), (State.Refused, Reason.SpeedupBelowLimit, None, None), id="speedup below limit"),
    pytest.param({"a": FASTER}, limits(equivalence={"minCosine": "0.995"}), (State.Refused, Reason.OutputsDiffer, None, None), id="outputs differ"),
    pytest.param({"a": UNCLEAR}, limits(), (State.Undecided, Reason.Undecided, None, None), id="undecided is refused by default"),
    pytest.param({"a": UNCLEAR}, limits(onUndecided="Accept"), (State.Published, Reason.Published, Served.Candidate, "a"), id="undecided accepted"),
    pytest.param(
        {"a": UNCLEAR, "b": candidate((1.0, 1.01, 1.02))},
        limits(onUndecided="Accept"),
        (State.Published, Reason.Published, Served.Candidate, "b"),
        id="an accepted one goes before a merely tolerated one",
    ),
    pytest.param({"a": WORSE, "b": UNCLEAR}, limits(), (State.Undecided, Reason.Undecided, None, None), id="undecided while one may still win"),
    pytest.param(
        {"a": WORSE}, limits(onInfeasible="ServeBaseline"), (State.Published, Reason.BaselineServed, Served.Baseline, None), id="baseline served"
    ),
    pytest.param(
        {"a": WORSE},
        limits(onInfeasible="ServeBaseline", latency=[{"load": "single", "percentile": "P50", "max": "5ms"}]),
        (State.Refused, Reason.LatencyAboveLimit, None, None),
        id="a baseline that breaks an absolute limit is not served",
    ),
    pytest.param({}, Constraints(), (State.Published, Reason.Published, Served.Baseline, None), id="convert only"),
    pytest.param(
        {},
        Constraints.model_validate({"latency": [{"load": "single", "percentile": "P50", "max": "5ms"}]}),
        (State.Refused, Reason.LatencyAboveLimit, None, None),
        id="convert only, too slow",
    ),
    pytest.param({"a": IDENTICAL}, limits(), (State.Published, Reason.Published, Served.Candidate, "a"), id="identical"),
]


@pytest.mark.parametrize(("candidates", "constraints", "expected"), TABLE)
def test_decide_follows_the_table(candidates: dict[str, CandidateSummary], constraints: Constraints, expected: tuple[object, ...]) -> None:
    decision = verdict.decide(*measured(candidates), constraints)
    assert (decision.state, decision.reason, decision.served, decision.winner) == expected
    assert decision.message


def test_decide_names_every_loser_and_its_reason() -> None:
    index, build = measured({"static": WORSE, "dynamic": SLOWER, "broken": CandidateSummary()}, unbuilt=("half",), not_loaded=("broken",))
    decision = verdict.decide(index, build, limits())
    assert decision.state is State.Refused
    for name, words in {"static": "Accuracy|score", "dynamic": "p50", "broken": "no such operator", "half": "nothing to do"}.items():
        assert f"{name}: " in decision.message, words
    assert decision.judgements["broken"].reason is Reason.CandidateNotLoadable


def test_decide_without_any_buildable_candidate_says_so() -> None:
    decision = verdict.decide(*measured({}, unbuilt=("static",)), limits())
    assert (decision.state, decision.reason) == (State.Refused, Reason.NoCandidate)
    assert "nothing to do" in decision.message


def test_wants_more_only_where_a_changed_limit_makes_speed_undecided() -> None:
    index, build = measured({"a": FASTER})
    assert not verdict.wants_more(index, build, index.decided_for, 0), "the same limits: the answer is known"
    assert not verdict.wants_more(index, build, Constraints(max_slowdown_percent=10), 0), "decided by the record"
    assert verdict.wants_more(index, build, Constraints(min_speedup="2.0"), 0), "2.0 lies inside the interval: more rounds may tell"


def test_wants_more_never_repeats_what_stayed_undecided() -> None:
    index, build = measured({"a": UNCLEAR})
    assert not verdict.wants_more(index, build, Constraints(max_slowdown_percent=4), 0), "was undecided at its budget's end, and still is"


def test_wants_more_with_more_time_only_while_something_is_open() -> None:
    index, build = measured({"a": UNCLEAR, "b": FASTER})
    assert verdict.wants_more(index, build, index.decided_for, 60), "the message said: raise measurement.timeout"
    index, build = measured({"b": FASTER})
    assert not verdict.wants_more(index, build, index.decided_for, 60)


def test_wants_more_of_the_baseline_where_it_may_be_served() -> None:
    index, build = measured({})
    inside = {"latency": [{"load": "single", "percentile": "P50", "max": "10ms"}]}
    assert verdict.wants_more(index, build, Constraints.model_validate(inside), 0), "no candidates: the baseline is what is judged"
    index, build = measured({"a": SLOWER})
    assert not verdict.wants_more(index, build, Constraints.model_validate(inside), 0), "refused whatever the latency is"
    assert verdict.wants_more(index, build, Constraints.model_validate({**inside, "onInfeasible": "ServeBaseline"}), 0)


NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
PLAN = TargetPlan(target="cpu", plan=Plan.Build, artifact_key="1" * 64, artifact=Lookup.Miss, measurement=Lookup.Hit)


def target_status(candidates: dict[str, CandidateSummary], constraints: Constraints, **options: tuple[str, ...]) -> TargetStatus:
    index, build = measured(candidates, **options)
    return status.target_status("cpu", PLAN, build, index, verdict.decide(index, build, constraints), constraints, uri="/store")


def overall(targets: list[TargetStatus], *, error: BurnishError | None = None, warnings: tuple[Warned, ...] = ()) -> Status:
    failure = status.last_failure(error.reason, str(error), now=NOW) if error else None
    return status.overall(targets, resolved=None, source_format="ONNX", failure=failure, warnings=warnings, generation=3, now=NOW)


def conditions(found: Status) -> dict[ConditionType, tuple[ConditionStatus, Reason]]:
    return {c.type: (c.status, c.reason) for c in found.conditions}


def test_status_of_an_accepted_candidate_holds_its_numbers() -> None:
    found = target_status({"static": FASTER, "worse": WORSE}, limits())
    assert found.artifact is not None
    assert (found.artifact.served, found.artifact.candidate, found.artifact.uri) == (Served.Candidate, "static", f"/store@{found.artifact.digest}")
    assert found.score is not None
    assert (found.score.value, found.score.drop, found.score.high, found.score.verdict) == ("0.98", "0", "0.003", "Accepted")
    (load,) = found.measurements
    assert load.speedup is not None
    assert (load.speedup.p50, load.speedup.low, load.speedup.high) == ("2.00", "1.92", "2.08")
    assert (load.rounds, load.verdict) == (40, "Accepted")
    assert {c.name: (c.verdict, c.reason) for c in found.candidates} == {
        "static": ("Accepted", Reason.LimitsHeld),
        "worse": ("Refused", Reason.ScoreBelowLimit),
    }
    assert found.cache is not None
    assert (found.cache.artifact, found.cache.measurement) == (Lookup.Miss, Lookup.Hit)


@pytest.mark.parametrize(
    ("equivalence", "shown"),
    [
        (EquivalenceSummary(exact_match=0.9999999, samples=9), {"exactMatch": "0.999999"}),
        (EquivalenceSummary(exact_match=1.0, samples=9), {"exactMatch": "1"}),
        (EquivalenceSummary(exact_match=0.29, samples=9), {"exactMatch": "0.29"}),
        (
            EquivalenceSummary(cosine=0.5, worst_cosine=-0.3, max_absolute_error=2.0, exact_match=0.5),
            {"cosine": "0.5", "worstCosine": "0", "maxAbsoluteError": "2", "exactMatch": "0.5"},
        ),
    ],
)
def test_status_of_outputs_that_are_no_floats_tells_the_share_that_is_equal(equivalence: EquivalenceSummary, shown: dict[str, str]) -> None:
    found = target_status({"static": FASTER.model_copy(update={"equivalence": equivalence})}, limits())
    assert found.equivalence is not None
    assert found.equivalence.model_dump(by_alias=True, exclude_none=True) == shown
    assert found.candidates[0].exact_match == shown["exactMatch"]


def test_status_of_a_refused_target_shows_the_fastest_candidate_and_no_artifact() -> None:
    found = target_status({"worse": WORSE, "slower": SLOWER}, limits())
    assert found.artifact is None
    assert found.score is not None
    assert (found.score.drop, found.score.verdict) == ("0.05", "Refused")


def test_artifact_has_the_figures_of_what_is_served() -> None:
    """kubectl's columns show them: those of a refused candidate beside the size of the served baseline would say what is nowhere true."""
    quicker = {"latencies": (LATENCY.model_copy(update={"p99": Estimate(estimate=7, low=6, high=8)}),)}
    winner = target_status({"static": FASTER.model_copy(update=quicker), "worse": WORSE}, limits()).artifact
    baseline = target_status({"worse": WORSE.model_copy(update=quicker)}, limits(onInfeasible="ServeBaseline"))
    assert winner is not None and baseline.artifact is not None
    assert (winner.score, winner.speedup, winner.p99) == ("0.98", "2.00", "7ms")
    assert (baseline.artifact.score, baseline.artifact.speedup, baseline.artifact.p99) == ("0.98", None, "15ms")
    assert baseline.score is not None and baseline.score.value == "0.93"


def test_conditions_of_a_published_target() -> None:
    found = overall([target_status({"static": FASTER}, limits())])
    assert found.phase is Phase.Ready
    assert {c.observed_generation for c in found.conditions} == {3}
    assert conditions(found)[ConditionType.Ready] == (ConditionStatus.true, Reason.Published)
    assert conditions(found)[ConditionType.ScoreGatePassed] == (ConditionStatus.true, Reason.LimitsHeld)
    assert conditions(found)[ConditionType.LatencyGatePassed] == (ConditionStatus.true, Reason.LimitsHeld)


def test_conditions_of_a_served_baseline_say_so() -> None:
    found = overall([target_status({"worse": WORSE}, limits(onInfeasible="ServeBaseline"))])
    assert found.phase is Phase.Ready
    assert conditions(found)[ConditionType.Ready] == (ConditionStatus.true, Reason.BaselineServed)
    assert conditions(found)[ConditionType.ScoreGatePassed] == (ConditionStatus.false, Reason.ScoreBelowLimit)


def test_conditions_of_a_failure_carry_its_reason() -> None:
    error = BurnishError(Reason.InvalidModel, "no model", field="spec.source.uri")
    found = overall([status.failed_target("cpu", error)], error=error)
    assert found.phase is Phase.Failed
    assert conditions(found)[ConditionType.Ready] == (ConditionStatus.false, Reason.InvalidModel)
    assert found.last_failure is not None
    assert found.last_failure.message == "spec.source.uri: no model"


def test_one_failed_target_keeps_the_other_visible() -> None:
    error = BurnishError(Reason.OutOfMemory, "too large")
    found = overall([target_status({"static": FASTER}, limits()), status.failed_target("big", error)], error=error)
    assert [t.state for t in found.targets] == [State.Published, State.Failed]
    assert conditions(found)[ConditionType.Ready] == (ConditionStatus.false, Reason.OutOfMemory)


def test_warnings_become_conditions() -> None:
    shared = Warned(reason=Reason.SamplesOverlap, message="3 of 900")
    warning = status.resolution_warning(100, limits())
    assert warning is not None
    assert "100" in warning.message
    assert "0.03" in warning.message
    found = overall([target_status({"static": FASTER}, limits())], warnings=(shared, warning))
    assert conditions(found)[ConditionType.DataIndependent] == (ConditionStatus.false, Reason.SamplesOverlap)
    assert conditions(found)[ConditionType.DataSufficient] == (ConditionStatus.false, Reason.LimitBelowResolution)


def test_resolution_warning_is_absent_where_the_data_suffices() -> None:
    assert status.resolution_warning(900, limits()) is None
    assert status.resolution_warning(10, Constraints()) is None


def test_latency_gate_names_the_limit_that_struck() -> None:
    found = overall([target_status({"static": FASTER}, limits(minSpeedup="3"))])
    gate = next(c for c in found.conditions if c.type is ConditionType.LatencyGatePassed)
    assert (gate.status, gate.reason) == (ConditionStatus.false, Reason.SpeedupBelowLimit)
    assert "3" in gate.message


def test_card_of_a_served_baseline_holds_only_the_baselines_figures() -> None:
    _, build = measured({"worse": WORSE})
    found = target_status({"worse": WORSE}, limits(onInfeasible="ServeBaseline"))
    index, _ = measured({"worse": WORSE})
    config = ArtifactConfig(
        name="baseline",
        summary="converted",
        runtime="ONNXRuntime",
        backend="onnxruntime",
        model_file="model.onnx",
        signature=build.signature,
        inputs=(),
        source_digest=build.baseline.digest,
        artifact_key="1" * 64,
        toolchain="t",
        hardware_class=HARDWARE,
    )
    result = Result(status=found, build=build, measurement=index, constraints=limits())
    text = card.render(config, build.baseline.digest, result)
    assert "speedup" not in text
    assert "drop" not in text.split("verdict")[0]
    assert "p50 10" in text
