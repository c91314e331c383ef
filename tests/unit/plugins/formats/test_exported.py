"""What exporters leave is made readable, and held to what was asked for; on ONNX graphs made here, without PyTorch or TensorFlow."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from burnish.errors import BurnishError, Reason
from burnish.plugins import base
from burnish.plugins.formats import _exported, _tensorflow_module, _torch_module
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


def made_up(first: int, second: int) -> onnx.ModelProto:
    """As tf2onnx writes a graph: names that it made up end in a number, of a tensor `:0` follows; the body of an If has some too."""
    scalar = [helper.make_tensor_value_info("then__7", TensorProto.FLOAT, None)]
    body = helper.make_graph([helper.make_node("Identity", [f"shape__{second}"], ["then__7"])], "body", [], scalar)
    nodes = [
        helper.make_node("Reshape", ["image__1", f"shape__{first}"], [f"mul__{second}:0"], name=f"mul__{second}"),
        helper.make_node("If", ["flag"], [f"block__{first}/out:0"], name="if", then_branch=body, else_branch=body),
        helper.make_node("Add", [f"mul__{second}:0", f"block__{first}/out:0"], ["output"]),
    ]
    inputs = [helper.make_tensor_value_info("image__1", TensorProto.FLOAT, ["n", 4]), helper.make_tensor_value_info("flag", TensorProto.BOOL, [])]
    outputs = [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["n", 4])]
    weights = [helper.make_tensor(f"shape__{number}", TensorProto.INT64, [2], [-1, 4]) for number in (first, second)]
    return helper.make_model(helper.make_graph(nodes, "g", inputs, outputs, weights))


def test_names_that_tensorflows_exporter_makes_up_are_numbered_by_their_place() -> None:
    one, other = made_up(39, 40), made_up(40, 38)
    for model in (one, other):
        _tensorflow_module.number_names(model)
    reshape, branch, _ = one.graph.node
    assert list(reshape.input) == ["image__1", "shape__2"]  # 1 is taken: clients know that name
    assert (reshape.name, list(reshape.output)) == ("mul__3", ["mul__3:0"])
    assert list(branch.output) == ["block__39/out:0"]  # the model's own
    assert list(branch.attribute[0].g.node[0].input) == ["shape__3"]
    assert [t.name for t in one.graph.initializer] == ["shape__2", "shape__3"]
    branch.output[0] = other.graph.node[1].output[0] = one.graph.node[2].input[1] = other.graph.node[2].input[1] = "block"
    assert one.SerializeToString(deterministic=True) == other.SerializeToString(deterministic=True)
