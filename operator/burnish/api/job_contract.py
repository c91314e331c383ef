"""What pipeline steps hand to each other: the versioned request, the records and the result.

A step is a function of a work directory. It reads `request.json` and the records of earlier steps, writes its own folder
`steps/<nn>-<name>/`, and leaves one record there. On a cluster the steps run in different images, maybe of different releases: so each file
carries `contractVersion`, and a reader refuses one that it doesn't know.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from burnish import names
from burnish.api.base import ApiModel
from burnish.api.scalars import Digest
from burnish.api.v1alpha1.optimized_model import Constraints, Datasets, Input, Jobs, Load, Measurement, Serving, Source, Target
from burnish.api.v1alpha1.status import Lookup, SourceStatus, TargetStatus
from burnish.errors import Reason
from burnish.plugins.base import DataType, GraphFacts, HardwareClass, Signature, SourceOptions

Version = Literal[1]


class Record(ApiModel):
    """Base of everything written to a work directory or to the store."""

    contract_version: Version = names.CONTRACT_VERSION


# --- content in the store -------------------------------------------------------------------------------------------------------------


class FileRef(ApiModel):
    """One file of a stored tree."""

    path: str
    """Relative, `/`-separated, never absolute, never with `..`."""
    digest: Digest
    """SHA-256 of the file's own (uncompressed) bytes."""
    size: Annotated[int, Field(ge=0)]


class TreeRef(ApiModel):
    """A file, or a directory of files, pinned by digest."""

    digest: Digest
    """A single file: its SHA-256, as sha256sum prints it. A directory: SHA-256 of the canonical JSON of `files`."""
    is_directory: bool
    files: tuple[FileRef, ...]

    @property
    def size_bytes(self) -> int:
        """Sum of the files' sizes."""
        return sum(f.size for f in self.files)


class ArtifactRef(ApiModel):
    """A published artifact."""

    digest: Digest
    """Digest of the OCI manifest."""
    size_bytes: int
    """Loadable files, uncompressed."""
    stored_bytes: int
    """Their blobs, compressed."""
    content_digest: Digest
    """Digest over the loadable files' own bytes: equal content = identical model, whatever its metadata."""


class Bounds(ApiModel):
    """Sizes that one varying dimension may take."""

    axis: int
    min: int
    opt: int
    max: int
    multiple_of: int = 1


class ResolvedInput(ApiModel):
    """One input after the model's signature and spec.inputs were brought together."""

    name: str
    data_type: DataType
    shape: tuple[int, ...]
    bounds: tuple[Bounds, ...] = ()
    """One entry per varying axis for which sizes are known; axis 0 of a batched model is left to the batch size where it is not declared."""
    range: tuple[int, int] | None = None
    """Inclusive, integer inputs."""
    is_batched: bool = False
    """Axis 0 is the batch axis."""


class ArtifactConfig(Record):
    """`artifact.json` of an artifact directory, and the config blob of its OCI manifest. No time, no host: equal inputs give equal bytes.

    The directory holds `model/` (the loadable files, and nothing else), `golden.npz` (arrays `input:<name>`, `output:<name>`: one request
    and this artifact's own answer) and `golden.request` (the request as an HTTP body: a line of JSON, then the tensors).
    """

    name: str
    """`baseline`, or the candidate's name."""
    summary: str
    runtime: str
    backend: str
    model_file: str
    signature: Signature
    inputs: tuple[ResolvedInput, ...]
    source_digest: Digest
    artifact_key: str
    toolchain: str
    """Identity of the toolchain that built it."""
    hardware_class: HardwareClass
    steps: tuple[dict[str, object], ...] = ()
    """The lowered steps, in order: `{"kind": ..., "options": {...}}`."""


class SourceRecord(Record):
    """What a URI held when it was looked at (key: hash of uri, digest pin, refresh)."""

    uri: str
    tree: TreeRef
    fetched_at: str


class StudentRecord(ApiModel):
    """The model of its own that one of a target's passes starts from (`Pass.source`)."""

    source: SourceRecord
    format: str | None = None
    """What the content is; None where nothing looked at it."""


class Usage(ApiModel):
    """What a piece of work took."""

    seconds: float
    peak_memory_bytes: int | None = None
    """Most resident memory of its process (VmHWM), shared pages included; None where that can't be seen."""


