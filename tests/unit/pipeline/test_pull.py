"""Bringing an artifact into a serving pod. That the result is served by a real Triton is in tests/integration/test_probe.py."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from burnish.api.job_contract import ArtifactConfig, ResolvedInput
from burnish.api.messages import decode
from burnish.errors import BurnishError, Reason, StepExit
from burnish.manifests.settings import HardwareMismatch
from burnish.pipeline import machine, pairs, pull
from burnish.plugins.base import DataType, HardwareClass, Signature, Tensor
from burnish.serving.config import ServingOptions, render_config
from burnish.serving.repository import check_repository
from burnish.store.artifacts import put_artifact
from burnish.store.store import Store, open_store

OPTIONS = ServingOptions(threads=3, max_batch_size=8, parameters={"intra_op_thread_count": "3"}, is_dynamic=True, preferred_batch_sizes=(4, 8))
OTHER = HardwareClass(architecture="s390x", vendor="IBM", isa=())


@pytest.fixture
def store(tmp_path) -> Store:
    return open_store(tmp_path / "store", cluster="blue", namespace="models")


@pytest.fixture
def places(tmp_path) -> tuple[Path, Path]:
    """The pod's empty directories for the repository and for the golden request."""
    models, golden = tmp_path / "models", tmp_path / "golden"
    models.mkdir()
    golden.mkdir()
    return models, golden


def write_artifact(directory: Path, *, hardware_class: HardwareClass | None = None, backend: str = "onnxruntime") -> ArtifactConfig:
    (directory / "model" / "weights").mkdir(parents=True)
    (directory / "model" / "model.onnx").write_bytes(b"a graph")
    (directory / "model" / "weights" / "part.bin").write_bytes(os.urandom(100_000))
    x = Tensor(name="x", data_type=DataType.FP32, shape=(-1, 4))
    signature, feed = Signature(inputs=(x,), outputs=(x,)), {"x": np.zeros((1, 4), np.float32)}
    pairs.save_pair(directory / "golden.npz", feed, feed)
    (directory / "golden.request").write_bytes(pairs.request_body(feed, signature))
    config = ArtifactConfig(
        name="int8",
        summary="",
        runtime="ONNXRuntime",
        backend=backend,
        model_file="model.onnx",
        signature=signature,
        inputs=(ResolvedInput(name="x", data_type=DataType.FP32, shape=(-1, 4), is_batched=True),),
        source_digest="sha256:" + "0" * 64,
        artifact_key="",
        toolchain="",
        hardware_class=hardware_class or machine.hardware_class(),
    )
    (directory / "artifact.json").write_text(config.model_dump_json(by_alias=True))
    return config


def run(store: Store, digest: str, places: tuple[Path, Path], mismatch: HardwareMismatch = HardwareMismatch.Refuse) -> ArtifactConfig:
    models, golden = places
    return pull.run(store, digest, model="digits", models=models, golden=golden, options=OPTIONS, mismatch=mismatch, here=machine.hardware_class())


def files(directory: Path) -> dict[str, bytes]:
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def refused(reason: Reason):
    return pytest.raises(BurnishError, check=lambda error: error.reason is reason)


def test_pull_leaves_one_model_named_after_the_resource_and_the_golden_request(store, tmp_path, places):
    config = write_artifact(tmp_path / "a")
    assert run(store, put_artifact(store, tmp_path / "a").digest, places) == config
    models, golden = places
    assert [entry.name for entry in models.iterdir()] == ["digits"]
    assert check_repository(models) == ["digits"]
    assert files(models) == {
        "digits/config.pbtxt": render_config("digits", config, OPTIONS).encode(),
        "digits/1/model.onnx": b"a graph",
        "digits/1/weights/part.bin": (tmp_path / "a/model/weights/part.bin").read_bytes(),
    }
    assert files(golden) == {name: (tmp_path / "a" / name).read_bytes() for name in ("golden.request", "golden.npz")}


def test_pull_starts_over_where_one_before_it_was_killed(store, tmp_path, places):
    write_artifact(tmp_path / "a")
    digest = put_artifact(store, tmp_path / "a").digest
    models, golden = places
    (models / ".pull-x" / "artifact" / "model").mkdir(parents=True)
    (models / "digits" / "1").mkdir(parents=True)
    (models / "digits" / "1" / "model.onnx").write_bytes(b"half a gra")
    (models / "link").symlink_to(tmp_path / "a")
    (golden / "golden.npz").write_bytes(b"old")
    run(store, digest, places)
    assert [entry.name for entry in models.iterdir()] == ["digits"]
    assert (models / "digits/1/model.onnx").read_bytes() == b"a graph"
    assert (tmp_path / "a" / "artifact.json").exists(), "what a link points to is not ours"


def test_pull_needs_room_for_the_artifact_once(store, tmp_path, places):
    """Unpacked and in the repository, a file is the same one."""
    write_artifact(tmp_path / "a")
    links: list[int] = []
    digest = put_artifact(store, tmp_path / "a").digest
    original = pull.write_repository

    def look(models, artifacts, options):
        original(models, artifacts, options)
        links.append((models / "digits/1/weights/part.bin").stat().st_nlink)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pull, "write_repository", look)
        run(store, digest, places)
    assert links == [2]


