"""Triton's `onnxruntime` backend on top of the onnxruntime wheel, for servers that come without the native one.

This file is loaded by Triton's Python stub, never by Burnish. The same repository must behave as under the native backend, so it reads the
same config.pbtxt: default_model_filename, the parameters intra_op_thread_count, inter_op_thread_count, execution_mode, enable_mem_arena,
enable_mem_pattern and session.intra_op.allow_spinning, optimization.graph.level; it completes inputs, outputs, max_batch_size and dynamic
batching from the graph where auto-completion is on, and refuses a config that contradicts the graph.

Limits: no BF16, no strings that are not UTF-8 (the request fails), no sequences, CPU only.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

# The stub embeds an isolated interpreter: it ignores PYTHONPATH and PYTHONHOME.
sys.path[:0] = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read on import; Linux wheels report to the vendor by default since 1.29

import numpy as np  # noqa: E402
import onnxruntime as ort  # noqa: E402
import triton_python_backend_utils as pb_utils  # noqa: E402

if int(np.__version__.split(".")[0]) >= 2:  # the stub would load every model, be ready, and answer 200 with empty outputs
    raise ImportError(f"numpy {np.__version__}: the Triton 2.51 Python stub needs numpy < 2")

Config = dict[str, Any]
"""A ModelConfig as Triton hands it over, from JSON."""

DEFAULT_MAX_BATCH_SIZE = 4  # what the native backend takes where the config leaves it open
PROVIDERS = ["CPUExecutionProvider"]
LOG_ERRORS_ONLY = 3

TRITON_TYPES = {
    "tensor(bool)": "TYPE_BOOL",
    "tensor(uint8)": "TYPE_UINT8",
    "tensor(uint16)": "TYPE_UINT16",
    "tensor(uint32)": "TYPE_UINT32",
    "tensor(uint64)": "TYPE_UINT64",
    "tensor(int8)": "TYPE_INT8",
    "tensor(int16)": "TYPE_INT16",
    "tensor(int32)": "TYPE_INT32",
    "tensor(int64)": "TYPE_INT64",
    "tensor(float16)": "TYPE_FP16",
    "tensor(float)": "TYPE_FP32",
    "tensor(double)": "TYPE_FP64",
    "tensor(string)": "TYPE_STRING",
}

GRAPH_LEVELS = {  # optimization.graph.level as the native backend reads it
    -1: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    1: ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    2: ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}


def model_path(config: Config) -> str:
    """The model's file in the version directory."""
    return os.path.join(pb_utils.get_model_dir(), config.get("default_model_filename") or "model.onnx")  # noqa: PTH118


