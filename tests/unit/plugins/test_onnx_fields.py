"""An ONNX file's fields against what the onnx library finds in it."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from burnish.plugins import onnx_fields

Make = Callable[..., onnx.ModelProto]


def saved(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@given(st.binary(max_size=200))
def test_versions_of_what_is_no_model_are_not_known(content: bytes) -> None:
    found = onnx_fields.declared_versions(io.BytesIO(content))
    assert found is None or all(isinstance(number, int) for number in found)


def test_versions_of_a_model_that_is_cut_are_not_known(make_cnn: Make) -> None:
    whole = make_cnn().SerializeToString()
    assert {onnx_fields.declared_versions(io.BytesIO(whole[:length])) for length in range(len(whole) - 4)} == {None}


def test_versions_that_are_not_named_are_zero(make_cnn: Make, tmp_path: Path) -> None:
    model = make_cnn(18, ir_version=9)
    assert onnx_fields.versions(saved(model, tmp_path)) == (18, 9)
    model.opset_import[0].domain = "com.microsoft"
    assert onnx_fields.versions(saved(model, tmp_path)) == (0, 9)


def test_names_are_those_of_the_main_graph_without_its_weights(make_cnn: Make, tmp_path: Path) -> None:
    model = make_cnn()
    model.graph.input.append(onnx.helper.make_tensor_value_info("w1", onnx.TensorProto.FLOAT, [8, 1, 3, 3]))
    large = numpy_helper.from_array(np.zeros(100_000, np.float32))
    inner = onnx.helper.make_graph([onnx.helper.make_node("Constant", [], ["inner"], name="inside", value=large)], "branch", [], [])
    model.graph.node.append(onnx.helper.make_node("If", ["score"], ["\u00e4", ""], name="branches", then_branch=inner, else_branch=inner))
    found = onnx_fields.names(saved(model, tmp_path))
    graph = model.graph
    assert found.inputs == ["image"]
    assert found.outputs == [value.name for value in graph.output] == ["score"]
    assert found.operations - {""} == {name for node in graph.node for name in (node.name, *node.output)} - {""}
    assert {"branches", "\u00e4", "conv1"} < found.operations
    assert not {"inside", "inner"} & found.operations


def test_names_of_a_file_that_is_cut_are_refused(make_cnn: Make, tmp_path: Path) -> None:
    whole, refused = make_cnn().SerializeToString(), 0
    for length in range(8, len(whole) - 20, 7):
        (tmp_path / "model.onnx").write_bytes(whole[:length])
        with pytest.raises(ValueError, match="cut off"):
            onnx_fields.names(tmp_path / "model.onnx")
        refused += 1
    assert refused > 50
