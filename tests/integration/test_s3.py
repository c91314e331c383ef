"""The store and sources on a real S3 server."""

import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
import trustme
from tests.integration.fetching import fetched

from burnish.api.job_contract import ArtifactRef, FileRef, SourceRecord, TreeRef
from burnish.cli.main import main
from burnish.errors import BurnishError, Reason
from burnish.pipeline import archives, fetch
from burnish.pipeline.processes import child_environment
from burnish.pipeline.progress import emit
from burnish.store import s3, sweep, trees
from burnish.store.credentials import Credentials
from burnish.store.store import Store, open_store

sys.path.insert(0, str(Path(__file__).parent))
import s3_server

CONTENT = os.urandom(200_000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the server."""
    return tmp_path_factory.mktemp("s3")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Credentials]:
    with s3_server.running(folder) as credentials:
        s3_server.make_bucket(credentials, "bucket")
        yield credentials


@pytest.fixture
def environment(server: Credentials, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's credentials, as a user at a terminal has them."""
    for name, value in (
        ("AWS_ACCESS_KEY_ID", server.access_key),
        ("AWS_SECRET_ACCESS_KEY", server.secret_key),
        ("AWS_ENDPOINT_URL", server.endpoint),
    ):
        monkeypatch.setenv(name, value)


@pytest.fixture
def store(server: Credentials, request: pytest.FixtureRequest) -> Store:
    return open_store(f"s3://bucket/{request.node.name.partition('[')[0]}", access=server)


def test_server_with_a_certificate_of_our_own_authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As MinIO in a company has one."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    source = tmp_path / "model.bin"
    source.write_bytes(CONTENT)
    with s3_server.running(tmp_path / "server", trustme.CA()) as trusting:
        s3_server.make_bucket(trusting, "bucket")
        tree = trees.put_tree(open_store("s3://bucket/x", access=trusting), source)
        unknowing = dataclasses.replace(trusting, authority="")
        for action in (Store.ensure_writable, lambda store: trees.has_tree(store, tree)):
            with pytest.raises(BurnishError, match=r"certificate is not trusted; put its authority.* key ca\.crt") as raised:
                action(open_store("s3://bucket/x", access=unknowing))
            assert raised.value.reason in (Reason.StoreNotWritable, Reason.StoreNotReadable)
        with pytest.raises(BurnishError, match=r"certificate is not trusted") as raised:
            fetched("s3://bucket/x/oci-layout", open_store(tmp_path / "store"), access=fetch.Access(credentials=unknowing))
        assert raised.value.reason is Reason.SourceUnavailable
        monkeypatch.setenv("SSL_CERT_FILE", trusting.authority)
        assert trees.has_tree(open_store("s3://bucket/x", access=unknowing), tree)


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
    path.write_bytes(CONTENT * 200)  # 40 MB, in parts of 16 MiB
    tree = trees.put_tree(store, path)
    trees.materialize_tree(store, tree, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == path.read_bytes()


def test_large_blob_is_filed_in_the_memory_of_a_light_step(environment: None) -> None:
    code = """if True:
        from pathlib import Path
        from burnish.store.store import open_store

        store = open_store("s3://bucket/large")
        with store.scratch() as scratch:
            for number in range(384):
                scratch.write(bytes([number % 256]) * 2**20)
            digest = store.publish_blob(scratch)
        peak = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]  # unlike getrusage's, not that of whoever forked us
        print(digest, int(peak) // 1024)
    """
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert int(done[1]) < 350  # MiB; the whole is 384
    store = open_store("s3://bucket/large")
    (found,) = store.list_blobs()
    assert (f"sha256:{found.name}", found.size) == (done[0], 384 * 2**20)
    assert store.remove_blob(done[0], time.time() + 60)  # room for others


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
    assert "check that the bucket exists" in str(raised.value)
    assert "directory" not in str(raised.value)


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


def test_object_that_changes_while_it_is_read_is_no_mixture(models: Credentials, tmp_path: Path) -> None:
    uri, writer, size = "s3://models/changing/model.onnx", s3.connect(models), 24 * 2**20  # more than a request
    writer.pipe_file(uri, bytes(size))
    written: list[bool] = []

    def overwrite(_: str, *, done: float | None = None) -> None:
        if done and not written:
            writer.pipe_file(uri, b"1" * size)
            written.append(True)

    store = open_store(tmp_path / "store")
    what: Any = {"digest": None, "refresh": None, "limits": fetch.FetchLimits(), "field": "spec.source.uri"}
    with pytest.raises(BurnishError, match="changed while it was read") as raised:
        fetch.fetch(uri, Path("/"), store, **what, progress=overwrite, access=fetch.Access(credentials=models, claims={}))
    assert raised.value.reason is Reason.SourceIncomplete
    assert store.list_blobs() == []


def test_wrong_pin_is_refused(models: Credentials, tmp_path: Path) -> None:
    with pytest.raises(BurnishError) as raised:
        _fetch("s3://models/digits/model.onnx", open_store(tmp_path / "store"), models, digest="sha256:" + "0" * 64)
    assert raised.value.reason is Reason.DigestMismatch


# --- sweep and the command line --------------------------------------------------------------------------------------------------------------


def _make_old(store: Store, server_folder: Path) -> None:
    """The server's files carry the objects' times."""
    then = time.time() - 30 * 24 * 3600
    for path in (server_folder / "data" / store.location.removeprefix("s3://") / "blobs/sha256").iterdir():
        os.utime(path, (then, then))


def test_sweep_takes_what_nothing_refers_to_and_nobody_counts_on(store: Store, folder: Path, server: Credentials) -> None:
    garbage, wanted, adopted = store.put_blob(b"garbage"), store.put_blob(b"wanted"), store.put_blob(b"adopted")
    record = _record()
    ref = record.tree.files[0].model_copy(update={"digest": wanted})
    store.put_record("sources", "a" * 64, record.model_copy(update={"tree": TreeRef(digest=wanted, is_directory=False, files=(ref,))}))
    _make_old(store, folder)
    before = time.time() - 7 * 24 * 3600
    found = sweep.find(store, before=before)
    assert {blob.digest for blob in found} == {garbage, adopted}
    assert store.put_blob(b"adopted") == adopted  # by a publisher, between the look and the removal
    assert [blob.digest for blob in sweep.remove(store, found, before=before)] == [garbage]
    assert [store.has_blob(digest) for digest in (garbage, wanted, adopted)] == [False, True, True]


def test_commands_take_a_store_on_s3(
    environment: None,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    file_artifact: Callable[[Store, Path, bytes], ArtifactRef],
) -> None:
    store = open_store("s3://bucket/commands")
    digest = file_artifact(store, tmp_path / "made", CONTENT).digest
    assert main(["pull", f"{store.location}@{digest}", "-o", str(tmp_path / "by-uri")]) == 0
    assert main(["pull", digest, "--store", "s3://bucket/commands", "-o", str(tmp_path / "by-digest")]) == 0
    for name in ("by-uri", "by-digest"):
        assert (tmp_path / name / "model/model.onnx").read_bytes() == CONTENT
    _make_old(store, folder)
    capsys.readouterr()
    assert main(["sweep", "--store", "s3://bucket/commands"]) == 0
    assert f"{digest}  " in capsys.readouterr().out
    assert not store.has_blob(digest)


def test_plan_reads_a_store_on_s3_and_reaches_no_source(
    server: Credentials, models: Credentials, tmp_path: Path, environment: None, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = "s3://models/planned/model.onnx"
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 4])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "planned", [x], [onnx.helper.make_empty_tensor_value_info("y")])
    s3.connect(models).pipe_file(uri, onnx.helper.make_model(graph).SerializeToString())
    spec = {"source": {"uri": uri}, "targets": [{"name": "cpu", "runtime": "ONNXRuntime"}]}
    manifest = {"apiVersion": "burnish.dev/v1alpha1", "kind": "OptimizedModel", "metadata": {"name": "digits"}, "spec": spec}
    (tmp_path / "digits.yaml").write_text(json.dumps(manifest))

    def planned() -> dict[str, Any]:
        assert main(["plan", str(tmp_path / "digits.yaml"), "--store", "s3://bucket/planned", "-o", "json"]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    files = s3.connect(server)
    before = planned()
    assert (before["sources"][0]["digest"], before["sources"][0]["stored"], before["targets"][0]["plan"]) == (None, False, "Unknown")
    assert not files.exists("s3://bucket/planned")
    record = _fetch(uri, open_store("s3://bucket/planned"), models)
    files.rm(uri)  # what is pinned is known without it
    there = files.find("s3://bucket/planned", detail=True)
    after = planned()
    assert after["sources"][0] == {"field": "spec.source.uri", "uri": uri, "digest": record.tree.digest, "stored": True}
    assert (after["targets"][0]["plan"], after["targets"][0]["artifact"]) == ("Build", "Miss")
    assert files.find("s3://bucket/planned", detail=True) == there


def test_plan_with_wrong_keys_of_the_store_says_so(
    server: Credentials, tmp_path: Path, environment: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-hunter2")
    (tmp_path / "model.onnx").write_bytes(CONTENT)
    spec = {"source": {"uri": "file:model.onnx"}, "targets": [{"name": "cpu", "runtime": "ONNXRuntime"}]}
    manifest = {"apiVersion": "burnish.dev/v1alpha1", "kind": "OptimizedModel", "metadata": {"name": "digits"}, "spec": spec}
    (tmp_path / "digits.yaml").write_text(json.dumps(manifest))
    assert main(["plan", str(tmp_path / "digits.yaml"), "--store", "s3://bucket/planned"]) != 0
    told = capsys.readouterr().err
    assert "burnish: StoreNotReadable: " in told
    assert "hunter2" not in told


def test_steps_of_a_run_reach_a_store_on_s3(server: Credentials, environment: None) -> None:
    """Only those that use the store get its credentials: the others run a model's code."""
    assert server.secret_key not in child_environment(downloads=True).values()
    code = "from burnish.store.store import open_store; print(open_store('s3://bucket/steps').put_blob(b'from a step'))"
    environment = child_environment(uses_store=True)
    told = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True).stdout.strip()
    assert open_store("s3://bucket/steps", access=server).read_blob(told) == b"from a step"


def test_a_store_in_a_directory_loads_no_s3_library(tmp_path: Path) -> None:
    code = f"import sys; from burnish.store.store import open_store; open_store({str(tmp_path)!r}).put_blob(b'x'); print('s3fs' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip() == "False"


def test_a_dataset_below_a_prefix_is_the_folder_that_file_gives(environment: None, server: Credentials, store: Store, tmp_path: Path) -> None:
    files = {"cat/1.png": b"one", "cat/2.png": b"two", "dog/1.png": b"three"}
    bucket = s3.connect(server)
    for name, content in files.items():
        (tmp_path / "held" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "held" / name).write_bytes(content)
        bucket.pipe_file(f"bucket/data/held/{name}", content)
    found = {}
    for uri in ("s3://bucket/data/held", "file:held"):
        record = fetch.fetch(
            uri,
            tmp_path,
            store,
            digest=None,
            refresh=None,
            limits=fetch.FetchLimits(),
            field="spec.datasets.evaluation.uri",
            progress=emit,
        )
        target = tmp_path / f"staged-{uri.partition(':')[0]}"
        trees.materialize_tree(store, record.tree, target)
        found[uri] = {member.name: member.path.read_bytes() for member in archives.list_folder(target).members}
    assert found["s3://bucket/data/held"] == found["file:held"] == files
