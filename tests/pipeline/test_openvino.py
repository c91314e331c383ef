"""OpenVINO beside ONNX Runtime: what the plugin makes, and several targets of one manifest on a real server."""

from __future__ import annotations

import html
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from burnish.serving import images
from burnish.toolchains import environments

CNN_OPS = ["conv1", "conv2", "fc"]
ORT = {"name": "ort", "runtime": "ONNXRuntime", "resources": {"cpu": "1", "memory": "1Gi"}}
OPENVINO = {"name": "ov", "runtime": "OpenVINO", "resources": {"cpu": "1", "memory": "1Gi"}}


def cnn() -> onnx.ModelProto:
    """image (batch, 1, 8, 8) float32 -> score (batch, 4)."""

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        values = np.random.default_rng([*name.encode()]).standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        return numpy_helper.from_array(values.astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["c1"], name="conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], name="conv2", pads=[1, 1, 1, 1]),
        helper.make_node("MaxPool", ["c2"], ["p2"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["p2"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["score"], name="fc"),
    ]
    weights = [weight("w1", 8, 1, 3, 3), weight("b1", 8), weight("w2", 32, 8, 3, 3), weight("b2", 32), weight("w3", 32, 4), weight("b3", 4)]
    ends = [
        helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8]),
        helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch", 4]),
    ]
    graph = helper.make_graph(nodes, "cnn", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def attention() -> onnx.ModelProto:
    """One head of attention beside its input: x (batch, 4, 16) float32 -> y."""
    products = [("query", "x", "wq", "q"), ("key", "x", "wk", "k"), ("value", "x", "wv", "v")]
    nodes = [
        *(helper.make_node("MatMul", [x, weight], [y], name=name) for name, x, weight, y in products),
        helper.make_node("Transpose", ["k"], ["t"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "t"], ["a"], name="products"),
        helper.make_node("Softmax", ["a"], ["s"], axis=-1),
        helper.make_node("MatMul", ["s", "v"], ["m"], name="mean"),
        helper.make_node("MatMul", ["m", "wo"], ["o"], name="out"),
        helper.make_node("Add", ["x", "o"], ["y"]),
    ]
    generator = np.random.default_rng(0)
    weights = [numpy_helper.from_array((generator.standard_normal((16, 16)) / 4).astype(np.float32), name) for name in ("wq", "wk", "wv", "wo")]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4, 16]) for name in "xy")
    graph = helper.make_graph(nodes, "attention", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def with_outlier(model: onnx.ModelProto) -> onnx.ModelProto:
    """Three MatMul, with one activation a thousand times as large as the others before the second, which does not use it: one scale fits no two of them."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    first, second = (numpy_helper.to_array(weights[name]).copy() for name in ("w0", "w1"))
    first[:, 0] *= 1000
    second[0] = 0
    for name, values in (("w0", first), ("w1", second)):
        weights[name].CopyFrom(numpy_helper.from_array(values, name))
    return model


def unary(operator: str, kind: int, inputs: int = 1) -> onnx.ModelProto:
    x, y = (helper.make_tensor_value_info(name, kind, ["n", 2]) for name in "xy")
    graph = helper.make_graph([helper.make_node(operator, ["x"] * inputs, ["y"])], "g", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def branching() -> onnx.ModelProto:
    """If (OpenVINO's opset 8) over GridSample (its opset 9)."""
    x, grid = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", [1, 2, 4, 4]), ("grid", [1, 4, 4, 2])))
    branches = {
        "then_branch": helper.make_node("GridSample", ["x", "grid"], ["t"]),
        "else_branch": helper.make_node("Relu", ["x"], ["e"]),
    }
    graphs = {
        name: helper.make_graph([node], name, [], [helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, [1, 2, 4, 4])])
        for name, node in branches.items()
    }
    ends = [helper.make_tensor_value_info("c", TensorProto.BOOL, []), x, grid, helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, 4, 4])]
    graph = helper.make_graph([helper.make_node("If", ["c"], ["y"], **graphs)], "g", ends[:3], ends[3:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def looping() -> onnx.ModelProto:
    """Loop (OpenVINO's opset 5) over Gelu (its opset 7)."""

    def value(name: str, kind: int, *shape: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, shape)

    body = helper.make_graph(
        [helper.make_node("Identity", ["more"], ["again"]), helper.make_node("Gelu", ["v"], ["w"])],
        "body",
        [value("i", TensorProto.INT64), value("more", TensorProto.BOOL), value("v", TensorProto.FLOAT, 1, 4)],
        [value("again", TensorProto.BOOL), value("w", TensorProto.FLOAT, 1, 4)],
    )
    inputs = [value("n", TensorProto.INT64), value("x", TensorProto.FLOAT, 1, 4)]
    graph = helper.make_graph([helper.make_node("Loop", ["n", "", "x"], ["y"], body=body)], "g", inputs, [value("y", TensorProto.FLOAT, 1, 4)])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, make_mlp: Callable[..., onnx.ModelProto]) -> dict[str, Any]:
    """What the plugin does, all of it in one process of the toolchain."""
    folder = tmp_path_factory.mktemp("plugin")
    onnx.save(cnn(), folder / "cnn.onnx")
    onnx.save(attention(), folder / "attention.onnx")
    onnx.save(with_outlier(make_mlp()), folder / "mlp.onnx")
    onnx.save(make_mlp(inputs=64, hidden=64), folder / "wide.onnx")
    onnx.save(make_mlp(hidden=10), folder / "small.onnx")
    onnx.save(unary("StringConcat", TensorProto.STRING, 2), folder / "concat.onnx")
    onnx.save(unary("Identity", TensorProto.STRING), folder / "strings.onnx")
    onnx.save(make_mlp(hidden=1024), folder / "large.onnx")
    onnx.save(branching(), folder / "if.onnx")
    onnx.save(looping(), folder / "loop.onnx")
    (folder / "full").mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder / "full"], capture_output=True, check=False)
    try:
        return checked(folder)
    finally:
        if mount.returncode == 0:
            subprocess.run(["umount", folder / "full"], check=True)


