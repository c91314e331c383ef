"""Sweeping: garbage goes, whatever a record reaches stays, and a publisher at work loses nothing."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from burnish.api.job_contract import ArtifactRef, FileRef, SourceRecord, TreeRef
from burnish.cli.main import main
from burnish.errors import BurnishError, ExitCode, Reason
from burnish.store import artifacts, sweep, trees
from burnish.store.store import Store, open_store

DAY = 24 * 3600


def blob_file(store: Store, digest: str) -> Path:
    return Path(store.location, "blobs/sha256", digest.removeprefix("sha256:"))


def age(store: Store, days: float) -> None:
    """Make every blob that old."""
    then = time.time() - days * DAY
    for path in Path(store.location, "blobs/sha256").iterdir():
        os.utime(path, (then, then))


def refer(store: Store, key: str, tree: TreeRef) -> None:
    store.put_record("sources", key * 64, SourceRecord(uri="https://h/m.onnx", tree=tree, fetched_at="2026-11-23T00:00:00Z"))


def tree_of(digest: str) -> TreeRef:
    return TreeRef(digest=digest, is_directory=False, files=(FileRef(path="m.onnx", digest=digest, size=1),))


def swept(store: Store, days: float = 7) -> list[str]:
    before = time.time() - days * DAY
    return [blob.digest for blob in sweep.remove(store, sweep.find(store, before=before), before=before)]


def test_what_no_record_reaches_goes_and_all_else_stays(
    store: Store, tmp_path: Path, file_artifact: Callable[[Store, Path, bytes], ArtifactRef]
) -> None:
    garbage, source = store.put_blob(b"garbage"), store.put_blob(b"source")
    refer(store, "a", tree_of(source))
    artifact = file_artifact(store, tmp_path / "made", b"graph" * 100)
    refer(store, "b", tree_of(artifact.digest))  # any record that names the manifest holds its layers and config
    age(store, 8)
    assert swept(store) == [garbage]
    assert not store.has_blob(garbage)
    assert store.read_blob(source) == b"source"
    artifacts.get_artifact(store, artifact.digest, tmp_path / "copy")
    assert swept(store) == []


def test_young_blob_stays(store: Store) -> None:
    store.put_blob(b"of a run at work")
    age(store, 6.9)
    assert swept(store) == []


@pytest.mark.parametrize("source", ["bytes", "file", "tree"])
def test_blob_that_a_publisher_counts_on_is_young_again(source: str, store: Store, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"model")
    digest = store.put_blob(b"model")
    age(store, 30)
    before = time.time() - 7 * DAY
    found = sweep.find(store, before=before)  # the sweep has looked already
    assert [blob.digest for blob in found] == [digest]
    if source == "bytes":
        store.put_blob(b"model")
    elif source == "file":
        store.put_blob(tmp_path / "m.onnx")
    else:
        trees.put_tree(store, tmp_path / "m.onnx")
    assert list(sweep.remove(store, found, before=before)) == []
    assert store.read_blob(digest) == b"model"
    assert [p.name for p in Path(store.location, "tmp").iterdir()] == []


def test_publishers_and_sweeps_at_once_lose_nothing(store: Store) -> None:
    """Each round publishes what is old garbage already, the worst case, while two sweeps run without a pause."""
    contents = [f"content {n}".encode() for n in range(40)]
    digests = [store.put_blob(content) for content in contents]
    failures: list[str] = []
    is_over = threading.Event()

    def keep_sweeping() -> None:
        try:
            while not is_over.is_set():
                swept(open_store(Path(store.location).parents[1]))
        except BurnishError as error:
            failures.append(f"sweep: {error}")

    def publish(part: int) -> None:
        mine = open_store(Path(store.location).parents[1])
        for number in range(part, len(contents), 2):
            mine.put_blob(contents[number])
            time.sleep(0.002)  # what else a publisher does before its record
            mine.put_record("sources", f"{number:064x}", SourceRecord(uri="u", tree=tree_of(digests[number]), fetched_at="2026-11-23T00:00:00Z"))

    sweeps = [threading.Thread(target=keep_sweeping) for _ in range(2)]
    publishers = [threading.Thread(target=publish, args=(part,)) for part in range(2)]
    age(store, 30)
    for thread in (*sweeps, *publishers):
        thread.start()
    for thread in publishers:
        thread.join()
    is_over.set()
    for thread in sweeps:
        thread.join()
    assert failures == []
    assert [store.read_blob(digest) for digest in digests] == contents


KILLED_SWEEP = """
import os, signal, sys, time
from burnish.store import sweep
from burnish.store.store import open_store

root, last, is_renewed = sys.argv[1:]
found = False


def watch(event, arguments):
    global found
    if event == "os.rename" and is_renewed == "True":  # a publisher, after the sweep's last look at the blob in its place
        os.utime(arguments[0])
    found = found or event == "os.rename"
    if found and event == last:
        os.kill(os.getpid(), signal.SIGKILL)


