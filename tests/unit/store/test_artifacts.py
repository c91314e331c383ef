import json
import os
from pathlib import Path

import pytest
import zstandard

from burnish.api.job_contract import ArtifactConfig, ArtifactRef
from burnish.errors import BurnishError, Reason
from burnish.plugins.base import DataType, HardwareClass, Signature, Tensor
from burnish.store import artifacts, oci, trees
from burnish.store.keys import canonical_json
from burnish.store.store import Store

TENSOR = Tensor(name="x", data_type=DataType.FP32, shape=(-1, 4))


def make(root: Path, name: str = "baseline", weights: bytes = b"w" * 100_000) -> Path:
    (root / "model").mkdir(parents=True)
    (root / "model" / "model.onnx").write_bytes(b"graph")
    (root / "model" / "weights.bin").write_bytes(weights)
    (root / "golden.npz").write_bytes(b"golden")
    config = ArtifactConfig(
        name=name,
        summary="",
        runtime="ONNXRuntime",
        backend="onnxruntime",
        model_file="model.onnx",
        signature=Signature(inputs=(TENSOR,), outputs=(TENSOR,)),
        inputs=(),
        source_digest="sha256:" + "0" * 64,
        artifact_key="0" * 64,
        toolchain="t",
        hardware_class=HardwareClass(architecture="x86-64", vendor="GenuineIntel", isa=("AVX2",)),
        steps=({"kind": "quantize", "options": {"perChannel": True}},),
    )
    (root / "artifact.json").write_bytes(artifacts.config_bytes(config))
    return root


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return make(tmp_path / "artifact")


def blob_path(store: Store, digest: str) -> Path:
    return Path(store.location, "blobs/sha256", digest.removeprefix("sha256:"))


def forge(store: Store, digest: str, **annotations: str) -> str:
    """A manifest whose first layer lies about itself."""
    manifest = json.loads(store.read_blob(digest))
    manifest["layers"][0]["annotations"] |= annotations
    return store.put_blob(canonical_json(manifest))


def test_artifact_round_trips(store: Store, directory: Path, tmp_path: Path) -> None:
    ref = artifacts.put_artifact(store, directory)
    config = artifacts.get_artifact(store, ref.digest, tmp_path / "out")
    assert trees.hash_tree(tmp_path / "out") == trees.hash_tree(directory)
    assert config.name == "baseline"
    assert ref.size_bytes == 100_005
    assert 0 < ref.stored_bytes < 10_000, "a hundred thousand equal bytes compress"
    assert ref.content_digest == artifacts.content_digest(directory) == artifacts.content_digest(tmp_path / "out")
    assert artifacts.has_artifact(store, ref.digest)


