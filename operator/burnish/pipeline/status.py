"""From records to the status the user reads: the same object from a cluster and from `burnish run`. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from burnish.api.job_contract import (
    ArtifactRef,
    BuildRecord,
    CandidateBuild,
    Estimate,
    LatencySummary,
    MeasurementIndex,
    ResolveRecord,
    Summary,
    TargetPlan,
    Warned,
)
from burnish.api.scalars import format_bytes, format_decimal, format_milliseconds, format_score
from burnish.api.v1alpha1 import status as api
from burnish.api.v1alpha1.optimized_model import Constraints
from burnish.api.v1alpha1.status import ConditionStatus, ConditionType, State, Verdict
from burnish.errors import BurnishError, Reason
from burnish.measurement.limits import Judgement, smallest_decidable_drop
from burnish.pipeline.verdict import Decision, speedup

MESSAGE_LENGTH = 1024
FAILURE_LENGTH = 32768
SPEED_REASONS = (Reason.SlowerThanBaseline, Reason.SpeedupBelowLimit, Reason.LatencyAboveLimit)


def target_status(
    name: str, plan: TargetPlan, build: BuildRecord, index: MeasurementIndex, decision: Decision, constraints: Constraints, uri: str
) -> api.TargetStatus:
    """Everything that is known of one target.

    Args:
        uri: prefix of artifact URIs; the digest is appended.
    """
    shown = decision.winner or _fastest(index, decision)
    judgement = decision.judgements.get(shown) if shown else None
    measurements = _measurements(index, shown, judgement)
    return api.TargetStatus(
        name=name,
        state=decision.state,
        reason=decision.reason,
        message=decision.message[:MESSAGE_LENGTH],
        cache=api.Cache(artifact=plan.artifact, measurement=plan.measurement),
        artifact=_artifact(build, decision, index.summary, measurements, uri),
        baseline=api.BaselineStatus(
            digest=build.baseline.digest,
            size=format_bytes(build.baseline.size_bytes),
            stored_size=format_bytes(build.baseline.stored_bytes),
            score=_optional(index.summary.baseline_score),
        ),
        score=_score(index.summary, shown, judgement),
        export=_export(build),
        equivalence=_equivalence(index.summary, shown, judgement),
        measurements=measurements,
        candidates=[_candidate(c, index, decision.judgements.get(c.name), decision) for c in build.candidates],
        measured_on=api.MeasuredOn(
            node=index.environment.node, hardware_class=str(index.environment.hardware_class), triton=index.environment.triton
        ),
    )


def failed_target(name: str, error: BurnishError, plan: TargetPlan | None = None) -> api.TargetStatus:
    """A target that ended without a verdict."""
    cache = api.Cache(artifact=plan.artifact, measurement=plan.measurement) if plan else None
    return api.TargetStatus(name=name, state=State.Failed, reason=error.reason, message=str(error)[:MESSAGE_LENGTH], cache=cache)


def overall(
    targets: Sequence[api.TargetStatus],
    *,
    resolved: ResolveRecord | None,
    source_format: str | None,
    failure: api.LastFailure | None,
    warnings: Iterable[Warned],
    generation: int,
    now: datetime,
) -> api.Status:
    """The whole status, with conditions."""
    states = {t.state for t in targets}
    if targets and states == {State.Published}:
        phase = api.Phase.Ready
    else:
        phase = api.Phase.Failed if State.Failed in states or not targets else api.Phase.Refused
    source = None
    if resolved is not None:
        tree = resolved.source.tree
        source = api.SourceStatus(digest=tree.digest, size=format_bytes(tree.size_bytes), format=source_format or resolved.detected or "unknown")
    return api.Status(
        observed_generation=generation,
        phase=phase,
        conditions=_conditions(targets, resolved, failure, list(warnings), generation, timestamp(now)),
        source=source,
        targets=list(targets),
        last_failure=failure,
    )


def last_failure(reason: Reason, message: str, *, now: datetime, target: str | None = None, step: str | None = None) -> api.LastFailure:
    """A refusal or a failure as `status.lastFailure` holds it."""
    return api.LastFailure(target=target, step=step, reason=reason, message=message[:FAILURE_LENGTH], time=timestamp(now))


def timestamp(now: datetime) -> str:
    """RFC 3339 in UTC, whole seconds."""
    return now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def resolution_warning(samples: int, constraints: Constraints, largest_loss: float | None = 1.0) -> Warned | None:
    """A maxDrop that not even a perfect candidate could be shown to hold with this many evaluation samples, of which each can lose so much."""
    if constraints.score is None or not samples or largest_loss is None:
        return None
    decidable = smallest_decidable_drop(samples) * largest_loss
    if float(constraints.score.max_drop) >= decidable:
        return None
    message = f"with {samples} evaluation samples the smallest drop that can be shown is {decidable:.4f}, above maxDrop {constraints.score.max_drop}; give more samples or a larger limit"
    return Warned(reason=Reason.LimitBelowResolution, message=message)


def _conditions(
    targets: Sequence[api.TargetStatus],
    resolved: ResolveRecord | None,
    failure: api.LastFailure | None,
    warnings: list[Warned],
    generation: int,
    time: str,
) -> list[api.Condition]:
    def condition(kind: ConditionType, is_true: bool | None, reason: Reason, message: str = "") -> api.Condition:
        status = {True: ConditionStatus.true, False: ConditionStatus.false, None: ConditionStatus.unknown}[is_true]
        return api.Condition(type=kind, status=status, reason=reason, message=message, observed_generation=generation, last_transition_time=time)

    not_ready = [t for t in targets if t.state is not State.Published]
    if not_ready or not targets:
        reason = failure.reason if failure else (not_ready[0].reason or Reason.InternalError)
        ready = condition(ConditionType.Ready, False, reason, failure.message if failure else not_ready[0].message)
    else:
        reason = Reason.BaselineServed if any(t.reason is Reason.BaselineServed for t in targets) else Reason.Published
        ready = condition(ConditionType.Ready, True, reason, "; ".join(f"{t.name}: {t.message}" for t in targets))
    source_ok = resolved is not None
    built = [t for t in targets if t.artifact or t.baseline]
    found = [
        ready,
        condition(
            ConditionType.SourceResolved, source_ok, Reason.SourcePinned if source_ok else (failure.reason if failure else Reason.InternalError)
        ),
        condition(ConditionType.Optimized, bool(targets) and len(built) == len(targets), ready.reason, ready.message),
    ]
    scores = [t.score.verdict for t in targets if t.score and t.score.verdict]
    found.append(condition(ConditionType.ScoreGatePassed, *_gate(scores, targets, (Reason.ScoreBelowLimit,))))
    speeds = [m.verdict for t in targets for m in t.measurements if m.verdict]
    found.append(condition(ConditionType.LatencyGatePassed, *_gate(speeds, targets, SPEED_REASONS)))
    for kind, reason in ((ConditionType.DataIndependent, Reason.SamplesOverlap), (ConditionType.DataSufficient, Reason.LimitBelowResolution)):
        found += [condition(kind, False, reason, warning.message) for warning in warnings if warning.reason is reason][:1]
    return found


def _gate(verdicts: Sequence[Verdict], targets: Sequence[api.TargetStatus], reasons: tuple[Reason, ...]) -> tuple[bool | None, Reason, str]:
    """Status, reason and message of a gate's condition.

    Args:
        verdicts: what was judged.
        targets: where the deciding limit's words are found.
        reasons: the refusals that belong to this gate; the first where the candidate was refused for something else, too.
    """
    if not verdicts:
        return None, Reason.NoLimits, "no limit of this kind was judged"
    if Verdict.Refused in verdicts:
        words = next(((c.reason, c.message) for t in targets for c in t.candidates if c.reason in reasons), (reasons[0], ""))
        return False, *words
    if Verdict.Undecided in verdicts:
        return None, Reason.Undecided, ""
    return True, Reason.LimitsHeld, ""


def _artifact(
    build: BuildRecord, decision: Decision, summary: Summary, measurements: Sequence[api.MeasurementStatus], uri: str
) -> api.ArtifactStatus | None:
    if decision.served is None:
        return None
    artifact: ArtifactRef | None = build.baseline
    if decision.winner:
        artifact = next(c.artifact for c in build.candidates if c.name == decision.winner)
    assert artifact is not None  # noqa: S101  # a winner was measured, so it was built
    score = summary.candidates[decision.winner].score if decision.winner else None
    first = measurements[0] if measurements else None
    latency = first and (first.optimized if decision.winner else first.baseline)
    return api.ArtifactStatus(
        digest=artifact.digest,
        uri=f"{uri}@{artifact.digest}",
        size=format_bytes(artifact.size_bytes),
        stored_size=format_bytes(artifact.stored_bytes),
        served=decision.served,
        candidate=decision.winner,
        score=_optional(score.candidate if score else None if decision.winner else summary.baseline_score),
        p99=latency.p99 if latency else None,
        speedup=first.speedup.p50 if first and first.speedup and decision.winner else None,
    )


def _fastest(index: MeasurementIndex, decision: Decision) -> str | None:
    """The candidate whose numbers stand in the target's status where none won: the fastest one that was measured."""
    measured = [name for name in decision.judgements if name in index.summary.candidates]
    return max(measured, key=lambda name: speedup(index, name), default=None)