def test_pull_refuses_other_hardware_before_it_reads_the_model(store, tmp_path, places):
    write_artifact(tmp_path / "a", hardware_class=OTHER)
    digest = put_artifact(store, tmp_path / "a").digest
    with refused(Reason.HardwareMismatch) as caught:
        run(store, digest, places)
    assert "s390x/IBM/" in caught.value.message
    assert str(machine.hardware_class()) in caught.value.message
    assert "hardwareMismatch" in caught.value.message
    assert not any(files(place) for place in places)


def test_pull_goes_on_on_other_hardware_where_a_warning_is_enough(store, tmp_path, places, capfd):
    write_artifact(tmp_path / "a", hardware_class=OTHER)
    run(store, put_artifact(store, tmp_path / "a").digest, places, HardwareMismatch.Warn)
    assert check_repository(places[0]) == ["digits"]
    assert "s390x/IBM/" in capfd.readouterr().err


def test_pull_leaves_nothing_of_an_artifact_with_a_wrong_byte(store, tmp_path, places):
    write_artifact(tmp_path / "a")
    digest = put_artifact(store, tmp_path / "a").digest
    largest = max((tmp_path / "store").rglob("blobs/sha256/*"), key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.unlink()
    largest.write_bytes(data)
    with refused(Reason.StoreCorrupted):
        run(store, digest, places)
    assert not any(files(place) for place in places)


@pytest.mark.parametrize("name", ["golden.request", "golden.npz"])
def test_pull_refuses_an_artifact_that_nobody_could_probe(store, tmp_path, places, name):
    write_artifact(tmp_path / "a")
    (tmp_path / "a" / name).unlink()
    with refused(Reason.StoreCorrupted) as caught:
        run(store, put_artifact(store, tmp_path / "a").digest, places)
    assert name in caught.value.message


def test_pull_refuses_a_backend_that_runs_the_models_code(store, tmp_path, places):
    write_artifact(tmp_path / "a", backend="python")
    with refused(Reason.UnsafeSource):
        run(store, put_artifact(store, tmp_path / "a").digest, places)


def test_pull_refuses_a_digest_that_is_no_artifacts(store, tmp_path, places):
    with refused(Reason.NotInStore):
        run(store, "sha256:" + "0" * 64, places)


# --- as the container's program ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def program(tmp_path, places):
    """Runs it as its own process; returns what it left."""

    def call(digest: str, *more: str) -> tuple[int, str, str]:
        models, golden = places
        log = tmp_path / "termination-log"
        log.write_text("")
        where = ["--store", str(tmp_path / "store"), "--cluster", "blue", "--namespace", "models", "--termination-log", str(log)]
        what = ["--digest", digest, "--model-name", "digits", "--models", str(models), "--golden", str(golden), "--options", OPTIONS.to_json()]
        done = subprocess.run([sys.executable, "-m", "burnish.pipeline.pull", *what, *where, *more], capture_output=True, text=True, check=False)
        return done.returncode, log.read_text(), done.stderr

    return call


def test_program_ends_well_and_leaves_no_message(program, store, tmp_path, places):
    config = write_artifact(tmp_path / "a")
    assert program(put_artifact(store, tmp_path / "a").digest)[:2] == (StepExit.OK, "")
    assert (places[0] / "digits/config.pbtxt").read_text() == render_config("digits", config, OPTIONS)


def test_program_leaves_its_failure_as_a_message(program, store, tmp_path):
    write_artifact(tmp_path / "a", hardware_class=OTHER)
    digest = put_artifact(store, tmp_path / "a").digest
    code, message, log = program(digest)
    failure = decode(message).failure
    assert (code, failure.step, failure.reason, failure.retriable) == (StepExit.NOT_RETRIABLE, "pull", Reason.HardwareMismatch, False)
    assert "s390x" in failure.message
    assert "HardwareMismatch" in log
    assert "Traceback" not in log
    assert program(digest, "--mismatch", "Warn")[0] == StepExit.OK


def test_program_tells_missing_credentials_of_the_store(program, store, tmp_path):
    (tmp_path / "secret").mkdir()
    code, message, _ = program("sha256:" + "0" * 64, "--store", "s3://bucket", "--store-credentials", str(tmp_path / "secret"))
    assert code == StepExit.NOT_RETRIABLE
    assert decode(message).failure.reason is Reason.SecretNotFound


def test_program_that_fails_unexpectedly_says_so(program, store, tmp_path, places):
    write_artifact(tmp_path / "a")
    digest = put_artifact(store, tmp_path / "a").digest
    shutil.rmtree(places[0])
    code, message, log = program(digest)
    assert code == StepExit.NOT_RETRIABLE
    assert decode(message).failure.reason is Reason.InternalError
    assert "Traceback" in log


def test_program_loads_no_ml_library():
    heavy = "{'numpy', 'onnx', 'onnxruntime', 'scipy', 'matplotlib', 'sklearn', 'kopf', 'kubernetes'}"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, burnish.pipeline.pull; print(sorted({heavy} & set(sys.modules)))"], capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]", done.stderr
