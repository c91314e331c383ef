"""The model repository: its layout, and what never gets into one."""

import os

import pytest

from burnish.api.job_contract import ArtifactConfig
from burnish.errors import BurnishError, Reason
from burnish.plugins.base import DataType, HardwareClass, Signature, Tensor
from burnish.serving.config import ServingOptions
from burnish.serving.repository import check_repository, write_repository

OPTIONS = ServingOptions(threads=1)


def artifact(directory, *, files=("model.onnx",), backend="onnxruntime", model_file="model.onnx"):
    (directory / "model").mkdir(parents=True)
    for name in files:
        path = directory / "model" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name.encode())
    x = Tensor(name="x", data_type=DataType.FP32, shape=(-1, 4))
    config = ArtifactConfig(
        name="baseline",
        summary="",
        runtime="ONNXRuntime",
        backend=backend,
        model_file=model_file,
        signature=Signature(inputs=(x,), outputs=(x,)),
        inputs=(),
        source_digest="sha256:" + "0" * 64,
        artifact_key="",
        toolchain="",
        hardware_class=HardwareClass(architecture="", vendor="", isa=()),
    )
    (directory / "artifact.json").write_text(config.model_dump_json(by_alias=True))
    (directory / "golden.npz").write_bytes(b"")
    return directory


def refused(reason=Reason.UnsafeSource):
    return pytest.raises(BurnishError, check=lambda error: error.reason is reason)


def test_repository_holds_config_and_model_files_only(tmp_path):
    files = ("model.onnx", "weights/part.bin")
    write_repository(tmp_path / "r", {"baseline": artifact(tmp_path / "a", files=files), "int8": artifact(tmp_path / "b")}, OPTIONS)
    found = sorted(str(p.relative_to(tmp_path / "r")) for p in (tmp_path / "r").rglob("*") if p.is_file())
    assert found == ["baseline/1/model.onnx", "baseline/1/weights/part.bin", "baseline/config.pbtxt", "int8/1/model.onnx", "int8/config.pbtxt"]
    assert (tmp_path / "r/baseline/1/weights/part.bin").read_bytes() == b"weights/part.bin"
    assert 'name: "int8"' in (tmp_path / "r/int8/config.pbtxt").read_text()
    assert check_repository(tmp_path / "r") == ["baseline", "int8"]


def test_repository_is_copied_where_it_cant_be_linked(tmp_path, monkeypatch):
    def link(*_args, **_options):
        raise OSError("cross-device link")

    monkeypatch.setattr(os, "link", link)
    write_repository(tmp_path / "r", {"m": artifact(tmp_path / "a")}, OPTIONS)
    assert (tmp_path / "r/m/1/model.onnx").read_bytes() == b"model.onnx"


@pytest.mark.parametrize("place", ["model/model.onnx", "model/extra", "model"])
def test_repository_takes_no_link(tmp_path, place):
    directory = artifact(tmp_path / "a")
    secret = tmp_path / "secret"
    secret.mkdir()
    path = directory / place
    if path.is_dir():
        path.rename(tmp_path / "moved")
        path.symlink_to(tmp_path / "moved", target_is_directory=True)
    else:
        path.unlink(missing_ok=True)
        path.symlink_to(secret)
    with refused():
        write_repository(tmp_path / "r", {"m": directory}, OPTIONS)


def test_repository_takes_no_special_file(tmp_path):
    directory = artifact(tmp_path / "a")
    os.mkfifo(directory / "model" / "pipe")
    with refused():
        write_repository(tmp_path / "r", {"m": directory}, OPTIONS)


@pytest.mark.parametrize("backend", ["python", "../python", ""])
def test_repository_takes_no_backend_that_runs_the_models_code(tmp_path, backend):
    with refused():
        write_repository(tmp_path / "r", {"m": artifact(tmp_path / "a", backend=backend)}, OPTIONS)
    assert not (tmp_path / "r" / "m").exists()


@pytest.mark.parametrize("name", ["../m", "", "M", "m/n", "."])
def test_repository_takes_no_name_that_is_a_path(tmp_path, name):
    with refused():
        write_repository(tmp_path / "r", {name: artifact(tmp_path / "a")}, OPTIONS)


@pytest.mark.parametrize("model_file", ["absent.onnx", "../artifact.json"])
def test_repository_takes_no_artifact_without_its_model(tmp_path, model_file):
    with refused(Reason.InternalError):
        write_repository(tmp_path / "r", {"m": artifact(tmp_path / "a", model_file=model_file)}, OPTIONS)


def test_repository_takes_no_directory_that_is_no_artifact(tmp_path):
    (tmp_path / "a").mkdir()
    with refused(Reason.InternalError):
        write_repository(tmp_path / "r", {"m": tmp_path / "a"}, OPTIONS)


@pytest.mark.parametrize(
    "config",
    [
        'backend: "python"',
        "backend: 'python'",
        'backend: "pyth\\157n"',
        'backend: "py" "thon"',
        'backend: "onnxruntime" "x"',
        'backend # "onnxruntime"\n : "python"',
        'backend: "onnxruntime"\nbackend: "python"',
        'backend: "onnxruntime"\nruntime: "model.py"',
        'backend: "onnxruntime" runtime: "libevil.so"',
        'platform: "onnxruntime_onnx"',
        'name: "m"',
        "",
    ],
)
def test_check_refuses_a_config_that_may_run_the_models_code(tmp_path, config):
    write_repository(tmp_path / "r", {"m": artifact(tmp_path / "a")}, OPTIONS)
    (tmp_path / "r/m/config.pbtxt").write_text(config)
    with refused():
        check_repository(tmp_path / "r")


def test_check_reads_past_names_that_look_like_fields(tmp_path):
    write_repository(tmp_path / "r", {"m": artifact(tmp_path / "a")}, OPTIONS)
    path = tmp_path / "r/m/config.pbtxt"
    path.write_text(path.read_text().replace('name: "x"', 'name: "backend: \\"python\\" runtime"') + '# runtime: "x"\n')
    assert check_repository(tmp_path / "r") == ["m"]


def test_check_refuses_a_model_without_config_and_links(tmp_path):
    write_repository(tmp_path / "r", {"m": artifact(tmp_path / "a")}, OPTIONS)
    (tmp_path / "r/m/1/link").symlink_to("/etc/passwd")
    with refused():
        check_repository(tmp_path / "r")
    (tmp_path / "r/m/1/link").unlink()
    (tmp_path / "r/m/config.pbtxt").unlink()
    with refused():
        check_repository(tmp_path / "r")
