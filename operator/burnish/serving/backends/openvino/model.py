"""Triton's `openvino` backend on top of the openvino wheel, for servers that come without the native one.

This file is loaded by Triton's Python stub, never by Burnish. Of config.pbtxt it reads default_model_filename and the parameters
INFERENCE_NUM_THREADS, NUM_STREAMS and PERFORMANCE_HINT as the native backend does. It also reads INFERENCE_PRECISION_HINT, which the native one
doesn't know and ignores, and needs no ENABLE_BATCH_PADDING: batches smaller than max_batch_size are run as they are.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from burnish_backend import BackendModel, Config, Engine, Port, model_path, parameters  # isort: skip  # it completes sys.path
import openvino as ov

PROPERTIES = ("INFERENCE_NUM_THREADS", "NUM_STREAMS", "PERFORMANCE_HINT", "INFERENCE_PRECISION_HINT")

TRITON_TYPES = {
    "boolean": "TYPE_BOOL",
    "u8": "TYPE_UINT8",
    "u16": "TYPE_UINT16",
    "u32": "TYPE_UINT32",
    "u64": "TYPE_UINT64",
    "i8": "TYPE_INT8",
    "i16": "TYPE_INT16",
    "i32": "TYPE_INT32",
    "i64": "TYPE_INT64",
    "f16": "TYPE_FP16",
    "f32": "TYPE_FP32",
    "f64": "TYPE_FP64",
}


def port(output: ov.Output) -> Port:
    """A tensor of the graph."""
    shape = [size.get_length() if size.is_static else -1 for size in output.get_partial_shape()]
    return Port(output.get_any_name(), TRITON_TYPES.get(output.get_element_type().get_type_name()), shape)


class TritonPythonModel(BackendModel):
    """One model instance; Triton's stub finds the class by this name."""

    backend: ClassVar[str] = "openvino"

    @classmethod
    def load(cls, config: Config, *, only_signature: bool = False) -> Engine:
        """See `BackendModel.load`."""
        core = ov.Core()
        model = core.read_model(model_path(config, "model.xml"))
        inputs, outputs = [port(entry) for entry in model.inputs], [port(entry) for entry in model.outputs]
        if only_signature:
            return Engine(inputs, outputs, lambda names, feeds: [])
        given = parameters(config)
        compiled = core.compile_model(model, "CPU", {key: given[key] for key in PROPERTIES if key in given})
        request = compiled.create_infer_request()
        ports = {entry.name: compiled.output(entry.name) for entry in outputs}

        def run(names: Sequence[str], feeds: Mapping[str, Any]) -> Sequence[Any]:
            # Inputs are read where they lie, in Triton's shared memory; outputs are copied, since the next run writes over them.
            found = request.infer(dict(feeds), share_inputs=True, share_outputs=False)
            return [found[ports[name]] for name in names]

        return Engine(inputs, outputs, run)

    def finalize(self) -> None:
        """Let go of the model and its threads: a stub that still holds them when the interpreter goes may never end."""
        super().finalize()
        gc.collect()
