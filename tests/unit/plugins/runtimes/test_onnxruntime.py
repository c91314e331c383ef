"""Quantizing, building and opening with the real ONNX Runtime."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from burnish.errors import BurnishError, Reason
from burnish.plugins import base, registry
from burnish.plugins.passes.quantize import Mode, Precision, QuantizeConfig
from burnish.plugins.runtimes import _onnxruntime_quantize

Make = Callable[..., onnx.ModelProto]
Save = Callable[[onnx.ModelProto], Path]
ORT = registry.runtimes()["ONNXRuntime"]
ONNX = registry.formats()["ONNX"]


def _images(count: int) -> list[dict[str, np.ndarray]]:
    generator = np.random.default_rng(1)
    return [{"image": generator.standard_normal((1, 1, 8, 8)).astype(np.float32)} for _ in range(count)]


def _texts(count: int) -> list[dict[str, np.ndarray]]:
    generator = np.random.default_rng(1)
    return [{"ids": generator.integers(0, 50, (1, 7))} for _ in range(count)]


def _step(kind: str, *, ends: bool = False, excluded: tuple[str, ...] = (), reduce_range: bool = False, method: str = "MinMax") -> base.Step:
    options: dict[str, object] = {"activationType": "QUInt8", "weightType": "QInt8", "reduceRange": reduce_range, "excluded": list(excluded)}
    return base.Step(kind, options | {"keepEnds": ends, "calibrationMethod": method, "blockSize": 16})


def _quantized(path: Path, step: base.Step, calibration: list[dict[str, np.ndarray]]) -> onnx.ModelProto:
    target = path.with_name("quantized.onnx")
    ORT.apply(step, path, target, calibration=calibration)
    return onnx.load(target)


def _integer_inputs(model: onnx.ModelProto) -> set[str]:
    """Names of nodes whose weight input comes out of a DequantizeLinear."""
    dequantized = {o for n in model.graph.node if n.op_type == "DequantizeLinear" for o in n.output}
    return {n.name for n in model.graph.node if n.op_type in ("Conv", "Gemm", "MatMul") and n.input[1] in dequantized}


def _cosine(path: Path, source: Path, feeds: list[dict[str, np.ndarray]]) -> float:
    a, b = (np.concatenate([o["score"].ravel() for o in ONNX.reference(base.SourceModel(p), feeds)]).astype(np.float64) for p in (path, source))
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


# --- steps ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opset", [11, 13, 18])
def test_static_makes_the_whole_chain_integer(opset: int, make_cnn: Make, save: Save) -> None:
    path, feeds = save(make_cnn(opset)), _images(8)
    model = _quantized(path, _step("static"), feeds)
    assert len(_integer_inputs(model)) == 3
    int8 = [t for t in model.graph.initializer if t.data_type == TensorProto.INT8 and len(t.dims) > 1]
    assert {tuple(t.dims) for t in int8} == {(8, 1, 3, 3), (16, 8, 3, 3), (16, 4)}
    assert _cosine(path.with_name("quantized.onnx"), path, feeds) > 0.999
    producers = {o: n.op_type for n in model.graph.node for o in n.output}
    pool = next(n for n in model.graph.node if n.op_type == "MaxPool")
    assert producers[pool.input[0]] == "DequantizeLinear"


def test_static_scales_per_channel(make_cnn: Make, save: Save) -> None:
    model = _quantized(save(make_cnn()), _step("static"), _images(8))
    scales = {t.name: t for t in model.graph.initializer}
    assert any(list(t.dims) == [16] and t.data_type == TensorProto.FLOAT for n, t in scales.items() if "scale" in n)


def test_static_with_reduced_range_keeps_weights_in_seven_bits(make_cnn: Make, save: Save) -> None:
    path = save(make_cnn())

    def largest(reduce_range: bool) -> int:
        model = _quantized(path, _step("static", reduce_range=reduce_range), _images(4))
        return max(int(np.abs(numpy_helper.to_array(t).astype(int)).max()) for t in model.graph.initializer if t.data_type == TensorProto.INT8)

    assert largest(reduce_range=True) <= 64 < largest(reduce_range=False)


def test_static_ends_leaves_first_and_last_in_float(make_cnn: Make, save: Save) -> None:
    assert _integer_inputs(_quantized(save(make_cnn()), _step("static", ends=True), _images(4))) == {"conv2"}


def test_static_leaves_attention_in_float(make_text: Make, save: Save) -> None:
    path, feeds = save(make_text()), _texts(8)
    model = _quantized(path, _step("static"), feeds)
    producers = {o: n.op_type for n in model.graph.node for o in n.output}
    attention = next(n for n in model.graph.node if n.name == "attention")
    assert producers[attention.input[0]] == "Add"
    softmax = next(n for n in model.graph.node if n.op_type == "Softmax")
    assert producers[softmax.input[0]] == "MatMul"
    assert {tuple(t.dims) for t in model.graph.initializer if t.data_type == TensorProto.INT8 and len(t.dims) > 1} == {(16, 16), (16, 5)}
    assert _cosine(path.with_name("quantized.onnx"), path, feeds) > 0.99


def test_dynamic_shrinks_products_and_embeddings_but_no_convolution(make_cnn: Make, make_text: Make, save: Save) -> None:
    cnn = _quantized(save(make_cnn()), _step("dynamic"), [])
    assert [n.op_type for n in cnn.graph.node].count("Conv") == 2
    assert "MatMulInteger" in {n.op_type for n in cnn.graph.node} and "ConvInteger" not in {n.op_type for n in cnn.graph.node}
    path = save(make_text())
    text = _quantized(path, _step("dynamic"), [])
    table = next(t for t in text.graph.initializer if list(t.dims) == [50, 16])
    assert table.data_type == TensorProto.UINT8
    assert _cosine(path.with_name("quantized.onnx"), path, _texts(8)) > 0.99


def test_fp16_halves_weights_and_keeps_inputs_and_outputs(make_cnn: Make, save: Save) -> None:
    path = save(make_cnn())
    model = _quantized(path, _step("fp16"), [])
    assert {t.data_type for t in model.graph.initializer} == {TensorProto.FLOAT16}
    assert {v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)} == {TensorProto.FLOAT}
    assert _cosine(path.with_name("quantized.onnx"), path, _images(4)) > 0.99999


@pytest.mark.parametrize("method", ["Percentile", "Entropy"])
def test_calibration_method_leaves_outliers_out(method: str, make_cnn: Make, save: Save) -> None:
    path, feeds = save(make_cnn()), _images(256)
    feeds[3]["image"][0, 0, 2, 2] = 80.0  # one of 16,384 values

    def scale_of_input(chosen: str) -> float:
        model = _quantized(path, _step("static", method=chosen), feeds)
        node = next(n for n in model.graph.node if n.op_type == "QuantizeLinear" and n.input[0] == "image")
        return float(numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == node.input[1])))

    assert scale_of_input(method) < 0.5 * scale_of_input("MinMax")


def test_int4_packs_products_and_embeddings_and_no_convolution(make_cnn: Make, make_text: Make, save: Save) -> None:
    path = save(make_cnn())
    cnn = _quantized(path, _step("int4"), [])
    assert [n.op_type for n in cnn.graph.node].count("Conv") == 2 and "MatMulNBits" in {n.op_type for n in cnn.graph.node}
    assert _cosine(path.with_name("quantized.onnx"), path, _images(8)) > 0.98
    path = save(make_text())
    text = _quantized(path, _step("int4"), [])
    assert {"MatMulNBits", "GatherBlockQuantized"} <= {n.op_type for n in text.graph.node}
    assert _cosine(path.with_name("quantized.onnx"), path, _texts(8)) > 0.98


def test_int4_leaves_what_is_excluded(make_text: Make, save: Save) -> None:
    path = save(make_text())
    excluded = next(n.name for n in onnx.load(path).graph.node if n.op_type == "Gather")
    assert "GatherBlockQuantized" not in {n.op_type for n in _quantized(path, _step("int4", excluded=(excluded,)), []).graph.node}


@pytest.mark.parametrize("kind", ["static", "dynamic"])
def test_excluded_node_stays_in_float_although_fusion_renames_it(kind: str, save: Save) -> None:
    generator = np.random.default_rng(0)
    w1, b1, w2 = (
        numpy_helper.from_array(generator.standard_normal(s).astype(np.float32), n) for n, s in (("w1", (8, 8)), ("b1", (8,)), ("w2", (8, 4)))
    )
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["m"], name="first"),
        helper.make_node("Add", ["m", "b1"], ["a"], name="bias"),
        helper.make_node("MatMul", ["a", "w2"], ["score"], name="second"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8])
    graph = helper.make_graph(nodes, "g", [x], [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n", 4])], [w1, b1, w2])
    path = save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9))
    feeds = [{"x": generator.standard_normal((1, 8)).astype(np.float32)} for _ in range(4)]
    model = _quantized(path, _step(kind, excluded=("first",)), feeds)
    floats = {tuple(t.dims) for t in model.graph.initializer if t.data_type == TensorProto.FLOAT}
    assert (8, 8) in floats and (8, 4) not in floats


def test_static_takes_a_bias_that_fusion_leaves_with_two_axes(save: Save) -> None:
    generator = np.random.default_rng(0)
    weights = [numpy_helper.from_array(generator.standard_normal(s).astype(np.float32), n) for n, s in (("w", (8, 4)), ("b", (1, 4)))]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"], name="fc"), helper.make_node("Add", ["m", "b"], ["score"], name="bias")]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8])
    graph = helper.make_graph(nodes, "g", [x], [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n", 4])], weights)
    path = save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9))
    feeds = [{"x": generator.standard_normal((1, 8)).astype(np.float32)} for _ in range(4)]
    assert len(_integer_inputs(_quantized(path, _step("static"), feeds))) == 1
    assert _cosine(path.with_name("quantized.onnx"), path, feeds) > 0.999


def test_apply_types_a_failure_of_the_tools(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"no model")
    with pytest.raises(BurnishError) as caught:
        ORT.apply(_step("dynamic"), tmp_path / "m.onnx", tmp_path / "out.onnx", calibration=[])
    assert caught.value.reason is Reason.CandidateNotBuildable


def test_apply_believes_nothing_that_does_not_load(make_cnn: Make, save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    def invalid(step: base.Step, source: Path, target: Path, folder: Path, calibration: object) -> None:
        model = onnx.load(source)
        model.graph.node[0].op_type = "NoSuchOperator"
        target.write_bytes(model.SerializeToString())

    monkeypatch.setitem(_onnxruntime_quantize._APPLY, "static", invalid)
    with pytest.raises(BurnishError) as caught:
        _quantized(save(make_cnn()), _step("static"), _images(1))
    assert caught.value.reason is Reason.CandidateNotBuildable
    assert "NoSuchOperator" in caught.value.message


def test_apply_believes_nothing_that_loads_but_does_not_run(make_cnn: Make, save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(step: base.Step, source: Path, target: Path, folder: Path, calibration: object) -> None:
        model = onnx.load(source)
        model.graph.initializer.append(numpy_helper.from_array(np.array([7, 7], np.int64), "shape"))
        model.graph.node[6].CopyFrom(helper.make_node("Reshape", ["g", "shape"], ["f"]))
        target.write_bytes(model.SerializeToString())

    monkeypatch.setitem(_onnxruntime_quantize._APPLY, "static", broken)
    with pytest.raises(BurnishError) as caught:
        _quantized(save(make_cnn()), _step("static"), _images(1))
    assert caught.value.reason is Reason.CandidateNotBuildable


_APPLY_IN_CHILD = """
import sys
from pathlib import Path
import numpy as np
from burnish.plugins import base, registry
feeds = [dict(image=np.random.default_rng(i).standard_normal((1, 1, 8, 8)).astype(np.float32)) for i in range(4)]
options = dict(activationType="QUInt8", weightType="QInt8", reduceRange=False, excluded=[], keepEnds=False, calibrationMethod="MinMax", blockSize=32)
registry.runtimes()["ONNXRuntime"].apply(base.Step(sys.argv[1], options), Path(sys.argv[2]), Path(sys.argv[3]), calibration=feeds)
"""


@pytest.mark.parametrize("kind", ["static", "dynamic", "fp16", "int4"])
def test_apply_gives_equal_bytes_in_two_processes(kind: str, make_cnn: Make, save: Save, tmp_path: Path) -> None:
    path, digests = save(make_cnn()), set()
    for seed in ("1", "2"):
        target = tmp_path / f"{seed}.onnx"
        command = [sys.executable, "-c", _APPLY_IN_CHILD, kind, str(path), str(target)]
        subprocess.run(command, check=True, env=os.environ | {"PYTHONHASHSEED": seed}, timeout=120)
        digests.add(hashlib.sha256(target.read_bytes()).hexdigest())
    assert len(digests) == 1


# --- build and open -------------------------------------------------------------------------------------------------------------------


def test_build_and_open_answer_as_the_model(make_cnn: Make, save: Save, tmp_path: Path, image: base.ServingImage) -> None:
    path, feeds = save(make_cnn()), _images(2)
    ORT.build(path, tmp_path / "model", image=image)
    assert [f.name for f in (tmp_path / "model").iterdir()] == ["model.onnx"]
    session = ORT.open(tmp_path / "model", threads=1)
    for feed, expected in zip(feeds, ONNX.reference(base.SourceModel(path), feeds), strict=True):
        np.testing.assert_allclose(session.infer(feed)["score"], expected["score"], rtol=1e-4, atol=1e-5)


def test_build_refuses_what_the_image_cannot_load(make_cnn: Make, save: Save, tmp_path: Path, image: base.ServingImage) -> None:
    with pytest.raises(BurnishError) as caught:
        ORT.build(save(make_cnn(25)), tmp_path / "model", image=image)
    assert caught.value.reason is Reason.UnsupportedOpset
    assert "opset 25" in caught.value.message and "an older opset, or use a newer serving image" in caught.value.message
    assert not (tmp_path / "model").exists()


def test_open_types_what_onnx_runtime_says(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\x08\x09no model")
    with pytest.raises(BurnishError) as caught:
        ORT.open(tmp_path, threads=1)
    assert caught.value.reason is Reason.CandidateNotBuildable


def test_infer_types_what_onnx_runtime_says(make_cnn: Make, save: Save) -> None:
    session = ORT.open(save(make_cnn()).parent, threads=1)
    with pytest.raises(BurnishError) as caught:
        session.infer({"image": np.ones((1, 3, 8, 8), np.float32)})
    assert caught.value.reason is Reason.CandidateNotBuildable
    assert "image" in caught.value.message


def test_open_uses_the_threads_it_is_given_and_no_telemetry(make_cnn: Make, save: Save) -> None:
    session = ORT.open(save(make_cnn()).parent, threads=2)
    options = session._session.get_session_options()  # type: ignore[attr-defined]
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (2, 1)
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"


def test_parameters_write_thread_counts_out() -> None:
    assert ORT.parameters(3) == {"intra_op_thread_count": "3", "inter_op_thread_count": "1"}


# --- all of it ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [QuantizeConfig(), QuantizeConfig(precision=Precision.FP16), QuantizeConfig(precision=Precision.INT4), QuantizeConfig(mode=Mode.Dynamic)],
)
def test_every_lowered_recipe_of_a_model_applies(
    config: QuantizeConfig, make_text: Make, save: Save, tmp_path: Path, image: base.ServingImage, vnni: base.HardwareClass
) -> None:
    exported = tmp_path / "model.onnx"
    _, facts = ONNX.export(base.SourceModel(save(make_text())), exported, image=image)
    lowering = ORT.lower([base.PassRequest("Quantize", config)], facts, vnni, has_calibration=True)
    assert lowering.recipes
    for recipe in lowering.recipes:
        target = tmp_path / recipe.name / "model.onnx"
        target.parent.mkdir()
        ORT.apply(recipe.steps[0], exported, target, calibration=_texts(4))
        ORT.build(target, tmp_path / f"{recipe.name}-built", image=image)
        assert target.stat().st_size < exported.stat().st_size * 1.5
        assert _cosine(target, exported, _texts(4)) > 0.98


def test_full_disk_is_no_finding_about_the_candidate(make_text: Make, save: Save, tmp_path: Path) -> None:
    target = tmp_path / "out" / "model.onnx"
    target.parent.mkdir()
    target.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        ORT.apply(_step("dynamic"), save(make_text()), target, calibration=[])


def test_scratch_files_go_beside_the_result(make_text: Make, save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/proc/no-room-here")
    target = tmp_path / "out" / "model.onnx"
    target.parent.mkdir()
    ORT.apply(_step("dynamic"), save(make_text()), target, calibration=[])
    assert [p.name for p in target.parent.iterdir()] == ["model.onnx"]
