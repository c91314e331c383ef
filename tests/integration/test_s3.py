"""The store and sources on a real S3 server."""

import dataclasses
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from burnish.api.job_contract import FileRef, SourceRecord, TreeRef
from burnish.errors import BurnishError, Reason
from burnish.pipeline import fetch
from burnish.pipeline.progress import emit
from burnish.store import s3, trees
from burnish.store.credentials import Credentials
from burnish.store.store import Store, open_store

sys.path.insert(0, str(Path(__file__).parent))
import s3_server

CONTENT = os.urandom(200_000)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Credentials]:
    with s3_server.running(tmp_path_factory.mktemp("s3")) as credentials:
        s3_server.make_bucket(credentials, "bucket")
        yield credentials


@pytest.fixture
def store(server: Credentials, request: pytest.FixtureRequest) -> Store:
    return open_store(f"s3://bucket/{request.node.name.partition('[')[0]}", access=server)


def _record(number: int = 0) -> SourceRecord:
    found = FileRef(path="m.onnx", digest="sha256:" + f"{number:064x}", size=1)
    return SourceRecord(
        uri="https://h/m.onnx", tree=TreeRef(digest=found.digest, is_directory=False, files=(found,)), fetched_at="2026-01-01T00:00:00Z"
    )


def test_blob_goes_in_once_and_comes_out_verified(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(CONTENT)
    tree = trees.put_tree(store, path)
    assert trees.put_tree(store, path) == tree
    assert trees.has_tree(store, tree)
    trees.materialize_tree(store, tree, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == CONTENT
    missing = tree.model_copy(update={"files": (tree.files[0].model_copy(update={"digest": "sha256:" + "0" * 64}),)})
    assert not trees.has_tree(store, missing)


def test_blob_larger_than_a_part(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "large.bin"
    path.write_bytes(CONTENT * 200)  # 40 MB: in parts of 16 MiB
    tree = trees.put_tree(store, path)
    trees.materialize_tree(store, tree, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == path.read_bytes()


def test_flipped_byte_is_noticed(store: Store, server: Credentials, tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(CONTENT)
    tree = trees.put_tree(store, path)
    files = s3.connect(server)
    where = next(f for f in files.find("bucket/test_flipped_byte_is_noticed") if tree.digest.removeprefix("sha256:") in f)
    files.pipe_file(where, bytes([CONTENT[0] ^ 1]) + CONTENT[1:])
    with pytest.raises(BurnishError) as raised:
        trees.materialize_tree(store, tree, tmp_path / "copy")
    assert raised.value.reason is Reason.StoreCorrupted
    assert not (tmp_path / "copy").exists()


def test_of_two_writers_of_a_record_the_first_wins(store: Store) -> None:
    assert store.put_record("sources", "a" * 64, _record(1)) == _record(1)
    assert store.put_record("sources", "a" * 64, _record(2)) == _record(1)
    assert store.put_record("sources", "a" * 64, _record(3), replace=True) == _record(3)
    assert store.get_record("sources", "a" * 64, SourceRecord) == _record(3)
    assert store.get_record("sources", "b" * 64, SourceRecord) is None


def test_two_publish_at_once_and_agree(server: Credentials) -> None:
    found: list[SourceRecord] = []

    def publish(number: int) -> None:
        found.append(open_store("s3://bucket/race", access=server).put_record("sources", "c" * 64, _record(number)))

    threads = [threading.Thread(target=publish, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len({record.model_dump_json() for record in found}) == 1


@pytest.mark.parametrize(
    ("location", "change", "reason"),
    [
        ("s3://none/x", {}, (Reason.StoreNotWritable, Reason.StoreNotReadable)),
        ("s3://bucket/x", {"secret_key": "wrong-hunter2"}, (Reason.StoreNotReadable, Reason.StoreNotWritable)),
        ("s3://bucket/x", {"endpoint": "http://127.0.0.1:9"}, (Reason.StoreNotReadable, Reason.StoreNotWritable)),
    ],
)
def test_store_that_does_not_answer_says_why(server: Credentials, location: str, change: dict[str, str], reason: tuple[Reason, ...]) -> None:
    with pytest.raises(BurnishError) as raised:
        open_store(location, access=dataclasses.replace(server, **change)).put_record("sources", "a" * 64, _record())
    assert raised.value.reason in reason
    assert "hunter2" not in str(raised.value)
    assert location.removesuffix("/x") in str(raised.value)


# --- sources -------------------------------------------------------------------------------------------------------------------------------


def _fetch(uri: str, store: Store, keys: Credentials, *, digest: str | None = None, refresh: str | None = None) -> SourceRecord:
    access = fetch.Access(credentials=keys, claims={})
    limits = fetch.FetchLimits(max_bytes=1_000_000)
    return fetch.fetch(uri, Path("/"), store, digest=digest, refresh=refresh, limits=limits, field="spec.source.uri", progress=emit, access=access)


@pytest.fixture(scope="module")
def models(server: Credentials) -> Credentials:
    s3_server.make_bucket(server, "models")
    files = s3.connect(server)
    files.pipe_file("models/digits/model.onnx", CONTENT)
    files.pipe_file("models/bert/model.onnx", CONTENT[:1000])
    files.pipe_file("models/bert/data/weights.bin", CONTENT[1000:3000])
    files.pipe_file("models/big/model.onnx", CONTENT * 6)
    return server


def test_object_is_pinned_and_looked_at_once(models: Credentials, tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    record = _fetch("s3://models/digits/model.onnx", store, models)
    assert (record.tree.files[0].path, record.tree.size_bytes) == ("model.onnx", len(CONTENT))
    trees.materialize_tree(store, record.tree, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == CONTENT
    files = s3.connect(models)
    files.pipe_file("models/moving/model.onnx", b"first")
    first = _fetch("s3://models/moving/model.onnx", store, models)
    files.pipe_file("models/moving/model.onnx", b"second")
    assert _fetch("s3://models/moving/model.onnx", store, models) == first
    assert _fetch("s3://models/moving/model.onnx", store, models, refresh="2").tree.digest != first.tree.digest


def test_prefix_is_a_directory(models: Credentials, tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    record = _fetch("s3://models/bert", store, models)
    assert record.tree.is_directory
    assert [f.path for f in record.tree.files] == ["data/weights.bin", "model.onnx"]
    trees.materialize_tree(store, record.tree, tmp_path / "copy")
    assert (tmp_path / "copy/data/weights.bin").read_bytes() == CONTENT[1000:3000]


@pytest.mark.parametrize(
    ("uri", "change", "reason"),
    [
        ("s3://models/none.onnx", {}, Reason.SourceNotFound),
        ("s3://nobucket/m.onnx", {}, Reason.SourceNotFound),
        ("s3://models/big/model.onnx", {}, Reason.SourceTooLarge),
        ("s3://models/digits/model.onnx", {"secret_key": "hunter2-wrong"}, Reason.SourceForbidden),
        ("s3://models/digits/model.onnx", {"uri_prefix": "s3://models-of-others"}, Reason.SourceForbidden),
        ("s3://models/digits/model.onnx", {"endpoint": "http://127.0.0.1:9"}, Reason.SourceUnavailable),
    ],
)
def test_fault_of_a_source_has_its_reason(models: Credentials, tmp_path: Path, uri: str, change: dict[str, str], reason: Reason) -> None:
    with pytest.raises(BurnishError) as raised:
        _fetch(uri, open_store(tmp_path / "store"), dataclasses.replace(models, **change))
    assert (raised.value.reason, raised.value.field) == (reason, "spec.source.uri")
    assert "hunter2" not in str(raised.value)


def test_wrong_pin_is_refused(models: Credentials, tmp_path: Path) -> None:
    with pytest.raises(BurnishError) as raised:
        _fetch("s3://models/digits/model.onnx", open_store(tmp_path / "store"), models, digest="sha256:" + "0" * 64)
    assert raised.value.reason is Reason.DigestMismatch
