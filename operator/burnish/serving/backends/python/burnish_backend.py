"""What Burnish's python-based backends share: everything but how a runtime loads and runs a model.

Triton's Python stub finds this module beside its own (`backends/python` is on its path); Burnish never loads it. The same repository must behave as
under the native backend, so a backend reads the same config.pbtxt, completes inputs, outputs, max_batch_size and dynamic batching from the graph
where auto-completion is on, and refuses a config that contradicts the graph.

Limits: no BF16, no strings that are not UTF-8 (the request fails), no sequences, CPU only.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

# The stub embeds an isolated interpreter: it ignores PYTHONPATH and PYTHONHOME.
sys.path[:0] = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]

import numpy as np  # noqa: E402
import triton_python_backend_utils as pb_utils  # noqa: E402

if int(np.__version__.split(".")[0]) >= 2:  # the stub would load every model, be ready, and answer 200 with empty outputs
    raise ImportError(f"numpy {np.__version__}: the Triton 2.51 Python stub needs numpy < 2")

Config = dict[str, Any]
"""A ModelConfig as Triton hands it over, from JSON."""

DEFAULT_MAX_BATCH_SIZE = 4  # what the native backends take where the config leaves it open


class Port(NamedTuple):
    """An input or output of the loaded graph."""

    name: str
    data_type: str | None
    """TYPE_FP32, ...; None for one that Triton has no name for."""
    shape: Sequence[int]
    """-1 where a size varies; empty for a scalar."""

    @property
    def dims(self) -> list[int]:
        """As Triton has it, which knows no rank 0: a scalar is `[1]`."""
        return list(self.shape) or [1]


class Engine(NamedTuple):
    """A loaded model."""

    inputs: Sequence[Port]
    outputs: Sequence[Port]
    run: Callable[[Sequence[str], Mapping[str, Any]], Sequence[Any]]
    """(names of outputs, feeds by name) -> the outputs' arrays, which nobody writes to any more."""


def parameters(config: Config) -> dict[str, str]:
    """The config's `parameters`."""
    return {key: value["string_value"] for key, value in (config.get("parameters") or {}).items()}


def model_path(config: Config, default: str) -> str:
    """The model's file in the version directory."""
    return os.path.join(pb_utils.get_model_dir(), config.get("default_model_filename") or default)  # noqa: PTH118


def check_ports(kind: str, model: str, declared: list[Config], ports: Sequence[Port], *, batched: bool) -> None:
    """Refuse a config whose inputs or outputs (`kind`) contradict the graph, as the native backends do."""
    known = {port.name: port for port in ports}
    for tensor in declared:
        port = known.get(tensor["name"])
        if port is None:
            raise pb_utils.TritonModelException(
                f"model '{model}': unexpected inference {kind} '{tensor['name']}', allowed {kind}s are: {sorted(known)}"
            )
        if port.data_type != tensor["data_type"]:
            raise pb_utils.TritonModelException(
                f"model '{model}', {kind} '{port.name}': the model has {port.data_type}, the configuration {tensor['data_type']}"
            )
        reshape = tensor.get("reshape")
        dims = ([-1] if batched else []) + [int(size) for size in (tensor["dims"] if reshape is None else reshape.get("shape", []))]
        if len(port.dims) != len(dims) or any(-1 not in (a, b) and a != b for a, b in zip(port.dims, dims, strict=True)):
            raise pb_utils.TritonModelException(
                f"model '{model}', tensor '{port.name}': the model expects {len(port.dims)} dimensions (shape {port.dims}) "
                f"but the model configuration specifies {len(dims)} dimensions (shape {dims})"
            )


