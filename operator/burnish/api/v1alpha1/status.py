"""The status of an `OptimizedModel`: the same object whether a cluster or `burnish run` filled it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from burnish.api.base import ApiModel
from burnish.api.scalars import Decimal, Digest, Quantity, SignedDecimal, Time
from burnish.errors import Reason

Text = Annotated[str, Field(max_length=1024)]
Message = Annotated[str, Field(max_length=32768)]
"""As long as a condition's message may be: the errors of a whole manifest fit."""
Count = Annotated[int, Field(ge=0)]
Generation = Annotated[int, Field(ge=0)]


class Verdict(StrEnum):
    """What a measurement says of a limit, a candidate or a target."""

    Accepted = "Accepted"
    Refused = "Refused"
    Undecided = "Undecided"


class Phase(StrEnum):
    """One word for people; programs read conditions."""

    Pending = "Pending"
    Running = "Running"
    Ready = "Ready"
    Refused = "Refused"
    Failed = "Failed"
    Suspended = "Suspended"


class State(StrEnum):
    """Where one target stands."""

    Pending = "Pending"
    Running = "Running"
    Published = "Published"
    Serving = "Serving"
    Refused = "Refused"
    Undecided = "Undecided"
    Failed = "Failed"


class Served(StrEnum):
    """What of a target's artifacts is marked as served."""

    Candidate = "Candidate"
    Baseline = "Baseline"


class Lookup(StrEnum):
    """Whether the store already had it."""

    Hit = "Hit"
    Miss = "Miss"


class ConditionType(StrEnum):
    """The condition types of the resource."""

    Ready = "Ready"
    Reconciling = "Reconciling"
    Stalled = "Stalled"
    SourceResolved = "SourceResolved"
    Optimized = "Optimized"
    ScoreGatePassed = "ScoreGatePassed"
    LatencyGatePassed = "LatencyGatePassed"
    ServingReady = "ServingReady"
    RolloutComplete = "RolloutComplete"
    DataIndependent = "DataIndependent"
    DataSufficient = "DataSufficient"


class ConditionStatus(StrEnum):
    """Kubernetes' three-valued truth."""

    true = "True"
    false = "False"
    unknown = "Unknown"


class Condition(ApiModel):
    """A Kubernetes condition."""

    type: ConditionType = Field(description="What the condition speaks of.")
    status: ConditionStatus = Field(description="True, False or Unknown.")
    reason: Reason = Field(description="From the closed list in docs/reasons.md.")
    message: Message = Field(default="", description="For people.")
    observed_generation: Generation = Field(description="Generation of the spec that this speaks of.")
    last_transition_time: Time = Field(description="RFC 3339, UTC: when status last changed.")


class SourceStatus(ApiModel):
    """What the source turned out to be."""

    digest: Digest = Field(description="Pinned digest.")
    size: Quantity = Field(description="Bytes.")
    format: Text = Field(description="Detected or declared format.")


class Cache(ApiModel):
    """What the store already had."""

    artifact: Lookup = Field(description="Hit: nothing was built.")
    measurement: Lookup = Field(description="Hit: nothing was measured; limits were judged from the record.")


class ArtifactStatus(ApiModel):
    """The artifact marked as served."""

    digest: Digest = Field(description="Digest of its OCI manifest.")
    uri: Text = Field(description="Where it is; `burnish pull` takes it.")
    size: Quantity = Field(description="Bytes of the loadable files, uncompressed.")
    stored_size: Quantity | None = Field(default=None, description="Bytes in the store, compressed.")
    served: Served = Field(description="Candidate or Baseline.")
    candidate: Text | None = Field(default=None, description="Which candidate it is.")
    score: SignedDecimal | None = Field(default=None, description="Its score on the evaluation data.")
    p99: Text | None = Field(default=None, description="Its latency at the client, first load point.")
    speedup: Text | None = Field(default=None, description="Baseline p50 / its p50, first load point; absent for the baseline.")
    shared_memory: Quantity | None = Field(default=None, description="Shared memory that one server of it needs for requests and answers.")


class BaselineStatus(ApiModel):
    """The source converted with no passes, at its declared precision."""

    digest: Digest = Field(description="Digest of its OCI manifest.")
    size: Quantity = Field(description="Bytes of the loadable files, uncompressed.")
    stored_size: Quantity | None = Field(default=None, description="Bytes in the store, compressed.")
    score: SignedDecimal | None = Field(default=None, description="Its score on the evaluation data.")


class ScoreStatus(ApiModel):
    """The candidate's score against the baseline's, on the same samples."""

    value: SignedDecimal = Field(description="The candidate's score.")
    drop: SignedDecimal = Field(description="Loss against the baseline in the metric's good direction (negative = better).")
    high: SignedDecimal = Field(description="Upper end of the one-sided 95 % interval of the drop.")
    samples: Count = Field(description="Evaluation samples.")
    verdict: Verdict | None = Field(default=None, description="Against constraints.score; absent without a limit.")


class ExportStatus(ApiModel):
    """The baseline's outputs against the source framework's own."""

    cosine: Decimal = Field(description="Worst cosine over outputs and samples.")
    max_absolute_error: Annotated[str, Field(max_length=32)] = Field(description="Largest difference.")


class EquivalenceStatus(ApiModel):
    """The candidate's outputs against the baseline's; worst output."""

    cosine: Decimal | None = Field(default=None, description="Median over samples; of float outputs.")
    worst_cosine: Decimal | None = Field(default=None, description="Worst sample; of float outputs. minCosine is judged on it.")
    max_absolute_error: Annotated[str, Field(max_length=32)] | None = Field(default=None, description="Largest difference; of float outputs.")
    exact_match: Decimal | None = Field(
        default=None, description="Share of equal elements in the worst sample; of outputs that are not floats, where minCosine is judged on it."
    )
    verdict: Verdict | None = Field(default=None, description="Against constraints.equivalence; absent without a limit.")


