"""A torch module whose weights and activations go through 8 bits: torchao's quantization of exported graphs (`pt2e`), and its ONNX.

Weights are s8 per channel, symmetric, so that a zero stays a zero; activations are u8 per tensor: what ONNX Runtime and OpenVINO have integer kernels
for on x86. The ONNX holds QuantizeLinear and DequantizeLinear around each layer; PyTorch leaves biases in float, with which ONNX Runtime computes a
last matrix product in float too, so they become integers here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from burnish.errors import BurnishError, Reason
from burnish.plugins import base
from burnish.plugins.formats import _exported, _torch_module
from burnish.plugins.passes import _rounded_places

if TYPE_CHECKING:
    import numpy as np

_INT32 = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Rounded:
    """A module that rounds while it is trained."""

    named: _torch_module.NamedModule
    layers: int
    """Convolutions and matrix products with weights that are rounded."""
    weighted: int
    """All of them."""


def prepare(named: _torch_module.NamedModule, *, seven_bits: bool) -> Rounded:
    """Put rounding into a module; the same one gives the same, so that a state fits again.

    Args:
        named: the module; its weights are taken.
        seven_bits: weights get 7 bits, for CPUs whose sums saturate.

    Raises:
        BurnishError: PassNotApplicable where PyTorch can't capture the module for training.
    """
    import torch

    examples = tuple(_torch_module.example(i) for i in named.inputs)
    varying = tuple({axis: torch.export.Dim.AUTO for axis, size in enumerate(i.tensor.shape) if size == -1} for i in named.inputs)
    with torch.no_grad():
        outputs = list(named.outputs(list(examples)))
    try:
        with _quiet():
            graph = torch.export.export(_torch_module.positional(named), examples, dynamic_shapes=(varying,)).module()
            prepared = _prepared(graph, seven_bits=seven_bits)
    except Exception as error:  # of the exporter, or of the model's own code
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise BurnishError(Reason.PassNotApplicable, f"PyTorch can't capture the model to train it with rounding: {said}; use Quantize") from error
    layers, weighted = _layers(prepared)
    return Rounded(_torch_module.NamedModule(_named(prepared, outputs), named.inputs), layers, weighted)


def convert(rounded: Rounded) -> _torch_module.NamedModule:
    """The module that rounds as a model of integers, whose ONNX runs on integers."""
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

    module = rounded.named.module.eval()
    with _quiet():
        made = convert_pt2e(module.inner)
    return _Integers(_named(made, module.names), rounded.named.inputs)


def _prepared(graph: Any, *, seven_bits: bool) -> Any:
    """Batch normalization goes into the convolution before it, as it does after training, and dropout goes: what is rounded is what runs.

    Dropout enlarges what it lets through, so ranges would be seen that there are none of afterwards.
    """
    from torchao.quantization.pt2e import utils
    from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e

    for node in [n for n in graph.graph.nodes if n.op == "call_function" and "dropout" in str(n.target)]:
        node.replace_all_uses_with(node.args[0])
        graph.graph.erase_node(node)
    graph.recompile()
    utils._fuse_conv_bn_(graph)  # what prepare_pt2e does; prepare_qat_pt2e divides by each channel's scale, and fails where that is zero
    return prepare_qat_pt2e(graph, _rounded_places.quantizer(seven_bits=seven_bits))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's notes to those who write code with it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)


def _named(graph: Any, names: list[str]) -> Any:
    """An exported graph as a module that is switched between training and evaluation like any other, its outputs by name."""
    import torch
    from torchao.quantization import pt2e

    pt2e.allow_exported_model_train_eval(graph)

    class Named(torch.nn.Module):  # type: ignore[misc]  # torch has no types here
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.names = graph, names

        def forward(self, *arguments: Any) -> dict[str, Any]:
            return dict(zip(names, self.inner(*arguments), strict=True))

    return Named().eval()


def _layers(graph: Any) -> tuple[int, int]:
    """Layers whose weight is rounded, and all that have one."""
    layers = [n for n in graph.graph.nodes if n.op == "call_function" and str(n.target).startswith(_WEIGHTED) and len(n.args) > 1]
    rounded = [n for n in layers if n.args[1].op == "call_module"]
    return len(rounded), len(rounded) + sum(n.args[1].op == "get_attr" for n in layers)


_WEIGHTED = ("aten.conv", "aten.linear", "aten.addmm", "aten.mm", "aten.matmul", "aten.baddbmm", "aten.bmm")


# --- ONNX -------------------------------------------------------------------------------------------------------------------------------


class _Integers(_torch_module.NamedModule):
    """A module of integers."""

    def export(self, target: Path, *, image: base.ServingImage) -> tuple[base.Signature, base.GraphFacts]:
        """Write ONNX to `target`, in the form that both runtimes take for integers.

        Raises:
            BurnishError: as `NamedModule.export`.
        """
        import onnx

        plain = target.with_suffix(".plain.onnx")
        super().export(plain, image=image)
        model = onnx.load(plain)
        _own_constants(model.graph)
        _integer_biases(model.graph)
        _drop_unused(model.graph)
        onnx.save(model, plain)
        return _exported.finish(plain, self.inputs, target, image=image)


def _own_constants(graph: Any) -> None:
    """Scales and zero points of weights that belong to one weight alone: what two of them share, OpenVINO computes in float."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type != "DequantizeLinear" or node.input[0] not in constants:
            continue
        for position, name in list(enumerate(node.input))[1:]:
            if name in constants:
                own = type(constants[name])()
                own.CopyFrom(constants[name])
                own.name = node.input[position] = f"{node.name}_{_ROLES[position]}"
                graph.initializer.append(own)


_ROLES = ("weight", "scale", "zero_point")


def _drop_unused(graph: Any) -> None:
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _integer_biases(graph: Any) -> None:
    """Biases of layers between integers as int32 with the scale of their products: ONNX Runtime has no integer Gemm with another one."""
    from onnx import helper, numpy_helper

    made = {output: node for node in graph.node for output in node.output}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for layer in [n for n in graph.node if n.op_type in ("Conv", "Gemm") and len(n.input) > 2]:
        activation, weight = (made.get(name) for name in layer.input[:2])
        bias = constants.get(layer.input[2])
        if bias is None or activation is None or weight is None or {activation.op_type, weight.op_type} != {"DequantizeLinear"}:
            continue
        scale = _scale(constants, activation) * _scale(constants, weight)
        values = _whole(numpy_helper.to_array(bias), scale)
        if values is None:
            continue
        name = f"{layer.name}_bias"
        graph.initializer.extend([numpy_helper.from_array(values, f"{name}_quantized"), numpy_helper.from_array(scale, f"{name}_scale")])
        node = helper.make_node("DequantizeLinear", [f"{name}_quantized", f"{name}_scale"], [name], axis=0, name=f"{name}_dequantize")
        graph.node.insert(0, node)
        layer.input[2] = name


def _scale(constants: Mapping[str, Any], node: Any) -> np.ndarray:
    from onnx import numpy_helper

    return numpy_helper.to_array(constants[node.input[1]])


def _whole(bias: np.ndarray, scale: np.ndarray) -> np.ndarray | None:
    """The bias in units of the scale; None where it is out of their range, or the scale is not one per value."""
    import numpy as np

    if scale.shape != bias.shape:
        return None
    units = np.round(bias.astype(np.float64) / scale)
    return units.astype(np.int32) if np.abs(units).max(initial=0) <= _INT32 else None
