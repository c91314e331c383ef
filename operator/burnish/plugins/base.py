"""What formats, passes and runtimes share: tensors, signatures, candidates, and the three classes that a plugin derives from.

A pass says what is wanted, a runtime decides how (`Runtime.lower`), so that a new runtime needs no change in any pass and a new pass none in
the pipeline. Everything heavy is imported inside methods: these modules are loaded by the controller, which has no ML library.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from burnish.errors import BurnishError, Reason
from burnish.plugins.files import Files

if TYPE_CHECKING:
    import numpy as np

Arrays = Mapping[str, "np.ndarray"]
"""Tensor name -> array."""


@dataclasses.dataclass(frozen=True)
class Answers:
    """What the user of a model acts on, and when two answers are the same to that user."""

    decode: Callable[[Arrays], Sequence[object]]
    """The outputs to one request -> one answer per sample; None is no answer."""
    alike: Callable[[object, object], float]
    """1.0 the same, 0.0 another; neither is None."""


class PluginModel(BaseModel):
    """Base of the configuration and record models that live beside plugins (same rules as the API's own models)."""

    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True, defer_build=True)


class DataType(StrEnum):
    """Tensor element types, named as in the KServe v2 inference protocol."""

    BOOL = "BOOL"
    UINT8 = "UINT8"
    UINT16 = "UINT16"
    UINT32 = "UINT32"
    UINT64 = "UINT64"
    INT8 = "INT8"
    INT16 = "INT16"
    INT32 = "INT32"
    INT64 = "INT64"
    FP16 = "FP16"
    FP32 = "FP32"
    FP64 = "FP64"
    BYTES = "BYTES"

    @property
    def numpy_name(self) -> str:
        """The numpy dtype's name (`object` for BYTES)."""
        return {"BOOL": "bool", "FP16": "float16", "FP32": "float32", "FP64": "float64", "BYTES": "object"}.get(self.value, self.value.lower())

    @property
    def is_integer(self) -> bool:
        """True for the signed and unsigned integer types."""
        return "INT" in self.value

    @property
    def is_float(self) -> bool:
        """True for FP16, FP32 and FP64."""
        return self.value.startswith("FP")


class Tensor(PluginModel):
    """One input or output of a model; -1 in `shape` is a dimension that may vary."""

    name: str
    data_type: DataType
    shape: tuple[int, ...]
    range: tuple[int, int] | None = None
    """Bounds of an integer input, where the source tells them."""


class Signature(PluginModel):
    """Inputs and outputs of a model, in the model's own order."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @property
    def is_batched(self) -> bool:
        """True where axis 0 of every input and output may vary: then it is the batch axis, and Triton may batch requests."""
        return all(t.shape and t.shape[0] == -1 for t in (*self.inputs, *self.outputs))


class HardwareClass(PluginModel):
    """What must be equal for a measurement or a built artifact to hold on another machine (DESIGN.md section 1)."""

    architecture: str  # x86-64, aarch64
    vendor: str  # GenuineIntel, AuthenticAMD, ...
    isa: tuple[str, ...]  # of AVX2, AVX512-VNNI, AVX-VNNI, AMX, NEON-DOT: the ones that this machine has

    def __str__(self) -> str:
        return f"{self.architecture}/{self.vendor}/{','.join(self.isa)}"

    @property
    def saturates(self) -> bool:
        """True where 8-bit products overflow: AVX2's VPMADDUBSW adds two u8 x s8 products in 16 bits with saturation, so one side gets 7 bits."""
        return self.architecture == "x86-64" and not _NON_SATURATING & set(self.isa)


_NON_SATURATING = frozenset({"AVX512-VNNI", "AVX-VNNI", "AMX"})


class GraphFacts(PluginModel):
    """What a runtime needs to know of a model to lower passes for it, without opening it."""

    opset: int
    op_counts: dict[str, int]
    """Operator type -> number of nodes."""
    weighted_ops: dict[str, int]
    """Operator type -> number of nodes whose weight is a constant (what quantization can shrink)."""
    parameters: int
    """Number of floating-point weights, in initializers and Constant nodes."""
    node_names: tuple[str, ...] = ()
    """Names of the weighted nodes, in topological order."""


@dataclasses.dataclass(frozen=True)
class Step:
    """One lowered operation on a model file. `options` are JSON values: they stand in records and in `reproduce.sh`."""

    kind: str
    options: Mapping[str, object] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to build one candidate: its name (a DNS label of at most 24 characters) and the steps, in order."""

    name: str
    summary: str
    steps: tuple[Step, ...]
    start: str = ""
    """The trained model that the steps begin with; empty: the export."""


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A candidate that was considered and not built, and why; it stands in the report."""

    name: str
    message: str


