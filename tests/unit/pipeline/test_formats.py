"""What is said of a source where its format is not known, or where it holds several: what it is, and what to set."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from burnish.api import manifest, requests
from burnish.errors import BurnishError, Reason
from burnish.pipeline import formats, resolve
from burnish.plugins.files import LocalFiles
from burnish.serving import images
from burnish.store.store import open_store

SAFETENSORS = (2).to_bytes(8, "little") + b"{}"
HDF5 = b"\x89HDF\r\n\x1a\n" + bytes(24)
GRAPH = b"\x08\x01\x12\xc4\x05\x0a" + bytes(24)
"""As saved_model.pb begins."""
ONNX = b"\x08\x09\x12\x00" + bytes(24)
TIMM = {"architecture": "resnet18", "num_classes": 12, "pretrained_cfg": {}}
OF_TRANSFORMERS = {"model_type": "bert"}

Content = bytes | dict[str, object]


@pytest.fixture
def lay(tmp_path: Path) -> Callable[[dict[str, Content]], LocalFiles]:
    """Makes a directory `model`, of bytes or JSON by path."""

    def made(files: dict[str, Content]) -> LocalFiles:
        for name, content in files.items():
            path = tmp_path / "model" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return LocalFiles(tmp_path / "model")

    return made


def refusal(source: LocalFiles, declared: str | None = None) -> BurnishError:
    with pytest.raises(BurnishError) as caught:
        formats.detect(source, declared)
    assert caught.value.reason is Reason.UnsupportedFormat
    return caught.value


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"model.safetensors": SAFETENSORS}, "set uri: .../model.safetensors (StateDict) and the architecture, such as architecture: torchvision."),
        (
            {"model.safetensors": SAFETENSORS, "config.json": TIMM},
            'uri: .../model.safetensors (StateDict) and architecture: timm.resnet18 and architectureArgs: [{name: num_classes, value: "12"}]',
        ),
        ({"net.h5": HDF5, "readme.txt": b"x"}, "of what is in it, set uri: .../net.h5 (Keras)"),
        ({"1/saved_model.pb": GRAPH, "1/variables/variables.index": b""}, "of what is in it, set uri: .../1 (SavedModel)"),
        ({"1/saved_model.pb": GRAPH, "2/saved_model.pb": GRAPH}, "set uri: .../1 (SavedModel), or uri: .../2 (SavedModel)"),
        ({"run/best/config.json": OF_TRANSFORMERS, "run/best/model.safetensors": SAFETENSORS}, "set uri: .../run/best (HuggingFace)"),
        ({"model-00001-of-00002.safetensors": SAFETENSORS}, "known: ExportedProgram, HuggingFace, Keras, ONNX, "),
        ({"checkpoint": b'model_checkpoint_path: "c"', "c.index": b"", "c.data-00000-of-00001": b""}, "is of a checkpoint of TensorFlow"),
        ({"config.json": OF_TRANSFORMERS, "bert.gguf": b"GGUF\x03" + bytes(20)}, "bert.gguf is llama.cpp's"),
    ],
)
def test_a_directory_of_no_known_format_says_what_in_it_is_one(lay: Callable[..., LocalFiles], files: dict[str, Content], said: str) -> None:
    error = refusal(lay(files))
    assert error.message.startswith("model is of no known format; ")
    assert said in error.message
    assert error.message.count("uri: ...") == said.count("uri: ...")
    assert error.field == "spec.source.uri"


def test_models_of_a_directory_that_holds_several_are_named(lay: Callable[..., LocalFiles]) -> None:
    assert "set uri: .../a.onnx (ONNX), or uri: .../b.onnx (ONNX)" in refusal(lay({"a.onnx": ONNX, "b.onnx": ONNX})).message


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("saved_model.pb", GRAPH, "it is a SavedModel's graph without its variables; set uri to its folder"),
        ("model.tflite", b"\x1c\0\0\0TFL3" + bytes(24), "it is TensorFlow Lite, which was converted already; take the Keras model or the SavedModel"),
        ("model.gguf", b"GGUF\x03" + bytes(24), "it is llama.cpp's"),
        ("model.bin", b"\x80\x04\x95" + bytes(24), "it is a pickle, which runs code when it is loaded"),
        ("model.joblib", b"x\x9c" + bytes(24), "it is a pickle, which runs code when it is loaded"),
        ("weights.data-00000-of-00001", bytes(24), "it is of a checkpoint of TensorFlow, variables without a graph"),
        ("model.onnx", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("model.onnx", b"no model", "known: ExportedProgram, HuggingFace, Keras, ONNX, SavedModel, StateDict, TorchScript; bring it to ONNX"),
        ("model.onnx", b"", "known: "),
    ],
)
@pytest.mark.parametrize("declared", [None, "ONNX"])
def test_a_file_of_no_known_format_says_what_it_is_and_what_to_give(
    tmp_path: Path, name: str, content: bytes, said: str, declared: str | None
) -> None:
    (tmp_path / name).write_bytes(content)
    error = refusal(LocalFiles(tmp_path / name), declared)
    assert said in error.message
    assert ("is not ONNX" in error.message) is (declared is not None)
    assert error.field == ("spec.source.format" if declared else "spec.source.uri")


@pytest.mark.parametrize(
    ("path", "set_"), [("model.onnx", "format: ONNX"), ("other.onnx", "format: ONNX"), ("onnx/model.onnx", "uri: .../onnx/model.onnx (ONNX)")]
)
def test_a_directory_of_two_formats_says_which_was_taken_and_how_to_get_the_other(lay: Callable[..., LocalFiles], path: str, set_: str) -> None:
    source = lay({"config.json": OF_TRANSFORMERS, "model.safetensors": SAFETENSORS, path: ONNX})
    plugin = formats.detect(source, None)
    assert formats.told(plugin, source, None) == f"HuggingFace; for the ONNX in it set {set_}"
    assert formats.told(plugin, source, "HuggingFace") == "HuggingFace"


def test_resolve_says_it_of_the_source_and_of_a_student(lay: Callable[..., LocalFiles], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lay({"config.json": OF_TRANSFORMERS, "model.safetensors": SAFETENSORS, "onnx/model.onnx": ONNX})
    spec = {
        "source": {"uri": "file:model"},
        "datasets": {"training": {"uri": "file:model/config.json"}},
        "passes": [{"type": "Distill", "distill": {"student": {"source": {"uri": "file:model"}}}}],
        "targets": [{"name": "cpu", "runtime": "ONNXRuntime"}],
    }
    wanted = manifest.parse({"apiVersion": "burnish.dev/v1alpha1", "kind": "OptimizedModel", "metadata": {"name": "m"}, "spec": spec})
    request = requests.resolve_request(wanted, base=str(tmp_path), hardware_class=None, serving_image=images.LOCAL_CPU.name)
    resolve.run(request, open_store(tmp_path / "store"))
    said = capsys.readouterr().err.splitlines()
    assert {f"{what} is HuggingFace; for the ONNX in it set uri: .../onnx/model.onnx (ONNX)" for what in ("source", "student")} <= set(said)


def test_a_declared_format_that_lies_deeper_is_named_with_its_place(lay: Callable[..., LocalFiles]) -> None:
    error = refusal(lay({"config.json": OF_TRANSFORMERS, "model.safetensors": SAFETENSORS, "onnx/model.onnx": ONNX}), "ONNX")
    assert "model is HuggingFace, not ONNX; for the ONNX in it set uri: .../onnx/model.onnx (ONNX)" in error.message
    assert error.field == "spec.source.format"


@pytest.mark.parametrize(
    "more", [{}, {"2_Dense/model.safetensors": SAFETENSORS, "2_Dense/config.json": {"in_features": 3}}, {"optimizer.pt": b""}, {"tf_model.h5": HDF5}]
)
def test_weights_that_belong_to_the_format_are_not_told(lay: Callable[..., LocalFiles], more: dict[str, Content]) -> None:
    source = lay({"config.json": OF_TRANSFORMERS, "model.safetensors": SAFETENSORS, **more})
    assert formats.told(formats.detect(source, None), source, None) == "HuggingFace"


def test_no_more_than_a_few_files_are_opened(tmp_path: Path) -> None:
    class Counting(LocalFiles):
        opened = 0

        def open(self, path: str):
            Counting.opened += 1
            return super().open(path)

    for number in range(200):
        (tmp_path / f"{number}.onnx").write_bytes(b"no model")
    refusal(Counting(tmp_path))
    assert Counting.opened < 200
