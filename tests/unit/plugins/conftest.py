"""Tiny real ONNX models, made here, with random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from burnish.plugins import base


@pytest.fixture
def image() -> base.ServingImage:
    return base.ServingImage(name="test", triton="0", versions={}, max_opset=24, max_ir_version=11, max_openvino_opset=16)


@pytest.fixture
def vnni() -> base.HardwareClass:
    return base.HardwareClass(architecture="x86-64", vendor="AuthenticAMD", isa=("AVX2", "AVX512-VNNI"))


@pytest.fixture
def avx2() -> base.HardwareClass:
    return base.HardwareClass(architecture="x86-64", vendor="GenuineIntel", isa=("AVX2",))


def _weight(name: str, *shape: int, seed: int = 0) -> onnx.TensorProto:
    values = np.random.default_rng([seed, *name.encode()]).standard_normal(shape) / np.sqrt(np.prod(shape[1:]) or 1)
    return numpy_helper.from_array(values.astype(np.float32), name)


@pytest.fixture
def make_cnn() -> Callable[..., onnx.ModelProto]:
    """Two Conv, pooling and a Gemm: image (batch, 1, 8, 8) float32 -> score (batch, 4)."""

    def make(opset: int = 18, ir_version: int = 9) -> onnx.ModelProto:
        nodes = [
            helper.make_node("Conv", ["image", "w1", "b1"], ["c1"], name="conv1", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c1"], ["r1"], name="relu1"),
            helper.make_node("MaxPool", ["r1"], ["p1"], name="pool1", kernel_shape=[2, 2], strides=[2, 2]),
            helper.make_node("Conv", ["p1", "w2", "b2"], ["c2"], name="conv2", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c2"], ["r2"]),
            helper.make_node("GlobalAveragePool", ["r2"], ["g"]),
            helper.make_node("Flatten", ["g"], ["f"]),
            helper.make_node("Gemm", ["f", "w3", "b3"], ["score"], name="fc"),
        ]
        weights = [_weight("w1", 8, 1, 3, 3), _weight("b1", 8), _weight("w2", 16, 8, 3, 3), _weight("b2", 16), _weight("w3", 16, 4), _weight("b3", 4)]
        graph = helper.make_graph(
            nodes,
            "cnn",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])],
            [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch", 4])],
            weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)

    return make


@pytest.fixture
def make_text() -> Callable[..., onnx.ModelProto]:
    """An embedding, a MatMul with bias and attention-like products: ids (batch, length) int64 -> score (batch, 5)."""

    def make(opset: int = 18) -> onnx.ModelProto:
        nodes = [
            helper.make_node("Gather", ["table", "ids"], ["e"], name="embed"),
            helper.make_node("MatMul", ["e", "wq"], ["q0"], name="query"),
            helper.make_node("Add", ["q0", "bq"], ["q"], name="query_bias"),
            helper.make_node("Transpose", ["e"], ["k"], perm=[0, 2, 1]),
            helper.make_node("MatMul", ["q", "k"], ["a"], name="attention"),
            helper.make_node("Softmax", ["a"], ["s"], axis=-1),
            helper.make_node("MatMul", ["s", "e"], ["v"], name="values"),
            helper.make_node("ReduceMean", ["v", "axes"], ["m"], keepdims=0),
            helper.make_node("MatMul", ["m", "wo"], ["score"], name="out"),
        ]
        weights = [_weight("table", 50, 16), _weight("wq", 16, 16), _weight("bq", 16), _weight("wo", 16, 5)]
        weights.append(numpy_helper.from_array(np.array([1], np.int64), "axes"))
        graph = helper.make_graph(
            nodes,
            "text",
            [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "length"])],
            [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch", 5])],
            weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)

    return make


@pytest.fixture
def save(tmp_path: Path) -> Callable[[onnx.ModelProto], Path]:
    """Write a model as source/model.onnx."""

    def write(model: onnx.ModelProto) -> Path:
        path = tmp_path / "source" / "model.onnx"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(model.SerializeToString())
        return path

    return write