@dataclasses.dataclass(frozen=True)
class Lowering:
    """What `Runtime.lower` decides: the recipes to build and measure, and what it left out."""

    recipes: tuple[Recipe, ...]
    skipped: tuple[Skipped, ...] = ()


@dataclasses.dataclass(frozen=True)
class ServingImage:
    """What one Triton image can load. One table in `burnish.serving.images` lists those we know."""

    name: str
    triton: str
    versions: Mapping[str, str]
    """Library -> version: onnxruntime, openvino, ..."""
    max_opset: int
    """Of ONNX, for its ONNX Runtime."""
    max_ir_version: int
    """Of ONNX, for its ONNX Runtime."""
    max_openvino_opset: int
    """Of OpenVINO's own operators in its IR."""


class Task(StrEnum):
    """What a model of a library that has several heads for one body is for."""

    FeatureExtraction = "FeatureExtraction"
    SentenceEmbedding = "SentenceEmbedding"
    TextClassification = "TextClassification"
    TokenClassification = "TokenClassification"
    QuestionAnswering = "QuestionAnswering"
    FillMask = "FillMask"
    ImageClassification = "ImageClassification"


Scalar = bool | int | float | str


class SourceOptions(PluginModel):
    """What the manifest says of a source beside where it is. Each field belongs to some formats (`Format.options`)."""

    architecture: str | None = None
    architecture_args: dict[str, Scalar] = Field(default_factory=dict)
    task: Task | None = None
    signature: str | None = None
    trusted: bool = False


@dataclasses.dataclass(frozen=True)
class DeclaredInput:
    """What `spec.inputs` says of one input; None or empty where it says nothing."""

    name: str
    data_type: DataType | None = None
    shape: tuple[int, ...] | None = None
    sizes: Mapping[int, int] = dataclasses.field(default_factory=dict)
    """Varying axis -> the size to optimize for."""


def silent(text: str) -> None:
    """Say nothing."""


@dataclasses.dataclass(frozen=True)
class SourceModel:
    """A source, as `export` and `reference` get it."""

    path: Path
    """A file or a directory."""
    options: SourceOptions = dataclasses.field(default_factory=SourceOptions)
    inputs: tuple[DeclaredInput, ...] = ()
    """For formats that don't tell their inputs."""
    say: Callable[[str], None] = silent
    """Takes a line for the user: what was done that nobody asked for."""


class Format(abc.ABC):
    """A source format: how to recognise it and how to bring it to ONNX."""

    name: ClassVar[str]
    toolchain: ClassVar[str]
    """Where `export` and `reference` run."""
    libraries: ClassVar[tuple[str, ...]] = ()
    """As of `Runtime`."""
    options: ClassVar[frozenset[str]] = frozenset()
    """The fields of `SourceOptions` that it reads."""
    is_trainable: ClassVar[bool] = False
    """A torch module can be made of it where passes train: by `module`, or of its own graph; nothing of it runs as code."""

    @abc.abstractmethod
    def detect(self, files: Files) -> bool:
        """True if the source is of this format, judged by content, without an ML library."""

    def versions(self, files: Files) -> tuple[int, int] | None:
        """Opset and IR version of a source that is ONNX already, by its file's own fields; None of any other, and where they can't be read so."""
        return None

    def check_options(self, options: SourceOptions) -> None:
        """Refuse what the manifest says of the source where this format can't use it, or needs more. Runs before anything is loaded.

        Raises:
            BurnishError: InvalidManifest; what a format says of its own options.
        """
        for name in SourceOptions.model_fields:
            if getattr(options, name) and name not in self.options:
                raise BurnishError(
                    Reason.InvalidManifest,
                    f"a source of format {self.name} has no use for it; remove it or change format",
                    field=f"spec.source.{to_camel(name)}",
                )

    def wanted(self, folder: Files) -> str:
        """What the manifest has to say of every source of this format, such as `trusted: true`; for messages.

        Args:
            folder: where the source lies: something there may tell.
        """
        return ""

    @abc.abstractmethod
    def export(self, source: SourceModel, target: Path, *, image: ServingImage) -> tuple[Signature, GraphFacts]:
        """Write the model as ONNX to `target` (a file; external data beside it only where it exceeds 2 GiB).

        Returns the signature and the facts of the written graph.

        Raises:
            BurnishError: InvalidModel, UnsupportedOperator, UnsupportedOpset, NonFiniteWeights, UnsafeExternalData; what a format adds.
        """

    @abc.abstractmethod
    def reference(self, source: SourceModel, feeds: Sequence[Arrays]) -> list[dict[str, np.ndarray]]:
        """Outputs of the *source's own framework* for each feed: what the export is compared with."""

    def module(self, source: SourceModel) -> Any | None:
        """The source as a torch module that can be trained (a `NamedModule`), where its own framework has one; None elsewhere."""
        return None

    def companions(self, path: Path) -> list[Path]:
        """Files of the source directory `path` that clients of the served model need (a tokenizer's); they travel with every artifact."""
        return []


