"""The `OptimizedModel` resource: what the user writes (spec) and what Burnish answers (status).

The CRD and docs/reference.md are generated from these classes. Cross-field rules are validators beside the fields they speak about; each
message names what is wrong and the cure. A field that nothing acts on does not exist.
"""

from __future__ import annotations

import json
import math
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, create_model, field_validator, model_validator
from pydantic.alias_generators import to_camel

from burnish import names
from burnish.api.base import ApiModel, FieldError
from burnish.api.scalars import (
    KEYWORD_PATTERN,
    LABEL_KEY_PATTERN,
    LABEL_VALUE_PATTERN,
    LINE_PATTERN,
    NAMESPACE_PATTERN,
    SUBDOMAIN_PATTERN,
    Decimal,
    Digest,
    Duration,
    Quantity,
    quantity_value,
)
from burnish.api.v1alpha1.preprocess import Preprocess
from burnish.api.v1alpha1.status import Status
from burnish.errors import BurnishError
from burnish.plugins import base as plugins
from burnish.plugins import order, registry

Uri = Annotated[str, Field(min_length=1, pattern=LINE_PATTERN, max_length=2048, examples=["file:model.onnx", "https://example.com/model.onnx"])]
ShortName = Annotated[str, Field(pattern=names.NAME_PATTERN, max_length=12, examples=["cpu"])]
TensorName = Annotated[str, Field(min_length=1, pattern=LINE_PATTERN, max_length=256, examples=["image"])]

FormatName = StrEnum("FormatName", {name: name for name in registry.formats()})  # type: ignore[misc]
RuntimeName = StrEnum("RuntimeName", {name: name for name in registry.runtimes()})  # type: ignore[misc]
PassName = StrEnum("PassName", {name: name for name in registry.passes()})  # type: ignore[misc]


def _field_name(pass_name: str) -> str:
    return pass_name[0].lower() + pass_name[1:]


class _PassEntry(ApiModel):
    """One compression, with its options under the field of the same name."""

    type: PassName = Field(description="Which pass.")

    @model_validator(mode="after")
    def _options_match_type(self) -> _PassEntry:
        wanted = _field_name(self.type.value)
        for name in registry.passes():
            field = _field_name(name)
            if field != wanted and getattr(self, field) is not None:
                raise FieldError(field, f"belongs to type: {name}, but type is {self.type.value}; remove it or change type")
        return self

    @property
    def request(self) -> plugins.PassRequest:
        """The pass and its options, defaults filled in."""
        config = getattr(self, _field_name(self.type.value)) or registry.passes()[self.type.value].config()
        return plugins.PassRequest(name=self.type.value, config=config)


_OPTIONS: dict[str, Any] = {
    _field_name(name): (p.config | None, Field(default=None, description=f"Options of type: {name}.")) for name, p in registry.passes().items()
}
PassEntry: type[_PassEntry] = create_model("PassEntry", __base__=_PassEntry, __doc__=_PassEntry.__doc__, **_OPTIONS)


SecretName = Annotated[str, Field(pattern=SUBDOMAIN_PATTERN, max_length=253, examples=["reader"])]


class SecretReference(ApiModel):
    """A Secret in the resource's own namespace."""

    name: SecretName = Field(description="Its name.")


class ArchitectureArg(ApiModel):
    """One argument with which the architecture is built."""

    name: Annotated[str, Field(pattern=KEYWORD_PATTERN, max_length=64)] = Field(
        examples=["num_classes"], description="The keyword of the library's function; of a transformers class, the configuration's."
    )
    value: Annotated[str, Field(pattern=LINE_PATTERN, max_length=256)] = Field(
        examples=["10"], description="A number, true, false or text, written as text."
    )

    @property
    def scalar(self) -> plugins.Scalar:
        """The value with its type."""
        try:
            found = json.loads(self.value)
        except ValueError:
            return self.value
        return found if isinstance(found, bool | int | float) and math.isfinite(found) else self.value


