"""An ONNX graph as a torch module that can be trained: onnx2torch, and the operators that it lacks.

ONNX Runtime's basic optimization comes first: it folds constants and batch normalization, so that weights are weights and not results of nodes. The
result is held to ONNX Runtime's own answer, and its weights have to be parameters; else the graph is refused with the operator's name or the error.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from burnish.errors import BurnishError, Reason
from burnish.plugins import base
from burnish.plugins.formats import _exported, _torch_module

TOLERANCE = 1e-4
"""Largest difference between the module's answer and ONNX Runtime's, absolute and relative to the largest value."""
TRAINABLE_SHARE = 0.9
"""Of the graph's floating-point weights, that have to become parameters."""
_LISTED = 3
_CURE = "such a graph can be quantized (type: Quantize), but not trained here; give Burnish the model in its own framework (StateDict, HuggingFace)"


def convert(
    model: Path, signature: base.Signature, feeds: list[dict[str, Any]], scratch: Path, sizes: Mapping[str, Mapping[int, int]]
) -> _torch_module.NamedModule:
    """The graph as a module with the same inputs and outputs.

    Args:
        model: the ONNX file.
        signature: of it.
        feeds: requests on which both are compared; not empty.
        scratch: a folder for the folded graph.
        sizes: input -> varying axis -> its size while the module is traced again.

    Raises:
        BurnishError: PassNotApplicable.
    """
    graph = _read(_fold(model, scratch))
    weights = sum(_count(t) for t in graph.graph.initializer if t.data_type == _FLOAT)
    _prepare(graph)
    module = _converted(graph)
    _make_trainable(module)
    trainable = sum(p.numel() for p in module.parameters())
    if trainable < TRAINABLE_SHARE * weights:
        raise _refused(f"only {trainable:,} of its {weights:,} weights can be trained")
    named = _torch_module.NamedModule(
        _with_names(module, [o.name for o in signature.outputs]), tuple(_exported.Input(i, sizes.get(i.name, {})) for i in signature.inputs)
    )
    _compare(named, model, feeds)
    return named


_FLOAT = 1  # TensorProto.FLOAT


def _refused(what: str) -> BurnishError:
    return BurnishError(Reason.PassNotApplicable, f"the graph can't be brought to PyTorch for training: {what}; {_CURE}", field="spec.passes")


def _fold(model: Path, scratch: Path) -> Path:
    from burnish.plugins.runtimes import _onnxruntime_session as session

    ort = session.import_onnxruntime()
    target = scratch / "folded.onnx"
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 4
    with session.typed_errors():
        ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    return target


def _read(path: Path) -> Any:
    import onnx

    return onnx.shape_inference.infer_shapes(onnx.load(path))


def _count(tensor: Any) -> int:
    import math

    return math.prod(tensor.dims)


# --- what onnx2torch would refuse ------------------------------------------------------------------------------------------------------


