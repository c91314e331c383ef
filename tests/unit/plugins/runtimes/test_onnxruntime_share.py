"""Weight sharing in ONNX graphs with the real ONNX Runtime, and how both runtimes lower it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from burnish.errors import BurnishError, Reason
from burnish.plugins import base, registry
from burnish.plugins.passes.quantize import QuantizeConfig
from burnish.plugins.passes.share_weights import ShareWeightsConfig
from burnish.plugins.runtimes import _onnxruntime_session as ort

Make = Callable[..., onnx.ModelProto]
Save = Callable[[onnx.ModelProto], Path]
ORT = registry.runtimes()["ONNXRuntime"]
SHARE = base.PassRequest("ShareWeights", ShareWeightsConfig())
QUANTIZE = base.PassRequest("Quantize", QuantizeConfig())
GRAPH = base.GraphFacts(opset=18, op_counts={"MatMul": 3}, weighted_ops={"MatMul": 3}, parameters=1, node_names=("a",))


def _values(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32) / np.float32(shape[0] ** 0.5)


def _mixed(opset: int) -> onnx.ModelProto:
    """Every kind of weight: Conv, ConvTranspose, Gemm both ways round, MatMul, one in a Constant node, one with an odd number of elements."""
    weights = {
        "conv": _values(16, 4, 5, 5),
        "turned": _values(16, 8, 4, 4),
        "flat": np.array([-1, 392]),
        "gemm": _values(392, 33),
        "back": _values(65, 33),
        "none": np.zeros(1, np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "conv"], ["a"], name="n0"),
        helper.make_node("ConvTranspose", ["a", "turned"], ["b"], name="n1"),
        helper.make_node("Reshape", ["b", "flat"], ["c"], name="n2"),
        helper.make_node("Gemm", ["c", "gemm", "none"], ["d"], name="n3"),
        helper.make_node("Gemm", ["d", "back", "none"], ["e"], name="n4", transB=1),
        helper.make_node("Constant", [], ["odd"], name="n5", value=numpy_helper.from_array(_values(65, 17), "")),
        helper.make_node("MatMul", ["e", "odd"], ["y"], name="n6"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4, 8, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 17])
    graph = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(value, name) for name, value in weights.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def _step(**options: object) -> base.Step:
    (recipe,) = ORT.lower(
        [base.PassRequest("ShareWeights", ShareWeightsConfig.model_validate(options))], GRAPH, _hardware(), has_calibration=False
    ).recipes
    return recipe.steps[0]


def _hardware() -> base.HardwareClass:
    return base.HardwareClass(architecture="x86-64", vendor="any", isa=())


def _answer(path: Path) -> np.ndarray:
    feed = np.random.default_rng(0).standard_normal((2, 4, 8, 8)).astype(np.float32)
    return ort.open_session(path, threads=1, optimize=False).infer({"x": feed})["y"]


def _weights(path: Path, folder: Path) -> dict[str, np.ndarray]:
    """What the nodes see: the values of the original's weights in the shared graph."""
    model = onnx.load(path)
    for name in ("conv", "turned", "gemm", "back", "odd"):
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    onnx.save(model, folder / "seen.onnx")
    feed = {"x": np.zeros((1, 4, 8, 8), np.float32)}
    return ort.open_session(folder / "seen.onnx", threads=1, optimize=False).infer(feed)