class Source(ApiModel):
    """Where the trained model is."""

    uri: Uri = Field(
        description="https:, s3:, gs: (Google Cloud Storage), az: (az://container/path, Azure Storage), hf: (hf://org/name@revision, of the Hugging Face Hub) or pvc:, and where there is no cluster file: (relative to the manifest). A file; or a directory (HuggingFace; SavedModel; ONNX with "
        "external data): file: and pvc: of a folder, s3:, gs: and az: with a / at the end."
    )
    format: FormatName | None = Field(default=None, description="Only needed where it can't be detected from the content; a mismatch is an error.")
    architecture: Annotated[str, Field(pattern=LINE_PATTERN, max_length=256)] | None = Field(
        default=None,
        examples=["torchvision.models.resnet18", "timm.resnet50", "transformers.BertForSequenceClassification"],
        description="StateDict: the library's function or class that the weights belong to, of torchvision.models, timm or transformers.",
    )
    architecture_args: Annotated[list[ArchitectureArg], Field(max_length=32)] = Field(
        default_factory=list, description="StateDict: what the architecture was built with, where that is not the library's default."
    )
    task: plugins.Task | None = Field(
        default=None, description="HuggingFace: which head the model is loaded with; default the one that config.json, or modules.json, names."
    )
    signature: Annotated[str, Field(min_length=1, pattern=LINE_PATTERN, max_length=256)] | None = Field(
        default=None,
        examples=["serving_default"],
        description="SavedModel: which signature is served; default the only one, or serving_default.",
    )
    trusted: bool = Field(
        default=False,
        description="ExportedProgram and TorchScript run code when they are loaded. With true they are, in a step without network and credentials.",
    )
    digest: Digest | None = Field(default=None, description="Pin: sha256 of the file as sha256sum prints it; of a directory as Burnish reports it.")
    refresh: Annotated[str, Field(max_length=64)] | None = Field(
        default=None, description="Any text; change it to look at a remote URI again. Until then the bytes first found under the URI are used."
    )
    secret_ref: SecretReference | None = Field(
        default=None,
        description="Credentials for the source, the datasets and a source of a student; read by the resolve Job only. Keys: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, "
        "AWS_SESSION_TOKEN, AWS_REGION and AWS_ENDPOINT_URL for s3; GOOGLE_APPLICATION_CREDENTIALS (the JSON key of a service account) and STORAGE_EMULATOR_HOST (another endpoint) for gs; "
        "AZURE_STORAGE_ACCOUNT with AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN, and AZURE_STORAGE_SERVICE_ENDPOINT for az; token (a bearer token) for https and hf, HF_ENDPOINT "
        "for another Hub; uriPrefix: which URIs they may be sent to; and ca.crt: certificates (PEM) of authorities that are trusted beside the system's. "
        "On this machine the environment's credentials are used instead.",
    )

    @field_validator("architecture_args")
    @classmethod
    def _unique(cls, entries: list[Any]) -> list[Any]:
        return _unique_by_name(entries)

    @model_validator(mode="after")
    def _format_takes_options(self) -> Source:
        if self.format is not None:
            try:
                registry.formats()[self.format.value].check_options(self.options)
            except BurnishError as error:
                raise FieldError((error.field or "").removeprefix("spec.source."), error.message, error.reason) from error
        return self

    @property
    def options(self) -> plugins.SourceOptions:
        """What a format needs to know beside the bytes; only what is written is set."""
        given: dict[str, Any] = {
            "architecture": self.architecture,
            "architecture_args": {entry.name: entry.scalar for entry in self.architecture_args},
            "task": self.task,
            "signature": self.signature,
            "trusted": self.trusted,
        }
        return plugins.SourceOptions(**{name: value for name, value in given.items() if value})


class DynamicAxis(ApiModel):
    """Bounds of one varying dimension."""

    axis: Annotated[int, Field(ge=0, le=15)] = Field(description="Index into shape; that entry is -1.")
    min: Annotated[int, Field(ge=1)] = Field(default=1, description="Smallest size served.")
    opt: Annotated[int, Field(ge=1)] = Field(description="Size to measure and optimize for.")
    max: Annotated[int, Field(ge=1)] = Field(description="Largest size served.")
    multiple_of: Annotated[int, Field(ge=1)] = Field(default=1, description="Sizes are multiples of this.")

    @model_validator(mode="after")
    def _ordered(self) -> DynamicAxis:
        if not self.min <= self.opt <= self.max:
            raise FieldError("opt", f"min <= opt <= max does not hold ({self.min}, {self.opt}, {self.max}); order the three values")
        if any(v % self.multiple_of for v in (self.opt, self.max)):
            raise FieldError(
                "multipleOf", f"opt and max must be multiples of {self.multiple_of}, not {self.opt} and {self.max}; change one of the three"
            )
        return self