class CandidateBuild(ApiModel):
    """One candidate of a build: built, or why not."""

    name: str
    summary: str = ""
    artifact: ArtifactRef | None = None
    usage: Usage | None = None
    """Of its passes."""
    start: str = ""
    """The training pass whose model the runtime's passes began with; empty: the export."""
    reason: Reason | None = None
    message: str = ""


class BuildRecord(Record):
    """What one artifact key makes on one hardware class: the baseline and every candidate."""

    artifact_key: str
    hardware_class: HardwareClass
    baseline: ArtifactRef
    candidates: tuple[CandidateBuild, ...]
    signature: Signature
    graph: GraphFacts
    source_format: str
    export: tuple[TensorDifference, ...] = ()
    """The baseline against the source framework's own outputs, per output."""
    usage: dict[str, Usage] = Field(default_factory=dict)
    """Step -> what its process took, of the steps that open the model."""
    original: ModelFacts | None = None
    """Of the model before the first training pass."""
    trained: tuple[TrainedPass, ...] = ()
    """The training passes, in order."""
    trained_with: str = ""
    """How many processes trained, and what they could reach."""
    created_at: str


class ModelFacts(ApiModel):
    """What a model is, whatever runs it."""

    parameters: int
    """Floating-point weights."""
    non_zeros: int
    """Of them, those that aren't zero."""
    macs: int | None = None
    """Multiply-accumulates of one sample (PyTorch's FLOP counter / 2); None where it counts none, and of an original that can't become PyTorch's."""
    size_bytes: int
    """As ONNX."""
    score: ScoreSummary | None = None
    """Of evaluation samples, against the original."""
    equivalence: EquivalenceSummary | None = None
    """Against the original."""


class TrainedPass(ApiModel):
    """What one training pass did."""

    type: str
    name: str
    """Of the candidate that it makes, and of its folder."""
    summary: str
    config: dict[str, object]
    file: str
    """Its ONNX, relative to the work directory."""
    facts: ModelFacts
    change: EquivalenceSummary | None = None
    """Against what the pass was given."""
    graph: GraphFacts
    usage: Usage
    losses: tuple[float, ...] = ()
    """Mean of each epoch."""
    notes: tuple[str, ...] = ()
    undetermined: tuple[str, ...] = ()
    """Operators that ran and whose result may differ from one run to the next."""


# --- measurement ----------------------------------------------------------------------------------------------------------------------


class TensorDifference(ApiModel):
    """How one output of one model differs from a reference's, per sample; never flattened over the batch."""

    output: str
    cosine: tuple[float, ...] = ()
    """Per sample, float outputs only; 1.0 where both are all zeros."""
    max_absolute_error: tuple[float, ...] = ()
    """Per sample, float outputs only."""
    reference_max: tuple[float, ...] = ()
    """Per sample: max |reference|, so that a relative bound can be judged."""
    exact_match: tuple[float, ...] = ()
    """Per sample: share of equal elements, integer, bool and string outputs only."""
    non_finite_samples: int = 0
    """Samples with a non-finite value where the reference is finite."""
    unlisted_samples: int = 0
    """Samples after those of the lists: counted in `non_finite_samples`, otherwise only their extremes are kept, below."""
    unlisted_cosine: float | None = None
    """Their lowest."""
    unlisted_absolute_error: float | None = None
    """Their largest."""
    unlisted_match: float | None = None
    """Their lowest share of equal elements."""


class Evaluated(ApiModel):
    """Per-sample scores of the baseline and of one candidate on the same samples, in order."""

    metric: str
    decode: str | None = None
    """None where the metric decodes nothing."""
    output: str
    baseline: tuple[float, ...]
    """Their mean is the score. Accuracy: 1.0 right, 0.0 wrong. Agreement: 1.0 wherever the baseline has an answer (0.0 where it answers NaN). Others:
    `burnish.measurement.scoring`."""
    candidate: tuple[float, ...]
    largest_loss: float | None = 1.0
    """The most that one sample's figure can lose; None where there is no bound."""


class SideTrace(ApiModel):
    """One model at one load point: what the client saw, per round."""

    latencies_ms: tuple[tuple[float, ...], ...]
    """Round -> latency of each request of the block, milliseconds."""
    throughput_per_second: tuple[float, ...]
    """Round -> samples answered per second in the block."""
    compute_us: float | None = None
    """Mean time in the backend per request from Triton's counters, microseconds."""


