"""What exporters leave is made readable, and held to what was asked for; on ONNX graphs made here, without PyTorch or TensorFlow."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from burnish.errors import BurnishError, Reason
from burnish.plugins import base
from burnish.plugins.formats import _exported, _torch_module
from burnish.plugins.formats._exported import Input


def declared(*shape: int, name: str = "image", axes: dict[int, str] | None = None) -> Input:
    return Input(base.Tensor(name=name, data_type=base.DataType.FP32, shape=shape), axes=axes or {})


def identity(*shape: str | int) -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("image", "output")]
    graph = helper.make_graph([helper.make_node("Identity", ["image"], ["output"])], "g", values[:1], values[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def axes(model: onnx.ModelProto) -> list[list[str | int]]:
    return [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in (*model.graph.input, *model.graph.output)]


def test_symbols_become_names_in_outputs_too() -> None:
    model = identity("s77", 3, "s8")
    model.graph.output[0].type.tensor_type.shape.dim[2].dim_param = "2*s8 + s77"
    _exported.name_axes(model, [declared(-1, 3, -1, axes={2: "width"})])
    assert axes(model) == [["batch", 3, "width"], ["batch", 3, "2*width + batch"]]


def test_an_axis_without_a_name_is_called_after_its_input() -> None:
    model = identity("s0", "s1")
    _exported.name_axes(model, [declared(-1, -1)])
    assert axes(model)[0] == ["batch", "image_1"]


def test_a_size_that_only_an_output_has_is_called_after_it() -> None:
    model = identity("unk__36", "unk__37")
    for axis, symbol in enumerate(("unk__38", "unk__39")):
        model.graph.output[0].type.tensor_type.shape.dim[axis].dim_param = symbol
    _exported.name_axes(model, [declared(-1, -1)])
    assert axes(model) == [["batch", "image_1"], ["batch", "output_1"]]


def test_an_axis_that_the_model_fixes_is_refused(tmp_path: Path, image: base.ServingImage) -> None:
    raw = tmp_path / "model.torch.onnx"
    onnx.save(identity("s0", 8), raw)
    with pytest.raises(BurnishError) as caught:
        _exported.finish(raw, [declared(-1, -1)], tmp_path / "model.onnx", image=image)
    assert (caught.value.reason, caught.value.field) == (Reason.InvalidModel, "spec.inputs")
    assert "axis 1 of input 'image'" in caught.value.message


def test_only_the_model_is_left_and_inputs_keep_their_range(tmp_path: Path, image: base.ServingImage) -> None:
    raw = tmp_path / "model.torch.onnx"
    onnx.save(identity("s0", 8), raw)
    known = declared(-1, 8)
    known = Input(known.tensor.model_copy(update={"range": (0, 9)}))
    signature, _ = _exported.finish(raw, [known], tmp_path / "model.onnx", image=image)
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    assert signature.inputs[0].range == (0, 9)


def test_operators_without_a_translation_are_named() -> None:
    with pytest.raises(BurnishError) as caught, _torch_module.exporting():
        raise RuntimeError("no") from ValueError("No ONNX function found for <OpOverload(op='acme.frobnicate', overload='default')>")
    assert caught.value.reason is Reason.UnsupportedOperator
    assert "acme.frobnicate" in caught.value.message
