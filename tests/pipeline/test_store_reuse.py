"""What a second run may take from the store, and what it must not: changed limits, loads, passes and files; damage; a store that can't be written."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml

from burnish.api.job_contract import MeasurementIndex
from burnish.store.store import open_store


@pytest.fixture
def variant(digits, project, copy_of) -> Callable[..., Path]:
    """The digits manifest with other limits, in a project that has what the first run left in the store."""
    copy_of(digits.project)

    def write(**constraints: object) -> Path:
        whole = yaml.safe_load(digits.manifest.read_text())
        for data in (whole["spec"]["source"], *whole["spec"]["datasets"].values()):
            data["uri"] = f"file:{digits.manifest.parent / data['uri'].removeprefix('file:')}"
        whole["spec"]["constraints"] |= constraints
        path = project.path / "digits.yaml"
        path.write_text(yaml.safe_dump(whole))
        return path

    return write


@pytest.fixture
def reused(tiny, copy_of):
    """A copy of the tiny project: (project, spec)."""
    assert tiny.first.code == 0, tiny.first.stderr
    return copy_of(tiny.project), tiny.spec


def index_of(project) -> MeasurementIndex:
    """The only measurement of a store."""
    store = open_store(project.store)
    (key,) = store.list_records("measurements")
    found = store.get_record("measurements", key, MeasurementIndex)
    assert found is not None
    return found


def blob(project, digest: str) -> Path:
    return project.store / "local" / "default" / "blobs" / "sha256" / digest.removeprefix("sha256:")


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


# --- limits -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.alone
def test_changed_limit_is_judged_from_the_record_and_back_again(digits, project, variant):
    before = digits.first.target
    refused = project.run(variant(minSpeedup="50"))
    assert refused.code == 3
    assert refused.steps == ["resolve"]
    assert refused.target["cache"] == {"artifact": "Hit", "measurement": "Hit"}
    assert (refused.target["state"], refused.failure["reason"]) == ("Refused", "SpeedupBelowLimit")
    assert "artifact" not in refused.target
    assert refused.target["baseline"] == before["baseline"]
    assert {c["name"]: c["speedup"] for c in refused.target["candidates"]} == {c["name"]: c["speedup"] for c in before["candidates"]}
    assert all(c["verdict"] == "Refused" for c in refused.target["candidates"])
    assert refused.conditions["Ready"] == ("False", "SpeedupBelowLimit")

    pulled = project.burnish("pull", "digits", "-o", project.path / "pulled", "--store", project.store)
    assert (pulled.code, (project.path / "pulled").exists()) == (5, False)
    assert "NotInStore" in pulled.stderr

    accepted = project.run(variant())
    assert (accepted.code, accepted.steps) == (0, ["resolve"])
    assert accepted.target["artifact"] == {**before["artifact"], "uri": accepted.target["artifact"]["uri"]}


@pytest.mark.alone
def test_serve_baseline_publishes_the_baseline_where_no_candidate_holds(digits, project, variant):
    ran = project.run(variant(minSpeedup="50", onInfeasible="ServeBaseline"))
    assert (ran.code, ran.steps) == (0, ["resolve"])
    assert (ran.target["state"], ran.target["reason"], ran.target["artifact"]["served"]) == ("Published", "BaselineServed", "Baseline")
    assert ran.target["artifact"]["digest"] == digits.first.target["baseline"]["digest"]
    assert ran.conditions["Ready"] == ("True", "BaselineServed")
    assert project.burnish("pull", "digits", "-o", project.path / "pulled", "--store", project.store).code == 0
    assert json.loads((project.path / "pulled" / "artifact.json").read_text())["name"] == "baseline"


@pytest.mark.alone
def test_limit_below_what_the_data_can_show_is_undecided_and_says_so(project, variant):
    ran = project.run(variant(score={"maxDrop": "0.0001"}))
    assert (ran.code, ran.steps) == (4, ["resolve"]), "more rounds would not help"
    assert (ran.target["state"], ran.failure["reason"]) == ("Undecided", "Undecided")
    assert "samples" in ran.failure["message"]
    assert "LimitBelowResolution" in {reason for _, reason in ran.conditions.values()}


def test_limit_that_the_record_cannot_decide_is_measured_again(reused):
    project, spec = reused
    p50 = index_of(project).summary.candidates["dynamic"].latencies[0].p50
    assert p50.low < p50.high
    inside = f"{(p50.low + p50.high) / 2 * 1000:.0f}us"
    ran = project.run(
        project.write({**spec, "constraints": {**spec["constraints"], "latency": [{"load": "single", "percentile": "P50", "max": inside}]}})
    )
    assert ran.code in (0, 3, 4)  # whichever side it lies on: it was asked again
    assert ran.steps == ["resolve", "stage", "measure", "publish"]
    assert ran.target["cache"] == {"artifact": "Hit", "measurement": "Miss"}


# --- loads, passes, files -----------------------------------------------------------------------------------------------------------------


def test_changed_loads_measure_without_building(reused, tiny):
    project, spec = reused
    loads = [{"name": "single"}, {"name": "batch", "batchSize": 8, "concurrency": 2}]
    ran = project.run(project.write({**spec, "measurement": {"loads": loads, "timeout": "8s"}}))
    assert ran.code == 0, ran.stderr
    assert ran.steps == ["resolve", "stage", "measure", "publish"]
    assert ran.target["cache"] == {"artifact": "Hit", "measurement": "Miss"}
    assert [m["name"] for m in ran.target["measurements"]] == ["single", "batch"]
    assert ran.target["artifact"]["digest"] == tiny.first.target["artifact"]["digest"]
    assert all(float(m["optimized"]["throughputPerSecond"]) > 0 for m in ran.target["measurements"])


def test_changed_passes_build_again_and_both_stay_known(reused, tiny):
    project, spec = reused
    excluded = [{"type": "Quantize", "quantize": {"mode": "Dynamic", "excludedNodes": ["layer0"]}}]
    ran = project.run(project.write({**spec, "passes": excluded}))
    assert ran.steps == ["resolve", "stage", "export", "compress", "build", "measure", "publish"]
    assert ran.target["cache"] == {"artifact": "Miss", "measurement": "Miss"}
    assert ran.target["baseline"]["digest"] != ran.target["artifact"]["digest"] != tiny.first.target["artifact"]["digest"]
    assert project.run(project.write(spec)).steps == ["resolve"]


def test_edited_source_file_is_noticed(reused):
    project, spec = reused
    model = (project.path / "model.onnx").read_bytes()
    (project.path / "model.onnx").write_bytes(b"edited " + model)
    ran = project.run(project.write(spec))
    assert (ran.code, ran.failure["reason"], ran.steps) == (2, "UnsupportedFormat", ["resolve"])
    (project.path / "model.onnx").write_bytes(model)
    assert project.run(project.write(spec)).steps == ["resolve"], "what is known stays known"


def test_calibration_and_evaluation_that_share_samples_are_warned_of(reused):
    project, spec = reused
    x = np.random.default_rng(0).standard_normal((40, 16)).astype(np.float32)
    np.savez(project.path / "evaluation.npz", x=x)
    np.savez(project.path / "calibration.npz", x=x[30:])
    data = {"calibration": {"uri": "file:calibration.npz"}, "evaluation": {"uri": "file:evaluation.npz", "metric": "Agreement"}}
    ran = project.run(project.write({**spec, "datasets": data}))
    assert ran.code == 0, ran.stderr
    assert ran.conditions["DataIndependent"] == ("False", "SamplesOverlap")
    assert "10 of 40" in next(c["message"] for c in ran.status["conditions"] if c["type"] == "DataIndependent")
    assert ran.target["cache"]["artifact"] == "Miss", "the golden request of the artifact is now taken from the calibration data"


def test_remote_source_is_looked_at_once_until_refresh_changes(reused, site):
    project, spec = reused
    site.content = (project.path / "model.onnx").read_bytes()
    site.seen.clear()
    source = {"uri": site.uri("ok/model.onnx")}
    first = project.run(project.write({**spec, "source": source}), env=site.environment)
    assert (first.code, first.steps) == (0, ["resolve"]), "the same bytes from elsewhere are the same source"
    site.content = b"no model any more"
    assert project.run(project.write({**spec, "source": source}), env=site.environment).code == 0, "pinned when it was first looked at"
    assert len(site.seen) == 1
    again = project.run(project.write({**spec, "source": {**source, "refresh": "2026-11-23"}}), env=site.environment)
    assert (again.code, again.failure["reason"], len(site.seen)) == (2, "UnsupportedFormat", 2)


# --- damage -------------------------------------------------------------------------------------------------------------------------------


def test_flipped_byte_in_an_artifact_is_never_handed_out(reused, tiny):
    project, _ = reused
    digest = tiny.first.target["artifact"]["digest"]
    layers = json.loads(blob(project, digest).read_bytes())["layers"]
    model = next(layer for layer in layers if layer["annotations"]["org.opencontainers.image.title"] == "model/model.onnx")
    flip(blob(project, model["digest"]))
    ran = project.burnish("pull", "tiny", "-o", project.path / "pulled", "--store", project.store)
    assert ran.code == 5
    assert "StoreCorrupted" in ran.stderr
    assert "delete the file" in ran.stderr
    assert not (project.path / "pulled" / "model" / "model.onnx").exists()
    assert not (project.path / "pulled" / "artifact.json").exists()


def test_flipped_byte_in_an_artifact_is_noticed_before_it_is_measured_again(reused, tiny):
    project, spec = reused
    digest = tiny.first.target["artifact"]["digest"]
    layers = json.loads(blob(project, digest).read_bytes())["layers"]
    flip(blob(project, layers[-1]["digest"]))
    changed = project.write({**spec, "measurement": {"loads": [{"name": "batch", "batchSize": 2}]}})
    ran = project.run(changed)
    assert (ran.code, ran.failure["reason"], ran.failure["step"]) == (5, "StoreCorrupted", "stage")
    assert layers[-1]["digest"] in ran.failure["message"]

    blob(project, layers[-1]["digest"]).unlink()  # the cure that the message names
    healed = project.run(changed)
    assert (healed.code, "export" in healed.steps) == (0, True)
    assert healed.target["artifact"]["digest"] == digest, "the same bytes were built again"


@pytest.mark.parametrize("kind", ["builds", "measurements", "results"])
def test_flipped_byte_in_a_record_is_told_with_the_file_to_delete(reused, kind):
    project, spec = reused
    (name,) = project.records(kind)
    path = project.store / "local" / "default" / "records" / kind / name
    flip(path)
    ran = project.run(project.write(spec))
    assert (ran.code, ran.failure["reason"]) == (5, "StoreCorrupted")
    assert str(path) in ran.failure["message"]
    assert ran.target["state"] == "Failed"


def test_flipped_byte_in_a_stored_source_is_noticed(reused):
    project, spec = reused
    digest = "sha256:" + hashlib.sha256((project.path / "model.onnx").read_bytes()).hexdigest()
    flip(blob(project, digest))
    assert project.run(project.write(spec)).code == 0, "what was built and measured does not need it"
    ran = project.run(project.write({**spec, "passes": []}))
    assert (ran.code, ran.failure["reason"]) == (5, "StoreCorrupted")
    assert digest in ran.failure["message"]


# --- a store that can't be written --------------------------------------------------------------------------------------------------------


@pytest.fixture
def mount() -> Iterator[Callable[..., None]]:
    """mount(8); unmounted at the end. Skips where this machine lets nobody mount."""
    mounted: list[Path] = []

    def attempt(*arguments: str, at: Path) -> None:
        done = subprocess.run(["mount", *arguments, str(at)], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"this machine lets nobody mount: {done.stderr.strip()}")
        mounted.append(at)

    yield attempt
    for path in reversed(mounted):
        subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.fixture
def freeze(mount) -> Callable[[Path], None]:
    """Makes a directory read-only, for root too."""

    def make_read_only(path: Path) -> None:
        if os.geteuid() != 0:
            for directory in (path, *(p for p in path.rglob("*") if p.is_dir())):
                directory.chmod(0o500)
            return
        mount("--bind", str(path), at=path)
        subprocess.run(["mount", "-o", "remount,bind,ro", str(path)], check=True)

    return make_read_only


def test_read_only_store_answers_what_it_knows_and_refuses_what_is_new(reused, freeze):
    project, spec = reused
    assert project.run(project.write(spec)).code == 0  # so that the result on file is that of a run that only looked up
    freeze(project.store)
    known = project.run(project.write(spec))
    assert (known.code, known.steps) == (0, ["resolve"]), known.stderr
    new = project.run(project.write({**spec, "passes": []}))
    assert (new.code, new.failure["reason"], new.steps) == (5, "StoreNotWritable", ["resolve"])
    assert str(project.store) in new.failure["message"]


def test_store_that_is_a_file_is_told(project, make_mlp, make_spec):
    onnx.save(make_mlp(), project.path / "model.onnx")
    project.store.write_text("not a directory")
    ran = project.run(project.write(make_spec()))
    assert (ran.code, ran.failure["reason"] in ("StoreNotWritable", "StoreNotReadable")) == (5, True)
    assert ran.target["state"] == "Failed"


def tmpfs(mount: Callable[..., None], at: Path, size: str) -> None:
    at.mkdir()
    mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", at=at)


def fill(directory: Path, leave: int) -> None:
    """Fill a file system but for `leave` bytes."""
    free = shutil.disk_usage(directory).free
    (directory / "filler").write_bytes(bytes(max(0, free - leave)))


def test_full_store_is_told_before_anything_is_built(project, make_mlp, make_spec, mount):
    onnx.save(make_mlp(), project.path / "model.onnx")
    tmpfs(mount, project.store, "1m")
    fill(project.store, leave=0)
    ran = project.run(project.write(make_spec()))
    assert (ran.code, ran.failure["reason"], ran.failure["step"]) == (5, "StoreFull", "resolve")
    assert [p.name for p in project.store.rglob("*") if p.is_file() and p.name != "filler"] == []


def test_store_that_fills_while_publishing_keeps_nothing_half_written(project, make_mlp, make_spec, mount):
    """There is room for the source and not for the artifacts."""
    onnx.save(make_mlp(hidden=512), project.path / "model.onnx")  # 1.1 MB that does not compress
    size = (project.path / "model.onnx").stat().st_size
    tmpfs(mount, project.store, "8m")
    fill(project.store, leave=size + 400_000)
    ran = project.run(project.write(make_spec()))
    assert (ran.code, ran.failure["reason"], ran.failure["step"]) == (5, "StoreFull", "publish")
    assert project.records("builds") + project.records("measurements") + project.records("results") == []
    root = project.store / "local" / "default"
    assert list((root / "tmp").iterdir()) == []
    for path in (root / "blobs" / "sha256").iterdir():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name


@pytest.mark.parametrize("leave", [0, 8192, 500_000], ids=["for nothing", "not even for the reason", "but not for the model"])
def test_full_work_directory_is_told(project, make_mlp, make_spec, mount, leave):
    onnx.save(make_mlp(hidden=512), project.path / "model.onnx")
    tmpfs(mount, project.path / "work", "1m")
    fill(project.path / "work", leave)
    ran = project.run(project.write(make_spec()), "--work", project.path / "work")
    assert (ran.code, ran.failure["reason"]) == (5, "DiskFull")
    assert "free some" in ran.failure["message"]
    assert project.records("results") == []


def test_work_directory_that_cannot_be_made_is_told(project, make_spec):
    (project.path / "work").write_text("not a directory")
    ran = project.run(project.write(make_spec()), "--work", project.path / "work")
    assert ran.code == 2
    assert "--work" in ran.failure["message"]
    assert ran.target["state"] == "Failed"
