"""Triton's `onnxruntime` backend on top of the onnxruntime wheel, for servers that come without the native one.

This file is loaded by Triton's Python stub, never by Burnish. Of config.pbtxt it reads default_model_filename, the parameters
intra_op_thread_count, inter_op_thread_count, execution_mode, enable_mem_arena, enable_mem_pattern and session.intra_op.allow_spinning, and
optimization.graph.level, as the native backend does.
"""

from __future__ import annotations

import os
from typing import ClassVar

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read on import; Linux wheels report to the vendor by default since 1.29

from burnish_backend import BackendModel, Config, Engine, Port, model_path, parameters  # isort: skip  # it completes sys.path
import onnxruntime as ort

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


def session_options(config: Config) -> ort.SessionOptions:
    """ONNX Runtime's options as the config asks for them."""
    given = parameters(config)

    def is_on(key: str) -> bool:
        return str(given.get(key, "1")).lower() not in ("0", "false")

    options = ort.SessionOptions()
    options.log_severity_level = LOG_ERRORS_ONLY
    options.intra_op_num_threads = int(given.get("intra_op_thread_count", 0))
    options.inter_op_num_threads = int(given.get("inter_op_thread_count", 0))
    if given.get("execution_mode", "0") == "1":
        options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    options.enable_cpu_mem_arena = is_on("enable_mem_arena")
    options.enable_mem_pattern = is_on("enable_mem_pattern")
    if not is_on("session.intra_op.allow_spinning"):
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    level = int(((config.get("optimization") or {}).get("graph") or {}).get("level", 0))
    options.graph_optimization_level = GRAPH_LEVELS.get(level, ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
    return options


def port(node: ort.NodeArg) -> Port:
    """A tensor of the graph."""
    return Port(node.name, TRITON_TYPES.get(node.type), [size if isinstance(size, int) else -1 for size in node.shape])


class TritonPythonModel(BackendModel):
    """One model instance; Triton's stub finds the class by this name."""

    backend: ClassVar[str] = "onnxruntime"

    @classmethod
    def load(cls, config: Config, *, only_signature: bool = False) -> Engine:
        """See `BackendModel.load`."""
        options = session_options(config)
        if only_signature:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = ort.InferenceSession(model_path(config, "model.onnx"), options, providers=PROVIDERS)
        return Engine([port(node) for node in session.get_inputs()], [port(node) for node in session.get_outputs()], session.run)
