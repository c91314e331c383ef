"""The table of serving images, checked against the very libraries that it speaks of."""

import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from burnish.errors import BurnishError, Reason
from burnish.serving import images
from burnish.toolchains import environments


def loads(opset: int, ir_version: int) -> bool:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    model = helper.make_model(
        helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y]), opset_imports=[helper.make_opsetid("", opset)]
    )
    model.ir_version = ir_version
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:
        return False
    return True


def test_local_image_has_the_versions_of_the_serving_lock():
    lock = environments.TOOLCHAINS["triton"].lock.read_text()
    for library, version in images.LOCAL_CPU.versions.items():
        assert f"\n{library}=={version} " in f"\n{lock}"


def test_local_image_is_capped_to_what_onnxruntime_loads():
    image = images.LOCAL_CPU
    assert onnxruntime.__version__ == image.versions["onnxruntime"], "this test speaks of another version"
    assert loads(image.max_opset, image.max_ir_version)
    assert not loads(image.max_opset + 1, image.max_ir_version)
    assert not loads(image.max_opset, image.max_ir_version + 1)


def test_nvidias_image_loads_less_than_ours():
    """Its figures were found once, with its version of the library; here only that a mistake would be noticed."""
    image = images.image("nvidia-25.10")
    assert (image.versions["onnxruntime"], image.versions["openvino"]) == ("1.23.1", "2025.3.0")
    assert image.max_openvino_opset < images.LOCAL_CPU.max_openvino_opset
    assert loads(image.max_opset, image.max_ir_version), "what an older ONNX Runtime loads, a newer one does"
    assert (image.max_opset, image.max_ir_version) < (images.LOCAL_CPU.max_opset, images.LOCAL_CPU.max_ir_version)
    assert set(images.IMAGES) == {"local-cpu", "nvidia-25.10"}


def test_our_onnx_library_writes_no_more_than_the_image_loads():
    assert onnx.defs.onnx_opset_version() <= images.LOCAL_CPU.max_opset


def test_image_unknown_is_refused_with_the_known_names():
    with pytest.raises(BurnishError, match="local-cpu") as caught:
        images.image("remote")
    assert caught.value.reason is Reason.InternalError


def test_identity_changes_with_the_lock_and_with_the_table():
    import dataclasses

    image = images.image("local-cpu")
    identity = images.triton_identity(image, "a" * 64)
    assert identity == images.triton_identity(image, "a" * 64)
    assert identity != images.triton_identity(image, "b" * 64)
    assert identity != images.triton_identity(dataclasses.replace(image, triton="2.52.0"), "a" * 64)