@pytest.mark.parametrize("opset", [9, 11, 18, 21])
@pytest.mark.parametrize("granularity", ["Tensor", "Channel", "Group"])
def test_weights_hold_few_values_near_to_the_plain_ones(save: Save, tmp_path: Path, opset: int, granularity: str) -> None:
    source, target = save(_mixed(opset)), tmp_path / "model.onnx"
    note = ORT.apply(_step(granularity=granularity), source, target, calibration=[])
    assert note.startswith("5 weights shared: ")
    plain = {t.name: numpy_helper.to_array(t) for t in onnx.load(source).graph.initializer} | {"odd": _values(65, 17)}
    axes = {"conv": 0, "turned": 1, "gemm": 1, "back": 0, "odd": 1}
    for name, found in _weights(target, tmp_path).items():
        if name == "y":
            continue
        assert found.shape == plain[name].shape
        assert np.linalg.norm(found - plain[name]) < 0.15 * np.linalg.norm(plain[name]), name
        different = len(np.unique(found.round(6)))
        assert different <= 16 * {"Tensor": 1, "Channel": plain[name].shape[axes[name]], "Group": plain[name].size}[granularity]
    assert target.stat().st_size < (0.3 if opset >= 11 else 0.4) * source.stat().st_size  # before 11 a byte per index
    assert np.abs(_answer(target) - _answer(source)).max() < 0.5 * np.abs(_answer(source)).max()


def test_many_clusters_change_the_answer_little(save: Save, tmp_path: Path) -> None:
    source = save(_mixed(18))
    ORT.apply(_step(clusters=256), source, tmp_path / "model.onnx", calibration=[])
    np.testing.assert_allclose(_answer(tmp_path / "model.onnx"), _answer(source), atol=0.05 * float(np.abs(_answer(source)).max()))


def test_equal_inputs_give_equal_bytes(save: Save, tmp_path: Path) -> None:
    source = save(_mixed(18))
    for name in ("a", "b"):
        ORT.apply(_step(), source, tmp_path / f"{name}.onnx", calibration=[])
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_old_ir_that_lists_weights_as_inputs_loses_those_inputs(save: Save, tmp_path: Path) -> None:
    model = _mixed(13)
    model.graph.input.append(helper.make_tensor_value_info("gemm", TensorProto.FLOAT, [392, 33]))
    ORT.apply(_step(), save(model), tmp_path / "model.onnx", calibration=[])
    assert [value.name for value in onnx.load(tmp_path / "model.onnx").graph.input] == ["x"]


def test_weights_that_are_all_too_small_are_refused(make_text: Make, save: Save, tmp_path: Path) -> None:
    with pytest.raises(BurnishError, match="the largest weight, table, has 800 elements") as caught:
        ORT.apply(_step(), save(make_text()), tmp_path / "model.onnx", calibration=[])
    assert caught.value.reason is Reason.PassNotApplicable


# --- lowering -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("runtime", ["ONNXRuntime", "OpenVINO"])
def test_one_candidate_that_is_never_called_faster(runtime: str) -> None:
    (recipe,) = registry.runtimes()[runtime].lower([SHARE], GRAPH, _hardware(), has_calibration=True).recipes
    assert (recipe.name, recipe.summary) == ("shared", "16 different values per weight: smaller; not faster")
    assert recipe.steps == (base.Step("share", {"clusters": 16, "granularity": "Tensor", "groupSize": 32, "seed": 0}),)


@pytest.mark.parametrize("runtime", ["ONNXRuntime", "OpenVINO"])
@pytest.mark.parametrize(
    ("passes", "words"),
    [
        ([SHARE, SHARE], "is a second ShareWeights"),
        ([QUANTIZE, QUANTIZE], "is a second Quantize"),
        ([SHARE, QUANTIZE], "undoes ShareWeights before it; keep one of the two"),
        ([QUANTIZE, SHARE], "needs weights in floating point"),
        ([SHARE, SHARE, QUANTIZE], "is a second ShareWeights"),
    ],
)
def test_passes_that_undo_each_other_are_refused(runtime: str, passes: list[base.PassRequest], words: str) -> None:
    found = registry.runtimes()[runtime].objection(passes, has_calibration=True)
    assert found is not None and (found.reason, found.position) == (Reason.PassNotApplicable, 1)
    assert words in found.message
    with pytest.raises(BurnishError, match=words):
        registry.runtimes()[runtime].lower(passes, GRAPH, _hardware(), has_calibration=True)