class LoadTrace(ApiModel):
    """All rounds at one load point. In each round every model gets one block, in shuffled order."""

    load: Load
    rounds: int
    voided_rounds: int = 0
    throttled_periods: int | None = None
    """CFS periods in which the server was throttled; None where it is held by affinity and never is."""
    block_seconds: float
    sides: dict[str, SideTrace]
    """Model name (`baseline` or a candidate's) -> trace."""
    ended: str = "decided"
    """Why no more rounds: decided, rounds, time."""


class Estimate(ApiModel):
    """A number with its interval."""

    estimate: float
    low: float
    high: float


class LatencySummary(ApiModel):
    """One model at one load point: pooled percentiles at the client with 99 % intervals, milliseconds."""

    load: str
    p50: Estimate
    p95: Estimate
    p99: Estimate
    throughput_per_second: float
    rounds: int
    """Rounds that count: with fewer than 20 nothing is judged."""
    requests: int
    """Requests behind the percentiles: a p99 of too few has no upper end."""


class SpeedSummary(ApiModel):
    """A candidate against the baseline at one load point."""

    load: str
    ratio: Estimate
    """Candidate p50 / baseline p50, paired per round, 99 % interval. The speedup is its inverse."""
    compute_speedup: float | None = None
    rounds: int
    """Rounds that count; of an identical candidate, which is not measured, as many as the baseline has."""


class ScoreSummary(ApiModel):
    """A candidate's score against the baseline's on the same samples."""

    metric: str = ""
    baseline: float
    candidate: float
    drop: float
    """The loss in the metric's good direction: of an error, its rise."""
    largest_loss: float | None = 1.0
    """As of `Evaluated`."""
    low: float
    """Lower one-sided 95 % bound of the drop."""
    high: float
    """Upper one-sided 95 % bound of the drop."""
    samples: int


class EquivalenceSummary(ApiModel):
    """A candidate's outputs against the baseline's; figures of the worst output."""

    cosine: float | None = None
    """Median over samples."""
    worst_cosine: float | None = None
    max_absolute_error: float | None = None
    exact_match: float | None = None
    """Integer, bool and string outputs: worst sample's share of equal elements."""
    non_finite_samples: int = 0
    samples: int = 0


class CandidateSummary(ApiModel):
    """Everything that judging a candidate needs: comparing these numbers with limits needs no library and no trace."""

    identical: bool = False
    """The candidate's loadable bytes are the baseline's."""
    latencies: tuple[LatencySummary, ...] = ()
    speeds: tuple[SpeedSummary, ...] = ()
    score: ScoreSummary | None = None
    equivalence: EquivalenceSummary | None = None


class Summary(ApiModel):
    """What a measurement amounts to, independent of any limit."""

    baseline_score: float | None = None
    samples: int = 0
    baseline_latencies: tuple[LatencySummary, ...] = ()
    candidates: dict[str, CandidateSummary] = Field(default_factory=dict)

    @property
    def largest_loss(self) -> float | None:
        """As of `Evaluated`."""
        return next((found.score.largest_loss for found in self.candidates.values() if found.score is not None), 1.0)


class SideFacts(ApiModel):
    """What was found out about one model apart from its speed."""

    artifact: ArtifactRef
    loaded: bool
    message: str = ""
    """Triton's own words where it was not loaded or failed."""
    failed: bool = False
    """Loaded, but did not answer a request."""
    peak_memory_bytes: int | None = None
    """High-water mark of the backend process under load, where it can be seen."""


class Environment(ApiModel):
    """Where a measurement was made; printed with every figure."""

    node: str
    hardware_class: HardwareClass
    cpu_model: str
    cpus: int
    kernel: str
    memory_bytes: int
    triton: str
    versions: dict[str, str]
    threads: int
    cpu_limit: str
    cpu_enforcement: str
    """affinity, cgroup v1 quota, cgroup v2 quota, container."""
    memory_limit: str


