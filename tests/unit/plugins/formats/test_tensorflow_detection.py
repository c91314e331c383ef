"""Keras' and TensorFlow's formats as far as no TensorFlow is needed: what a source is, judged by its content, and which options it takes."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

from burnish.errors import BurnishError, Reason
from burnish.pipeline import formats
from burnish.plugins import base, registry
from burnish.plugins.files import LocalFiles
from burnish.plugins.formats import _tensorflow_module

HDF5 = b"\x89HDF\r\n\x1a\n" + bytes(24)
PROGRAM = b"\x08\x01\x12\xc4\x05\x0a" + bytes(24)


def archive(*names: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as made:
        for name in names:
            made.writestr(name, "{}")
    return stream.getvalue()


def detected(path: Path) -> list[str]:
    return [name for name, plugin in registry.formats().items() if plugin.detect(LocalFiles(path))]


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (archive("metadata.json", "config.json", "model.weights.h5"), ["Keras"]),
        (HDF5, ["Keras"]),
        (archive("config.json"), []),
        (archive("model/metadata.json", "model/config.json"), []),
        (archive(), []),
        (HDF5[:6], []),
        (b"PK\x03\x04", []),
    ],
)
@pytest.mark.parametrize("extension", ["keras", "h5", "bin"])
def test_a_file_is_keras_by_what_it_holds_whatever_it_is_called(tmp_path: Path, content: bytes, names: list[str], extension: str) -> None:
    path = tmp_path / f"model.{extension}"
    path.write_bytes(content)
    assert detected(path) == names


@pytest.mark.parametrize(("content", "names"), [(PROGRAM, ["SavedModel"]), (b"", []), (b"\x08\x01", []), (b"not a model", [])])
def test_a_directory_is_a_saved_model_by_the_beginning_of_its_protobuf(tmp_path: Path, content: bytes, names: list[str]) -> None:
    (tmp_path / "model/variables").mkdir(parents=True)
    (tmp_path / "model/saved_model.pb").write_bytes(content)
    assert detected(tmp_path / "model") == names


def test_a_saved_model_lies_at_the_top_of_its_directory(tmp_path: Path) -> None:
    (tmp_path / "model/1").mkdir(parents=True)
    (tmp_path / "model/1/saved_model.pb").write_bytes(PROGRAM)
    assert detected(tmp_path / "model") == []


def test_more_weights_than_the_converter_writes_are_refused_before_it_starts(tmp_path: Path, image: base.ServingImage) -> None:
    with pytest.raises(BurnishError) as caught:
        _tensorflow_module.NamedFunction(lambda tensors: {}, (), weight_bytes=2_500_000_000).export(tmp_path / "model.onnx", image=image)
    assert caught.value.reason is Reason.InvalidModel
    assert "2.5 GB" in caught.value.message


def test_a_signature_belongs_to_a_saved_model(tmp_path: Path) -> None:
    path = tmp_path / "model.h5"
    path.write_bytes(HDF5)
    with pytest.raises(BurnishError) as caught:
        formats.find(LocalFiles(path), None, base.SourceOptions(signature="serve"))
    assert (caught.value.reason, caught.value.field) == (Reason.InvalidManifest, "spec.source.signature")