def _prepare(model: Any) -> None:
    """Write as onnx2torch knows it what it knows in another form."""
    sizes = {v.name: [d.dim_value if d.HasField("dim_value") else 0 for d in v.type.tensor_type.shape.dim] for v in _values(model.graph)}
    shapes = {t.name: list(t.dims) for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("Conv", "MaxPool", "AveragePool"):
            _explicit_padding(node, sizes.get(node.input[0], []), shapes)
    _flatten(model, sizes)


def _values(graph: Any) -> list[Any]:
    return [*graph.input, *graph.value_info, *graph.output]


def _flatten(model: Any, sizes: Mapping[str, list[int]]) -> None:
    """`Reshape` to two axes that keeps the batch is `Flatten`: a number of features written out would not follow a layer that loses some."""
    import math

    import onnx

    shapes = {t.name: onnx.numpy_helper.to_array(t).tolist() for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT64}
    for node in model.graph.node:
        wanted, given = shapes.get(node.input[1]) if node.op_type == "Reshape" else None, sizes.get(node.input[0], [])
        if wanted and len(wanted) == 2 and len(given) > 2 and all(given[1:]) and wanted[1] in (-1, math.prod(given[1:])):
            node.op_type = "Flatten"
            del node.input[1:]
            del node.attribute[:]
            node.attribute.append(onnx.helper.make_attribute("axis", 1))


def _explicit_padding(node: Any, size: list[int], shapes: Mapping[str, list[int]]) -> None:
    """`auto_pad` SAME as numbers (ONNX's Conv: output = ceil(input / stride)), where the sizes are known."""
    import onnx

    found = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    mode = found.get("auto_pad", b"NOTSET")
    if mode not in (b"SAME_UPPER", b"SAME_LOWER"):
        return
    kernel = found.get("kernel_shape") or shapes[node.input[1]][2:]
    spatial, axes = size[2:], len(kernel)
    strides, dilations = found.get("strides") or [1] * axes, found.get("dilations") or [1] * axes
    before, after = [], []
    for length, window, stride, dilation in zip(spatial or [0] * axes, kernel, strides, dilations, strict=True):
        if not length and stride != 1:
            return  # left to onnx2torch, which refuses it by name
        whole = dilation * (window - 1) + 1
        total = max(0, (-(-length // stride) - 1) * stride + whole - length) if length else whole - 1
        small, large = total // 2, total - total // 2
        before.append(small if mode == b"SAME_UPPER" else large)
        after.append(large if mode == b"SAME_UPPER" else small)
    kept = [a for a in node.attribute if a.name not in ("auto_pad", "pads")]
    del node.attribute[:]
    node.attribute.extend([*kept, onnx.helper.make_attribute("pads", [*before, *after])])


def _converted(model: Any) -> Any:
    import onnx2torch

    _register(model)
    try:
        return onnx2torch.convert(model)
    except NotImplementedError as error:
        operators = sorted({node.op_type for node in model.graph.node if re.search(rf"\b{re.escape(node.op_type)}\b", str(error))})
        said = f"onnx2torch has no {', '.join(operators)}" if operators else " ".join(str(error).split())[:200]
        raise _refused(said) from error
    except Exception as error:  # of the library, on a graph that it does not expect
        raise _refused(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from error


def _register(model: Any) -> None:
    """Teach onnx2torch our converters, and to take a newer version of an operator for the one it has.

    Newer versions of the standard operators mostly add types; where one means something else, the comparison with ONNX Runtime finds it.
    """
    from onnx2torch.node_converters import registry

    known = registry._CONVERTER_REGISTRY
    for description, converter in _own(registry).items():
        known[description] = converter
    for node in model.graph.node:
        wanted = _description(registry, node, model)
        if wanted is None or wanted in known:
            continue
        older = [d for d in known if d.domain == wanted.domain and d.operation_type == wanted.operation_type and d.version < wanted.version]
        if older:
            known[wanted] = known[max(older, key=lambda d: d.version)]


def _description(registry: Any, node: Any, model: Any) -> Any:
    import onnx

    version = next((o.version for o in model.opset_import if o.domain == node.domain), 0)
    try:
        since = onnx.defs.get_schema(node.op_type, domain=node.domain, max_inclusive_version=version).since_version
    except onnx.defs.SchemaError:
        return None
    return registry.OperationDescription(node.domain, node.op_type, since)


@functools.cache
def _own(registry: Any) -> dict[Any, Any]:
    """Converters that keep constant shapes out of the data, so that what is trained can be exported again, and weights in layers that passes know."""
    import torch
    from onnx2torch.utils.common import OnnxMapping, OperationConverterResult

    class Reshape(torch.nn.Module):  # type: ignore[misc]  # torch has no types here
        def __init__(self, shape: list[int]) -> None:
            super().__init__()
            self.shape = shape

        def forward(self, value: Any) -> Any:
            return torch.reshape(value, [value.shape[axis] if size == 0 else size for axis, size in enumerate(self.shape)])

    class Mean(torch.nn.Module):  # type: ignore[misc]
        def __init__(self, axes: list[int], keep: bool) -> None:
            super().__init__()
            self.axes, self.keep = axes, keep

        def forward(self, value: Any) -> Any:
            return torch.mean(value, dim=self.axes, keepdim=self.keep)

    def one_input(node: Any, module: Any) -> Any:
        return OperationConverterResult(torch_module=module, onnx_mapping=OnnxMapping(inputs=(node.input_values[0],), outputs=node.output_values))

    def constant(graph: Any, name: str) -> Any:
        if name not in graph.initializers:
            raise NotImplementedError(f"a {name} that is computed")
        return graph.initializers[name].to_torch()

    def reshape(node: Any, graph: Any) -> Any:
        return one_input(node, Reshape([int(n) for n in constant(graph, node.input_values[1])]))

    def mean(node: Any, graph: Any) -> Any:
        axes = constant(graph, node.input_values[1]) if len(node.input_values) > 1 else node.attributes["axes"]
        return one_input(node, Mean([int(a) for a in axes], bool(node.attributes.get("keepdims", 1))))

    fallback = dict(registry._CONVERTER_REGISTRY)

    def matmul(node: Any, graph: Any) -> Any:
        weight = graph.initializers.get(node.input_values[1])
        if weight is None or len(weight.to_torch().shape) != 2:
            description = registry.OperationDescription("", "MatMul", 13)
            return fallback[description](node, graph)
        values = weight.to_torch()
        layer = torch.nn.Linear(*values.shape, bias=False)
        layer.weight.data = values.T.contiguous()
        return one_input(node, layer)

    at = registry.OperationDescription
    return {
        **{at("", "Reshape", version): reshape for version in (5, 13, 14, 19, 21, 23, 24, 25)},
        **{at("", "ReduceMean", version): mean for version in (1, 11, 13, 18)},
        **{at("", "MatMul", version): matmul for version in (1, 9, 13)},
    }


# --- what the module has to hold -------------------------------------------------------------------------------------------------------


def _make_trainable(module: Any) -> None:
    """Floating-point initializers that no layer took are parameters too: scales and shifts of whatever the graph computes."""
    import torch

    initializers: Any = getattr(module, "initializers", None)
    for name, value in list(initializers.named_buffers()) if initializers is not None else []:
        if value.is_floating_point() and value.numel() > 1:
            delattr(initializers, name)
            initializers.register_parameter(name, torch.nn.Parameter(value))


def _with_names(module: Any, names: list[str]) -> Any:
    """The module with its outputs by name."""
    import torch

    class Named(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, *arguments: Any) -> dict[str, Any]:
            answer = self.inner(*arguments)
            return dict(zip(names, answer if isinstance(answer, (list, tuple)) else [answer], strict=True))

    return Named()


def _compare(named: _torch_module.NamedModule, model: Path, feeds: list[dict[str, Any]]) -> None:
    import numpy as np

    from burnish.plugins.runtimes import _onnxruntime_session as session

    opened = session.open_session(model, threads=1)
    for feed in feeds:
        expected = opened.infer(feed)
        try:
            found = named.run(feed)
        except BurnishError as error:
            raise _refused(error.message) from error
        for name, value in expected.items():
            bound = TOLERANCE * max(1.0, float(np.abs(value).max())) if value.size else 0.0
            other = found.get(name)
            if other is None or other.shape != value.shape:
                raise _refused(f"output {name!r} has another shape there ({None if other is None else list(other.shape)}, not {list(value.shape)})")
            difference = float(np.abs(other.astype(np.float64) - value).max()) if value.size else 0.0
            if not difference <= bound:
                raise _refused(f"output {name!r} differs by {difference:.2g} from ONNX Runtime's, more than {bound:.1g}")