def _candidate(candidate: CandidateBuild, index: MeasurementIndex, judgement: Judgement | None, decision: Decision) -> api.CandidateStatus:
    summary = index.summary.candidates.get(candidate.name)
    if judgement is None:
        return api.CandidateStatus(
            name=candidate.name, reason=candidate.reason or Reason.CandidateNotBuildable, message=candidate.message[:MESSAGE_LENGTH]
        )
    if judgement.verdict is not Verdict.Accepted:
        reason, message = judgement.reason, judgement.message
    else:
        reason, message = Reason.LimitsHeld, "served" if candidate.name == decision.winner else f"accepted, but {decision.winner} is faster"
    found = summary.equivalence if summary else None
    return api.CandidateStatus(
        name=candidate.name,
        verdict=judgement.verdict,
        reason=reason,
        message=message[:MESSAGE_LENGTH],
        size=format_bytes(candidate.artifact.size_bytes) if candidate.artifact else None,
        score=_optional(summary.score.candidate if summary and summary.score else None),
        worst_cosine=_share(found.worst_cosine if found else None),
        exact_match=_share(found.exact_match if found else None),
        speedup=f"{speedup(index, candidate.name):.2f}" if summary and (summary.speeds or summary.identical) else None,
    )


def _score(summary: Summary, candidate: str | None, judgement: Judgement | None) -> api.ScoreStatus | None:
    found = summary.candidates[candidate].score if candidate else None
    if found is None:
        return None
    return api.ScoreStatus(
        value=format_score(found.candidate),
        drop=format_score(found.drop),
        high=format_score(found.high),
        samples=found.samples,
        verdict=_verdict_of(judgement, "score."),
    )


