import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from burnish.api.job_contract import FileRef, Record, SourceRecord, TreeRef
from burnish.errors import BurnishError, Reason
from burnish.store import backend, files
from burnish.store.store import Store, open_store

ABSENT = "sha256:" + "0" * 64


class Numbers(Record):
    values: tuple[float, ...]


def record(text: str) -> SourceRecord:
    ref = FileRef(path="m.onnx", digest=ABSENT, size=1)
    return SourceRecord(uri=text, tree=TreeRef(digest=ABSENT, is_directory=False, files=(ref,)), fetched_at="2026-11-23T00:00:00Z")


def files_below(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


# --- blobs ---------------------------------------------------------------------------------------------------------------------------------


def test_blob_round_trips_from_bytes_and_from_file(store: Store, tmp_path: Path) -> None:
    data = os.urandom(3 * files.CHUNK_BYTES + 7)
    (tmp_path / "big").write_bytes(data)
    digest = store.put_blob(tmp_path / "big")
    assert store.put_blob(data) == digest
    assert store.read_blob(digest) == data
    store.copy_blob(digest, tmp_path / "a" / "copy")
    assert (tmp_path / "a" / "copy").read_bytes() == data
    assert store.has_blob(digest)
    assert not store.has_blob(ABSENT)


def test_store_is_an_oci_image_layout(store: Store) -> None:
    digest = store.put_blob(b"content")
    root = Path(store.location)
    assert json.loads((root / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads((root / "index.json").read_text())
    assert index["schemaVersion"] == 2
    assert index["manifests"] == []
    assert (root / "blobs" / "sha256" / digest.removeprefix("sha256:")).read_bytes() == b"content"


def test_store_is_laid_out_by_cluster_and_namespace(tmp_path: Path) -> None:
    ours = open_store(tmp_path, cluster="c1", namespace="team")
    digest = ours.put_blob(b"x")
    assert ours.location == str(tmp_path / "c1" / "team")
    assert not open_store(tmp_path, cluster="c1", namespace="other").has_blob(digest)
    assert open_store(tmp_path.as_uri(), cluster="c1", namespace="team").has_blob(digest)


@pytest.mark.parametrize("location", ["gs://bucket/x", "file://host/x", "file:///x?y"])
def test_open_names_the_cure_for_unsupported_location(location: str) -> None:
    with pytest.raises(BurnishError, match="name a directory") as raised:
        open_store(location)
    assert raised.value.reason is Reason.InvalidManifest


def test_opening_and_reading_makes_nothing(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    assert store.get_record("sources", "a", SourceRecord) is None
    assert store.list_records("sources") == []
    assert not store.has_blob(ABSENT)
    assert not (tmp_path / "store").exists()


def test_flipped_byte_is_noticed_and_never_reaches_the_target(store: Store, tmp_path: Path) -> None:
    digest = store.put_blob(b"weights" * 1000)
    path = Path(store.location, "blobs/sha256", digest.removeprefix("sha256:"))
    damage(path)
    for read in (lambda: store.read_blob(digest), lambda: store.copy_blob(digest, tmp_path / "out" / "copy")):
        with pytest.raises(BurnishError, match=f"delete the file {path}") as raised:
            read()
        assert raised.value.reason is Reason.StoreCorrupted
        assert digest in raised.value.message
    assert list((tmp_path / "out").iterdir()) == []


def test_truncated_blob_is_noticed(store: Store) -> None:
    digest = store.put_blob(b"weights" * 1000)
    os.truncate(Path(store.location, "blobs/sha256", digest.removeprefix("sha256:")), 10)
    with pytest.raises(BurnishError) as raised:
        store.read_blob(digest)
    assert raised.value.reason is Reason.StoreCorrupted


def test_deleting_a_corrupt_blob_is_the_cure(store: Store) -> None:
    digest = store.put_blob(b"weights")
    path = Path(store.location, "blobs/sha256", digest.removeprefix("sha256:"))
    damage(path)
    path.unlink()
    assert store.put_blob(b"weights") == digest
    assert store.read_blob(digest) == b"weights"


@pytest.mark.parametrize("digest", [ABSENT, "sha256:../../etc/passwd", "nonsense"])
def test_unknown_digest_is_not_in_store(store: Store, digest: str) -> None:
    with pytest.raises(BurnishError) as raised:
        store.read_blob(digest)
    assert raised.value.reason is Reason.NotInStore


# --- records -------------------------------------------------------------------------------------------------------------------------------


def test_first_record_wins_unless_it_is_replaced(store: Store) -> None:
    assert store.put_record("sources", "a", record("first")) == record("first")
    assert store.put_record("sources", "a", record("second")) == record("first")
    assert store.get_record("sources", "a", SourceRecord) == record("first")
    assert store.put_record("sources", "a", record("second"), replace=True) == record("second")
    assert store.get_record("sources", "a", SourceRecord) == record("second")
    store.put_record("sources", "b.c", record("x"))
    assert store.list_records("sources") == ["a", "b.c"]
    assert list(Path(store.location, "tmp").iterdir()) == []


def test_record_file_is_json(store: Store) -> None:
    store.put_record("sources", "a", record("first"))
    assert json.loads(Path(store.location, "records/sources/a.json").read_text())["record"]["uri"] == "first"


def test_record_keeps_nan_and_infinity(store: Store) -> None:
    store.put_record("numbers", "a", Numbers(values=(math.nan, math.inf, 0.1)))
    found = store.get_record("numbers", "a", Numbers)
    assert found is not None
    assert math.isnan(found.values[0])
    assert found.values[1:] == (math.inf, 0.1)


@pytest.mark.parametrize("name", ["../a", "a/b", "", ".hidden", "a\0"])
def test_record_name_cannot_leave_its_folder(store: Store, name: str) -> None:
    with pytest.raises(BurnishError):
        store.get_record("sources", name, SourceRecord)
    with pytest.raises(BurnishError):
        store.put_record(name, "a", record("x"))


@pytest.mark.parametrize("change", [damage, lambda p: os.truncate(p, 30), lambda p: os.truncate(p, 0), lambda p: p.write_text("{}")])
def test_damaged_record_is_a_typed_error_with_the_cure(store: Store, change: Callable[[Path], None]) -> None:
    store.put_record("sources", "a", record("first"))
    path = Path(store.location, "records/sources/a.json")
    change(path)
    with pytest.raises(BurnishError, match=f"delete the file {path}") as raised:
        store.get_record("sources", "a", SourceRecord)
    assert raised.value.reason is Reason.StoreCorrupted
    path.unlink()
    assert store.put_record("sources", "a", record("again")) == record("again")


def test_record_of_another_release_is_a_typed_error(store: Store) -> None:
    later = SourceRecord.model_construct(**{**record("x").__dict__, "contract_version": 99})
    store.put_record("sources", "a", later)
    with pytest.raises(BurnishError, match=r"contractVersion 99.*delete the file") as raised:
        store.get_record("sources", "a", SourceRecord)
    assert raised.value.reason is Reason.StoreCorrupted


def _publish(root: str, text: str, barrier: Barrier, answers: "multiprocessing.Queue[tuple[str, list[str]]]") -> None:
    store = open_store(root)
    won = []
    for key in range(50):
        barrier.wait(30)
        won.append(store.put_record("sources", str(key), record(text)).uri)
    answers.put((text, won))


def test_two_processes_publishing_one_key_agree_on_the_winner(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")  # spawn could not import a test module
    barrier, answers = context.Barrier(2), context.Queue()
    workers = [context.Process(target=_publish, args=(str(tmp_path), text, barrier, answers)) for text in ("one", "two")]
    for worker in workers:
        worker.start()
    seen = dict(answers.get(timeout=60) for _ in workers)
    for worker in workers:
        worker.join(30)
    assert seen["one"] == seen["two"]
    store = open_store(tmp_path)
    stored = [store.get_record("sources", str(key), SourceRecord) for key in range(50)]
    assert [r and r.uri for r in stored] == seen["one"]


# --- killed, full, read-only -----------------------------------------------------------------------------------------------------------------

WRITER = """
    import sys, time
    from burnish.store.store import open_store
    store = open_store(sys.argv[1])
    with store.scratch() as scratch:
        scratch.write(b"x" * 2**20)
        print("writing", flush=True)
        time.sleep(60)
        store.publish_blob(scratch)
"""


def start_writer(root: Path) -> "subprocess.Popen[str]":
    writer = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WRITER), str(root)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "writing\n"
    return writer


def test_killed_writer_leaves_nothing_visible_and_is_swept_a_day_later(tmp_path: Path) -> None:
    with start_writer(tmp_path) as writer:
        writer.send_signal(signal.SIGKILL)
    store = open_store(tmp_path)
    below = files_below(Path(store.location))
    leftovers = {name for name in below if name.startswith("tmp/")}
    assert below - leftovers == {"oci-layout", "index.json"}
    assert len(leftovers) == 1, "a young leftover may still have its writer"
    leftover = Path(store.location, leftovers.pop())
    old = time.time() - backend.LEFTOVER_SECONDS - 60
    os.utime(leftover, (old, old))
    open_store(tmp_path)
    assert not leftover.exists()


def test_interrupted_writer_leaves_no_file(tmp_path: Path) -> None:
    with start_writer(tmp_path) as writer:
        writer.send_signal(signal.SIGINT)
        assert writer.wait(30) != 0
    assert files_below(Path(open_store(tmp_path).location)) == {"oci-layout", "index.json"}


def test_full_store_is_named_and_keeps_its_content(mounted: Callable[[str], Path]) -> None:
    store = open_store(mounted("1m"))
    digest = store.put_blob(b"small")
    with pytest.raises(BurnishError, match="free some space") as raised:
        store.put_blob(os.urandom(4 * 2**20))
    assert raised.value.reason is Reason.StoreFull
    assert list(Path(store.location, "tmp").iterdir()) == []
    assert store.read_blob(digest) == b"small"
    store.put_blob(b"still room for this")


def test_quota_counts_as_full() -> None:
    with pytest.raises(BurnishError) as raised, backend.writing("/srv/store"):
        raise OSError(122, "Disk quota exceeded")
    assert raised.value.reason is Reason.StoreFull


def test_full_target_disk_is_not_blamed_on_the_store(store: Store, mounted: Callable[[str], Path]) -> None:
    digest = store.put_blob(os.urandom(4 * 2**20))
    target = mounted("1m")
    with pytest.raises(BurnishError) as raised:
        store.copy_blob(digest, target / "copy")
    assert raised.value.reason is Reason.DiskFull
    assert list(target.iterdir()) == []


def test_read_only_store_can_be_read_and_says_why_it_cannot_be_written(tmp_path: Path, make_read_only: Callable[[Path], None]) -> None:
    writable = open_store(tmp_path / "store")
    digest = writable.put_blob(b"x")
    writable.put_record("sources", "a", record("first"))
    make_read_only(Path(writable.location))
    store = open_store(tmp_path / "store")
    assert store.read_blob(digest) == b"x"
    assert store.put_blob(b"x") == digest, "what is there needs no writing"
    assert store.get_record("sources", "a", SourceRecord) == record("first")
    for write in (store.ensure_writable, lambda: store.put_blob(b"y"), lambda: store.put_record("sources", "b", record("x"))):
        with pytest.raises(BurnishError, match="another store") as raised:
            write()
        assert raised.value.reason is Reason.StoreNotWritable


def test_store_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("no directory")
    store = open_store(tmp_path / "store")
    with pytest.raises(BurnishError) as written:
        store.ensure_writable()
    assert written.value.reason in (Reason.StoreNotWritable, Reason.StoreNotReadable)
    with pytest.raises(BurnishError) as read:
        store.get_record("sources", "a", SourceRecord)
    assert read.value.reason is Reason.StoreNotReadable
