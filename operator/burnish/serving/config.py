"""Renders the config.pbtxt of one model: pure, complete and explicit, because the server runs with auto-completion off.

Auto-completion would load each model once more at start, choose two instances where nothing is said, and hide a wrong signature.
Field names and rules: Triton's model_config.proto and its model configuration page.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from burnish.api.job_contract import ArtifactConfig, ResolvedInput
from burnish.api.scalars import duration_seconds
from burnish.api.v1alpha1.optimized_model import DynamicBatching, Load, Target
from burnish.plugins import registry
from burnish.plugins.base import DataType, Tensor
from burnish.serving.text_format import Enum, Message, Value, render

STANDARD_MODEL_FILES: Mapping[str, str] = MappingProxyType(
    {"onnxruntime": "model.onnx", "openvino": "model.xml", "tensorrt": "model.plan", "pytorch": "model.pt", "tensorflow": "model.savedmodel"}
)
"""Backend -> the file Triton looks for where the config names none (its model_config_utils); for others the name is always written."""


@dataclasses.dataclass(frozen=True)
class ServingOptions:
    """What serving decides about a model, whatever the model."""

    threads: int
    """Threads of one instance, from the CPU limit; `parameters` of the runtime plugin carry them to the backend."""
    instances: int = 1
    max_batch_size: int = 1
    """Largest batch of a request; a model whose axis 0 is fixed is served without batching."""
    parameters: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """The runtime plugin's `parameters(threads)`."""
    is_dynamic: bool = False
    """Triton puts requests together, for a model with a batch axis."""
    preferred_batch_sizes: tuple[int, ...] = ()
    max_queue_delay_us: int = 0
    """Longest wait for more requests, microseconds."""
    gpus: int = 0
    """GPUs that hold `instances` each; 0 = on the CPU."""

    def to_json(self) -> str:
        """As text, for the program that renders the same config somewhere else."""
        return json.dumps({**dataclasses.asdict(self), "parameters": dict(self.parameters)}, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> ServingOptions:
        """What `to_json` wrote.

        Raises:
            ValueError: it is something else.
        """
        try:
            found = json.loads(text)
            return cls(**{**found, "preferred_batch_sizes": tuple(found.get("preferred_batch_sizes", ()))})
        except (TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError("these are no serving options") from error


def options_of(target: Target, loads: Sequence[Load], batching: DynamicBatching | None) -> ServingOptions:
    """How a target is served, and so how it is measured."""
    threads = target.resources.threads
    sizes = [load.batch_size for load in loads] + ([batching.max_batch_size] if batching else [])
    return ServingOptions(
        threads=threads,
        parameters=registry.runtimes()[target.runtime.value].parameters(threads),
        max_batch_size=max(sizes, default=1),
        is_dynamic=batching is not None,
        preferred_batch_sizes=tuple(batching.preferred_batch_sizes) if batching else (),
        max_queue_delay_us=round(duration_seconds(batching.max_queue_delay) * 1e6) if batching and batching.max_queue_delay else 0,
        gpus=target.accelerator.gpus,
    )


def render_config(name: str, artifact: ArtifactConfig, options: ServingOptions) -> str:
    """The text of config.pbtxt for the model called `name` in the repository."""
    batched = artifact.signature.is_batched and options.max_batch_size > 0
    fields: list[tuple[str, Value]] = [
        ("name", name),
        ("backend", artifact.backend),
        ("max_batch_size", options.max_batch_size if batched else 0),
        ("input", [_tensor(tensor, batched) for tensor in artifact.signature.inputs]),
        ("output", [_tensor(tensor, batched) for tensor in artifact.signature.outputs]),
        ("instance_group", [_instances(options)]),
        ("parameters", [_parameter(key, value) for key, value in sorted(options.parameters.items())]),
        ("model_warmup", _warmups(artifact, options.max_batch_size if batched else 0)),
    ]
    if batched and options.is_dynamic:
        fields.append(("dynamic_batching", _dynamic_batching(options)))
    if artifact.model_file != STANDARD_MODEL_FILES.get(artifact.backend):
        fields.insert(2, ("default_model_filename", artifact.model_file))
    return render(Message(*fields))


def _instances(options: ServingOptions) -> Message:
    """Where the model runs. A container numbers the GPUs that it was given from 0, whichever they are on the node."""
    fields: list[tuple[str, Value]] = [("count", options.instances), ("kind", Enum("KIND_GPU" if options.gpus else "KIND_CPU"))]
    if options.gpus:
        fields.append(("gpus", list(range(options.gpus))))
    return Message(*fields)


def _dynamic_batching(options: ServingOptions) -> Message:
    fields: list[tuple[str, Value]] = []
    if options.preferred_batch_sizes:
        fields.append(("preferred_batch_size", list(options.preferred_batch_sizes)))
    if options.max_queue_delay_us:
        fields.append(("max_queue_delay_microseconds", options.max_queue_delay_us))
    return Message(*fields)


def _parameter(key: str, value: str) -> Message:
    return Message(("key", key), ("value", Message(("string_value", value))))


def _tensor(tensor: Tensor, batched: bool) -> Message:
    """A ModelInput or ModelOutput. Triton has no tensor without a dimension: what has none besides the batch is declared as `[1]`.

    `measurement.tensors.to_served` and `from_served` bring arrays to that rank and back.
    """
    dims = list(tensor.shape[1:] if batched else tensor.shape)
    fields: list[tuple[str, Value]] = [("name", tensor.name), ("data_type", _data_type(tensor.data_type)), ("dims", dims or [1])]
    if batched and not dims:  # Triton accepts an empty reshape only with batching; without, the backend itself makes [1] a scalar
        fields.append(("reshape", Message(("shape", []))))
    return Message(*fields)


def _data_type(data_type: DataType) -> Enum:
    return Enum("TYPE_STRING" if data_type is DataType.BYTES else f"TYPE_{data_type.value}")


def _warmups(artifact: ArtifactConfig, max_batch_size: int) -> list[Message]:
    """Requests that Triton sends before it calls the model ready: the first real one is then no slower than the others (63 ms against 2).

    A warm-up that fails makes Triton refuse the model, or even end (2.51 with a python-based backend), so a model with a size that nobody
    declared gets none.
    """
    dims = {entry.name: _sizes(entry, bool(max_batch_size)) for entry in artifact.inputs}
    if any(size is None for sizes in dims.values() for size in sizes):
        return []
    batch_sizes = sorted({min(smallest_batch(artifact.inputs), max_batch_size), max_batch_size}) if max_batch_size else [1]
    return [
        Message(
            ("name", f"batch {batch}"),
            ("batch_size", batch),
            ("inputs", [_warmup_input(entry, [size or 1 for size in dims[entry.name]]) for entry in artifact.inputs]),
        )
        for batch in batch_sizes
    ]


def _warmup_input(entry: ResolvedInput, dims: list[int]) -> Message:
    # Not random_data, which fills random *bytes*: NaN and infinity among floats, and values that are no valid index among the rest.
    value = Message(("data_type", _data_type(entry.data_type)), ("dims", dims or [1]), ("zero_data", True))
    return Message(("key", entry.name), ("value", value))


def _sizes(entry: ResolvedInput, batched: bool) -> list[int | None]:
    """Sizes of one request: `opt` where a dimension varies, None where nobody said; without the batch axis of a batched model."""
    opt = {bounds.axis: bounds.opt for bounds in entry.bounds}
    return [size if size != -1 else opt.get(axis) for axis, size in enumerate(entry.shape) if axis or not batched]


def smallest_batch(inputs: Sequence[ResolvedInput]) -> int:
    """Samples of the smallest request to a batched model: 1, or more where the declared bounds of the batch axis ask for more."""
    bounds = [b for entry in inputs for b in entry.bounds if b.axis == 0]
    return max((-(-b.min // b.multiple_of) * b.multiple_of for b in bounds), default=1)