class IntegerRange(ApiModel):
    """Inclusive bounds of an integer input, so that requests can be made up without data."""

    min: int = Field(description="Smallest value.")
    max: int = Field(description="Largest value.")

    @model_validator(mode="after")
    def _ordered(self) -> IntegerRange:
        if self.min > self.max:
            raise FieldError("min", f"{self.min} exceeds max {self.max}; swap them")
        return self


class Input(ApiModel):
    """What the model itself does not tell about one of its inputs."""

    name: TensorName = Field(description="The input's name in the model.")
    data_type: plugins.DataType | None = Field(default=None, description="Checked against the model where it declares one.")
    shape: Annotated[list[Annotated[int, Field(ge=-1)]], Field(max_length=16)] | None = Field(
        default=None, examples=[[-1, 3, 224, 224]], description="-1 where the size varies."
    )
    dynamic: Annotated[list[DynamicAxis], Field(max_length=16)] = Field(default_factory=list, description="Bounds of the varying dimensions.")
    range: IntegerRange | None = Field(default=None, description="Bounds of an integer input.")

    @model_validator(mode="after")
    def _axes_are_dynamic(self) -> Input:
        axes = [d.axis for d in self.dynamic]
        if len(axes) != len(set(axes)):
            raise FieldError("dynamic", "names an axis twice; keep one entry per axis")
        if self.shape is not None:
            for position, axis in enumerate(axes):
                if axis >= len(self.shape):
                    raise FieldError(f"dynamic[{position}].axis", f"{axis} is outside shape {self.shape}; axes count from 0")
                if self.shape[axis] != -1:
                    raise FieldError(f"dynamic[{position}].axis", f"{axis} has the fixed size {self.shape[axis]} in shape; write -1 there")
        if any(n == 0 for n in self.shape or []):
            raise FieldError("shape", "holds a 0; write the size, or -1 where it varies")
        return self


class Metric(StrEnum):
    """How answers are scored."""

    Accuracy = "Accuracy"
    Agreement = "Agreement"
    F1 = "F1"
    MSE = "MSE"
    MAE = "MAE"
    CosineSimilarity = "CosineSimilarity"

    @property
    def is_error(self) -> bool:
        """Less is better."""
        return self in (Metric.MSE, Metric.MAE)

    @property
    def compares_values(self) -> bool:
        """The output itself is compared with `label`, nothing is decoded."""
        return self.is_error or self is Metric.CosineSimilarity

    @property
    def needs_labels(self) -> bool:
        """Compares with `label`, not with the baseline."""
        return self is not Metric.Agreement


class Decode(StrEnum):
    """How an output tensor becomes an answer."""

    ArgMax = "ArgMax"
    CTC = "CTC"
    Threshold = "Threshold"
    Cosine = "Cosine"


Samples = Annotated[int, Field(ge=1, le=1_000_000)]


_KINDS = (
    "npz with one array per input, (samples, ...), named as the inputs; a folder or archive (tar, tar.gz, tar.zst, zip) of npz files or of folders of images; "
    "or JSONL or CSV with `text`"
)


class Calibration(ApiModel):
    """Representative inputs for static quantization."""

    uri: Uri = Field(examples=["file:calibration.npz"], description=f"{_KINDS}.")
    digest: Digest | None = Field(default=None, description="Pin: sha256 of the file.")
    samples: Samples = Field(default=256, description="At most this many, from the start.")