class PassConfig(PluginModel):
    """Base of a pass's options, as they stand in the manifest beside `type`."""


@dataclasses.dataclass(frozen=True)
class PassSource:
    """A model of its own that a pass starts from. It is pinned, staged and part of the artifact key as the manifest's source is."""

    uri: str
    digest: str | None
    """The pin."""
    format: str | None
    """As declared."""
    options: SourceOptions
    fields: Mapping[str, str]
    """Field of spec.source -> the field that says the same of this one, below the pass's entry."""


class Pass(abc.ABC):
    """A compression the user can ask for. It only says what is wanted; runtimes lower it."""

    name: ClassVar[str]
    config: ClassVar[type[PassConfig]]

    def reads_calibration(self, config: PassConfig) -> bool:
        """True if the calibration data decides what comes out; then it is part of the artifact key."""
        return False

    def reads_answers(self, config: PassConfig) -> bool:
        """True if answers decide what comes out; then how outputs are decoded is part of the artifact key."""
        return False

    def source(self, config: PassConfig) -> PassSource | None:
        """The model of its own that it starts from; `misplaced` sees to it that a list of passes has one at most."""
        return None

    def relocated(self, config: PassConfig, uri: str, digest: str | None) -> PassConfig:
        """The same options, with this URI and pin for its `source`."""
        return config

    def misplaced(self, config: PassConfig, before: Sequence[PassRequest], after: Sequence[PassRequest]) -> str:
        """Why it makes no sense between these other passes, with the cure; empty where it does. Pure."""
        return ""


@dataclasses.dataclass(frozen=True)
class Lesson:
    """The data that a model is trained on, as arrays that are indexed by sample."""

    inputs: Arrays
    """Input name -> (samples, ...)."""
    output: str
    """The output that is learned."""
    labels: np.ndarray | None
    """(samples,) class indices, or values in the output's shape."""
    answers: np.ndarray | None
    """(samples, ...): the original's own answers, where a pass learns from them."""
    is_classification: bool
    """The output holds a figure per class on its last axis."""
    holds_probabilities: bool
    """Those figures are probabilities already, not logits."""

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))


class Team:
    """Processes that train one model side by side, each on its share of every batch; this one is alone."""

    rank = 0
    size = 1

    def __init__(self, device: str = "cpu") -> None:
        """`device`: where this process trains, as PyTorch names it (`cuda:1`)."""
        self.device = device

    def add(self, tensors: Sequence[Any]) -> None:
        """Make each tensor the sum of all processes' own."""

    def follow(self, tensors: Sequence[Any]) -> None:
        """Make each tensor that of the first process."""


class Bench(abc.ABC):
    """What a training pass works with beside the model: data, news, and a memory that outlives the process."""

    lesson: Lesson | None
    """Training data, where the manifest has some."""
    calibration: Sequence[Arrays]
    """Feeds without labels: of the calibration data, else of the training data; possibly empty."""
    team: Team
    hardware: HardwareClass
    """Of the machine that the model is for."""
    scores_errors: bool
    """What `score` says is an error: less is better."""

    @abc.abstractmethod
    def say(self, text: str, *, done: float | None = None) -> None:
        """Tell the user how far it is; `done` is a share of the pass."""

    @abc.abstractmethod
    def save(self, state: Mapping[str, object]) -> None:
        """Keep what this pass has reached, tensors and plain values; it replaces what was kept before."""

    @abc.abstractmethod
    def load(self) -> Mapping[str, Any] | None:
        """What an earlier process of the same work kept of this pass."""

    @abc.abstractmethod
    def student(self) -> Any:
        """The pass's own `source` as a module (a `NamedModule`), with its own inputs and outputs; a new one, equal to the last, at each call.

        Raises:
            BurnishError: PassNotApplicable where it can't be trained; what opening a source raises.
        """

    @abc.abstractmethod
    def score(self, model: Any) -> float | None:
        """The evaluation's metric of `model` (a `NamedModule`), None without evaluation data. For telling, never for choosing: it is what judges."""