store, before = open_store(root), time.time() - 7 * 24 * 3600
garbage = sweep.find(store, before=before)
sys.addaudithook(watch)
print(list(sweep.remove(store, garbage, before=before)))
"""


@pytest.mark.parametrize(
    ("last", "is_renewed"),
    [("os.link", True), ("os.remove", True), ("os.remove", False)],
    ids=["renewed, before it is given back", "renewed, after", "garbage"],
)
def test_sweep_that_is_killed_loses_nothing_that_a_publisher_counts_on(last: str, is_renewed: bool, store: Store, tmp_path: Path) -> None:
    digest = store.put_blob(b"content")
    age(store, 30)
    ran = subprocess.run([sys.executable, "-c", KILLED_SWEEP, tmp_path / "store", last, str(is_renewed)], capture_output=True, text=True)
    assert ran.returncode == -signal.SIGKILL, ran.stdout + ran.stderr
    (aside,) = Path(store.location, "tmp").iterdir()
    assert blob_file(store, digest).exists() == (last == "os.remove" and is_renewed)
    if is_renewed:  # days ago, and nobody came since
        then = time.time() - 5 * DAY
        os.utime(aside, (then, then))
    after = open_store(tmp_path / "store")
    assert list(Path(store.location, "tmp").iterdir()) == []
    assert after.has_blob(digest) is is_renewed
    if is_renewed:
        assert after.read_blob(digest) == b"content"


def test_renewal_that_a_sweep_may_not_have_seen_does_not_count(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sweep takes the blob while its new time is being set, and removes it: the publisher has to write it again."""
    digest = store.put_blob(b"content")
    age(store, 30)
    utime = os.utime

    def set_time(path: Path) -> None:
        with path.open() as file:
            assert swept(store) == [digest]
            utime(file.fileno())

    monkeypatch.setattr(os, "utime", set_time)
    assert store.keep_blob(digest) is False
    assert store.put_blob(b"content") == digest
    assert store.read_blob(digest) == b"content"


def test_damaged_record_stops_the_sweep(store: Store) -> None:
    source = store.put_blob(b"source")
    refer(store, "a", tree_of(source))
    age(store, 8)
    (path,) = Path(store.location, "records/sources").iterdir()
    path.write_bytes(path.read_bytes().replace(source.encode(), b"sha256:" + b"0" * 64))
    with pytest.raises(BurnishError) as raised:
        swept(store)
    assert raised.value.reason is Reason.StoreCorrupted
    assert store.has_blob(source)


def test_command_tells_what_it_deletes(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digest = store.put_blob(b"x" * 2048)
    age(store, 8)
    arguments = ["sweep", "--store", str(tmp_path / "store")]
    assert main([*arguments, "--dry-run"]) == ExitCode.OK
    assert capsys.readouterr().out == f"{digest}  2Ki\nwould delete 1 blob, 2Ki\n"
    assert store.has_blob(digest)
    assert main([*arguments, "--older-than", "9d"]) == ExitCode.OK
    assert capsys.readouterr().out == "deleted 0 blobs, 0\n"
    assert main(arguments) == ExitCode.OK
    assert capsys.readouterr().out == f"{digest}  2Ki\ndeleted 1 blob, 2Ki\n"
    assert not store.has_blob(digest)


def leave_files(store: Store) -> tuple[Path, Path, Path]:
    """What a killed writer left, what a killed sweep left of garbage, and what a writer at work writes."""
    then = time.time() - 8 * DAY
    old, aside, young = (
        Path(store.location, "tmp", name) for name in ("7-writer", f"swept-{then + DAY!r}-{'0' * 32}-blobs@sha256@{'1' * 64}", "8-writer")
    )
    for path in (old, aside, young):
        path.write_bytes(b"y" * 1024)
    for path in (old, aside):
        os.utime(path, (then, then))
    return old, aside, young


def test_command_tells_of_temporary_files_and_leaves_those_of_a_writer_at_work(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = store.put_blob(b"x" * 2048)
    age(store, 8)
    old, aside, young = leave_files(store)
    arguments = ["sweep", "--store", str(tmp_path / "store")]
    listed = f"tmp/{old.name}  1Ki\ntmp/{aside.name}  1Ki\n{digest}  2Ki\n"
    for _ in range(2):
        assert main([*arguments, "--dry-run"]) == ExitCode.OK
        assert capsys.readouterr().out == f"{listed}would delete 1 blob, 2Ki; 2 temporary files, 2Ki\n"
        assert (store.has_blob(digest), old.exists(), aside.exists(), young.exists()) == (True, True, True, True)
    assert main(arguments) == ExitCode.OK
    assert capsys.readouterr().out == f"{listed}deleted 1 blob, 2Ki; 2 temporary files, 2Ki\n"
    assert (store.has_blob(digest), old.exists(), aside.exists(), young.exists()) == (False, False, False, True)


@pytest.mark.parametrize(("form", "read"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_command_prints_an_object(form: str, read: Callable[[str], object], store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digest = store.put_blob(b"x" * 2048)
    age(store, 8)
    old, aside, _ = leave_files(store)
    arguments = ["sweep", "--store", str(tmp_path / "store"), "-o", form]
    wanted = {
        "blobs": {"count": 1, "bytes": 2048, "items": [{"digest": digest, "bytes": 2048}]},
        "temporaryFiles": {"count": 2, "bytes": 2048, "items": [{"name": f"tmp/{path.name}", "bytes": 1024} for path in (old, aside)]},
    }
    assert main([*arguments, "--dry-run"]) == ExitCode.OK
    assert read(capsys.readouterr().out) == {"dryRun": True} | wanted
    assert main(arguments) == ExitCode.OK
    assert read(capsys.readouterr().out) == {"dryRun": False} | wanted
    assert main(arguments) == ExitCode.OK
    nothing = {"count": 0, "bytes": 0, "items": []}
    assert read(capsys.readouterr().out) == {"dryRun": False, "blobs": nothing, "temporaryFiles": nothing}


def test_grace_that_a_run_could_outlast_is_refused(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "--store", str(tmp_path / "store"), "--older-than", "1h"]) == ExitCode.INVALID
    assert "--older-than" in capsys.readouterr().err


def test_store_that_is_not_there_holds_nothing_to_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "--store", str(tmp_path / "none")]) == ExitCode.OK
    assert capsys.readouterr().out == "deleted 0 blobs, 0\n"
    assert not (tmp_path / "none").exists()
