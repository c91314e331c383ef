"""Weight sharing in an ONNX graph: the codebook as an initializer that `Gather` reads, two indices per byte where they fit.

Opset 21 has a type of four bits, but models are mostly older; `BitShift` takes bytes apart in all but the oldest. ONNX Runtime folds all of it when it
loads the model, so memory and speed are those of plain weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from burnish.plugins import base, onnx_fields
from burnish.plugins.runtimes import _codebook
from burnish.plugins.runtimes import _onnxruntime_quantize as quantize

if TYPE_CHECKING:
    import numpy as np

_BIT_SHIFT = 11
"""The opset that has it; older models keep a byte per index."""
_FLOAT = 1  # TensorProto.FLOAT
_INT32 = 6  # TensorProto.INT32


def apply(step: base.Step, source: Path, target: Path, *, calibration: Sequence[base.Arrays]) -> str:
    """Run the step; see `Runtime.apply`.

    Raises:
        BurnishError: PassNotApplicable where no weight is large enough; CandidateNotBuildable.
    """
    import onnx

    model = onnx.load(source)
    sharing = _codebook.Sharing(step.options, packs=onnx_fields.versions(source)[0] >= _BIT_SHIFT)
    graph = model.graph
    taken = {value.name for value in graph.output}
    kept, nodes = [], []
    for tensor in _weights(graph):
        shared = None
        if tensor.data_type == _FLOAT and len(tensor.dims) > 1 and tensor.name not in taken:
            shared = sharing.share(tensor.name, onnx.numpy_helper.to_array(tensor), _channels(graph, tensor))
        if shared is None:
            kept.append(tensor)
        else:
            made = _Graph(tensor.name)
            made.write(shared)
            kept += made.initializers
            nodes += made.nodes
    note = sharing.note()
    inputs = [value for value in graph.input if value.name not in {output for node in nodes for output in node.output}]
    nodes += graph.node
    for field, values in (("initializer", kept), ("input", inputs), ("node", nodes)):
        values = list(values)
        graph.ClearField(field)
        getattr(graph, field).extend(values)
    target.write_bytes(model.SerializeToString(deterministic=True))
    quantize.believe(source, target, calibration)
    return note


def _weights(graph: Any) -> list[Any]:
    """The initializers, and what stands in Constant nodes, which becomes one."""
    found, others = list(graph.initializer), []
    for node in graph.node:
        value = next((a.t for a in node.attribute if a.name == "value"), None) if node.op_type == "Constant" else None
        if value is None or value.data_type != _FLOAT:
            others.append(node)
            continue
        value.name = node.output[0]
        found.append(value)
    copies = [type(item)() for item in (*found, *others)]
    for copy, item in zip(copies, (*found, *others), strict=True):
        copy.CopyFrom(item)
    graph.ClearField("node")
    graph.node.extend(copies[len(found) :])
    return copies[: len(found)]


def _channels(graph: Any, tensor: Any) -> int:
    """The axis of the output channels, as the first node that uses the weight has it."""
    user = next((node for node in graph.node if tensor.name in node.input), None)
    if user is None:
        return 0
    if user.op_type == "MatMul":
        return len(tensor.dims) - 1
    if user.op_type == "Gemm":
        return 0 if any(a.name == "transB" and a.i for a in user.attribute) else 1
    return 1 if user.op_type == "ConvTranspose" else 0


class _Graph:
    """The nodes and initializers that stand for one weight; the last node's output has its name."""

    def __init__(self, name: str) -> None:
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self._name = name

    def write(self, shared: _codebook.Shared) -> None:
        """Everything, in order."""
        import numpy as np

        flat = shared.indices.ravel()
        indices = self._unpacked(flat) if shared.is_packed else self._constant("indices", flat)
        steps = [("Cast", [indices], {"to": _INT32}), ("Gather", [self._constant("codebook", shared.book), ""], {"axis": 0})]
        if shared.scales is not None:
            steps.append(("Reshape", ["", self._constant("layout", np.array(shared.indices.shape, np.int64))], {}))
            steps.append(("Mul", ["", self._constant("scales", shared.scales)], {}))
        if shared.scales is None or shared.indices.shape != shared.shape:
            steps.append(("Reshape", ["", self._constant("shape", np.array(shared.shape, np.int64))], {}))
        before = ""
        for number, (kind, inputs, options) in enumerate(steps):
            output = self._name if number == len(steps) - 1 else f"{self._name}/{number}"
            before = self._node(kind, [name or before for name in inputs], output, **options)

    def _unpacked(self, flat: np.ndarray) -> str:
        """The first half of the elements in the low four bits, the second in the high ones."""
        import numpy as np

        half = len(flat) // 2
        packed = self._constant("indices", flat[:half] | flat[half:] << 4)
        four = self._constant("four", np.array(4, np.uint8))
        shifted = self._node("BitShift", [packed, four], f"{self._name}/shifted", direction="LEFT")
        low = self._node("BitShift", [shifted, four], f"{self._name}/low", direction="RIGHT")
        high = self._node("BitShift", [packed, four], f"{self._name}/high", direction="RIGHT")
        return self._node("Concat", [low, high], f"{self._name}/all", axis=0)

    def _constant(self, what: str, values: np.ndarray) -> str:
        import onnx

        self.initializers.append(onnx.numpy_helper.from_array(values, f"{self._name}/{what}"))
        return f"{self._name}/{what}"

    def _node(self, kind: str, inputs: list[str], output: str, **options: Any) -> str:
        import onnx

        self.nodes.append(onnx.helper.make_node(kind, inputs, [output], name=f"{output}/{kind}", **options))
        return output
