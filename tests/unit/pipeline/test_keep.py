"""Checkpoints on their way into the store and back: what was written by a process that runs a model's code is only ever bytes."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from burnish.api import requests
from burnish.api.job_contract import (
    CheckpointRecord,
    ExportRecord,
    PipelineRequest,
    Plan,
    ResolveRecord,
    SourceRecord,
    StageRecord,
    StepName,
    TargetPlan,
    TreeRef,
    Usage,
)
from burnish.api.v1alpha1.optimized_model import OptimizedModel
from burnish.api.v1alpha1.status import Lookup
from burnish.pipeline import keep
from burnish.pipeline.workdir import WorkDir
from burnish.plugins.base import GraphFacts, HardwareClass, Signature
from burnish.store.store import Store, open_store

KEY = "a" * 64


def request(key: str = KEY) -> PipelineRequest:
    """Of a target with this artifact key."""
    spec = {"source": {"uri": "s3://models/m.onnx"}, "targets": [{"name": "cpu", "runtime": "ONNXRuntime"}]}
    model = OptimizedModel.model_validate({"metadata": {"name": "m"}, "spec": spec})
    hardware = HardwareClass(architecture="x86-64", vendor="AuthenticAMD", isa=())
    asked = requests.resolve_request(model, base="", hardware_class=hardware, serving_image="local-cpu")
    digest = f"sha256:{'c' * 64}"
    source = SourceRecord(uri="s3://models/m.onnx", tree=TreeRef(digest=digest, is_directory=False, files=()), fetched_at="")
    plan = TargetPlan(target="cpu", plan=Plan.Build, artifact_key=key, artifact=Lookup.Miss, measurement=Lookup.Miss)
    return requests.pipeline_request(asked, ResolveRecord(source=source, targets=(plan,)), model.spec.targets[0], plan, hardware_class=hardware)


@pytest.fixture
def work(tmp_path: Path) -> WorkDir:
    return begun(tmp_path / "work")


def begun(path: Path, asked: PipelineRequest | None = None) -> WorkDir:
    """A work directory as a Job's first step makes it."""
    made = WorkDir(path)
    made.save_request(asked or request())
    return made


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


def leave(work: WorkDir, content: bytes, position: int = 0, digest: str | None = None) -> Path:
    """A checkpoint as the training step leaves it."""
    folder = work.folder(StepName.train) / keep.CHECKPOINTS
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"pass-{position:02d}.pt"
    path.write_bytes(content)
    path.with_suffix(".json").write_text(json.dumps({"work": KEY, "sha256": digest or hashlib.sha256(content).hexdigest()}))
    return path


def filed(store: Store) -> dict[int, bytes]:
    record = store.get_record(keep.CHECKPOINTS, KEY, CheckpointRecord)
    return {c.position: store.read_blob(c.digest) for c in record.files} if record else {}


def test_each_checkpoint_is_filed_once_and_replaced_by_the_next_of_its_pass(work: WorkDir, store: Store) -> None:
    keeper = keep.Keeper(work, store)
    assert keeper.file_new() == []
    leave(work, b"first")
    assert (keeper.file_new(), keeper.file_new()) == (["1 checkpoint"], [])
    leave(work, b"second")
    leave(work, b"other", 1)
    assert keeper.file_new() == ["2 checkpoints"]
    assert filed(store) == {0: b"second", 1: b"other"}
    assert keep.Keeper(work, store).file_new() == []  # another process knows it too


def test_what_is_half_written_or_no_file_of_its_own_is_left_out(work: WorkDir, store: Store, tmp_path: Path) -> None:
    leave(work, b"half", digest="0" * 64)
    secret = tmp_path / "secret"
    secret.write_bytes(b"not yours")
    linked = leave(work, b"not yours", 1)
    linked.unlink()
    linked.symlink_to(secret)
    described = leave(work, b"content", 2).with_suffix(".json")
    target = described.rename(tmp_path / "described")
    described.symlink_to(target)
    leave(work, b"content", 3).with_suffix(".json").write_text("[1")
    assert keep.Keeper(work, store).file_new() == []
    assert filed(store) == {}


def test_checkpoint_larger_than_the_cap_is_left_out(work: WorkDir, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keep, "MAX_BYTES", 3)
    leave(work, b"large")
    assert keep.Keeper(work, store).file_new() == []


def test_what_was_filed_comes_back_and_is_forgotten_when_the_work_is_done(work: WorkDir, store: Store, tmp_path: Path) -> None:
    leave(work, b"state")
    keep.Keeper(work, store).file_new()
    later = begun(tmp_path / "later")
    assert keep.bring(later, request(), store).checkpoints == "steps/01-stage/checkpoints"
    assert (later.folder(StepName.stage) / "checkpoints/pass-00.pt").read_bytes() == b"state"
    assert keep.bring(begun(tmp_path / "else"), request("b" * 64), store).checkpoints is None  # other work
    keep.forget(KEY, store)
    assert filed(store) == {}
    assert keep.bring(begun(tmp_path / "last"), request(), store).checkpoints is None