class MeasurementRecord(Record):
    """Everything that judging needs: changed limits are judged again from this record, without a server."""

    measurement_key: str
    method_version: int = names.METHOD_VERSION
    environment: Environment
    sides: dict[str, SideFacts]
    loads: tuple[LoadTrace, ...] = ()
    evaluated: dict[str, Evaluated] = Field(default_factory=dict)
    """Candidate -> per-sample scores."""
    baseline_scores: tuple[float, ...] = ()
    """Per-sample scores of the baseline, also where no candidate was scored."""
    equivalence: dict[str, tuple[TensorDifference, ...]] = Field(default_factory=dict)
    """Candidate -> one entry per output, against the baseline."""
    equivalence_samples: int = 0
    measured_at: str
    decided_for: Constraints
    """The limits under which measuring stopped."""
    allowed_seconds: float = 0.0
    """Time that there was for the rounds (measurement.timeout)."""
    summary: Summary = Field(default_factory=lambda: Summary())
    warnings: tuple[Warned, ...] = ()


class Warned(ApiModel):
    """Something worth knowing that stops nothing; becomes a condition and a line."""

    reason: Reason
    message: str


# --- requests and results -------------------------------------------------------------------------------------------------------------


class StepName(StrEnum):
    """The steps, in order."""

    resolve = "resolve"
    stage = "stage"
    export = "export"
    train = "train"
    compress = "compress"
    build = "build"
    measure = "measure"
    publish = "publish"


def step_folder(step: StepName) -> str:
    """The folder of the work directory that a step writes, relative to its root."""
    return f"steps/{list(StepName).index(step):02d}-{step.value}"


class ResolveRequest(Record):
    """What `resolve` gets: the whole object, and where the store is."""

    name: str
    namespace: str
    generation: int
    source: Source
    datasets: Datasets
    inputs: tuple[Input, ...]
    targets: tuple[Target, ...]
    constraints: Constraints
    measurement: Measurement
    jobs: Jobs
    base: str
    """Directory (absolute) that relative file: URIs start from."""
    hardware_class: HardwareClass | None = None
    """Of the machine that will build and measure. None on a cluster, where `resolve` runs anywhere: a record of any class is found, and `stage`,
    which runs where the target's hardware is, looks again."""
    serving: Serving = Serving()
    serving_image: str
    passes: dict[str, tuple[PassEntryJson, ...]]
    """Target -> passes as written, defaults filled in."""


class PassEntryJson(ApiModel):
    """A pass by name with its options as JSON (defaults filled in)."""

    name: str
    config: dict[str, object]


class Plan(StrEnum):
    """What a target still needs."""

    Nothing = "Nothing"  # artifact and measurement are known: judge from the record
    Measure = "Measure"  # artifacts are known
    Build = "Build"


class TargetPlan(ApiModel):
    """What resolve found out about one target."""

    target: str
    plan: Plan
    artifact_key: str
    measurement_key: str | None = None
    artifact: Lookup
    measurement: Lookup
    build: BuildRecord | None = None


class ResolveRecord(Record):
    """What everything later starts from."""

    source: SourceRecord
    calibration: SourceRecord | None = None
    evaluation: SourceRecord | None = None
    training: SourceRecord | None = None
    students: dict[str, StudentRecord] = Field(default_factory=dict)
    """Target -> the model of its own that one of its passes starts from, where one does."""
    format: str | None = None
    """As declared."""
    detected: str | None = None
    """What the content is; None where nothing looked at it."""
    targets: tuple[TargetPlan, ...]
    warnings: tuple[Warned, ...] = ()


class PipelineRequest(Record):
    """What the pipeline of one target gets."""

    name: str
    namespace: str
    generation: int
    target: Target
    plan: TargetPlan
    resolved: ResolveRecord
    options: SourceOptions = SourceOptions()
    inputs: tuple[Input, ...]
    datasets: Datasets
    passes: tuple[PassEntryJson, ...]
    constraints: Constraints
    measurement: Measurement
    serving: Serving = Serving()
    hardware_class: HardwareClass
    serving_image: str


class JobRequest(Record):
    """What a Job's first step gets on a cluster: `request.json` of the others is made from it."""

    resolve: ResolveRequest
    run_key: str
    """Names this run; `resolve` files its record under it, `stage` finds it there."""
    target: str | None = None
    """Of a pipeline Job."""


class StageRecord(Record):
    """Files are in `input/`."""

    source: str
    """Path of the model, relative to the work directory; empty where nothing is built."""
    calibration: str | None = None
    evaluation: str | None = None
    training: str | None = None
    student: str | None = None
    """The model of its own that one of the passes starts from."""
    finished: tuple[StepName, ...] = ()
    """Steps that an earlier attempt finished: their folders came from the store."""
    checkpoints: str | None = None
    """What an earlier attempt of the same work reached in `train`."""


