"""Reading an ONNX graph: walking it with its subgraphs and functions, its signature and the facts that lowering needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from burnish.errors import BurnishError, Reason
from burnish.plugins import base

WEIGHT_INPUT = {"Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1, "LSTM": 1, "GRU": 1, "RNN": 1, "Gather": 0}
"""Operator type -> index of the input that is its weight."""

FLOAT_TYPES = frozenset({1, 10, 11, 16})
"""TensorProto: FLOAT, FLOAT16, DOUBLE, BFLOAT16."""


def parse(path: Path) -> Any:
    """The ModelProto in `path`, its external data not yet read.

    Raises:
        BurnishError: InvalidModel.
    """
    import onnx

    model = onnx.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except Exception as error:  # protobuf's DecodeError; its package has no types, and which class it raises differs by implementation
        cause = "it is not ONNX, or truncated, or nested too deeply"
        raise BurnishError(Reason.InvalidModel, f"{path.name} does not parse as an ONNX model: {cause}; export it again") from error
    if not model.HasField("graph") or not model.graph.output:
        raise BurnishError(Reason.InvalidModel, f"{path.name} holds no ONNX graph with outputs; export the model again")
    return model


def graphs(model: Any) -> Iterator[Any]:
    """Every GraphProto and FunctionProto of the model: the main graph, subgraphs of If, Loop and Scan at any depth, functions."""
    pending = [model.graph, *model.functions]
    while pending:
        graph = pending.pop(0)
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                pending += [attribute.g] if attribute.HasField("g") else []
                pending += attribute.graphs


def nodes(model: Any) -> Iterator[Any]:
    """Every node of the model, also inside subgraphs and functions."""
    for graph in graphs(model):
        yield from graph.node


def tensors(model: Any) -> Iterator[tuple[str, Any]]:
    """Every TensorProto of the model with a name for messages: initializers, both parts of sparse ones, and node attributes."""
    for graph in graphs(model):
        for tensor in getattr(graph, "initializer", ()):
            yield tensor.name, tensor
        for sparse in getattr(graph, "sparse_initializer", ()):
            yield from _sparse_parts(sparse.values.name, sparse)
        for node in graph.node:
            name = node.output[0] if node.output else node.name
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield name, attribute.t
                if attribute.HasField("sparse_tensor"):
                    yield from _sparse_parts(name, attribute.sparse_tensor)
                for tensor in attribute.tensors:
                    yield name, tensor
                for sparse in attribute.sparse_tensors:
                    yield from _sparse_parts(name, sparse)


def _sparse_parts(name: str, sparse: Any) -> Iterator[tuple[str, Any]]:
    yield name, sparse.values
    yield f"{name} (indices)", sparse.indices


def name_nodes(model: Any) -> None:
    """Give every unnamed node of the main graph a name, `<op type>_<index>`, so that it can be excluded from a pass."""
    taken = {node.name for node in nodes(model)}
    for index, node in enumerate(model.graph.node):
        if not node.name:
            name = f"{node.op_type}_{index}"
            while name in taken:
                name += "_"
            node.name = name
            taken.add(name)


def default_opset(model: Any) -> int:
    """Version of the standard operator set that the model imports; 0 where it imports none."""
    return max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)


def infer_output_shapes(model: Any) -> None:
    """Fill in the shapes of outputs that declare none, as far as they can be inferred; some exporters leave them out, and the checker wants them."""
    import onnx

    missing = [o for o in model.graph.output if o.type.HasField("tensor_type") and not o.type.tensor_type.HasField("shape")]
    if not missing:
        return
    try:
        inferred = {o.name: o for o in onnx.shape_inference.infer_shapes(model).graph.output}
    except Exception:  # inference of a damaged graph raises whatever comes; the checker, which runs next, says what is wrong with it
        return
    for output in missing:
        output.CopyFrom(inferred[output.name])


def signature(model: Any) -> base.Signature:
    """Inputs and outputs as the model declares them.

    Raises:
        BurnishError: UnsupportedOperator for a type that the KServe v2 protocol has no name for; InvalidModel for an unknown rank.
    """
    weights = {t.name for t in model.graph.initializer} | {s.values.name for s in model.graph.sparse_initializer}
    return base.Signature(
        inputs=tuple(_tensor("input", i) for i in model.graph.input if i.name not in weights),
        outputs=tuple(_tensor("output", o) for o in model.graph.output),
    )


def _tensor(role: str, value: Any) -> base.Tensor:
    import onnx

    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        raise BurnishError(
            Reason.UnsupportedOperator,
            f"{role} {value.name!r} is a {kind or 'value without type'}, but Triton serves tensors only; "
            "export the model with tensor inputs and outputs (scikit-learn classifiers: options zipmap=False)",
        )
    number = value.type.tensor_type.elem_type
    name = {v: k for k, v in onnx.TensorProto.DataType.items()}.get(number, f"number {number}")
    data_type = _V2_NAMES.get(name)
    if data_type is None:
        raise BurnishError(
            Reason.UnsupportedOperator,
            f"{role} {value.name!r} has type {name}, which Triton's protocol can't carry; cast it inside the model, for example to FLOAT",
        )
    if not value.type.tensor_type.HasField("shape"):
        raise BurnishError(
            Reason.InvalidModel, f"{role} {value.name!r} declares no shape, not even its rank; export the model with it (dimensions may vary)"
        )
    return base.Tensor(name=value.name, data_type=data_type, shape=tuple(_size(role, value, d) for d in value.type.tensor_type.shape.dim))


def _size(role: str, value: Any, dimension: Any) -> int:
    """A fixed size, or -1 for a symbolic or unknown one (some exporters write a negative size for that)."""
    if dimension.WhichOneof("value") != "dim_value" or dimension.dim_value < 0:
        return -1
    if dimension.dim_value == 0:
        raise BurnishError(
            Reason.InvalidModel, f"{role} {value.name!r} declares a dimension of size 0; export it with the real size, or a symbolic one"
        )
    return int(dimension.dim_value)


_V2_NAMES = {
    "BOOL": base.DataType.BOOL,
    "UINT8": base.DataType.UINT8,
    "UINT16": base.DataType.UINT16,
    "UINT32": base.DataType.UINT32,
    "UINT64": base.DataType.UINT64,
    "INT8": base.DataType.INT8,
    "INT16": base.DataType.INT16,
    "INT32": base.DataType.INT32,
    "INT64": base.DataType.INT64,
    "FLOAT16": base.DataType.FP16,
    "FLOAT": base.DataType.FP32,
    "DOUBLE": base.DataType.FP64,
    "STRING": base.DataType.BYTES,
}


def facts(model: Any) -> base.GraphFacts:
    """What lowering needs. A weight counts as constant also where it is computed from constants only, as those are folded before any pass."""
    constants = {t.name: t.data_type for t in model.graph.initializer}
    weighted = []
    for node in model.graph.node:
        _follow_constants(node, constants)
        index = WEIGHT_INPUT.get(node.op_type)
        if index is not None and len(node.input) > index and constants.get(node.input[index]) in FLOAT_TYPES:
            weighted.append(node)
    return base.GraphFacts(
        opset=default_opset(model),
        op_counts=dict(sorted(Counter(n.op_type for n in nodes(model)).items())),
        weighted_ops=dict(sorted(Counter(n.op_type for n in weighted).items())),
        parameters=sum(_elements(tensor) for _, tensor in tensors(model) if tensor.data_type in FLOAT_TYPES),
        node_names=tuple(n.name for n in weighted),
    )


_FOLDED = frozenset(("Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Mul", "Div", "Cast", "DequantizeLinear"))


def _follow_constants(node: Any, constants: dict[str, int]) -> None:
    """Record in `constants` (name -> element type) what a node computes from constants only, with the type of its first input."""
    if node.op_type == "Constant":
        value = next((a for a in node.attribute if a.name == "value"), None)
        constants[node.output[0]] = value.t.data_type if value is not None else 0
    elif node.op_type in _FOLDED and all(name in constants for name in node.input if name):
        is_cast = node.op_type == "Cast"
        constants[node.output[0]] = next(a.i for a in node.attribute if a.name == "to") if is_cast else constants[node.input[0]]


def _elements(tensor: Any) -> int:
    count = 1
    for size in tensor.dims:
        count *= size
    return count
