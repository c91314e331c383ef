"""Where an exported torch graph is rounded to 8 bits: around what ONNX Runtime and OpenVINO have integer kernels for, and nowhere else.

torchao's own choice for x86 leaves the convolution before an addition in float, refuses some residual networks, and takes no scale below 2^-12, which
costs small weights most of their bits.
"""

from __future__ import annotations

from typing import Any

_CONVOLUTIONS = ("aten.conv1d", "aten.conv2d")
LAYERS = (*_CONVOLUTIONS, "aten.linear")
_CLAMPS = ("aten.relu", "aten.relu_", "aten.hardtanh", "aten.hardtanh_", "aten.clamp", "aten.clamp_min")
_CARRIES = ("aten.max_pool1d", "aten.max_pool2d", "aten.flatten", "aten.view", "aten.reshape", "aten.permute", "aten.transpose", "aten.squeeze")
"""They pass on the values they get, so these keep their scale."""
_SUMS = ("aten.add", "aten.add_")


def quantizer(*, seven_bits: bool) -> Any:
    """A quantizer of torchao: s8 weights per channel, symmetric, and u8 activations per tensor.

    Inputs of layers are rounded, and what convolutions answer, without which they have no integer kernel; but not the model's own answer. What passes
    values on keeps their scale; a sum is rounded where a convolution takes it.
    """
    import torch
    from torchao.quantization import pt2e
    from torchao.quantization.pt2e import quantizer as of

    def spec(dtype: Any, low: int, high: int, scheme: Any, observer: Any, axis: int | None = None) -> Any:
        made = pt2e.FusedMovingAvgObsFakeQuantize.with_args(observer=observer)
        return of.QuantizationSpec(dtype=dtype, quant_min=low, quant_max=high, qscheme=scheme, ch_axis=axis, observer_or_fake_quant_ctr=made)

    activation = spec(torch.uint8, 0, 255, torch.per_tensor_affine, pt2e.MovingAverageMinMaxObserver)
    largest = 63 if seven_bits else 127
    weight = spec(torch.int8, -largest, largest, torch.per_channel_symmetric, pt2e.MovingAveragePerChannelMinMaxObserver, 0)

    class Places(of.Quantizer):  # type: ignore[misc]  # torchao has no types here
        def annotate(self, model: Any) -> Any:
            for node in model.graph.nodes:
                if is_layer(node):
                    _annotate(node, {node.args[0]: activation, node.args[1]: weight})
                if is_layer(node) and _is(node, _CONVOLUTIONS):
                    _answer(_behind(node), activation)
            for node in model.graph.nodes:
                if _is(node, _SUMS) and _feeds_convolution(_behind(node)):
                    _answer(_behind(node), activation)
            for node in model.graph.nodes:
                if _is(node, _CARRIES) and _is_rounded(node.args[0]):
                    _annotate(node, {node.args[0]: activation}, of.SharedQuantizationSpec((node.args[0], node)))
            return model

        def validate(self, model: Any) -> None:
            """Nothing to say."""

    return Places()


def is_layer(node: Any) -> bool:
    """A convolution or matrix product whose weight is the model's own."""
    return _is(node, LAYERS) and node.args[1].op == "get_attr"


def _is(node: Any, operators: tuple[str, ...]) -> bool:
    return node.op == "call_function" and str(node.target).rpartition(".")[0] in operators


def _behind(node: Any) -> Any:
    """The clamp that is part of a node's kernel, else the node."""
    users = list(node.users)
    return users[0] if len(users) == 1 and _is(users[0], _CLAMPS) else node


def _answer(node: Any, spec: Any) -> None:
    if not any(user.op == "output" for user in node.users):
        _annotate(node, {}, spec)


def _feeds_convolution(node: Any) -> bool:
    return any(_is(user, _CONVOLUTIONS) and user.args[0] is node for user in node.users)


def _is_rounded(node: Any) -> bool:
    found = node.meta.get(_KEY)
    return found is not None and found.output_qspec is not None


_KEY = "quantization_annotation"


def _annotate(node: Any, inputs: dict[Any, Any], output: Any = None) -> None:
    """Add to what a node is told already."""
    from torchao.quantization.pt2e.quantizer import QuantizationAnnotation

    known = node.meta.get(_KEY) or QuantizationAnnotation()
    node.meta[_KEY] = QuantizationAnnotation(
        input_qspec_map={**known.input_qspec_map, **inputs}, output_qspec=known.output_qspec if output is None else output, _annotated=True
    )
