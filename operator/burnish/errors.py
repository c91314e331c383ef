"""Every way in which Burnish says no, in one closed list.

A `Reason` is part of the public interface: it stands in conditions, in `lastFailure.reason`, in events and in docs/reasons.md, and alerts
are written against it. So a reason may be added, never renamed, and each one says here whom it concerns (`Kind`) and whether trying again
can help. Code raises `BurnishError` with a reason; nothing else reaches the user.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import NamedTuple


class ExitCode(IntEnum):
    """Exit codes of `burnish run`; of several targets the highest counts."""

    OK = 0
    INVALID = 2
    REFUSED = 3
    UNDECIDED = 4
    FAILED = 5
    INTERRUPTED = 130


class StepExit(IntEnum):
    """Exit codes of one pipeline step, as a Job's podFailurePolicy reads them (sysexits.h)."""

    OK = 0
    NOT_RETRIABLE = 65
    RETRIABLE = 75


class Kind(StrEnum):
    """Whom a reason concerns."""

    RESULT = "Result"  # nothing is wrong; a verdict or an outcome
    INPUT = "Input"  # the manifest, the model or the data has to change
    FAILURE = "Failure"  # the machine, the network, the store or Burnish itself


class Reason(StrEnum):
    """The closed list of reasons (docs/reasons.md is generated from `REASONS`)."""

    # Results
    Published = "Published"
    BaselineServed = "BaselineServed"
    LimitsHeld = "LimitsHeld"
    NoLimits = "NoLimits"
    SourcePinned = "SourcePinned"
    ScoreBelowLimit = "ScoreBelowLimit"
    OutputsDiffer = "OutputsDiffer"
    NonFiniteOutputs = "NonFiniteOutputs"
    SlowerThanBaseline = "SlowerThanBaseline"
    SpeedupBelowLimit = "SpeedupBelowLimit"
    LatencyAboveLimit = "LatencyAboveLimit"
    Undecided = "Undecided"
    CandidateNotLoadable = "CandidateNotLoadable"
    CandidateNotBuildable = "CandidateNotBuildable"
    CandidateFailed = "CandidateFailed"
    CandidateSkipped = "CandidateSkipped"
    NoCandidate = "NoCandidate"
    SamplesOverlap = "SamplesOverlap"
    LimitBelowResolution = "LimitBelowResolution"
    # Where a resource on a cluster stands
    Resolving = "Resolving"
    Optimizing = "Optimizing"
    RollingOut = "RollingOut"
    Serving = "Serving"
    NotServing = "NotServing"
    PublishOnly = "PublishOnly"
    CurrentKept = "CurrentKept"
    Suspended = "Suspended"
    Settled = "Settled"
    # Input
    InvalidManifest = "InvalidManifest"
    SourceNotFound = "SourceNotFound"
    SourceForbidden = "SourceForbidden"
    SourceTooLarge = "SourceTooLarge"
    UnsafeSource = "UnsafeSource"
    DigestMismatch = "DigestMismatch"
    InvalidModel = "InvalidModel"
    UnsupportedFormat = "UnsupportedFormat"
    SourceNotTrusted = "SourceNotTrusted"
    ArchitectureMismatch = "ArchitectureMismatch"
    UnsupportedOperator = "UnsupportedOperator"
    UnsupportedOpset = "UnsupportedOpset"
    NonFiniteWeights = "NonFiniteWeights"
    UnsafeExternalData = "UnsafeExternalData"
    InputsMismatch = "InputsMismatch"
    InputsNotGeneratable = "InputsNotGeneratable"
    InvalidDataset = "InvalidDataset"
    LabelsMissing = "LabelsMissing"
    CalibrationMissing = "CalibrationMissing"
    TrainingDataMissing = "TrainingDataMissing"
    TrainingDiverged = "TrainingDiverged"
    PassNotApplicable = "PassNotApplicable"
    ResourcesNotEnforceable = "ResourcesNotEnforceable"
    NameConflict = "NameConflict"
    SecretNotFound = "SecretNotFound"
    # Failures
    SourceUnavailable = "SourceUnavailable"
    SourceTimeout = "SourceTimeout"
    SourceIncomplete = "SourceIncomplete"
    ExportNotEquivalent = "ExportNotEquivalent"
    BaselineNotLoadable = "BaselineNotLoadable"
    BaselineFailed = "BaselineFailed"
    ServerNotReady = "ServerNotReady"
    ServerLost = "ServerLost"
    OutOfMemory = "OutOfMemory"
    DeadlineExceeded = "DeadlineExceeded"
    StepKilled = "StepKilled"
    StoreNotReadable = "StoreNotReadable"
    StoreNotWritable = "StoreNotWritable"
    StoreFull = "StoreFull"
    StoreCorrupted = "StoreCorrupted"
    NotInStore = "NotInStore"
    DiskFull = "DiskFull"
    ToolchainUnavailable = "ToolchainUnavailable"
    LibpythonMissing = "LibpythonMissing"
    NoMatchingNode = "NoMatchingNode"
    QueueTimeout = "QueueTimeout"
    ImageNotPullable = "ImageNotPullable"
    PodNotAdmitted = "PodNotAdmitted"
    PodNotStarted = "PodNotStarted"
    JobFailed = "JobFailed"
    JobLost = "JobLost"
    StoreNotShared = "StoreNotShared"
    HardwareMismatch = "HardwareMismatch"
    RolloutTimedOut = "RolloutTimedOut"
    WrongAnswer = "WrongAnswer"
    Superseded = "Superseded"
    Interrupted = "Interrupted"
    InternalError = "InternalError"