class Evaluation(ApiModel):
    """Held-out inputs on which the candidate is judged."""

    uri: Uri = Field(
        examples=["file:evaluation.npz"],
        description=f"{_KINDS}; with `label` where the metric needs it.",
    )
    digest: Digest | None = Field(default=None, description="Pin: sha256 of the file.")
    samples: Samples | None = Field(default=None, description="At most this many, from the start; default all.")
    metric: Metric = Field(
        description="Accuracy: share of decoded answers equal to `label`. Agreement: share of decoded answers equal to the baseline's (with decode: Threshold "
        "the mean overlap, IoU). F1: mean over the classes that stand in `label`. MSE, MAE: mean squared, or absolute, distance from `label`; less is better. "
        "CosineSimilarity: mean cosine to `label`."
    )
    decode: Decode | None = Field(
        default=None,
        description="How an output becomes an answer. ArgMax over the last axis (the default). Agreement also: CTC (best path, blank 0, the whole line is one "
        "answer), Threshold (the elements at or above threshold), Cosine (the whole output). MSE, MAE and CosineSimilarity decode nothing.",
    )
    output: TensorName | None = Field(default=None, description="Which output is decoded; default the model's first.")
    threshold: Decimal | None = Field(
        default=None, examples=["0.3"], description="decode: Threshold. Elements of the output at or above it are found; default 0.5."
    )
    agreement_cosine: Decimal | None = Field(
        default=None, examples=["0.995"], description="decode: Cosine. Outputs whose cosine is at or above it count as the same answer; default 0.99."
    )

    @model_validator(mode="after")
    def _decode_fits_metric(self) -> Evaluation:
        fitting = decodes_of(self.metric)
        if self.decode is not None and self.decode not in fitting:
            wrong = "needs decode: ArgMax; write that" if fitting else "decodes nothing; remove it"
            raise FieldError("decode", f"metric {self.metric.value} {wrong}, or use metric: Agreement with {self.decode.value}")
        for name, owner in (("threshold", Decode.Threshold), ("agreement_cosine", Decode.Cosine)):
            if getattr(self, name) is not None and self.decode is not owner:
                raise FieldError(to_camel(name), f"belongs to decode: {owner.value}; write that, or remove it")
        if self.agreement_cosine is not None and float(self.agreement_cosine) > 1:
            raise FieldError("agreementCosine", f'no cosine reaches {self.agreement_cosine}; write a decimal between 0 and 1, such as "0.99"')
        return self

    @property
    def decoding(self) -> Decode | None:
        """How outputs are decoded; None where they are not."""
        return self.decode or next(iter(decodes_of(self.metric)), None)


def decodes_of(metric: Metric) -> tuple[Decode, ...]:
    """What can be decoded for a metric, its default first."""
    if metric is Metric.Agreement:
        return tuple(Decode)
    return () if metric.compares_values else (Decode.ArgMax,)


class Loss(StrEnum):
    """What training makes small."""

    CrossEntropy = "CrossEntropy"
    MeanSquaredError = "MeanSquaredError"


class TrainingData(ApiModel):
    """Samples that passes train on."""

    uri: Uri = Field(examples=["file:training.npz"], description=f"{_KINDS}; with `label` where a pass learns from labels.")
    digest: Digest | None = Field(default=None, description="Pin: sha256 of the file.")
    samples: Samples | None = Field(default=None, description="At most this many, from the start; default all.")
    output: TensorName | None = Field(default=None, description="Which output is learned; default the evaluation's, else the model's first.")
    loss: Loss | None = Field(
        default=None,
        description="CrossEntropy: `label` holds the index of the right class, the output a figure per class. MeanSquaredError: `label` holds what the output "
        "shall be. Default: as the labels are; without labels, CrossEntropy where evaluation decodes by ArgMax.",
    )


class Datasets(ApiModel):
    """Data for calibration, for training and for judging; they should not share samples."""

    calibration: Calibration | None = Field(default=None, description="Representative inputs for static quantization.")
    evaluation: Evaluation | None = Field(default=None, description="Held-out inputs on which candidates are judged; constraints.score needs it.")
    training: TrainingData | None = Field(default=None, description="What passes train on; those that train need it.")
    preprocess: Preprocess | None = Field(default=None, description="How images become the model's input; needed where the data are images.")

    @model_validator(mode="after")
    def _prepares_something(self) -> Datasets:
        if self.preprocess is not None and self.calibration is None and self.evaluation is None and self.training is None:
            raise FieldError("preprocess", "stands without data that it could prepare; add evaluation, calibration or training data, or remove it")
        return self


class Resources(ApiModel):
    """What the serving container gets, and so the measuring one."""

    cpu: Quantity = Field(default="1", examples=["1", "500m"], description="CPU limit, and the thread count (rounded up).")
    memory: Quantity = Field(default="2Gi", examples=["1Gi"], description="Memory limit.")
    cpu_request: Quantity | None = Field(
        default=None, examples=["100m"], description="CPU that the scheduler reserves; default cpu. On Job and server alike, clusters only."
    )

    @field_validator("cpu")
    @classmethod
    def _some_cpu(cls, value: str) -> str:
        if not quantity_value("0.01") <= quantity_value(value) <= 1024:
            raise ValueError(f'{value} cores can\'t be held; write a quantity between 10m and 1024, such as cpu: "1"')
        return value

    @field_validator("memory")
    @classmethod
    def _some_memory(cls, value: str) -> str:
        if quantity_value(value) < 64 * 2**20:
            raise ValueError(f"{value} is too little for Triton itself; write at least 64Mi, such as memory: 2Gi")
        return value

    @model_validator(mode="after")
    def _request_within_limit(self) -> Resources:
        if self.cpu_request is not None and not 0 < quantity_value(self.cpu_request) <= quantity_value(self.cpu):
            raise FieldError("cpuRequest", f"{self.cpu_request} is not between 0 and the limit cpu: {self.cpu}; lower it, or leave it out")
        return self

    @property
    def threads(self) -> int:
        """Threads of a model instance: the CPU limit, rounded up."""
        return max(1, math.ceil(quantity_value(self.cpu)))