class BackendModel:
    """One model instance; a backend's `TritonPythonModel` derives from it."""

    backend: ClassVar[str]
    """The backend's name, before every message."""

    @classmethod
    def load(cls, config: Config, *, only_signature: bool = False) -> Engine:
        """Load the model that the config names; the runtime's own words become the model's reason in the repository index.

        Args:
            config: the model's.
            only_signature: nothing will be run.
        """
        raise NotImplementedError

    @classmethod
    def auto_complete_config(cls, auto: Any) -> Any:
        """Fill in what the config leaves open; a config with inputs and outputs is left alone, as by the native backends."""
        config = auto.as_dict()
        if config.get("input") and config.get("output"):
            return auto
        engine = cls._load(config, only_signature=True)
        can_batch = all(port.shape and port.shape[0] == -1 for port in (*engine.inputs, *engine.outputs))
        size = config.get("max_batch_size", 0)
        if size and not can_batch:
            raise pb_utils.TritonModelException(
                f"autofill failed for model '{config['name']}': model does not support batching while non-zero max_batch_size is specified"
            )
        if can_batch and not size:
            size = DEFAULT_MAX_BATCH_SIZE
            auto.set_max_batch_size(size)
        if size > 1 and "dynamic_batching" not in config and "sequence_batching" not in config:
            auto.set_dynamic_batching()
        for kind, add, ports in (("input", auto.add_input, engine.inputs), ("output", auto.add_output, engine.outputs)):
            if not config.get(kind):
                for port in ports:
                    add({"name": port.name, "data_type": port.data_type, "dims": port.dims[1 if size else 0 :] or [1]})
        return auto

    @classmethod
    def _load(cls, config: Config, *, only_signature: bool = False) -> Engine:
        try:
            return cls.load(config, only_signature=only_signature)
        except Exception as error:
            raise pb_utils.TritonModelException(f"{cls.backend}: {error}") from error

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model."""
        config = json.loads(args["model_config"])
        self.engine: Engine | None = self._load(config)
        self.batched = config.get("max_batch_size", 0) > 0
        check_ports("input", config["name"], config["input"], self.engine.inputs, batched=self.batched)
        check_ports("output", config["name"], config["output"], self.engine.outputs, batched=self.batched)
        self.inputs = [tensor["name"] for tensor in config["input"]]
        self.outputs = [tensor["name"] for tensor in config["output"]]
        self.strings = {tensor["name"] for tensor in config["input"] if tensor["data_type"] == "TYPE_STRING"}
        self.scalars = {port.name for port in self.engine.inputs if not port.shape}
        # Triton sends each sample `count` times (0 means once) to each instance before it lets any other request through.
        self.warmups_left = sum(int(sample.get("count", 0)) or 1 for sample in config.get("model_warmup", []))

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer requests; Triton hands over more than one only where it batches, and then they are run as one."""
        responses = self._answer(requests)
        if self.warmups_left > 0:
            self.warmups_left -= 1
            return [self._without_error(response) for response in responses]
        return responses

    def _answer(self, requests: list[Any]) -> list[Any]:
        if len(requests) > 1 and self.batched:
            return self._run_together(requests) or [self._run_alone(request) for request in requests]
        return [self._run_alone(request) for request in requests]

    def finalize(self) -> None:
        """Let go of the model, so that the stub can end."""
        self.engine = None

    @staticmethod
    def _without_error(response: Any) -> Any:
        """A warm-up that fails says nothing about the model (zeros may be no valid request), but its error takes Triton 2.51 down (SIGSEGV)."""
        if not response.has_error():
            return response
        pb_utils.Logger.log_warn(f"the warm-up failed, which is of no consequence: {response.error().message()}")
        return pb_utils.InferenceResponse([])

    def _run_alone(self, request: Any) -> Any:
        try:
            feeds = {name: array for name in self.inputs if (array := self._read(request, name)) is not None}
            return self._response(request, [np.atleast_1d(value) for value in self._run(feeds)])
        except Exception as error:  # one bad request must not take the stub down
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"{self.backend}: {error}"))

    def _run_together(self, requests: list[Any]) -> list[Any] | None:
        """All requests as one batch; None where they don't fit together or fail, so that a bad one can fail alone."""
        try:
            columns = {name: [self._read(request, name) for request in requests] for name in self.inputs}
            for column in columns.values():
                if any(array is None or array.shape[1:] != column[0].shape[1:] for array in column):
                    return None
            values = self._run({name: np.concatenate(column) for name, column in columns.items()})
        except Exception:
            return None
        ends = np.cumsum([len(array) for array in columns[self.inputs[0]]])
        return [
            self._response(request, [value[start:end] for value in values])
            for request, start, end in zip(requests, [0, *ends[:-1]], ends, strict=True)
        ]

    def _run(self, feeds: Mapping[str, Any]) -> Sequence[Any]:
        assert self.engine is not None  # noqa: S101  # until finalize
        return self.engine.run(self.outputs, feeds)

    def _read(self, request: Any, name: str) -> Any:
        """An input as the runtime wants it, or None where the request leaves out an optional one."""
        tensor = pb_utils.get_input_tensor_by_name(request, name)
        if tensor is None:
            return None
        array = tensor.as_numpy()  # a view into shared memory, no copy
        if name in self.strings:
            array = np.array([item.decode("utf-8") for item in array.ravel()], dtype=object).reshape(array.shape)
        return array.reshape(()) if name in self.scalars else array

    def _response(self, request: Any, values: Sequence[Any]) -> Any:
        wanted = set(request.requested_output_names())
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, value) for name, value in zip(self.outputs, values, strict=True) if name in wanted])
