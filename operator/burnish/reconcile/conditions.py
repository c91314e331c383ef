"""Conditions: what programs read. Each keeps the time of its last change, and each change becomes an event of the same name.

`Ready` is true exactly when this generation's result is what serves (or is published, for PublishOnly); `ServingReady` says that something
answers inference now; `Reconciling` and `Stalled` are those of kstatus, which Argo CD and Flux read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from burnish.api.job_contract import Warned
from burnish.api.v1alpha1 import status as api
from burnish.api.v1alpha1.status import Condition, ConditionStatus, ConditionType, Verdict
from burnish.errors import REASONS, Kind, Reason
from burnish.reconcile.actions import Event

_GOOD_WHEN_FALSE = (ConditionType.Reconciling, ConditionType.Stalled)
_TEXT = 1024


@dataclasses.dataclass(frozen=True)
class Claim:
    """A condition before it has a time and a generation."""

    type: ConditionType
    is_true: bool | None
    reason: Reason
    message: str = ""


def build(claims: Iterable[Claim], before: Sequence[Condition], generation: int, now: datetime) -> list[Condition]:
    """The conditions, with the time at which each last changed."""
    known = {c.type: c for c in before}
    time = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    found = []
    for claim in claims:
        status = {True: ConditionStatus.true, False: ConditionStatus.false, None: ConditionStatus.unknown}[claim.is_true]
        old = known.get(claim.type)
        since = old.last_transition_time if old is not None and old.status is status else time
        found.append(
            Condition(
                type=claim.type,
                status=status,
                reason=claim.reason,
                message=claim.message,
                observed_generation=generation,
                last_transition_time=since,
            )
        )
    return found


def events(before: Sequence[Condition], now: Sequence[Condition]) -> tuple[Event, ...]:
    """One event per reason that a condition newly has; what several conditions say at once is told once."""
    known = {c.type: (c.status, c.reason, c.message) for c in before}
    found: dict[Reason, Event] = {}
    for condition in now:
        old = known.get(condition.type)
        if old is not None and old[:2] == (condition.status, condition.reason):
            continue
        if (
            condition.reason in (Reason.Settled, Reason.NoLimits)
            or condition.status is ConditionStatus.unknown
            or _goes_without_saying(condition, old)
        ):
            continue
        found.setdefault(
            condition.reason, Event(_event_type(condition), condition.reason, condition.message[:_TEXT] or REASONS[condition.reason].meaning)
        )
    return tuple(found.values())


def _goes_without_saying(condition: Condition, old: tuple[ConditionStatus, Reason, str] | None) -> bool:
    """What `Ready` says too. Of serving only its loss is news by itself."""
    if condition.type is ConditionType.ServingReady:
        return old is None or old[0] is not ConditionStatus.true
    return condition.type in (ConditionType.Reconciling, ConditionType.RolloutComplete) and REASONS[condition.reason].kind is Kind.RESULT


def _event_type(condition: Condition) -> str:
    facts = REASONS[condition.reason]
    is_bad = (condition.status is ConditionStatus.true) if condition.type in _GOOD_WHEN_FALSE else (condition.status is ConditionStatus.false)
    progress = (Reason.Resolving, Reason.Optimizing, Reason.RollingOut, Reason.Suspended, Reason.PublishOnly)
    return "Warning" if facts.kind is not Kind.RESULT or (is_bad and condition.reason not in progress) else "Normal"


def gates(targets: Sequence[api.TargetStatus], *, is_final: bool) -> list[Claim]:
    """What the measurements said of the limits."""
    scores = [t.score.verdict for t in targets if t.score and t.score.verdict]
    speeds = [m.verdict for t in targets for m in t.measurements if m.verdict]
    return [
        Claim(ConditionType.ScoreGatePassed, *_gate(scores, targets, (Reason.ScoreBelowLimit,), is_final)),
        Claim(
            ConditionType.LatencyGatePassed,
            *_gate(speeds, targets, (Reason.SlowerThanBaseline, Reason.SpeedupBelowLimit, Reason.LatencyAboveLimit), is_final),
        ),
    ]


def _gate(
    verdicts: Sequence[Verdict], targets: Sequence[api.TargetStatus], reasons: tuple[Reason, ...], is_final: bool
) -> tuple[bool | None, Reason, str]:
    if Verdict.Refused in verdicts:
        words = next(((c.reason, c.message) for t in targets for c in t.candidates if c.reason in reasons), (reasons[0], ""))
        return False, *words
    if not is_final:
        return None, Reason.Optimizing, "not every target has been measured yet"
    if not verdicts:
        return None, Reason.NoLimits, "no limit of this kind was judged"
    if Verdict.Undecided in verdicts:
        return None, Reason.Undecided, ""
    return True, Reason.LimitsHeld, ""


def warnings(found: Iterable[Warned]) -> list[Claim]:
    """Data that flatters, or can't show what is asked of it."""
    kinds = {Reason.SamplesOverlap: ConditionType.DataIndependent, Reason.LimitBelowResolution: ConditionType.DataSufficient}
    claims: dict[ConditionType, Claim] = {}
    for warning in found:
        if warning.reason in kinds:
            claims.setdefault(kinds[warning.reason], Claim(kinds[warning.reason], False, warning.reason, warning.message))
    return list(claims.values())