class AcceleratorType(StrEnum):
    """What computes."""

    CPU = "CPU"
    GPU = "GPU"


LabelKey = Annotated[str, Field(pattern=LABEL_KEY_PATTERN, max_length=317, examples=["node.kubernetes.io/instance-type"])]
LabelValue = Annotated[str, Field(pattern=LABEL_VALUE_PATTERN, max_length=63, examples=["c7i.large"])]


class NodeLabel(ApiModel):
    """A label that a node must have."""

    name: LabelKey = Field(description="Key.")
    value: LabelValue = Field(description="Value.")


class Accelerator(ApiModel):
    """The hardware that builds, measures and serves: Job and server get the same node affinity."""

    type: AcceleratorType = Field(default=AcceleratorType.CPU, description="CPU or GPU.")
    product: LabelValue | None = Field(
        default=None, examples=["NVIDIA-A10"], description="GPU: the node's label nvidia.com/gpu.product, as NVIDIA's feature discovery sets it."
    )
    count: Annotated[int, Field(ge=1, le=64)] | None = Field(default=None, description="GPU: how many; default 1.")
    resource: LabelKey | None = Field(
        default=None, examples=["nvidia.com/gpu"], description="GPU: the extended resource to ask for; default nvidia.com/gpu."
    )
    node_labels: Annotated[list[NodeLabel], Field(max_length=16)] = Field(default_factory=list, description="Labels that the node must have.")

    @model_validator(mode="after")
    def _gpu_fields(self) -> Accelerator:
        if self.type is AcceleratorType.CPU:
            for field in ("product", "count", "resource"):
                if getattr(self, field) is not None:
                    raise FieldError(field, "belongs to type: GPU, but type is CPU; remove it or change type")
        return self

    @property
    def gpus(self) -> int:
        """How many are asked for; 0 for a target of CPUs."""
        return (self.count or 1) if self.type is AcceleratorType.GPU else 0


class TolerationOperator(StrEnum):
    """How a toleration matches."""

    Exists = "Exists"
    Equal = "Equal"


class TaintEffect(StrEnum):
    """What a taint does to pods that don't tolerate it."""

    NoSchedule = "NoSchedule"
    PreferNoSchedule = "PreferNoSchedule"
    NoExecute = "NoExecute"


class Toleration(ApiModel):
    """A taint that this target's pods accept."""

    key: LabelKey = Field(description="The taint's key.")
    operator: TolerationOperator = Field(default=TolerationOperator.Equal, description="Exists, or Equal to value.")
    value: LabelValue | None = Field(default=None, description="The taint's value, with operator: Equal.")
    effect: TaintEffect | None = Field(default=None, description="The taint's effect; absent = any.")

    @model_validator(mode="after")
    def _value_with_equal(self) -> Toleration:
        if (self.operator is TolerationOperator.Equal) != (self.value is not None):
            raise FieldError("value", "stands with operator: Equal, and only there; add it or write operator: Exists")
        return self


class Pods(ApiModel):
    """What a target's pods, Job and server alike, need to be let onto a node. A closed list: no volumes, variables or annotations."""

    tolerations: Annotated[list[Toleration], Field(max_length=16)] = Field(default_factory=list, description="Taints that the pods accept.")
    runtime_class_name: SecretName | None = Field(default=None, examples=["nvidia"], description="RuntimeClass.")
    priority_class_name: SecretName | None = Field(default=None, examples=["low"], description="PriorityClass.")
    image_pull_secrets: Annotated[list[SecretReference], Field(max_length=8)] = Field(
        default_factory=list, description="Secrets with which Burnish's images are pulled."
    )


