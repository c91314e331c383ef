"""What a report is made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from burnish import names
from burnish.api.job_contract import BuildRecord, CandidateSummary, LatencySummary, MeasurementRecord, SpeedSummary, Warned
from burnish.api.v1alpha1.optimized_model import Constraints
from burnish.api.v1alpha1.status import TargetStatus
from burnish.measurement import limits
from burnish.measurement.limits import Judgement

COLORS = 8
"""Of candidates; with more of them colors come again."""


@dataclasses.dataclass(frozen=True)
class ReportInput:
    """One target's result with everything behind it."""

    model: str
    """metadata.name."""
    target: TargetStatus
    record: MeasurementRecord
    build: BuildRecord
    constraints: Constraints
    """The limits that were judged; maybe not those that were measured for."""
    judgements: Mapping[str, Judgement]
    """Candidate -> judgement, of those that were measured."""
    warnings: tuple[Warned, ...] = ()

    @property
    def candidates(self) -> tuple[str, ...]:
        """Names of the candidates, in the order they were built; also those that could not be."""
        return tuple(candidate.name for candidate in self.build.candidates)

    @property
    def sides(self) -> tuple[str, ...]:
        """The baseline and the candidates that were measured."""
        return (names.BASELINE, *(name for name in self.candidates if name in self.record.sides))

    @property
    def shown(self) -> str | None:
        """The candidate that the head of the page speaks of: what is served; where nothing is, the fastest one that was measured."""
        if self.target.artifact is not None:
            return self.target.artifact.candidate
        measured = [name for name in self.sides[1:] if self.speed(name)]
        return min(measured, key=lambda name: self.speeds(name)[0].ratio.estimate, default=None)

    def judgement(self, side: str) -> Judgement | None:
        """A model's judgement; the baseline's is on the absolute limits alone. None where it was not measured."""
        if side == names.BASELINE:
            return limits.judge_baseline(self.record.sides[side], self.record.summary, self.constraints)
        return self.judgements.get(side)

    def summary(self, candidate: str) -> CandidateSummary:
        """A candidate's numbers; empty where it was not measured."""
        return self.record.summary.candidates.get(candidate, CandidateSummary())

    def speeds(self, candidate: str) -> tuple[SpeedSummary, ...]:
        """A candidate's speed against the baseline, by load point."""
        return self.summary(candidate).speeds

    def speed(self, candidate: str) -> SpeedSummary | None:
        """At the first load point, on which speed is judged."""
        return next(iter(self.speeds(candidate)), None)

    def latencies(self, side: str) -> tuple[LatencySummary, ...]:
        """A model's latency by load point."""
        return self.record.summary.baseline_latencies if side == names.BASELINE else self.summary(side).latencies

    def color(self, side: str) -> int:
        """Which color stands for a model, in every figure and table: 0 the baseline, 1.. the candidates."""
        return 0 if side == names.BASELINE else 1 + self.candidates.index(side) % COLORS
