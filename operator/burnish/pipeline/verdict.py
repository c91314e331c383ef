"""From judgements to a decision: what of a target is served, and why. Pure, and free of numeric libraries.

`burnish.measurement.limits` judges one candidate against the limits; here the candidates compete, and the manifest's `onUndecided` and
`onInfeasible` have their say.
"""

from __future__ import annotations

import dataclasses

from burnish import names
from burnish.api.job_contract import BuildRecord, MeasurementIndex
from burnish.api.v1alpha1.optimized_model import Constraints, OnInfeasible
from burnish.api.v1alpha1.status import Served, State, Verdict
from burnish.errors import Reason
from burnish.measurement import limits
from burnish.measurement.limits import Judgement


def speedup(index: MeasurementIndex, candidate: str) -> float:
    """Baseline p50 / candidate p50 at the first load; 1 for identical models."""
    summary = index.summary.candidates.get(candidate)
    return 1 / summary.speeds[0].ratio.estimate if summary and summary.speeds else 1.0


@dataclasses.dataclass(frozen=True)
class Decision:
    """What becomes of a target."""

    state: State
    reason: Reason
    message: str
    served: Served | None
    """None: nothing is marked as served."""
    winner: str | None
    """Name of the candidate that was accepted."""
    judgements: dict[str, Judgement]
    """Candidate -> judgement, of those that were measured."""


def decide(index: MeasurementIndex, build: BuildRecord, constraints: Constraints) -> Decision:
    """Judge every candidate, choose the fastest accepted one, or say why there is none."""
    judgements = {c.name: limits.judge(index.sides[c.name], index.summary, c.name, constraints) for c in build.candidates if c.name in index.sides}
    winner = limits.best_candidate(list(judgements.values()), index.summary, constraints.on_undecided)
    if winner is not None:
        message = (
            f"{winner} holds every limit"
            if judgements[winner].verdict is Verdict.Accepted
            else f"{winner} is undecided and taken (onUndecided: Accept)"
        )
        return Decision(State.Published, Reason.Published, message, Served.Candidate, winner, judgements)
    baseline = limits.judge_baseline(index.sides[names.BASELINE], index.summary, constraints)
    if not build.candidates:
        return _serve_baseline(baseline, Reason.Published, "no passes: the converted model is published", constraints, judgements)
    reason, why = _why_not(build, judgements)
    if constraints.on_infeasible is OnInfeasible.ServeBaseline:
        return _serve_baseline(baseline, Reason.BaselineServed, f"the uncompressed baseline is served: {why}", constraints, judgements)
    undecided = any(j.verdict is Verdict.Undecided for j in judgements.values())
    return Decision(State.Undecided if undecided else State.Refused, reason, why, None, None, judgements)


def wants_more(index: MeasurementIndex, build: BuildRecord, constraints: Constraints, allowed_seconds: float) -> bool:
    """True where the record leaves a limit open and more rounds may tell: the limits changed, or there is more time now than there was then.

    What stayed Undecided under the very limits and the time it was measured for is an answer too: it is not measured again.

    Args:
        allowed_seconds: measurement.timeout.
    """
    now = _open(index, build, constraints)
    if allowed_seconds > index.allowed_seconds:
        return bool(now)
    return bool(now - _open(index, build, index.decided_for))


def _open(index: MeasurementIndex, build: BuildRecord, constraints: Constraints) -> set[str]:
    """The models that more rounds could decide; the baseline where it may be what is served, as in `limits.is_decided`."""
    decision = decide(index, build, constraints)
    judgements = list(decision.judgements.values())
    if not build.candidates or constraints.on_infeasible is OnInfeasible.ServeBaseline:
        judgements.append(limits.judge_baseline(index.sides[names.BASELINE], index.summary, constraints))
    return {j.candidate for j in judgements if j.verdict is Verdict.Undecided and j.more_rounds_help}


def _serve_baseline(baseline: Judgement, reason: Reason, message: str, constraints: Constraints, judgements: dict[str, Judgement]) -> Decision:
    if limits.is_acceptable(baseline.verdict, constraints.on_undecided):
        return Decision(State.Published, reason, message, Served.Baseline, None, judgements)
    state = State.Undecided if baseline.verdict is Verdict.Undecided else State.Refused
    return Decision(state, baseline.reason, f"the baseline itself does not hold the limits: {baseline.message}", None, None, judgements)


def _why_not(build: BuildRecord, judgements: dict[str, Judgement]) -> tuple[Reason, str]:
    """The first candidate's reason, or Undecided where one may still hold; and what is wrong with each, in one line."""
    parts: list[str] = []
    reasons: list[Reason] = []
    for candidate in build.candidates:
        judgement = judgements.get(candidate.name)
        if judgement is None:
            parts.append(f"{candidate.name}: {candidate.message}")
            continue
        parts.append(f"{candidate.name}: {judgement.message}")
        reasons.append(judgement.reason)
    if Reason.Undecided in reasons:
        return Reason.Undecided, "; ".join(parts)
    return (reasons[0] if reasons else Reason.NoCandidate), "; ".join(parts)
