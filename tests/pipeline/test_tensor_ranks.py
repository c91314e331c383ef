"""Tensors of every rank through the whole pipeline: the model's shapes and Triton's differ where there is no dimension besides the batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

DYNAMIC = {"type": "Quantize", "quantize": {"mode": "Dynamic"}}
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
RNG = np.random.default_rng(0)


def model(
    nodes: Sequence[onnx.NodeProto], x: Mapping[str, tuple[int, list[object]]], y: Mapping[str, tuple[int, list[object]]], **weights: np.ndarray
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in x.items()],
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in y.items()],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def matrix(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def test_batched_model_with_rank_1_inputs_and_float_and_integer_rank_1_outputs_is_published(project, make_spec):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="layer"),
        helper.make_node("Unsqueeze", ["scale", "last"], ["column"]),
        helper.make_node("Mul", ["h", "column"], ["logits"]),
        helper.make_node("ReduceSum", ["logits", "last"], ["sum"], keepdims=0),
        helper.make_node("ArgMax", ["logits"], ["class"], axis=1, keepdims=0),
    ]
    x = {"x": (FLOAT, ["n", 16]), "scale": (FLOAT, ["n"])}
    y = {"logits": (FLOAT, ["n", 4]), "sum": (FLOAT, ["n"]), "class": (INT64, ["n"])}
    onnx.save(model(nodes, x, y, w=matrix(16, 4), last=np.array([1], np.int64)), project.path / "model.onnx")
    np.savez(project.path / "data.npz", x=matrix(40, 16), scale=np.abs(matrix(40)) + 1)
    spec = make_spec(
        passes=[DYNAMIC],
        datasets={"evaluation": {"uri": "file:data.npz", "metric": "Agreement", "output": "logits"}},
        constraints={"maxSlowdownPercent": 1000, "equivalence": {"minCosine": "0"}},
        measurement={"timeout": "4s", "loads": [{"name": "eight", "batchSize": 8}]},
    )
    ran = project.run(project.write(spec))
    assert ran.code == 0, ran.stderr
    assert "40 samples answered by 2 models" in ran.stderr
    assert 0 < float(ran.target["equivalence"]["worstCosine"]) <= 1
    assert 0 <= float(ran.target["equivalence"]["exactMatch"]) <= 1


def test_model_with_integer_outputs_alone_tells_the_share_of_equal_elements_and_no_cosine(project, make_spec):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["logits"], name="layer"),
        helper.make_node("ArgMax", ["logits"], ["class"], axis=2, keepdims=0),
    ]
    onnx.save(
        model(nodes, {"x": (FLOAT, ["n", 10, 16])}, {"class": (INT64, ["n", 10])}, w=matrix(16, 4)),
        project.path / "model.onnx",
    )
    np.savez(project.path / "data.npz", x=matrix(40, 10, 16))
    spec = make_spec(
        passes=[DYNAMIC],
        datasets={"calibration": {"uri": "file:data.npz"}},
        constraints={"maxSlowdownPercent": 1000, "equivalence": {"minCosine": "1"}},
        measurement={"timeout": "4s"},
    )
    ran = project.run(project.write(spec), "--report", project.path / "report.html")
    found = ran.target["equivalence"]
    assert set(found) == {"exactMatch", "verdict"}
    assert 0.5 < float(found["exactMatch"]) <= 1
    assert (found["verdict"], ran.code) == (("Accepted", 0) if found["exactMatch"] == "1" else ("Refused", 3))
    assert ran.target["candidates"][0]["exactMatch"] == found["exactMatch"]
    assert "equal in the worst sample" in (project.path / "report.html").read_text()


def test_model_of_scalars_is_published(project, make_spec):
    nodes = [helper.make_node("Mul", ["x", "scale"], ["h"]), helper.make_node("ReduceSum", ["h"], ["y"], keepdims=0)]
    onnx.save(model(nodes, {"x": (FLOAT, [8]), "scale": (FLOAT, [])}, {"y": (FLOAT, [])}), project.path / "model.onnx")
    np.savez(project.path / "data.npz", x=matrix(10, 8), scale=matrix(10))
    spec = make_spec(datasets={"calibration": {"uri": "file:data.npz"}}, measurement={"timeout": "2s"})
    ran = project.run(project.write(spec))
    assert ran.code == 0, ran.stderr
    assert "10 samples answered" in ran.stderr


def test_fixed_batch_of_1_with_outputs_of_another_size_counts_a_request_as_one_sample(project, make_spec):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"], name="layer"), helper.make_node("Reshape", ["h", "shape"], ["y"])]
    weights = {"w": matrix(8, 4), "shape": np.array([2, 2], np.int64)}
    onnx.save(model(nodes, {"x": (FLOAT, [1, 8])}, {"y": (FLOAT, [2, 2])}, **weights), project.path / "model.onnx")
    np.savez(project.path / "data.npz", x=matrix(40, 8))
    spec = make_spec(datasets={"evaluation": {"uri": "file:data.npz", "metric": "Agreement"}}, measurement={"timeout": "2s"})
    ran = project.run(project.write(spec))
    assert ran.code == 0, ran.stderr
    assert "40 samples answered" in ran.stderr


def test_batched_model_whose_output_counts_something_else_is_refused_at_export(project, make_spec):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"], name="layer"), helper.make_node("Transpose", ["h"], ["y"], perm=[1, 0])]
    onnx.save(model(nodes, {"x": (FLOAT, ["n", 8])}, {"y": (FLOAT, ["t", "n"])}, w=matrix(8, 4)), project.path / "model.onnx")
    np.savez(project.path / "data.npz", x=matrix(40, 8))
    ran = project.run(project.write(make_spec(datasets={"calibration": {"uri": "file:data.npz"}})))
    assert ran.code == 2, ran.stderr
    assert ran.failure["reason"] == "InvalidModel"
    assert "batch first" in ran.failure["message"]
    assert ran.steps[-1] == "export"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"passes": [{"type": "Quantize", "quantize": {"excludedNodes": ["nowhere"]}}]}, "PassNotApplicable"),
        ({"datasets": {"evaluation": {"uri": "file:data.npz", "metric": "Accuracy"}}}, "InvalidDataset"),
    ],
)
def test_what_the_export_can_tell_is_refused_there(project, make_spec, changes, reason):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="layer")]
    onnx.save(model(nodes, {"x": (FLOAT, ["n", 8])}, {"y": (FLOAT, ["n", 4])}, w=matrix(8, 4)), project.path / "model.onnx")
    np.savez(project.path / "data.npz", x=matrix(40, 8), label=np.arange(40))
    ran = project.run(project.write(make_spec(**changes)))
    assert ran.code == 2, ran.stderr
    assert ran.failure["reason"] == reason
    assert ran.steps[-1] == "export"