class TrainingPass(Pass):
    """A compression of the model as a torch module, in the torch toolchain, before any runtime has a say."""

    short: ClassVar[str]
    """For the names of candidates."""
    shrinks: ClassVar[bool] = True
    """What it makes may be faster than what it was given, so that is a candidate of its own."""
    is_exact: ClassVar[bool] = True
    """Its module answers as its ONNX does; one that only simulates integers may differ in a rounding."""

    @abc.abstractmethod
    def trains(self, config: PassConfig) -> bool:
        """True if it needs training data."""

    def learns_from_original(self, config: PassConfig) -> bool:
        """True if it needs the original's answers to the training data."""
        return False

    def needs_labels(self, config: PassConfig) -> bool:
        """True if it needs the labels of the training data."""
        return self.trains(config)

    def only_asks(self, config: PassConfig) -> bool:
        """True if it needs nothing of the model that it is given but its answers: that need not be a module which can be trained."""
        return False

    @abc.abstractmethod
    def apply(self, config: PassConfig, model: Any, bench: Bench) -> TrainedModel:
        """Compress `model` (a `NamedModule`; it may be changed in place).

        Raises:
            BurnishError: PassNotApplicable where it finds nothing to do; TrainingDiverged.
        """


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """What a training pass made."""

    model: Any
    """A `NamedModule`."""
    summary: str
    """What was done, with numbers."""
    losses: tuple[float, ...] = ()
    """Mean loss of each epoch."""
    notes: tuple[str, ...] = ()
    """What the report should tell beside it."""


@dataclasses.dataclass(frozen=True)
class PassRequest:
    """One entry of `spec.passes`: the pass's name and its validated options."""

    name: str
    config: PassConfig


@dataclasses.dataclass(frozen=True)
class Objection:
    """Why a list of passes can't be met, whatever the model is."""

    reason: Reason
    message: str
    """What is wrong, and the cure."""
    position: int
    """The entry of the list."""
    field: str = ""
    """The field below that entry, as the manifest has it."""


class Session(abc.ABC):
    """A loaded model, for golden answers and checks without a server."""

    @abc.abstractmethod
    def infer(self, feeds: Arrays) -> dict[str, np.ndarray]:
        """Run once. Arrays as in the signature; returns all outputs by name."""


class Runtime(abc.ABC):
    """A runtime that Triton serves: lowering, building, loading, and the data that serving needs."""

    name: ClassVar[str]
    toolchain: ClassVar[str]
    backend: ClassVar[str]
    """Triton's `backend` in config.pbtxt."""
    model_file: ClassVar[str]
    """File name of the model inside a version directory."""
    libraries: ClassVar[tuple[str, ...]] = ()
    """Modules that the methods below import: a local run loads them while the step before still works."""
    tools: ClassVar[tuple[str, ...]] = ()
    """Modules that `apply` imports besides; nobody else pays for them."""
    has_gpus: ClassVar[bool] = False
    """Its backend computes on the GPUs of a target that asks for some (`KIND_GPU`)."""

    @abc.abstractmethod
    def objection(self, passes: Sequence[PassRequest], *, has_calibration: bool) -> Objection | None:
        """What can be refused when the manifest is read, before anything is fetched; `lower` refuses it as well. Pure."""

    @abc.abstractmethod
    def lower(self, passes: Sequence[PassRequest], graph: GraphFacts, hardware: HardwareClass, *, has_calibration: bool) -> Lowering:
        """Decide which candidates to build. Pure.

        Raises:
            BurnishError: CalibrationMissing, PassNotApplicable: an explicit request that can't be met.
        """

    def too_new(self, opset: int, ir_version: int, *, image: ServingImage) -> str:
        """Why `image` can't load an ONNX file of these versions, with the cure; empty where it can, or where they don't decide it."""
        return ""

    @abc.abstractmethod
    def check(self, model: Path, *, image: ServingImage) -> None:
        """Refuse the exported ONNX file `model` before work is put into it, if this runtime, or `image`, can't load it.

        Raises:
            BurnishError: UnsupportedOperator, UnsupportedOpset, CandidateNotBuildable.
        """

    @abc.abstractmethod
    def apply(self, step: Step, source: Path, target: Path, *, calibration: Sequence[Arrays], answers: Answers | None = None) -> str:
        """Run one lowered step: read `source`, the exported ONNX file or what an earlier step wrote, and write `target`.

        `target` is called `model_file`; what else belongs to the model stands beside it.

        Args:
            calibration: feeds of the smallest batch, possibly empty.
            answers: for steps of a pass that reads answers.

        Returns:
            What lowering could not know and the report should tell; mostly nothing.
        """

    @abc.abstractmethod
    def build(self, model: Path, target: Path, *, image: ServingImage) -> None:
        """Turn `model`, the exported ONNX file or what `apply` wrote, into the loadable files in the directory `target`, within what `image` can load."""

    @abc.abstractmethod
    def open(self, directory: Path, *, threads: int) -> Session:
        """Load what `build` wrote.

        Raises:
            BurnishError: CandidateNotBuildable with the runtime's own message.
        """

    @abc.abstractmethod
    def parameters(self, threads: int) -> dict[str, str]:
        """The `parameters` of config.pbtxt: thread counts written out, and what makes the declared precision explicit."""