class Target(ApiModel):
    """One runtime on one kind of hardware; it has its own artifact, and on a cluster its own server and Service."""

    name: ShortName = Field(description="Unique in the manifest.")
    runtime: RuntimeName = Field(description="What executes the model inside Triton.")
    accelerator: Accelerator = Field(default_factory=Accelerator, description="Hardware that builds, measures and serves. Without a cluster: CPU.")
    resources: Resources = Field(default_factory=Resources, description="Resources of the serving container.")
    passes: Annotated[list[PassEntry], Field(max_length=8)] | None = Field(default=None, description="Overrides spec.passes for this target.")
    replicas: Annotated[int, Field(ge=0, le=1000)] | None = Field(
        default=None, description="Servers of this target, where it is not the primary (that one has serving.replicas); default 1."
    )
    pods: Pods = Field(default_factory=Pods, description="What its pods need to be let onto a node.")

    @model_validator(mode="after")
    def _runtime_has_gpus(self) -> Target:
        if self.accelerator.type is AcceleratorType.GPU and not registry.runtimes()[self.runtime.value].has_gpus:
            able = " or ".join(name for name, runtime in registry.runtimes().items() if runtime.has_gpus)
            raise FieldError("accelerator.type", f"{self.runtime.value} computes on CPUs here; use runtime: {able} for a GPU, or type: CPU")
        return self


class Load(ApiModel):
    """A load point to measure at."""

    name: ShortName = Field(examples=["single"], description="Unique in the manifest.")
    batch_size: Annotated[int, Field(ge=1, le=1024)] = Field(default=1, description="Samples per request.")
    concurrency: Annotated[int, Field(ge=1, le=256)] = Field(default=1, description="Requests in flight.")


class Measurement(ApiModel):
    """How latency is measured."""

    loads: Annotated[list[Load], Field(min_length=1, max_length=8)] = Field(
        default_factory=lambda: [Load(name="single")],
        description="Speed is judged on the first. Without any: one named single, batch size 1, concurrency 1.",
    )
    timeout: Duration = Field(
        default="5m", description="Time for all latency rounds of a target; when it is spent, what is not decided is Undecided."
    )

    @field_validator("loads")
    @classmethod
    def _unique(cls, loads: list[Load]) -> list[Load]:
        return _unique_by_name(loads)


class ScoreLimit(ApiModel):
    """Limit on the loss in the metric's good direction."""

    max_drop: Decimal = Field(description="In the metric's own unit; the upper end of the one-sided paired 95 % interval must not exceed it.")


class EquivalenceLimit(ApiModel):
    """Limit on how far the candidate's outputs may be from the baseline's."""

    min_cosine: Decimal = Field(
        examples=["0.99"],
        description="Judged on the worst sample of the worst output; of outputs that are not floats, on the share of equal elements.",
    )

    @field_validator("min_cosine")
    @classmethod
    def _is_cosine(cls, value: str) -> str:
        if not 0 <= float(value) <= 1:
            raise ValueError(f'a cosine of {value} is out of reach; write a decimal between 0 and 1, such as minCosine: "0.99"')
        return value


class Percentile(StrEnum):
    """A latency percentile."""

    P50 = "P50"
    P95 = "P95"
    P99 = "P99"


class LatencyLimit(ApiModel):
    """Absolute limit on a latency percentile at the client, judged on the upper end of its interval."""

    load: ShortName = Field(examples=["single"], description="Name of an entry of measurement.loads.")
    percentile: Percentile = Field(description="P50, P95 or P99.")
    max: Duration = Field(examples=["12ms"], description="Largest acceptable latency.")


class OnUndecided(StrEnum):
    """What an undecided verdict counts as."""

    Refuse = "Refuse"
    Accept = "Accept"


class OnInfeasible(StrEnum):
    """What happens when no candidate is accepted."""

    Fail = "Fail"
    KeepCurrent = "KeepCurrent"
    ServeBaseline = "ServeBaseline"


class Constraints(ApiModel):
    """What a candidate has to hold to replace the baseline."""

    score: ScoreLimit | None = Field(default=None, description="Limit on the loss of score; needs datasets.evaluation.")
    equivalence: EquivalenceLimit | None = Field(default=None, description="Limit on how far outputs may differ.")
    max_slowdown_percent: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=3, description="Non-inferiority margin on p50: accepted when the interval lies below, refused when above."
    )
    min_speedup: Decimal | None = Field(
        default=None, examples=["1.2"], description="Baseline p50 / candidate p50; the interval's lower end must reach it."
    )
    latency: Annotated[list[LatencyLimit], Field(max_length=24)] = Field(default_factory=list, description="Absolute limits.")
    on_undecided: OnUndecided = Field(default=OnUndecided.Refuse, description="Refuse or Accept what the measurement could not decide.")
    on_infeasible: OnInfeasible = Field(
        default=OnInfeasible.Fail,
        description="Fail; ServeBaseline: the converted, uncompressed model; KeepCurrent: what serves now is the result (where nothing serves yet, Fail).",
    )


