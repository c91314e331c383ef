"""PyTorch's formats as far as no PyTorch is needed: what a source is, judged by its content, and what may be said of it."""

from __future__ import annotations

import ast
import io
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from burnish.errors import BurnishError, Reason
from burnish.pipeline import formats
from burnish.plugins import base, registry
from burnish.plugins.files import LocalFiles
from burnish.plugins.formats import _torch_architectures, _torch_weights

LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19." + b"\x80\x02M\xe9\x03."
SAFETENSORS = (2).to_bytes(8, "little") + b"{}"


def archive(*names: str) -> bytes:
    """A zip file as PyTorch writes one: everything below a folder named after the file."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as made:
        for name in names:
            made.writestr(f"net/{name}", "")
    return stream.getvalue()


STATE_DICT = archive("data.pkl", "byteorder", "data/0", "version")
TORCH_SCRIPT = archive("data.pkl", "code/__torch__.py", "constants.pkl", "version")
PROGRAM = archive("models/model.json", "data/weights/weight_0", "archive_format", "byteorder")
FILES = {
    "StateDict": [SAFETENSORS, STATE_DICT, LEGACY],
    "TorchScript": [TORCH_SCRIPT],
    "ExportedProgram": [PROGRAM],
    None: [b"", b"PK", b"PK\x05\x06" + bytes(18), b"\x80\x04]\x94.", SAFETENSORS[:8], b"\xff" * 16, archive("readme.txt"), b"GIF89a" + bytes(64)],
}


def folder(directory: Path, **files: object) -> Path:
    """A directory of JSON files; other values are written as they are."""
    directory.mkdir()
    for name, content in files.items():
        path = directory / name.replace("__", ".")
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return directory


@pytest.mark.parametrize(("name", "content"), [(name, content) for name, contents in FILES.items() for content in contents])
@pytest.mark.parametrize("extension", ["pt", "safetensors", "onnx"])
def test_a_file_is_what_it_holds_whatever_it_is_called(tmp_path: Path, name: str | None, content: bytes, extension: str) -> None:
    path = tmp_path / f"model.{extension}"
    path.write_bytes(content)
    assert [found for found, plugin in registry.formats().items() if plugin.detect(LocalFiles(path))] == ([name] if name else [])


@pytest.mark.parametrize(
    ("files", "known"),
    [
        ({"config__json": {"model_type": "bert"}, "model__safetensors": SAFETENSORS}, True),
        ({"config__json": {"architectures": ["X"]}, "pytorch_model__bin": STATE_DICT}, True),
        ({"modules__json": [], "model__safetensors": SAFETENSORS}, True),
        ({"config__json": {"model_type": "bert"}}, False),
        ({"config__json": {"hidden": 3}, "model__safetensors": SAFETENSORS}, False),
        ({"config__json": b"{", "model__safetensors": SAFETENSORS}, False),
        ({"model__safetensors": SAFETENSORS}, False),
        ({}, False),
    ],
)
def test_a_directory_is_huggingface_by_its_configuration_and_weights(tmp_path: Path, files: dict[str, object], known: bool) -> None:
    path = folder(tmp_path / "model", **files)
    assert [name for name, plugin in registry.formats().items() if plugin.detect(LocalFiles(path))] == (["HuggingFace"] if known else [])


def test_a_mismatch_names_the_content_and_the_declared_format(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(TORCH_SCRIPT)
    with pytest.raises(BurnishError) as caught:
        formats.detect(LocalFiles(path), "ONNX")
    assert (caught.value.reason, caught.value.field) == (Reason.UnsupportedFormat, "spec.source.format")
    assert "model.onnx is TorchScript, not ONNX" in caught.value.message


def _refusal(name: str, **options: object) -> BurnishError:
    with pytest.raises(BurnishError) as caught:
        registry.formats()[name].check_options(base.SourceOptions.model_validate(options))
    return caught.value


@pytest.mark.parametrize("name", registry.formats())
def test_a_format_refuses_what_belongs_to_others(name: str) -> None:
    values = {"architecture": "timm.resnet18", "architecture_args": {"num_classes": 3}, "task": "FillMask", "signature": "serve", "trusted": True}
    for option in values.keys() - registry.formats()[name].options:
        # What the format itself wants is there, so that nothing else is wrong.
        wanted = {"StateDict": {"architecture": "timm.resnet18"}, "ExportedProgram": {"trusted": True}, "TorchScript": {"trusted": True}}
        error = _refusal(name, **{**wanted.get(name, {}), option: values[option]})
        assert error.reason is Reason.InvalidManifest
        assert error.field == {"architecture_args": "spec.source.architectureArgs"}.get(option, f"spec.source.{option}")


@pytest.mark.parametrize("name", ["ExportedProgram", "TorchScript"])
def test_a_program_has_to_be_trusted(name: str) -> None:
    error = _refusal(name)
    assert (error.reason, error.field) == (Reason.SourceNotTrusted, "spec.source.trusted")
    assert "safetensors" in error.message
    registry.formats()[name].check_options(base.SourceOptions(trusted=True))


@pytest.mark.parametrize(
    "architecture", ["my.module.Net", "os.system", "torchvision", "torchvision.ops.MLP", "timm", "torch.nn.Linear", "Timm.resnet18"]
)
def test_an_architecture_that_is_not_listed_is_refused_with_the_recipe(architecture: str) -> None:
    error = _refusal("StateDict", architecture=architecture)
    assert (error.reason, error.field) == (Reason.ArchitectureMismatch, "spec.source.architecture")
    assert "torch.onnx.export(model.eval()" in error.message


@pytest.mark.parametrize("name", ["torchvision.models.ssdlite320_mobilenet_v3_large", "torchvision.models.detection.fasterrcnn_resnet50_fpn"])
def test_a_detection_model_is_refused_by_name_with_the_recipe(name: str) -> None:
    error = _refusal("StateDict", architecture=name)
    assert (error.reason, error.field) == (Reason.ArchitectureMismatch, "spec.source.architecture")
    assert error.message.startswith(f"{name} finds objects") and "torch.onnx.export(model.eval()" in error.message


def test_the_tag_of_a_timm_model_is_refused_with_the_name_to_write() -> None:
    error = _refusal("StateDict", architecture="timm.test_resnet.r160_in1k")
    assert (error.reason, error.field) == (Reason.ArchitectureMismatch, "spec.source.architecture")
    assert "the tag 'r160_in1k' names weights" in error.message and error.message.endswith("write timm.test_resnet")
    registry.formats()["StateDict"].check_options(base.SourceOptions(architecture="timm.models.resnet.resnet18"))


def test_the_documents_have_the_recipe_of_the_message() -> None:
    text = (Path(__file__).parents[4] / "docs" / "formats.md").read_text()
    (block,) = (code for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "torch.onnx.export" in code)
    recipe = _torch_architectures.RECIPE
    assert ast.unparse(ast.parse(block)) == ast.unparse(ast.parse(recipe[recipe.index("import torch") :]))


def test_a_state_dict_needs_an_architecture() -> None:
    assert "torchvision.models.resnet18" in _refusal("StateDict").message


@pytest.mark.parametrize(
    ("weights", "own", "prefix"),
    [
        (["a.w", "b.w"], ["a.w", "b.w"], ""),
        (["model.a.w", "model.b.w"], ["a.w", "b.w"], "model."),
        (["model.a.w", "model.b.w"], ["model.a.w", "model.b.w"], ""),
        (["model.model.a.w", "model.head.w"], ["model.a.w", "head.w"], "model."),
        (["model._orig_mod.model.a.w"], ["model.a.w"], "model._orig_mod."),
        (["module.a.w"], ["module.a.w"], ""),
        (["_orig_mod.module.a.w"], ["b.w"], "_orig_mod.module."),
        (["module.a.w", "b.w"], ["a.w", "b.w"], ""),
    ],
)
def test_prefixes_of_trainers_are_told_from_the_names_of_the_module(weights: list[str], own: list[str], prefix: str) -> None:
    assert _torch_weights.trainer_prefix(weights, own) == prefix


@pytest.mark.parametrize(
    ("weights", "own", "prefix"),
    [
        (["net.a.w", "net.b.w"], ["a.w", "b.w"], "net."),
        (["net.body.a.w", "net.body.b.w"], ["a.w", "b.w"], "net.body."),
        (["net.a.w", "head.b.w"], ["a.w", "b.w"], None),
        (["net.a.w"], ["net.b.w"], None),
        (["w"], ["v"], None),
    ],
)
def test_a_prefix_that_all_names_share_is_found(weights: list[str], own: list[str], prefix: str | None) -> None:
    assert _torch_weights.foreign_prefix(weights, own) == prefix


def test_only_named_files_travel_with_the_artifact(tmp_path: Path) -> None:
    path = folder(tmp_path / "model", tokenizer__json={}, config__json={}, evil__py=b"", model__safetensors=b"")
    assert [p.name for p in registry.formats()["HuggingFace"].companions(path)] == ["tokenizer.json", "config.json"]


def test_files_of_the_transformers_folder_come_before_those_of_the_directory(tmp_path: Path) -> None:
    kinds = {"Transformer": "0_Transformer", "Pooling": "1_Pooling"}
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in kinds.items()]
    path = folder(tmp_path / "model", modules__json=modules, config__json={}, config_sentence_transformers__json={})
    folder(path / "0_Transformer", vocab__txt=b"", config__json={}, spm__model=b"", sentence_bert_config__json={})
    found = [p.relative_to(path).as_posix() for p in registry.formats()["HuggingFace"].companions(path)]
    assert found == [
        "0_Transformer/vocab.txt",
        "0_Transformer/spm.model",
        "0_Transformer/sentence_bert_config.json",
        "config_sentence_transformers.json",
        "0_Transformer/config.json",
    ]


@pytest.mark.parametrize("content", [b"[" * 100_000, b"{", b"\xff", b""])
def test_what_is_no_json_describes_nothing(tmp_path: Path, content: bytes) -> None:
    path = folder(tmp_path / "model", config__json=content, model__safetensors=SAFETENSORS)
    assert not registry.formats()["HuggingFace"].detect(LocalFiles(path))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("10", 10),
        ("0.5", 0.5),
        ("true", True),
        ("gelu", "gelu"),
        ("null", "null"),
        ("[1]", "[1]"),
        ("NaN", "NaN"),
        ("1e3", 1000.0),
        ("1e400", "1e400"),
    ],
)
def test_architecture_arguments_are_scalars(text: str, value: object, make_scalar: Callable[[str], object]) -> None:
    found = make_scalar(text)
    assert (found, type(found)) == (value, type(value))


@pytest.fixture
def make_scalar() -> Callable[[str], object]:
    from burnish.api.v1alpha1.optimized_model import ArchitectureArg

    return lambda text: ArchitectureArg(name="x", value=text).scalar