def _equivalence(summary: Summary, candidate: str | None, judgement: Judgement | None) -> api.EquivalenceStatus | None:
    found = summary.candidates[candidate].equivalence if candidate else None
    if found is None or (found.worst_cosine is None and found.exact_match is None):
        return None
    return api.EquivalenceStatus(
        cosine=_share(found.cosine),
        worst_cosine=_share(found.worst_cosine),
        max_absolute_error=None if found.max_absolute_error is None else f"{found.max_absolute_error:.3g}",
        exact_match=_share(found.exact_match),
        verdict=_verdict_of(judgement, "equivalence."),
    )


def _export(build: BuildRecord) -> api.ExportStatus | None:
    cosines = [c for difference in build.export for c in difference.cosine]
    if not cosines:
        return None
    error = max((e for difference in build.export for e in difference.max_absolute_error), default=0.0)
    return api.ExportStatus(cosine=format_decimal(max(0.0, min(cosines)), 6), max_absolute_error=f"{error:.3g}")


def _measurements(index: MeasurementIndex, candidate: str | None, judgement: Judgement | None) -> list[api.MeasurementStatus]:
    summary = index.summary.candidates.get(candidate) if candidate else None
    optimized = {latency.load: latency for latency in summary.latencies} if summary else {}
    speeds = {speed.load: speed for speed in summary.speeds} if summary else {}
    found = []
    for number, latency in enumerate(index.summary.baseline_latencies):
        speed = speeds.get(latency.load)
        prefixes = (f"latency[{latency.load}].", *(("maxSlowdownPercent", "minSpeedup") if number == 0 else ()))
        found.append(
            api.MeasurementStatus(
                name=latency.load,
                rounds=index.rounds.get(latency.load, 0),
                baseline=_latency(latency),
                optimized=_latency(optimized[latency.load]) if latency.load in optimized else None,
                speedup=_speedup(speed.ratio, speed.compute_speedup) if speed else None,
                verdict=_verdict_of(judgement, *prefixes),
            )
        )
    return found


def _latency(summary: LatencySummary) -> api.LatencyStatus:
    def text(value: Estimate) -> str:
        return format_milliseconds(value.estimate, _digits(value))

    return api.LatencyStatus(
        p50=text(summary.p50),
        p95=text(summary.p95),
        p99=text(summary.p99),
        p99_high=format_milliseconds(summary.p99.high, 2),
        throughput_per_second=format_decimal(float(f"{summary.throughput_per_second:.3g}"), 2),
    )


def _digits(value: Estimate) -> int:
    """Significant digits that the interval carries: 2 where it is wider than 5 %, else 3."""
    return 3 if value.estimate > 0 and (value.high - value.low) / value.estimate < 0.05 else 2


def _speedup(ratio: Estimate, compute: float | None) -> api.SpeedupStatus:
    return api.SpeedupStatus(
        p50=f"{1 / ratio.estimate:.2f}",
        low=f"{1 / ratio.high:.2f}",
        high=f"{1 / ratio.low:.2f}",
        compute=f"{compute:.2f}" if compute else None,
    )


def _verdict_of(judgement: Judgement | None, *prefixes: str) -> Verdict | None:
    """The strictest verdict among the limits whose name starts with one of `prefixes`; None without such a limit."""
    found = [limit.verdict for limit in judgement.limits if limit.name.startswith(prefixes)] if judgement else []
    return next((v for v in (Verdict.Refused, Verdict.Undecided, Verdict.Accepted) if v in found), None)


def _share(value: float | None) -> str | None:
    """A cosine or a share of equal elements: never negative (the API's decimals aren't), and 1 only where it is 1."""
    if value is None:
        return None
    places = 10**6
    return format_decimal(max(0, math.floor(value * places + 1e-6)) / places, 6)


def _optional(value: float | None) -> str | None:
    return None if value is None else format_score(value)