class LatencyStatus(ApiModel):
    """Latency at the client, and throughput."""

    p50: Text = Field(description="Median.")
    p95: Text = Field(description="95th percentile.")
    p99: Text = Field(description="99th percentile.")
    p99_high: Text | None = Field(default=None, description="Upper end of the 99 % interval of p99.")
    throughput_per_second: Text = Field(description="Samples per second.")


class SpeedupStatus(ApiModel):
    """Baseline p50 / candidate p50 at the client, paired in interleaved rounds."""

    p50: Text = Field(description="Estimate.")
    low: Text = Field(description="Lower end of the 99 % interval.")
    high: Text = Field(description="Upper end of the 99 % interval.")
    compute: Text | None = Field(default=None, description="From Triton's own counters, without transport.")


class MeasurementStatus(ApiModel):
    """One load point."""

    name: Text = Field(description="Load point.")
    rounds: Count = Field(description="Interleaved rounds that count.")
    baseline: LatencyStatus = Field(description="The baseline.")
    optimized: LatencyStatus | None = Field(default=None, description="The candidate that was judged; absent where there is none.")
    speedup: SpeedupStatus | None = Field(default=None, description="Candidate against baseline.")
    verdict: Verdict | None = Field(default=None, description="Of the limits on this load point.")


class CandidateStatus(ApiModel):
    """One candidate that was considered, with its numbers, served or not."""

    name: Text = Field(description="Candidate.")
    verdict: Verdict | None = Field(default=None, description="Absent where it was never measured.")
    reason: Reason = Field(description="Why.")
    message: Text = Field(default="", description="The numbers behind the reason.")
    size: Quantity | None = Field(default=None, description="Bytes of the loadable files.")
    score: SignedDecimal | None = Field(default=None, description="Score.")
    worst_cosine: Decimal | None = Field(default=None, description="Worst sample of the worst float output against the baseline.")
    exact_match: Decimal | None = Field(default=None, description="Share of equal elements in the worst sample, of outputs that are not floats.")
    speedup: Decimal | None = Field(default=None, description="Baseline p50 / candidate p50.")


class MeasuredOn(ApiModel):
    """Where the numbers hold."""

    node: Text = Field(description="Host name.")
    hardware_class: Text = Field(description="Architecture, vendor and ISA.")
    triton: Text = Field(description="Serving image and version.")


class JobReference(ApiModel):
    """The Job behind a target's result."""

    name: Text = Field(description="Its name; it changes with everything that the result depends on.")


class TargetStatus(ApiModel):
    """One target."""

    name: Text = Field(description="As in spec.targets.")
    state: State = Field(description="Where it stands.")
    reason: Reason | None = Field(default=None, description="Why it is in a final state.")
    message: Text = Field(default="", description="For people.")
    step: Text | None = Field(default=None, description="While Running: what is being done, from the pod itself.")
    job_ref: JobReference | None = Field(default=None, description="The Job that found this out.")
    cache: Cache | None = Field(default=None, description="What the store already had.")
    artifact: ArtifactStatus | None = Field(default=None, description="What is marked as served.")
    baseline: BaselineStatus | None = Field(default=None, description="What candidates are compared with.")
    score: ScoreStatus | None = Field(default=None, description="Score of the candidate that was judged.")
    export: ExportStatus | None = Field(default=None, description="How faithful the conversion is.")
    equivalence: EquivalenceStatus | None = Field(default=None, description="How far the candidate's outputs are from the baseline's.")
    measurements: Annotated[list[MeasurementStatus], Field(max_length=8)] = Field(default_factory=list, description="One entry per load point.")
    candidates: Annotated[list[CandidateStatus], Field(max_length=8)] = Field(
        default_factory=list, description="Every candidate that was considered, served or not."
    )
    measured_on: MeasuredOn | None = Field(default=None, description="Where the numbers hold.")
    revision: Text | None = Field(default=None, description="The revision that serves now.")
    replicas: Count | None = Field(default=None, description="Servers of that revision.")
    ready_replicas: Count | None = Field(default=None, description="Those that answer the golden request.")
    url: Text | None = Field(default=None, description="HTTP endpoint inside the cluster.")


class LastFailure(ApiModel):
    """The newest refusal or failure."""

    target: Text | None = Field(default=None, description="Absent where all targets are concerned.")
    step: Text | None = Field(default=None, description="Where it happened.")
    reason: Reason = Field(description="From the closed list in docs/reasons.md.")
    message: Message = Field(description="What is wrong and the cure.")
    time: Time = Field(description="RFC 3339, UTC.")


class Status(ApiModel):
    """What Burnish answers."""

    observed_generation: Generation = Field(default=1, description="Generation of the spec that all of this speaks of.")
    phase: Phase = Field(default=Phase.Pending, description="One word for people; programs read conditions.")
    conditions: Annotated[list[Condition], Field(max_length=16)] = Field(default_factory=list, description="One entry per type.")
    source: SourceStatus | None = Field(default=None, description="What the source turned out to be.")
    targets: Annotated[list[TargetStatus], Field(max_length=8)] = Field(default_factory=list, description="One entry per spec.targets.")
    replicas: Count | None = Field(default=None, description="Servers of the primary's active revision; the scale subresource reads it.")
    selector: Text | None = Field(default=None, description="Label selector of those; autoscalers read it.")
    url: Text | None = Field(default=None, description="HTTP endpoint of the primary inside the cluster.")
    grpc_url: Text | None = Field(default=None, alias="grpcURL", description="gRPC endpoint of the primary inside the cluster.")
    last_failure: LastFailure | None = Field(default=None, description="The newest refusal or failure.")