def session_options(config: Config) -> ort.SessionOptions:
    """ONNX Runtime's options as the config asks for them."""
    parameters = {key: value["string_value"] for key, value in (config.get("parameters") or {}).items()}

    def is_on(key: str) -> bool:
        return str(parameters.get(key, "1")).lower() not in ("0", "false")

    options = ort.SessionOptions()
    options.log_severity_level = LOG_ERRORS_ONLY
    options.intra_op_num_threads = int(parameters.get("intra_op_thread_count", 0))
    options.inter_op_num_threads = int(parameters.get("inter_op_thread_count", 0))
    if parameters.get("execution_mode", "0") == "1":
        options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    options.enable_cpu_mem_arena = is_on("enable_mem_arena")
    options.enable_mem_pattern = is_on("enable_mem_pattern")
    if not is_on("session.intra_op.allow_spinning"):
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    level = int(((config.get("optimization") or {}).get("graph") or {}).get("level", 0))
    options.graph_optimization_level = GRAPH_LEVELS.get(level, ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
    return options


def open_session(config: Config, options: ort.SessionOptions) -> ort.InferenceSession:
    """Load the model; ONNX Runtime's own words become the model's reason in the repository index."""
    try:
        return ort.InferenceSession(model_path(config), options, providers=PROVIDERS)
    except Exception as error:
        raise pb_utils.TritonModelException(f"onnxruntime: {error}") from error


def graph_dims(node: ort.NodeArg) -> list[int]:
    """Dimensions of a tensor in the graph, -1 where they vary. Triton has no rank 0: a scalar is `[1]`."""
    return [size if isinstance(size, int) else -1 for size in node.shape] or [1]


def check_tensors(kind: str, model: str, declared: list[Config], nodes: Sequence[ort.NodeArg], *, batched: bool) -> None:
    """Refuse a config whose inputs or outputs (`kind`) contradict the graph, as the native backend does."""
    known = {node.name: node for node in nodes}
    for tensor in declared:
        node = known.get(tensor["name"])
        if node is None:
            raise pb_utils.TritonModelException(
                f"model '{model}': unexpected inference {kind} '{tensor['name']}', allowed {kind}s are: {sorted(known)}"
            )
        data_type = TRITON_TYPES.get(node.type)
        if data_type != tensor["data_type"]:
            raise pb_utils.TritonModelException(
                f"model '{model}', {kind} '{node.name}': the model has {data_type}, the configuration {tensor['data_type']}"
            )
        reshape = tensor.get("reshape")
        dims = ([-1] if batched else []) + [int(size) for size in (tensor["dims"] if reshape is None else reshape.get("shape", []))]
        shape = graph_dims(node)
        if len(shape) != len(dims) or any(-1 not in (a, b) and a != b for a, b in zip(shape, dims, strict=True)):
            raise pb_utils.TritonModelException(
                f"model '{model}', tensor '{node.name}': the model expects {len(shape)} dimensions (shape {shape}) "
                f"but the model configuration specifies {len(dims)} dimensions (shape {dims})"
            )


class TritonPythonModel:
    """One model instance; Triton's stub finds the class by this name."""

    @staticmethod
    def auto_complete_config(auto: Any) -> Any:
        """Fill in what the config leaves open; a config with inputs and outputs is left alone, as by the native backend."""
        config = auto.as_dict()
        if config.get("input") and config.get("output"):
            return auto
        options = session_options(config)
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # only the signature is wanted
        session = open_session(config, options)
        can_batch = all(n.shape and not isinstance(n.shape[0], int) for n in (*session.get_inputs(), *session.get_outputs()))
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
        for kind, add, nodes in (("input", auto.add_input, session.get_inputs()), ("output", auto.add_output, session.get_outputs())):
            if not config.get(kind):
                for node in nodes:
                    add({"name": node.name, "data_type": TRITON_TYPES[node.type], "dims": graph_dims(node)[1 if size else 0 :] or [1]})
        return auto

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model."""
        config = json.loads(args["model_config"])
        self.session = open_session(config, session_options(config))
        self.batched = config.get("max_batch_size", 0) > 0
        check_tensors("input", config["name"], config["input"], self.session.get_inputs(), batched=self.batched)
        check_tensors("output", config["name"], config["output"], self.session.get_outputs(), batched=self.batched)
        self.inputs = [tensor["name"] for tensor in config["input"]]
        self.outputs = [tensor["name"] for tensor in config["output"]]
        self.strings = {tensor["name"] for tensor in config["input"] if tensor["data_type"] == "TYPE_STRING"}
        self.scalars = {node.name for node in self.session.get_inputs() if not node.shape}
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
        del self.session

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
            return self._response(request, [np.atleast_1d(value) for value in self.session.run(self.outputs, feeds)])
        except Exception as error:  # one bad request must not take the stub down
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"onnxruntime: {error}"))

    def _run_together(self, requests: list[Any]) -> list[Any] | None:
        """All requests as one batch; None where they don't fit together or fail, so that a bad one can fail alone."""
        try:
            columns = {name: [self._read(request, name) for request in requests] for name in self.inputs}
            for column in columns.values():
                if any(array is None or array.shape[1:] != column[0].shape[1:] for array in column):
                    return None
            values = self.session.run(self.outputs, {name: np.concatenate(column) for name, column in columns.items()})
        except Exception:
            return None
        ends = np.cumsum([len(array) for array in columns[self.inputs[0]]])
        return [
            self._response(request, [value[start:end] for value in values])
            for request, start, end in zip(requests, [0, *ends[:-1]], ends, strict=True)
        ]

    def _read(self, request: Any, name: str) -> Any:
        """An input as ONNX Runtime wants it, or None where the request leaves out an optional one."""
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