class ExportRecord(Record):
    """`model.onnx` is in the step's folder, with the requests that `build` asks: it opens no dataset."""

    signature: Signature
    graph: GraphFacts
    format: str
    inputs: tuple[ResolvedInput, ...]
    keeps_axis: bool
    """A request has a leading axis for its samples."""


class TrainRecord(Record):
    """One ONNX per training pass is in the step's folder."""

    original: ModelFacts
    passes: tuple[TrainedPass, ...]
    trained_with: str
    """How many processes trained, and what they could reach."""


class Checkpoint(ApiModel):
    """What one training pass had reached."""

    position: int
    """Of the pass among those that train."""
    digest: Digest
    """Blob of the file."""


class FinishedStep(ApiModel):
    """A step that need not run again for the same request."""

    step: StepName
    tree: TreeRef
    """Its folder."""


class CheckpointRecord(Record):
    """What an artifact key's training has reached (store: `checkpoints`); empty once the work is done."""

    files: tuple[Checkpoint, ...] = ()
    request: Digest | None = None
    """Of the request that the steps are finished for: it decides more than the artifact key does."""
    steps: tuple[FinishedStep, ...] = ()


class CompressedCandidate(ApiModel):
    """One candidate's ONNX, or why there is none."""

    name: str
    summary: str
    file: str | None = None
    start: str = ""
    """As `CandidateBuild.start`."""
    reason: Reason | None = None
    message: str = ""
    usage: Usage | None = None


class CompressRecord(Record):
    """One ONNX per candidate is in the step's folder."""

    candidates: tuple[CompressedCandidate, ...]


class BuiltModel(ApiModel):
    """One artifact directory, or why there is none."""

    name: str
    summary: str = ""
    directory: str | None = None
    content_digest: Digest | None = None
    size_bytes: int = 0
    reason: Reason | None = None
    message: str = ""


class MeasureStepRecord(Record):
    """What `publish` files."""

    build: BuildRecord
    measurement: MeasurementRecord


class BuildStepRecord(Record):
    """`artifacts/<name>/` hold the artifacts, `repository/` the model repository that Triton loads."""

    models: tuple[BuiltModel, ...]
    """The baseline first."""
    inputs: tuple[ResolvedInput, ...] = ()
    difference: tuple[TensorDifference, ...] = ()
    """The baseline against the source framework's own outputs."""


class StepUsage(Record):
    """`usage.json` beside a step's record."""

    usage: Usage


class MeasurementIndex(Record):
    """What the store keeps in sight of a measurement: enough to judge any limits. The traces behind it are one blob."""

    measurement_key: str
    environment: Environment
    sides: dict[str, SideFacts]
    summary: Summary
    rounds: dict[str, int]
    """Load point -> rounds that count."""
    record: Digest
    """Blob of the whole `MeasurementRecord`, as JSON compressed with zstd."""
    measured_at: str
    decided_for: Constraints
    """The limits under which measuring stopped."""
    allowed_seconds: float = 0.0
    """Time that there was for the rounds (measurement.timeout)."""
    warnings: tuple[Warned, ...] = ()


class Failure(Record):
    """Why a step ended without a record."""

    step: str
    reason: Reason
    message: str
    field: str | None = None
    retriable: bool = False


class Result(Record):
    """What publish leaves: the target's status, ready to be shown."""

    status: TargetStatus
    build: BuildRecord
    measurement: MeasurementIndex
    """What was judged, as it was then: a later measurement under the same key must not change an old verdict's evidence."""
    constraints: Constraints
    """The limits that were judged."""
    warnings: tuple[Warned, ...] = ()


# --- termination messages: what a Job tells the controller, which reads no store --------------------------------------------------------


class TargetMessage(Record):
    """What is known of one target."""

    plan: Plan
    """What it still needs; Nothing = `status` is its result."""
    status: TargetStatus


class ResolveMessage(Record):
    """How `resolve` ended well."""

    source: SourceStatus
    targets: tuple[TargetMessage, ...]
    """In the order of spec.targets."""
    warnings: tuple[Warned, ...] = ()


class PublishMessage(Record):
    """How a pipeline ended well."""

    status: TargetStatus
    source_format: str = ""
    warnings: tuple[Warned, ...] = ()


class Message(Record):
    """The termination message of a container: one of three."""

    resolved: ResolveMessage | None = None
    published: PublishMessage | None = None
    failure: Failure | None = None