class Facts(NamedTuple):
    """What docs and callers need to know of a reason."""

    kind: Kind
    retriable: bool
    meaning: str


_R, _I, _F = Kind.RESULT, Kind.INPUT, Kind.FAILURE
REASONS: dict[Reason, Facts] = {
    Reason.Published: Facts(_R, False, "The best accepted candidate is in the store, marked as served."),
    Reason.BaselineServed: Facts(
        _R, False, "No candidate was accepted; the converted, uncompressed model is published (onInfeasible: ServeBaseline)."
    ),
    Reason.LimitsHeld: Facts(_R, False, "Every limit of this kind holds, by the interval."),
    Reason.NoLimits: Facts(_R, False, "The manifest sets no limit of this kind, so nothing was judged."),
    Reason.SourcePinned: Facts(_R, False, "Source and datasets were read and pinned by digest."),
    Reason.ScoreBelowLimit: Facts(_R, False, "The score drops by more than constraints.score.maxDrop."),
    Reason.OutputsDiffer: Facts(
        _R, False, "The worst sample's cosine, or share of equal elements where an output is no float, is below constraints.equivalence.minCosine."
    ),
    Reason.NonFiniteOutputs: Facts(_R, False, "The candidate answers NaN or infinity where the baseline's answer is finite."),
    Reason.SlowerThanBaseline: Facts(_R, False, "The candidate's p50 exceeds the baseline's by more than constraints.maxSlowdownPercent."),
    Reason.SpeedupBelowLimit: Facts(_R, False, "The speedup is below constraints.minSpeedup."),
    Reason.LatencyAboveLimit: Facts(_R, False, "A latency percentile is above its limit in constraints.latency."),
    Reason.Undecided: Facts(_R, False, "The measurement could not tell on which side of a limit the candidate lies within its budget."),
    Reason.CandidateNotLoadable: Facts(_R, False, "The serving Triton did not load the candidate."),
    Reason.CandidateNotBuildable: Facts(_R, False, "The candidate could not be built, or its graph does not load in the runtime."),
    Reason.CandidateFailed: Facts(_R, False, "The candidate was loaded but failed while it answered requests."),
    Reason.CandidateSkipped: Facts(_R, False, "A candidate that does not suit the graph or the data was left out on purpose; the message says why."),
    Reason.NoCandidate: Facts(_R, False, "The passes produce no candidate for this graph and this data."),
    Reason.SamplesOverlap: Facts(_R, False, "Warning: calibration and evaluation data share samples, so the score is flattering."),
    Reason.LimitBelowResolution: Facts(
        _R, False, "Warning: with this many evaluation samples even a perfect candidate can't be shown to hold maxDrop."
    ),
    Reason.Resolving: Facts(_R, False, "The resolve Job pins source and data and looks up what is known."),
    Reason.Optimizing: Facts(_R, False, "Pipeline Jobs convert, compress, build and measure; status.targets[].step tells how far they are."),
    Reason.RollingOut: Facts(_R, False, "A new revision is starting; what served before serves until it answers."),
    Reason.Serving: Facts(_R, False, "The active revision answers inference."),
    Reason.NotServing: Facts(_R, False, "Nothing answers inference."),
    Reason.PublishOnly: Facts(_R, False, "serving.mode is PublishOnly: the artifact is in the store and nothing is served."),
    Reason.CurrentKept: Facts(_R, False, "No candidate was accepted; what served before is kept (onInfeasible: KeepCurrent)."),
    Reason.Suspended: Facts(_R, False, "spec.suspend: nothing is started; what serves stays as it is."),
    Reason.Settled: Facts(_R, False, "Nothing is left to do for this generation."),
    Reason.InvalidManifest: Facts(_I, False, "A field of the manifest is missing, unknown or wrong; the message names field and cure."),
    Reason.SourceNotFound: Facts(_I, False, "Nothing is found at a URI (404, no such file)."),
    Reason.SourceForbidden: Facts(_I, False, "A URI may not be read (401, 403, no permission)."),
    Reason.SourceTooLarge: Facts(_I, False, "A source or dataset exceeds the size limit."),
    Reason.UnsafeSource: Facts(
        _I, False, "A URI or a file in a source directory is of a kind that is never followed (link, device, path outside, redirect away from https)."
    ),
    Reason.DigestMismatch: Facts(_I, False, "The bytes found do not have the digest that the manifest pins."),
    Reason.InvalidModel: Facts(_I, False, "The source is no valid model: not the format, truncated, or refused by the format's checker."),
    Reason.UnsupportedFormat: Facts(_I, False, "The source's format is unknown or not the declared one."),
    Reason.SourceNotTrusted: Facts(_I, False, "A format that runs code when it is loaded, and spec.source.trusted is not set."),
    Reason.ArchitectureMismatch: Facts(_I, False, "The declared architecture or task is none that can be built, or the weights are not its own."),
    Reason.UnsupportedOperator: Facts(_I, False, "The model uses operators or domains that the runtime doesn't have; the message names them."),
    Reason.UnsupportedOpset: Facts(_I, False, "The model's opset or IR version is outside what the serving image loads."),
    Reason.NonFiniteWeights: Facts(_I, False, "Weights hold NaN or infinity."),
    Reason.UnsafeExternalData: Facts(_I, False, "External tensor data lies outside the model's directory, or is a link."),
    Reason.InputsMismatch: Facts(_I, False, "spec.inputs contradicts the model's own signature."),
    Reason.InputsNotGeneratable: Facts(_I, False, "There is no data for an input and none can be made up; the message says what to declare."),
    Reason.InvalidDataset: Facts(_I, False, "A dataset has the wrong names, shapes or dtypes, no samples, or holds Python objects."),
    Reason.LabelsMissing: Facts(_I, False, "The metric, or the loss of a pass that trains, needs labels and the data has none."),
    Reason.CalibrationMissing: Facts(_I, False, "An explicitly static quantization has no calibration data."),
    Reason.TrainingDataMissing: Facts(_I, False, "A pass trains and the manifest has no training data."),
    Reason.TrainingDiverged: Facts(_I, False, "The loss became NaN or infinite; the last good checkpoint is kept, the message says of which epoch."),
    Reason.PassNotApplicable: Facts(_I, False, "An explicitly requested pass finds nothing to do in this graph."),
    Reason.ResourcesNotEnforceable: Facts(_I, False, "This machine can't hold a server to the target's resources."),
    Reason.NameConflict: Facts(
        _I, False, "An object of a name that this resource needs belongs to somebody else; it is never touched. Rename one of them."
    ),
    Reason.SecretNotFound: Facts(_I, False, "A Secret that a Job mounts is not in the namespace; make it, the pod then goes on."),
    Reason.SourceUnavailable: Facts(_F, True, "The server of a URI answered with an error, or could not be reached."),
    Reason.SourceTimeout: Facts(_F, True, "A URI did not deliver in time."),
    Reason.SourceIncomplete: Facts(_F, True, "A download ended before its announced length."),
    Reason.ExportNotEquivalent: Facts(_F, False, "The converted model's outputs differ from the source's own by more than a preserving step may."),
    Reason.BaselineNotLoadable: Facts(_F, False, "The serving Triton did not load the baseline, so there is nothing to compare with."),
    Reason.BaselineFailed: Facts(_F, False, "The baseline was loaded but failed while it answered requests."),
    Reason.ServerNotReady: Facts(_F, True, "Triton did not come up in time."),
    Reason.ServerLost: Facts(_F, True, "Triton ended or restarted in the middle of a measurement; its samples are void."),
    Reason.OutOfMemory: Facts(_F, False, "A step or the server exceeded its memory limit."),
    Reason.DeadlineExceeded: Facts(_F, False, "A step exceeded its time limit."),
    Reason.StepKilled: Facts(_F, True, "A step's process was ended by a signal from outside."),
    Reason.StoreNotReadable: Facts(_F, True, "The artifact store can't be read."),
    Reason.StoreNotWritable: Facts(_F, True, "The artifact store can't be written."),
    Reason.StoreFull: Facts(_F, True, "The artifact store has no room."),
    Reason.StoreCorrupted: Facts(_F, False, "Bytes in the store do not have the digest they are filed under."),
    Reason.NotInStore: Facts(_F, False, "The store has no such artifact or result."),
    Reason.DiskFull: Facts(_F, True, "The work directory has no room."),
    Reason.ToolchainUnavailable: Facts(_F, True, "A toolchain's environment could not be made."),
    Reason.LibpythonMissing: Facts(_F, False, "The shared libpython that Triton's Python stub needs is not on this machine."),
    Reason.NoMatchingNode: Facts(_F, True, "No node has what a pod asks for; the message holds the scheduler's words. It starts when one appears."),
    Reason.QueueTimeout: Facts(_F, False, "A Job waited for a node longer than jobs.queueTimeout and was ended."),
    Reason.ImageNotPullable: Facts(_F, True, "An image can't be pulled; the message holds the kubelet's words."),
    Reason.PodNotAdmitted: Facts(_F, True, "The apiserver refuses a Job's or server's pods (quota, pod security); the message holds its words."),
    Reason.PodNotStarted: Facts(_F, True, "A pod's container can't be started; the message holds the kubelet's words."),
    Reason.JobFailed: Facts(_F, False, "A Job failed and its pod left no reason."),
    Reason.JobLost: Facts(_F, True, "A Job was deleted while it ran; another one is started."),
    Reason.StoreNotShared: Facts(_F, False, "The store's volume can be mounted by one node only, and the cluster has several."),
    Reason.HardwareMismatch: Facts(_F, False, "The artifact was built and measured on another class of hardware than the serving node's."),
    Reason.RolloutTimedOut: Facts(_F, False, "A new revision did not answer in time and was taken back; what served before goes on."),
    Reason.WrongAnswer: Facts(_F, False, "A server answers the golden request differently than the build did; it gets no traffic."),
    Reason.Superseded: Facts(_F, True, "Another run published the same build first, with other bytes; the next attempt measures those."),
    Reason.Interrupted: Facts(_F, True, "The run was ended by Ctrl-C or SIGTERM."),
    Reason.InternalError: Facts(_F, False, "A bug in Burnish; the step's log holds the traceback."),
}


class BurnishError(Exception):
    """Something the user has to know about, with a stable reason.

    The message says what is wrong and how to cure it, never holds a secret, and is one or a few lines of text.
    """

    def __init__(self, reason: Reason, message: str, *, field: str | None = None) -> None:
        """Args:
        reason: why, from the closed list.
        message: what is wrong and the cure.
        field: dotted path of the manifest's field that the message speaks of, e.g. `spec.datasets.calibration.uri`.
        """
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.field = field

    @property
    def retriable(self) -> bool:
        """True where the same call may succeed later without a change by the user."""
        return REASONS[self.reason].retriable

    @property
    def exit_code(self) -> ExitCode:
        """The exit code of a run that ends with this error."""
        return ExitCode.INVALID if REASONS[self.reason].kind is Kind.INPUT else ExitCode.FAILED

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message
