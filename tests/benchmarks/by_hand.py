"""INT8 as somebody does it who knows onnxruntime.quantization and reads its documentation: the peer of our candidates. Nothing of Burnish in it.

Static: U8 activations and S8 weights, per channel, MinMax, QDQ, which is what that documentation advises for x86 with VNNI. Dynamic: without Conv,
which has no fast kernel for it. Everything else is left as it comes, but for the operator types of static quantization: all that the tool knows,
or only those with weights, which is the first thing to try when the former fails or loses too much.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

Feed = dict[str, np.ndarray]

WEIGHTED = ("Conv", "Gemm", "MatMul")

_MIN_OPSET = 13  # per-channel scales


class Reader(CalibrationDataReader):  # type: ignore[misc]  # the library is untyped
    """Calibration samples, one per request."""

    def __init__(self, feeds: Sequence[Feed]) -> None:
        self._feeds: Iterator[Feed] = iter(feeds)

    def get_next(self) -> Feed | None:
        """The next one."""
        return next(self._feeds, None)


def prepare(source: Path, target: Path, *, fuse: bool = True) -> None:
    """Fold constants, fuse nodes, infer shapes. The symbolic part is off: it fails on two of the three examples."""
    model = onnx.load(source)
    if max(o.version for o in model.opset_import if o.domain == "") < _MIN_OPSET:
        source = target.with_suffix(".opset.onnx")
        onnx.save(onnx.version_converter.convert_version(model, 18), source)
    quant_pre_process(str(source), str(target), skip_symbolic_shape=True, skip_optimization=not fuse)


def quantize(kind: str, prepared: Path, target: Path, feeds: Sequence[Feed], *, op_types: Sequence[str] | None = None) -> None:
    """The peer of the candidate called `kind`: static, static-ends (the first and the last weighted node stay in float) or dynamic.

    Args:
        kind: which.
        prepared: what `prepare` wrote.
        target: the file to write.
        feeds: calibration samples.
        op_types: of static quantization; by default all that the tool knows.
    """
    if kind == "dynamic":
        quantize_dynamic(str(prepared), str(target), per_channel=True, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul", "Gemm", "Gather"])
        return
    quantize_static(
        str(prepared),
        str(target),
        Reader(feeds),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
        op_types_to_quantize=op_types,
        nodes_to_exclude=_ends(prepared) if kind == "static-ends" else [],
    )


def _ends(prepared: Path) -> list[str]:
    graph = onnx.load(prepared).graph
    constants = {tensor.name for tensor in graph.initializer}
    weighted = [n.name for n in graph.node if n.op_type in WEIGHTED and n.input[1] in constants]
    return [weighted[0], weighted[-1]]