def test_manifest_follows_the_oci_image_specification(store: Store, directory: Path) -> None:
    manifest = json.loads(store.read_blob(artifacts.put_artifact(store, directory).digest))
    assert manifest["schemaVersion"] == 2
    assert manifest["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert manifest["config"]["mediaType"] == "application/vnd.burnish.artifact.config.v1+json"
    assert json.loads(store.read_blob(manifest["config"]["digest"]))["name"] == "baseline"
    assert [layer["annotations"][oci.TITLE] for layer in manifest["layers"]] == ["golden.npz", "model/model.onnx", "model/weights.bin"]
    for layer in manifest["layers"]:
        assert layer["mediaType"].endswith("+zstd")
        assert layer["size"] == blob_path(store, layer["digest"]).stat().st_size
        assert all(isinstance(v, str) for v in layer["annotations"].values())
        content = zstandard.ZstdDecompressor().decompressobj().decompress(store.read_blob(layer["digest"]))
        assert str(len(content)) == layer["annotations"][oci.CONTENT_SIZE]


def test_same_content_gives_the_same_digest(store: Store, directory: Path, tmp_path: Path) -> None:
    ref = artifacts.put_artifact(store, directory)
    copy = make(tmp_path / "elsewhere")
    for file in copy.rglob("*"):
        os.utime(file, (0, 0))
    assert artifacts.put_artifact(store, copy) == ref


def test_content_digest_tells_models_apart_and_ignores_the_rest(store: Store, directory: Path, tmp_path: Path) -> None:
    ref = artifacts.put_artifact(store, directory)
    renamed = artifacts.put_artifact(store, make(tmp_path / "renamed", name="static-u8s8"))
    changed = artifacts.put_artifact(store, make(tmp_path / "changed", weights=b"w" * 99_999 + b"v"))
    assert renamed.content_digest == ref.content_digest
    assert renamed.digest != ref.digest
    assert changed.content_digest != ref.content_digest


def test_flipped_byte_is_noticed_in_every_blob(store: Store, directory: Path, tmp_path: Path) -> None:
    ref = artifacts.put_artifact(store, directory)
    for number, digest in enumerate(artifacts.blob_digests(store, ref.digest)):
        path = blob_path(store, digest)
        good = path.read_bytes()
        bad = bytearray(good)
        bad[len(bad) // 2] ^= 1
        path.write_bytes(bad)
        with pytest.raises(BurnishError, match=f"delete the file {path}") as raised:
            artifacts.get_artifact(store, ref.digest, tmp_path / str(number))
        assert raised.value.reason is Reason.StoreCorrupted
        assert not (tmp_path / str(number) / "artifact.json").exists()
        path.write_bytes(good)
    artifacts.get_artifact(store, ref.digest, tmp_path / "healed")


def test_lost_layer_is_noticed_by_the_look_up(store: Store, directory: Path, tmp_path: Path) -> None:
    ref = artifacts.put_artifact(store, directory)
    blob_path(store, artifacts.blob_digests(store, ref.digest)[-1]).unlink()
    assert not artifacts.has_artifact(store, ref.digest)
    with pytest.raises(BurnishError) as raised:
        artifacts.get_artifact(store, ref.digest, tmp_path / "out")
    assert raised.value.reason is Reason.NotInStore
    assert artifacts.put_artifact(store, directory) == ref
    assert artifacts.has_artifact(store, ref.digest)


@pytest.mark.parametrize("path", ["../evil", "/etc/evil", "model/../../evil", "artifact.json"])
def test_layer_path_cannot_leave_the_target(store: Store, directory: Path, tmp_path: Path, path: str) -> None:
    forged = forge(store, artifacts.put_artifact(store, directory).digest, **{oci.TITLE: path})
    with pytest.raises(BurnishError) as raised:
        artifacts.get_artifact(store, forged, tmp_path / "out")
    assert raised.value.reason is Reason.UnsafeSource
    assert not (tmp_path / "evil").exists()


def test_layer_that_unpacks_to_more_than_announced_is_stopped(store: Store, directory: Path, tmp_path: Path) -> None:
    forged = forge(store, artifacts.put_artifact(store, directory).digest, **{oci.CONTENT_SIZE: "3"})
    with pytest.raises(BurnishError) as raised:
        artifacts.get_artifact(store, forged, tmp_path / "out")
    assert raised.value.reason is Reason.StoreCorrupted
    assert list((tmp_path / "out").iterdir()) == []


def test_layer_with_other_content_than_promised_is_refused(store: Store, directory: Path, tmp_path: Path) -> None:
    forged = forge(store, artifacts.put_artifact(store, directory).digest, **{oci.CONTENT_DIGEST: "sha256:" + "1" * 64})
    with pytest.raises(BurnishError) as raised:
        artifacts.get_artifact(store, forged, tmp_path / "out")
    assert raised.value.reason is Reason.StoreCorrupted


def test_artifact_larger_than_the_limit_is_refused(store: Store, directory: Path, tmp_path: Path) -> None:
    ref = artifacts.put_artifact(store, directory)
    with pytest.raises(BurnishError) as raised:
        artifacts.get_artifact(store, ref.digest, tmp_path / "out", max_bytes=100_000)
    assert raised.value.reason is Reason.SourceTooLarge


def test_blob_that_is_no_artifact_is_not_in_store(store: Store, tmp_path: Path) -> None:
    with pytest.raises(BurnishError, match="is no artifact") as raised:
        artifacts.get_artifact(store, store.put_blob(b"not a manifest"), tmp_path / "out")
    assert raised.value.reason is Reason.NotInStore


def test_artifact_with_a_link_is_refused(store: Store, directory: Path) -> None:
    (directory / "model" / "link").symlink_to("/etc/hostname")
    with pytest.raises(BurnishError) as raised:
        artifacts.put_artifact(store, directory)
    assert raised.value.reason is Reason.UnsafeSource


def test_reference_is_of_the_loadable_files_only(store: Store, directory: Path) -> None:
    before: ArtifactRef = artifacts.put_artifact(store, directory)
    (directory / "golden.npz").write_bytes(b"another golden answer")
    after = artifacts.put_artifact(store, directory)
    assert (after.size_bytes, after.stored_bytes, after.content_digest) == (before.size_bytes, before.stored_bytes, before.content_digest)
    assert after.digest != before.digest