@pytest.mark.parametrize("is_published", [False, True])
def test_sidecar_files_once_more_when_its_pod_ends(work: WorkDir, store: Store, tmp_path: Path, is_published: bool) -> None:
    """SIGTERM comes when the last container has ended; what the step left right before is not lost, and not kept where the work is done."""
    if is_published:
        done = work.folder(StepName.publish) / "record.json"
        done.parent.mkdir(parents=True)
        done.write_text("{}")
    command = [sys.executable, "-m", "burnish.pipeline.keep", "--work", work.root, "--store", tmp_path / "store"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        leave(work, b"first")
        deadline = time.monotonic() + 30
        while not filed(store) and time.monotonic() < deadline:
            time.sleep(0.05)
        leave(work, b"last")
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=30)
    assert (process.returncode, filed(store)) == (0, {} if is_published else {0: b"last"}), said
    assert "Traceback" not in said


def export(work: WorkDir, content: bytes = b"graph") -> dict[str, bytes]:
    """What the step leaves when it is finished, and what of it others read."""
    signature = Signature(inputs=(), outputs=())
    record = ExportRecord(
        signature=signature, graph=GraphFacts(opset=20, op_counts={}, weighted_ops={}, parameters=1), format="ONNX", inputs=(), keeps_axis=True
    )
    folder = work.folder(StepName.export)
    (folder / "reference").mkdir(parents=True)
    (folder / "scratch").mkdir()
    for name, written in {"model.onnx": content, "reference/0.npz": b"pair", "scratch/more": b"not needed", "log.txt": b"news"}.items():
        (folder / name).write_bytes(written)
    work.save(StepName.export, record)
    work.save_usage(StepName.export, Usage(seconds=1.0, peak_memory_bytes=1))
    return files(folder, "model.onnx", "reference/0.npz", "record.json", "usage.json")


def files(folder: Path, *names: str) -> dict[str, bytes]:
    return {
        name: (folder / name).read_bytes() for name in names or sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    }


def brought(work: WorkDir, store: Store) -> tuple[StepName, ...]:
    return keep.bring(work, work.load_request(), store).finished


def test_finished_step_comes_back_for_the_same_request(work: WorkDir, store: Store, tmp_path: Path) -> None:
    keeper = keep.Keeper(work, store)
    assert keeper.file_new() == []
    left = export(work)
    leave(work, b"state")
    assert (keeper.file_new(), keeper.file_new()) == (["1 checkpoint", "step export"], [])
    asked = request()
    again = asked.resolved.model_copy(update={"source": asked.resolved.source.model_copy(update={"fetched_at": "later"})})
    later = begun(tmp_path / "later", asked.model_copy(update={"generation": asked.generation + 1, "resolved": again}))
    assert brought(later, store) == (StepName.export,)
    assert files(later.folder(StepName.export)) == left
    later.save(StepName.stage, StageRecord(source="", finished=(StepName.export,)))
    assert [later.is_finished(step) for step in (StepName.export, StepName.train)] == [True, False]
    assert keep.Keeper(later, store).file_new() == []  # it is filed
    assert filed(store) == {0: b"state"}


def test_finished_step_of_another_request_or_a_damaged_one_is_done_again(work: WorkDir, store: Store, tmp_path: Path) -> None:
    export(work)
    keep.Keeper(work, store).file_new()
    asked = request()
    other = begun(tmp_path / "other", asked.model_copy(update={"measurement": asked.measurement.model_copy(update={"timeout": "7m"})}))
    assert brought(other, store) == ()  # other evaluation data, for example, gives the same artifact and another export
    record = store.get_record(keep.CHECKPOINTS, KEY, CheckpointRecord)
    assert record is not None
    (blob,) = (f.digest for f in record.steps[0].tree.files if f.path == "model.onnx")
    (path,) = (p for p in (tmp_path / "store").rglob("*") if p.name == blob.removeprefix("sha256:"))
    path.unlink()
    path.write_bytes(b"else")
    damaged = begun(tmp_path / "damaged")
    assert brought(damaged, store) == ()
    assert list(damaged.folder(StepName.export).iterdir()) == []
    keep.forget(KEY, store)
    assert brought(begun(tmp_path / "forgotten"), store) == ()


def test_record_of_another_release_is_done_again(work: WorkDir, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export(work)
    (work.folder(StepName.export) / "record.json").write_text('{"apiVersion": "old"}')
    keep.Keeper(work, store).file_new()
    assert brought(begun(tmp_path / "later"), store) == ()
    assert "export" in capsys.readouterr().err


def test_step_with_a_link_in_it_is_not_filed_and_checkpoints_are(
    work: WorkDir, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "secret").write_text("not yours")
    export(work)
    (work.folder(StepName.export) / "reference/1.npz").symlink_to(tmp_path / "secret")
    leave(work, b"state")
    assert keep.Keeper(work, store).file_new() == ["1 checkpoint"]
    assert "what export left is not kept" in capsys.readouterr().err
    record = store.get_record(keep.CHECKPOINTS, KEY, CheckpointRecord)
    assert record is not None and not record.steps
