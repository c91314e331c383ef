"""The ONNX format on real files: what is taken, and every way a bad file is refused by name."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from burnish.errors import BurnishError, Reason
from burnish.plugins import base, registry
from burnish.plugins.files import LocalFiles
from burnish.plugins.formats import _onnx_external

Make = Callable[..., onnx.ModelProto]
Save = Callable[[onnx.ModelProto], Path]
ONNX = registry.formats()["ONNX"]


def _refusal(path: Path, target: Path, image: base.ServingImage) -> BurnishError:
    with pytest.raises(BurnishError) as caught:
        ONNX.export(base.SourceModel(path), target, image=image)
    return caught.value


def _external(model: onnx.ModelProto, path: Path, location: str = "weights.bin") -> None:
    onnx.save(model, path, save_as_external_data=True, location=location, size_threshold=0, convert_attribute=True)


def _relocate(path: Path, location: str) -> None:
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        next(e for e in tensor.external_data if e.key == "location").value = location
    path.write_bytes(model.SerializeToString())


# --- what is taken --------------------------------------------------------------------------------------------------------------------


def test_detect_knows_a_model_a_directory_and_nothing_else(make_cnn: Make, save: Save, tmp_path: Path) -> None:
    path = save(make_cnn())
    (tmp_path / "text.onnx").write_text("this is no model, whatever it is called")
    (tmp_path / "empty.onnx").write_bytes(b"")
    (tmp_path / "none").mkdir()
    assert ONNX.detect(LocalFiles(path)) and ONNX.detect(LocalFiles(path.parent))
    assert not any(ONNX.detect(LocalFiles(tmp_path / name)) for name in ("text.onnx", "empty.onnx", "none", "missing.onnx"))


def test_detect_refuses_a_directory_with_two_models_unless_one_is_model_onnx(make_cnn: Make, tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        (tmp_path / name).write_bytes(make_cnn().SerializeToString())
    assert not ONNX.detect(LocalFiles(tmp_path))
    (tmp_path / "model.onnx").write_bytes(make_cnn().SerializeToString())
    assert ONNX.detect(LocalFiles(tmp_path))


def test_export_keeps_names_and_gives_signature_and_facts(make_cnn: Make, save: Save, tmp_path: Path, image: base.ServingImage) -> None:
    signature, facts = ONNX.export(base.SourceModel(save(make_cnn())), tmp_path / "out.onnx", image=image)
    assert signature.inputs == (base.Tensor(name="image", data_type=base.DataType.FP32, shape=(-1, 1, 8, 8)),)
    assert signature.outputs == (base.Tensor(name="score", data_type=base.DataType.FP32, shape=(-1, 4)),)
    assert signature.is_batched
    assert facts.weighted_ops == {"Conv": 2, "Gemm": 1}
    assert facts.node_names == ("conv1", "conv2", "fc")
    assert facts.parameters == 8 * 9 + 8 + 16 * 8 * 9 + 16 + 16 * 4 + 4
    assert all(node.name for node in onnx.load(tmp_path / "out.onnx").graph.node)


def test_export_counts_only_constant_weights(make_text: Make, save: Save, tmp_path: Path, image: base.ServingImage) -> None:
    _, facts = ONNX.export(base.SourceModel(save(make_text())), tmp_path / "out.onnx", image=image)
    assert facts.op_counts["MatMul"] == 4
    assert facts.weighted_ops == {"Gather": 1, "MatMul": 2}
    assert facts.node_names == ("embed", "query", "out")


def test_export_answers_as_the_source(make_cnn: Make, save: Save, tmp_path: Path, image: base.ServingImage) -> None:
    path = save(make_cnn())
    ONNX.export(base.SourceModel(path), tmp_path / "out.onnx", image=image)
    feeds = [{"image": np.random.default_rng(i).standard_normal((2, 1, 8, 8)).astype(np.float32)} for i in range(2)]
    for ours, theirs in zip(
        ONNX.reference(base.SourceModel(tmp_path / "out.onnx"), feeds), ONNX.reference(base.SourceModel(path), feeds), strict=True
    ):
        assert ours["score"].shape == (2, 4)
        np.testing.assert_array_equal(ours["score"], theirs["score"])


def test_export_inlines_external_data(make_cnn: Make, tmp_path: Path, image: base.ServingImage) -> None:
    source = tmp_path / "source"
    source.mkdir()
    _external(make_cnn(), source / "net.onnx")
    ONNX.export(base.SourceModel(source), tmp_path / "out.onnx", image=image)
    written = onnx.load(tmp_path / "out.onnx", load_external_data=False)
    assert not any(t.external_data for t in written.graph.initializer)
    original = {t.name: t for t in make_cnn().graph.initializer}
    for tensor in written.graph.initializer:
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), numpy_helper.to_array(original[tensor.name]))


def test_export_writes_data_beside_where_one_file_cannot_hold_it(
    make_cnn: Make, save: Save, tmp_path: Path, image: base.ServingImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_onnx_external, "MAX_FILE_BYTES", 100)
    path = save(make_cnn())
    target = tmp_path / "out" / "model.onnx"
    target.parent.mkdir()
    ONNX.export(base.SourceModel(path), target, image=image)
    feeds = [{"image": np.ones((1, 1, 8, 8), np.float32)}]
    assert (tmp_path / "out" / "model.onnx.data").stat().st_size >= 16 * 8 * 9 * 4  # w2; small tensors stay in the graph
    np.testing.assert_array_equal(
        ONNX.reference(base.SourceModel(target), feeds)[0]["score"], ONNX.reference(base.SourceModel(path), feeds)[0]["score"]
    )


def test_export_gives_equal_bytes_for_equal_input(make_cnn: Make, save: Save, tmp_path: Path, image: base.ServingImage) -> None:
    path = save(make_cnn())
    ONNX.export(base.SourceModel(path), tmp_path / "a.onnx", image=image)
    ONNX.export(base.SourceModel(path), tmp_path / "b.onnx", image=image)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_signature_reads_varying_negative_scalar_and_undeclared_shapes(save: Save, tmp_path: Path, image: base.ServingImage) -> None:
    x = helper.make_tensor_value_info("x", TensorProto.INT32, ["n", None, -1, 3])
    y = helper.make_tensor_value_info("y", TensorProto.INT32, None)
    total = helper.make_tensor_value_info("total", TensorProto.INT32, [])
    nodes = [helper.make_node("Abs", ["x"], ["y"]), helper.make_node("ReduceMax", ["x"], ["total"], keepdims=0)]
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y, total]), opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    signature, _ = ONNX.export(base.SourceModel(save(model)), tmp_path / "out.onnx", image=image)
    assert signature.inputs[0].shape == (-1, -1, -1, 3)
    assert [t.shape for t in signature.outputs] == [(-1, -1, -1, 3), ()]
    assert not signature.is_batched


# --- what is refused ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"GIF89a" + bytes(100), bytes(range(256)) * 16, b"\x08\x09"], ids=["empty", "gif", "bytes", "only-version"])
def test_export_refuses_what_is_no_model(content: bytes, tmp_path: Path, image: base.ServingImage) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    assert _refusal(tmp_path / "m.onnx", tmp_path / "out.onnx", image).reason is Reason.InvalidModel


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.999])
def test_export_refuses_a_truncated_model(share: float, make_cnn: Make, tmp_path: Path, image: base.ServingImage) -> None:
    content = make_cnn().SerializeToString()
    (tmp_path / "m.onnx").write_bytes(content[: int(len(content) * share)])
    assert _refusal(tmp_path / "m.onnx", tmp_path / "out.onnx", image).reason is Reason.InvalidModel


def test_export_refuses_a_protobuf_that_recurses_without_end(tmp_path: Path, image: base.ServingImage) -> None:
    def field(number: int, content: bytes) -> bytes:
        return _varint(number << 3 | 2) + _varint(len(content)) + content

    graph = b""
    for _ in range(300):  # graph -> node (1) -> attribute (5) -> g (6)
        graph = field(1, field(5, field(6, graph)))
    (tmp_path / "m.onnx").write_bytes(b"\x08\x09" + field(7, graph))
    assert _refusal(tmp_path / "m.onnx", tmp_path / "out.onnx", image).reason is Reason.InvalidModel


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def test_export_refuses_a_tensor_that_announces_more_than_it_holds(make_cnn: Make, save: Save, tmp_path: Path, image: base.ServingImage) -> None:
    model = make_cnn()
    model.graph.initializer[0].dims[:] = [2**40, 2**20]
    error = _refusal(save(model), tmp_path / "out.onnx", image)
    assert error.reason is Reason.InvalidModel


def test_export_refuses_what_the_checker_refuses_with_its_words(make_cnn: Make, save: Save, tmp_path: Path, image: base.ServingImage) -> None:
    model = make_cnn()
    model.graph.node[1].input[0] = "nowhere"
    error = _refusal(save(model), tmp_path / "out.onnx", image)
    assert error.reason is Reason.InvalidModel
    assert "nowhere" in error.message


def test_export_refuses_a_directory_without_one_model(make_cnn: Make, tmp_path: Path, image: base.ServingImage) -> None:
    for name in ("a.onnx", "b.onnx"):
        (tmp_path / name).write_bytes(make_cnn().SerializeToString())
    error = _refusal(tmp_path, tmp_path / "out", image)
    assert error.reason is Reason.InvalidModel
    assert "a.onnx, b.onnx" in error.message


@pytest.mark.parametrize(("opset", "ir_version"), [(18, 9), (1, 3), (99, 200)])
def test_versions_are_read_without_the_graph(make_cnn: Make, tmp_path: Path, opset: int, ir_version: int) -> None:
    model = make_cnn(opset, ir_version=ir_version)
    model.opset_import.add(domain="com.microsoft", version=1)
    model.opset_import.insert(0, onnx.OperatorSetIdProto(domain="ai.onnx.ml", version=3))
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    assert ONNX.versions(LocalFiles(tmp_path / "model.onnx")) == ONNX.versions(LocalFiles(tmp_path)) == (opset, ir_version)


@pytest.mark.parametrize(("opset", "word"), [(6, "newer opset"), (99, "older opset")])
def test_export_refuses_opsets_that_nothing_here_knows(
    opset: int, word: str, make_cnn: Make, save: Save, tmp_path: Path, image: base.ServingImage
) -> None:
    error = _refusal(save(make_cnn(opset)), tmp_path / "out.onnx", image)
    assert error.reason is Reason.UnsupportedOpset
    assert f"opset {opset}" in error.message and word in error.message


def test_export_refuses_an_ir_version_that_nothing_here_knows(make_cnn: Make, save: Save, tmp_path: Path, image: base.ServingImage) -> None:
    error = _refusal(save(make_cnn(ir_version=99)), tmp_path / "out.onnx", image)
    assert error.reason is Reason.UnsupportedOpset
    assert "99" in error.message


def test_export_leaves_what_an_image_loads_to_its_runtimes(make_cnn: Make, save: Save, tmp_path: Path, image: base.ServingImage) -> None:
    ONNX.export(base.SourceModel(save(make_cnn(image.max_opset + 1, ir_version=image.max_ir_version + 1))), tmp_path / "out.onnx", image=image)


def test_export_refuses_unknown_operators_and_names_them(make_cnn: Make, save: Save, tmp_path: Path, image: base.ServingImage) -> None:
    model = make_cnn()
    model.graph.node[1].op_type = "SuperRelu"
    model.graph.node[4].domain = "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    error = _refusal(save(model), tmp_path / "out.onnx", image)
    assert error.reason is Reason.UnsupportedOperator
    assert "ai.onnx::SuperRelu" in error.message and "com.example::Relu" in error.message


def test_export_refuses_an_operator_newer_than_the_models_opset(make_cnn: Make, save: Save, tmp_path: Path, image: base.ServingImage) -> None:
    model = make_cnn()
    model.graph.node[1].op_type = "Gelu"  # since opset 20
    error = _refusal(save(model), tmp_path / "out.onnx", image)
    assert error.reason is Reason.UnsupportedOperator
    assert "Gelu" in error.message and "opset 18" in error.message


def test_export_takes_contrib_operators_and_refuses_invented_ones(make_cnn: Make, save: Save, tmp_path: Path, image: base.ServingImage) -> None:
    model = make_cnn()
    model.graph.node[1].op_type = "Gelu"
    model.graph.node[1].domain = "com.microsoft"
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    ONNX.export(base.SourceModel(save(model)), tmp_path / "out.onnx", image=image)
    model.graph.node[1].op_type = "Hyperlu"
    assert _refusal(save(model), tmp_path / "out.onnx", image).reason is Reason.UnsupportedOperator


def test_export_finds_unknown_operators_in_subgraphs(save: Save, tmp_path: Path, image: base.ServingImage) -> None:
    error = _refusal(save(_with_branch(helper.make_node("Evil", ["x"], ["b"], domain="org.evil"))), tmp_path / "out.onnx", image)
    assert error.reason is Reason.UnsupportedOperator
    assert "org.evil::Evil" in error.message


def test_export_takes_model_local_functions(save: Save, tmp_path: Path, image: base.ServingImage) -> None:
    body = helper.make_function("mine", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 18)])
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 2]) for n in "xy")
    graph = helper.make_graph([helper.make_node("Twice", ["x"], ["y"], domain="mine")], "g", [x], [y])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("mine", 1)]
    path = save(helper.make_model(graph, functions=[body], opset_imports=opsets, ir_version=9))
    ONNX.export(base.SourceModel(path), tmp_path / "out.onnx", image=image)
    np.testing.assert_array_equal(ONNX.reference(base.SourceModel(tmp_path / "out.onnx"), [{"x": np.ones((1, 2), np.float32)}])[0]["y"], [[2, 2]])


def _with_branch(node: onnx.NodeProto, initializers: tuple[onnx.TensorProto, ...] = ()) -> onnx.ModelProto:
    """`node` (x -> b) in both branches of an If."""
    branch = helper.make_graph([node], "branch", [], [helper.make_tensor_value_info("b", TensorProto.FLOAT, ["n", 2])], list(initializers))
    nodes = [helper.make_node("If", ["flag"], ["y"], then_branch=branch, else_branch=branch)]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2]), helper.make_tensor_value_info("flag", TensorProto.BOOL, [])]
    graph = helper.make_graph(nodes, "g", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_export_refuses_non_finite_weights_and_names_them(value: float, make_cnn: Make, save: Save, tmp_path: Path, image: base.ServingImage) -> None:
    model = make_cnn()
    weights = numpy_helper.to_array(model.graph.initializer[2]).copy()
    weights.flat[7] = value
    model.graph.initializer[2].CopyFrom(numpy_helper.from_array(weights, "w2"))
    error = _refusal(save(model), tmp_path / "out.onnx", image)
    assert error.reason is Reason.NonFiniteWeights
    assert "w2" in error.message and "w3" not in error.message


def test_export_takes_minus_infinity_as_a_mask_but_not_nan(save: Save, tmp_path: Path, image: base.ServingImage) -> None:
    def model(value: float) -> onnx.ModelProto:
        x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 2]) for n in "xy")
        mask = numpy_helper.from_array(np.array([0, value], np.float32), "mask")
        graph = helper.make_graph([helper.make_node("Add", ["x", "mask"], ["y"])], "g", [x], [y], [mask])
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)

    ONNX.export(base.SourceModel(save(model(-np.inf))), tmp_path / "out.onnx", image=image)
    assert _refusal(save(model(np.nan)), tmp_path / "out.onnx", image).reason is Reason.NonFiniteWeights


def test_export_refuses_nan_in_a_constant_node(save: Save, tmp_path: Path, image: base.ServingImage) -> None:
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 2]) for n in "xy")
    value = numpy_helper.from_array(np.array([[np.nan, 1], [1, 1]], np.float32))
    nodes = [helper.make_node("Constant", [], ["weight"], value=value), helper.make_node("MatMul", ["x", "weight"], ["y"])]
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y]), opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    error = _refusal(save(model), tmp_path / "out.onnx", image)
    assert error.reason is Reason.NonFiniteWeights
    assert "weight" in error.message


def test_export_refuses_types_that_triton_cannot_carry(save: Save, tmp_path: Path, image: base.ServingImage) -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])
    y = helper.make_tensor_value_info("half", TensorProto.BFLOAT16, ["n", 2])
    graph = helper.make_graph([helper.make_node("Cast", ["x"], ["half"], to=TensorProto.BFLOAT16)], "g", [x], [y])
    error = _refusal(save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)), tmp_path / "out.onnx", image)
    assert error.reason is Reason.UnsupportedOperator
    assert "half" in error.message and "BFLOAT16" in error.message


def test_export_refuses_outputs_that_are_no_tensors(save: Save, tmp_path: Path, image: base.ServingImage) -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])
    sequence = helper.make_tensor_sequence_value_info("all", TensorProto.FLOAT, ["n", 2])
    graph = helper.make_graph([helper.make_node("SequenceConstruct", ["x"], ["all"])], "g", [x], [sequence])
    error = _refusal(save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)), tmp_path / "out.onnx", image)
    assert error.reason is Reason.UnsupportedOperator
    assert "'all'" in error.message


# --- external data --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "location", ["../outside.bin", "/etc/passwd", "sub/../../outside.bin", "missing.bin", "", "C:\\weights.bin", "..\\outside.bin", "."]
)
def test_export_refuses_external_data_outside_its_directory(location: str, make_cnn: Make, tmp_path: Path, image: base.ServingImage) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (tmp_path / "outside.bin").write_bytes(bytes(65536))
    _external(make_cnn(), source / "model.onnx")
    _relocate(source / "model.onnx", location)
    error = _refusal(source, tmp_path / "out.onnx", image)
    assert error.reason is Reason.UnsafeExternalData
    assert "'w1'" in error.message
    with pytest.raises(BurnishError) as caught:
        ONNX.reference(base.SourceModel(source), [])
    assert caught.value.reason is Reason.UnsafeExternalData


@pytest.mark.parametrize("kind", ["symlink", "hardlink", "symlinked-directory", "directory"])
def test_export_refuses_external_data_that_is_a_link(kind: str, make_cnn: Make, tmp_path: Path, image: base.ServingImage) -> None:
    source, outside = tmp_path / "source", tmp_path / "outside"
    source.mkdir()
    outside.mkdir()
    _external(make_cnn(), source / "model.onnx")
    data = source / "weights.bin"
    if kind == "symlink":
        data.rename(outside / "weights.bin")
        data.symlink_to(outside / "weights.bin")
    elif kind == "hardlink":
        os.link(data, outside / "weights.bin")
    elif kind == "directory":
        data.unlink()
        data.mkdir()
    else:
        data.rename(outside / "weights.bin")
        (source / "sub").symlink_to(outside)
        _relocate(source / "model.onnx", "sub/weights.bin")
    assert _refusal(source, tmp_path / "out.onnx", image).reason is Reason.UnsafeExternalData


@pytest.mark.parametrize("where", ["subgraph", "attribute", "sparse"])
def test_export_refuses_unsafe_external_data_wherever_a_tensor_hides(where: str, save: Save, tmp_path: Path, image: base.ServingImage) -> None:
    (tmp_path / "outside.bin").write_bytes(bytes(64))
    tensor = numpy_helper.from_array(np.ones(2, np.float32), "hidden")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../outside.bin")
    if where == "subgraph":
        model = _with_branch(helper.make_node("Add", ["x", "hidden"], ["b"]), (tensor,))
    elif where == "attribute":
        node = helper.make_node("Constant", [], ["b"])
        node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(tensor)
        model = _with_branch(node)
    else:
        model = _with_branch(helper.make_node("Identity", ["x"], ["b"]))
        indices = numpy_helper.from_array(np.array([0, 1], np.int64), "i")
        model.graph.sparse_initializer.append(helper.make_sparse_tensor(tensor, indices, [4]))
    assert _refusal(save(model), tmp_path / "out.onnx", image).reason is Reason.UnsafeExternalData


def test_export_refuses_external_data_that_is_too_short(make_cnn: Make, tmp_path: Path, image: base.ServingImage) -> None:
    source = tmp_path / "source"
    source.mkdir()
    _external(make_cnn(), source / "model.onnx")
    content = (source / "weights.bin").read_bytes()
    (source / "weights.bin").write_bytes(content[: len(content) // 2])
    error = _refusal(source, tmp_path / "out.onnx", image)
    assert error.reason is Reason.InvalidModel
    assert "external data" in error.message


def test_export_refuses_an_input_of_unknown_rank(save: Save, tmp_path: Path, image: base.ServingImage) -> None:
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in "xy")
    graph = helper.make_graph([helper.make_node("Abs", ["x"], ["y"])], "g", [x], [y])
    error = _refusal(save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)), tmp_path / "out.onnx", image)
    assert error.reason is Reason.InvalidModel
    assert "input 'x' declares no shape" in error.message


def test_reference_types_a_shape_bomb(save: Save) -> None:
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 2]) for n in "xy")
    size = numpy_helper.from_array(np.array([2**50, 2], np.int64), "size")  # beyond any address space: a kubelet lets the kernel promise all below
    nodes = [
        helper.make_node("ConstantOfShape", ["size"], ["big"]),
        helper.make_node("ReduceSum", ["big"], ["sum"], keepdims=0),
        helper.make_node("Add", ["x", "sum"], ["y"]),
    ]
    path = save(helper.make_model(helper.make_graph(nodes, "g", [x], [y], [size]), opset_imports=[helper.make_opsetid("", 18)], ir_version=9))
    with pytest.raises(BurnishError) as caught:
        ONNX.reference(base.SourceModel(path), [{"x": np.ones((1, 2), np.float32)}])
    assert caught.value.reason is Reason.InvalidModel


def test_reference_types_a_failure_at_run_time(make_cnn: Make, save: Save) -> None:
    with pytest.raises(BurnishError) as caught:
        ONNX.reference(base.SourceModel(save(make_cnn())), [{"image": np.ones((1, 3, 8, 8), np.float32)}])
    assert caught.value.reason is Reason.InvalidModel