def checked(folder: Path) -> dict[str, Any]:
    command = [environments.ensure("onnx", print).python, Path(__file__).with_name("openvino_checks.py"), folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_local_image_is_capped_to_what_openvino_loads(found):
    assert found["version"].startswith(f"{images.LOCAL_CPU.versions['openvino']}-")
    assert found["opset"] == images.LOCAL_CPU.max_openvino_opset


def test_operators_in_loops_and_branches_count_for_the_opset(found):
    assert found["opsets"] == {"cnn": 8, "if": 9, "loop": 7, "iterator": 7}


def test_the_opset_of_an_images_onnx_runtime_is_no_limit_for_openvino(found):
    refused = found["older onnx"]["ONNXRuntime"]
    assert (refused["reason"], found["older onnx"]["OpenVINO"]) == ("UnsupportedOpset", {})
    assert "opset 18" in refused["message"] and "at most opset 17" in refused["message"]


def test_excluded_nodes_and_ends_stay_float(found):
    assert found["float"] == {
        "static": [],
        "static-ends": ["conv1", "fc"],
        "static-but": ["conv2"],
        "static-percentile": [],
        "int4": [],
        "int4-but": ["fc"],
        "weights": [],
        "weights-but": ["fc"],
        "shared": ["conv1", "fc"],
        "shared-channel": ["conv1", "fc"],
        "shared-group": ["conv1", "fc"],
        "shared-many": ["conv1", "fc"],
        "fp16": [],
        "fp16-but": ["conv2"],
    }


def test_int4_holds_products_in_four_bits_but_for_the_last_in_fewer_bytes_than_int8(found):
    int4, int8 = (found["of weights"][name] for name in ("int4", "weights"))
    assert int4["types"] == {"layer0": "u4", "layer1": "u4", "y": "u8"}
    assert int8["types"] == dict.fromkeys(int4["types"], "u8")
    assert int4["bytes"] < int8["bytes"]
    assert (int4["note"], int8["note"]) == ("4 bits in 2 of 3 layers", "")
    assert found["small int4"] == "4 bits in none of 3 layers"


def test_percentile_leaves_outliers_out(found):
    assert found["largest"]["Percentile"] < 0.2 * found["largest"]["MinMax"] < 0.2 * 81


def test_transformer_mode_rounds_other_activations_of_an_attention(found):
    assert found["rounded"] == {"False": 5, "True": 4}, "what is added beside the attention stays float"


def test_shared_weights_stay_codebooks_in_the_file_with_four_bits_where_they_fit(found):
    assert found["indices"] == {
        "shared": {"w2": ["u4", 16]},
        "shared-channel": {"w2": ["u4", 16]},
        "shared-group": {"w2": ["u4", 16]},
        "shared-many": {"w2": ["u8", 256]},
    }
    plain = found["bytes"]["weights"]  # 8 bits per weight, a scale per channel
    assert found["bytes"]["shared"] < found["bytes"]["shared-channel"] < found["bytes"]["shared-group"] < plain


def test_sharing_more_values_than_there_are_weights_is_refused_with_the_numbers(found):
    assert found["shared too little"]["reason"] == "PassNotApplicable"
    assert "clusters: 256 is more than any weight has elements: the largest, layer0, has 160" in found["shared too little"]["message"]


def test_accuracy_control_puts_what_costs_back_in_float_and_nothing_else(found):
    note, in_float = found["controlled"]
    assert in_float == ["layer1"]
    assert note.endswith("in float: layer1")
    assert float(note.partition("%")[0]) >= 98


def test_accuracy_control_that_can_not_hold_leaves_no_candidate(found):
    assert found["uncontrollable"]["reason"] == "CandidateNotBuildable"
    assert "0.5 of the answers" in found["uncontrollable"]["message"]


def test_full_disk_is_no_finding_about_the_candidate(found):
    if found["full disk"] is None:
        pytest.skip("a file system of its own needs root")
    assert found["full disk"] == "No space left on device"


def test_every_step_makes_weights_smaller_and_answers_nearly_the_same(found):
    whole = 4 * sum(np.prod(tensor.dims) for tensor in cnn().graph.initializer)
    for name, size in found["bytes"].items():
        assert size < whole, name
    assert all(value > 0.98 for value in found["cosine"].values()), found["cosine"]
    assert found["cosine"]["fp16"] > 0.99999


def test_equal_inputs_give_equal_bytes_in_whichever_order(found):
    assert found["differ"] == []


@pytest.mark.parametrize(
    ("case", "reason", "words"),
    [
        ("concat", "UnsupportedOperator", ["StringConcat", "runtime: ONNXRuntime"]),
        ("strings", "UnsupportedOperator", ["'x'", "strings"]),
        ("older", "UnsupportedOpset", ["older", "opset 8", "at most opset 7"]),
        ("older built", "UnsupportedOpset", ["older", "opset 8"]),
        ("absent", "CandidateNotBuildable", ["OpenVINO does not load"]),
        ("shape", "CandidateNotBuildable", ["OpenVINO does not run", "shape=[?,1,8,8]"]),
    ],
)
def test_what_openvino_can_not_do_is_typed_and_told(found, case, reason, words):
    assert found[case]["reason"] == reason
    assert all(word in found[case]["message"] for word in words), found[case]["message"]


@pytest.mark.alone
def test_targets_of_both_runtimes_are_measured_each_with_its_own_passes(project, examples: Path, tmp_path):
    ran = project.run(examples / "runtimes.yaml", "--report", project.path / "report.html")
    assert ran.code == 0, ran.stderr
    targets = {target["name"]: target for target in ran.status["targets"]}
    assert {name: target["state"] for name, target in targets.items()} == {"ort": "Published", "openvino": "Published"}
    assert [c["name"] for c in targets["ort"]["candidates"]] == ["static"]
    assert [c["name"] for c in targets["openvino"]["candidates"]] == ["static", "weights", "static-control"]
    same = targets["openvino"]["candidates"].pop()
    assert (same["reason"], "speedup" in same) == ("CandidateSkipped", False)
    assert "the same model as static" in same["message"]
    for target in targets.values():
        assert all(float(candidate["speedup"]) > 0 for candidate in target["candidates"])
        assert all(float(candidate["score"]) > 0.98 for candidate in target["candidates"])
        assert float(target["measurements"][0]["speedup"]["low"]) > 1, "static INT8 is faster on both"
    assert targets["ort"]["baseline"]["digest"] != targets["openvino"]["baseline"]["digest"], "each is held against its own runtime's baseline"
    told = "100.0% of the calibration's answers stay; in float: nothing"
    assert told in ran.stderr
    assert told in html.unescape((project.path / "report-openvino.html").read_text())

    pulled = project.burnish("pull", "runtimes/openvino", "-o", tmp_path / "pulled", "--store", project.store)
    assert pulled.code == 0, pulled.stderr
    assert sorted(p.name for p in (tmp_path / "pulled" / "model").iterdir()) == ["model.bin", "model.xml"]
    assert project.run(examples / "runtimes.yaml").steps == ["resolve"], "both are known"


def test_a_target_that_fails_leaves_the_other(project, make_spec: Callable[..., dict[str, Any]]):
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 4, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 4, 4])
    nodes = [
        helper.make_node("MaxPool", ["x"], ["p", "i"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("MaxUnpool", ["p", "i"], ["y"], kernel_shape=[2, 2], strides=[2, 2]),
    ]
    onnx.save(
        helper.make_model(helper.make_graph(nodes, "g", [x], [y]), opset_imports=[helper.make_opsetid("", 20)], ir_version=9),
        project.path / "model.onnx",
    )
    ran = project.run(project.write(make_spec(targets=[OPENVINO, ORT])))
    assert ran.code == 2, ran.stderr
    failed, published = ran.status["targets"]
    assert (failed["state"], failed["reason"]) == ("Failed", "UnsupportedOperator")
    assert "MaxUnpool" in failed["message"]
    assert published["state"] == "Published"
    assert ran.failure["target"] == "ov"