class Jobs(ApiModel):
    """Limits on the work itself."""

    deadline: Duration = Field(default="1h", description="Time limit for all steps of one target together, from their start on a node.")
    queue_timeout: Duration = Field(default="24h", description="Longest wait for a node with room; clusters only.")
    backoff_limit: Annotated[int, Field(ge=0, le=10)] = Field(default=1, description="How often a retriable failure is tried again; clusters only.")


class ServingMode(StrEnum):
    """What happens to a published artifact."""

    Triton = "Triton"
    PublishOnly = "PublishOnly"


class DynamicBatching(ApiModel):
    """Triton puts requests together; measured as it is served."""

    max_batch_size: Annotated[int, Field(ge=1, le=1024)] = Field(default=8, description="Most samples of one batch.")
    preferred_batch_sizes: Annotated[list[Annotated[int, Field(ge=1, le=1024)]], Field(max_length=8)] = Field(
        default_factory=list, examples=[[4, 8]], description="Sizes at which a batch is sent at once."
    )
    max_queue_delay: Duration | None = Field(default=None, examples=["500us"], description="Longest wait for more requests; default none.")

    @model_validator(mode="after")
    def _preferred_within_max(self) -> DynamicBatching:
        if any(size > self.max_batch_size for size in self.preferred_batch_sizes):
            raise FieldError("preferredBatchSizes", f"holds a size above maxBatchSize ({self.max_batch_size}); raise that, or remove the size")
        return self


class Serving(ApiModel):
    """How the result is served."""

    mode: ServingMode = Field(default=ServingMode.Triton, description="Triton, or PublishOnly: the artifact is in the store and nothing is served.")
    primary: ShortName | None = Field(default=None, description="The target that the Service of the resource's own name fronts; default the first.")
    replicas: Annotated[int, Field(ge=0, le=1000)] = Field(default=1, description="Servers of the primary; the scale subresource acts here.")
    dynamic_batching: DynamicBatching | None = Field(default=None, description="Triton's dynamic batching, for models with a batch axis.")


