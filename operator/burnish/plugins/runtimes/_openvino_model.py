"""Models in OpenVINO's own form: from ONNX, to and from its IR (`model.xml` and the weights in `model.bin`)."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from burnish.errors import BurnishError, Reason
from burnish.plugins import onnx_fields
from burnish.plugins.runtimes._openvino_session import typed_errors

WEIGHTED = {"Convolution": 1, "GroupConvolution": 1, "ConvolutionBackpropData": 1, "GroupConvolutionBackpropData": 1, "MatMul": 1, "Gather": 0,
            "LSTMSequence": 4, "GRUSequence": 3, "RNNSequence": 3}  # fmt: skip
"""OpenVINO's operator type -> index of the input that is its weight."""

_BESIDE_WEIGHTS = 2**20
"""Bytes of a small graph, so that nobody takes a full disk for a bad model."""
_NO_RULE = re.compile(r"No conversion rule found for operations: (.+)")
_NUMBERED = re.compile(r"[A-Z]\w*_\d+(/|$)")
"""Names that OpenVINO made up, with a counter of the process; the source's may look the same."""


def read(path: Path) -> Any:
    """The model at `path`, an .onnx file or an IR, as `openvino.Model`; its tensors are called as in the source.

    Raises:
        BurnishError: UnsupportedOperator, naming what OpenVINO has no conversion for; CandidateNotBuildable.
    """
    import openvino

    if path.suffix == ".xml":
        with typed_errors("OpenVINO does not read the model"):
            return openvino.Core().read_model(path)
    with typed_errors("OpenVINO does not convert the model"):
        named = onnx_fields.names(path)
        try:
            model = openvino.convert_model(path)
        except Exception as error:
            missing = _NO_RULE.search(str(error))
            if missing is None:
                raise
            raise BurnishError(
                Reason.UnsupportedOperator,
                f"OpenVINO has no {missing[1].strip()}; export the model without, or use runtime: ONNXRuntime for this target",
                field="spec.targets[].runtime",
            ) from error
        _name_ports(model, named)
        _number(model, lambda op: label(op) in named.operations)
        return model


def _name_ports(model: Any, named: onnx_fields.Names) -> None:
    """Let each input and output have the one name that the source has: Triton's native backend knows them by one only."""
    for ports, names in ((model.inputs, named.inputs), (model.outputs, named.outputs)):
        for port, name in zip(ports, names, strict=True):
            if name not in port.get_names():
                raise BurnishError(Reason.CandidateNotBuildable, f"OpenVINO lost the tensor {name!r} in conversion")
            if port.get_element_type().get_type_name() == "string":
                raise BurnishError(
                    Reason.UnsupportedOperator,
                    f"{name!r} holds strings, which OpenVINO does not serve; use runtime: ONNXRuntime for this target",
                    field="spec.targets[].runtime",
                )
            port.get_tensor().set_names({name})


def save(model: Any, path: Path) -> None:
    """Write the IR; equal models give equal bytes, in whichever order they were made.

    Raises:
        BurnishError: CandidateNotBuildable.
        OSError: the disk is full, for which OpenVINO has no word.
    """
    import openvino

    _number(model, lambda op: op.get_type_name() in WEIGHTED)
    with typed_errors("OpenVINO does not write the model"):
        try:
            openvino.save_model(model, path, compress_to_fp16=False)
        except Exception as error:
            size = sum(op.get_byte_size() for op in model.get_ordered_ops() if op.get_type_name() == "Constant")
            if shutil.disk_usage(path.parent).free < size + _BESIDE_WEIGHTS:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
            raise


def return_memory() -> None:
    """Give the kernel back what freed graphs took: glibc keeps it, and the session that is opened next would need as much on top."""
    ctypes.CDLL(None).malloc_trim(0)


def _number(model: Any, is_known: Callable[[Any], bool]) -> None:
    """Give what OpenVINO made up names that depend on the model alone, but for operations that are known by theirs."""
    for index, op in enumerate(model.get_ordered_ops()):
        kind = op.get_type_name()
        if kind not in ("Parameter", "Result") and _NUMBERED.match(op.get_friendly_name()) and not is_known(op):
            op.set_friendly_name(f"{kind}_{index}")


def opset(model: Any) -> int:
    """The newest of OpenVINO's operator sets that the model needs, in the bodies of its loops and conditions as well."""
    versions = (op.get_type_info().version_id for op in _all_ops(model))
    return max(int(version.removeprefix("opset")) for version in versions if version.startswith("opset"))


def _all_ops(model: Any) -> Iterator[Any]:
    """The operations of a graph, and of the graphs in it."""
    for op in model.get_ordered_ops():
        yield op
        for body in _bodies(op):
            yield from _all_ops(body)


def _bodies(op: Any) -> list[Any]:
    """The graphs that an operation holds: of If one per branch, of Loop and TensorIterator one."""
    kind = op.get_type_name()
    if kind == "If":
        return [op.get_function(branch) for branch in (0, 1)]
    return [op.get_function()] if kind in ("Loop", "TensorIterator") else []


def weighted_ops(model: Any) -> list[Any]:
    """Operations with a constant weight, in topological order."""
    return [op for op in model.get_ordered_ops() if op.get_type_name() in WEIGHTED and weight(op) is not None]


def weight(op: Any) -> Any | None:
    """The constant that is the weight of a weighted operation, behind whatever reshapes, converts or scales it; None where it has none."""
    node = op.input_value(WEIGHTED[op.get_type_name()]).get_node()
    while node.get_type_name() != "Constant":
        if node.get_type_name() not in _ON_WEIGHTS:
            return None
        node = node.input_value(0).get_node()
    return node


_ON_WEIGHTS = frozenset(("Convert", "Multiply", "Subtract", "Reshape", "Transpose", "Unsqueeze", "Squeeze", "FakeQuantize"))


def is_float(op: Any) -> bool:
    """True where the weight of a weighted operation is in floating point."""
    constant = weight(op)
    return constant is not None and constant.get_element_type().is_real()


def label(op: Any) -> str:
    """An operation's name as the source has it."""
    return str(op.get_friendly_name()).removesuffix("/WithoutBiases")


def find(model: Any, names: Sequence[str], source: Path) -> list[Any]:
    """The weighted operations that the ONNX nodes `names` of `source` became.

    Raises:
        BurnishError: CandidateNotBuildable, naming a node that became none.
    """
    if not names:
        return []
    import onnx

    outputs = {node.name: [name for name in node.output if name] for node in onnx.load(source, load_external_data=False).graph.node}
    by_tensor = {name: op for op in model.get_ordered_ops() for output in op.outputs() for name in output.get_names()}
    by_label = {label(op): op for op in weighted_ops(model)}
    found = []
    for name in names:
        producers = [by_tensor[tensor] for tensor in outputs[name] if tensor in by_tensor]
        op = by_label.get(name) or next(filter(None, map(_weighted_before, producers)), None)
        if op is None:
            raise BurnishError(Reason.CandidateNotBuildable, f"node {name!r}, which is to stay in float, is not in the graph that OpenVINO made")
        found.append(op)
    return found


def _weighted_before(op: Any) -> Any | None:
    """The operation itself, or the one that feeds it: OpenVINO splits a node into the product, its bias, and reshapes."""
    for _ in range(_SPLIT_INTO):
        if op.get_type_name() in WEIGHTED:
            return op
        if not op.get_input_size():
            return None
        op = op.input_value(0).get_node()
    return None


_SPLIT_INTO = 4