class Spec(ApiModel):
    """What the user wants."""

    source: Source = Field(description="Where the trained model is.")
    inputs: Annotated[list[Input], Field(max_length=32)] = Field(default_factory=list, description="Only where the source doesn't tell.")
    datasets: Datasets = Field(default_factory=Datasets, description="Data for calibration and for judging.")
    passes: Annotated[list[PassEntry], Field(max_length=8)] = Field(default_factory=list, description="In order; none = convert only.")
    targets: Annotated[list[Target], Field(min_length=1, max_length=8)] = Field(description="Runtimes and hardware; each has its own artifact.")
    measurement: Measurement = Field(default_factory=Measurement, description="How latency is measured.")
    constraints: Constraints = Field(default_factory=Constraints, description="What a candidate has to hold to replace the baseline.")
    serving: Serving = Field(default_factory=Serving, description="How the result is served; clusters only, but for dynamicBatching.")
    jobs: Jobs = Field(default_factory=Jobs, description="Limits on the work itself.")
    suspend: bool = Field(default=False, description="Start nothing and end running Jobs; what serves stays as it is. Clusters only.")

    @field_validator("inputs", "targets")
    @classmethod
    def _unique(cls, entries: list[Any]) -> list[Any]:
        return _unique_by_name(entries)

    @model_validator(mode="after")
    def _limits_have_what_they_need(self) -> Spec:
        loads = [load.name for load in self.measurement.loads]
        for position, limit in enumerate(self.constraints.latency):
            if limit.load not in loads:
                known = ", ".join(loads)
                raise FieldError(
                    f"constraints.latency[{position}].load",
                    f"spec.measurement.loads has no {limit.load!r} (it has {known}); use one of them or add it there",
                )
        if self.constraints.score and not self.datasets.evaluation:
            raise FieldError("constraints.score", "needs spec.datasets.evaluation; add evaluation data with a metric, or remove the limit")
        names_of_targets = [target.name for target in self.targets]
        if self.serving.primary is not None and self.serving.primary not in names_of_targets:
            known = ", ".join(names_of_targets)
            raise FieldError("serving.primary", f"spec.targets has no {self.serving.primary!r} (it has {known}); use one of them")
        for position, target in enumerate(self.targets):
            if target.replicas is not None and target.name == self.primary.name:
                raise FieldError(f"targets[{position}].replicas", "belongs to targets that are not the primary; write spec.serving.replicas instead")
        return self

    @model_validator(mode="after")
    def _answers_are_decoded(self) -> Spec:
        evaluation = self.datasets.evaluation
        if evaluation is None or evaluation.decoding is not None:
            return self
        for position, target in enumerate(self.targets):
            for number, request in enumerate(self.passes_of(target)):
                if registry.passes()[request.name].reads_answers(request.config):
                    where = f"{'passes' if target.passes is None else f'targets[{position}].passes'}[{number}]"
                    raise FieldError(
                        where,
                        f"asks how many answers change, and metric {evaluation.metric.value} decodes none; use metric: Agreement in datasets.evaluation "
                        "(decode: Cosine for embeddings), or remove accuracyControl",
                    )
        return self

    @model_validator(mode="after")
    def _runtimes_meet_passes(self) -> Spec:
        for position, target in enumerate(self.targets):
            runtime = registry.runtimes()[target.runtime.value]
            found = order.objection(
                self.passes_of(target),
                runtime,
                has_calibration=self.datasets.calibration is not None,
                has_training=self.datasets.training is not None,
            )
            if found is not None:
                where = f"{'passes' if target.passes is None else f'targets[{position}].passes'}[{found.position}]"
                raise FieldError(f"{where}.{found.field}" if found.field else where, found.message, found.reason)
        return self

    @property
    def uris(self) -> tuple[str, ...]:
        """Everything that is fetched: the source, the datasets, and the models that passes start from."""
        data = (self.datasets.calibration, self.datasets.evaluation, self.datasets.training)
        own = [order.source_of(self.passes_of(target)) for target in self.targets]
        return (self.source.uri, *(d.uri for d in data if d is not None), *(found[1].uri for found in own if found is not None))

    @property
    def primary(self) -> Target:
        """The target that the Service of the resource's own name fronts."""
        return next((target for target in self.targets if target.name == self.serving.primary), self.targets[0])

    def replicas_of(self, target: Target) -> int:
        """How many servers a target shall have."""
        if target.name == self.primary.name:
            return self.serving.replicas
        return 1 if target.replicas is None else target.replicas

    def passes_of(self, target: Target) -> list[plugins.PassRequest]:
        """The passes of one target, defaults filled in."""
        return [entry.request for entry in (self.passes if target.passes is None else target.passes)]


class Metadata(ApiModel):
    """The part of Kubernetes' metadata that Burnish reads; other fields are accepted and ignored."""

    model_config = ApiModel.model_config | {"extra": "ignore"}

    name: Annotated[str, Field(pattern=names.NAME_PATTERN, max_length=40)] = Field(
        examples=["digits"], description="DNS-1035 label: it becomes the name of a Service."
    )
    namespace: Annotated[str, Field(pattern=NAMESPACE_PATTERN, max_length=63, examples=["models"])] = Field(
        default="default", description="Part of the path in the store."
    )
    generation: Annotated[int, Field(ge=0)] = Field(default=1, description="Set by the apiserver.")
    uid: Annotated[str, Field(max_length=64)] = Field(default="", description="Set by the apiserver.")


class OptimizedModel(ApiModel):
    """One trained model, how to make it smaller and faster, and what it has to hold to be served."""

    api_version: Literal["burnish.dev/v1alpha1"] = Field(default="burnish.dev/v1alpha1", description="Group and version.")
    kind: Literal["OptimizedModel"] = Field(default="OptimizedModel", description="Always OptimizedModel.")
    metadata: Metadata = Field(description="Name and namespace.")
    spec: Spec = Field(description="What the user wants.")
    status: Status | None = Field(default=None, description="What Burnish answers; never read from a manifest.")


def _unique_by_name(entries: list[Any]) -> list[Any]:
    seen: dict[str, int] = {}
    for position, entry in enumerate(entries):
        if entry.name in seen:
            raise FieldError(f"[{position}].name", f"{entry.name!r} is also the name of entry [{seen[entry.name]}]; names must differ")
        seen[entry.name] = position
    return entries
