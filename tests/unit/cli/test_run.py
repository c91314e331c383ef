"""What `burnish run` does around the pipeline: work directories, broken manifests, readers that leave, Ctrl-C between targets."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import yaml
from onnx import TensorProto, helper

from burnish.api import manifest
from burnish.cli import run
from burnish.cli.main import main
from burnish.errors import BurnishError, ExitCode, Reason
from burnish.pipeline import runner

PROGRAM = Path(sys.executable).with_name("burnish")


def document(**spec: object) -> dict[str, object]:
    """A manifest whose targets no machine can hold: every run of it ends after `resolve`."""
    resources = {"cpu": "1024", "memory": "1Gi"}
    targets = [{"name": name, "runtime": "ONNXRuntime", "resources": resources} for name in ("first", "second")]
    whole = {"source": {"uri": "file:model.onnx"}, "targets": targets, **spec}
    return {"apiVersion": "burnish.dev/v1alpha1", "kind": "OptimizedModel", "metadata": {"name": "m"}, "spec": whole}


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """The manifest, beside a model."""
    node = helper.make_node("Relu", ["x"], ["y"])
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in "xy")
    onnx.save(helper.make_model(helper.make_graph([node], "g", [x], [y]), opset_imports=[helper.make_opsetid("", 18)]), tmp_path / "model.onnx")
    path = tmp_path / "m.yaml"
    path.write_text(yaml.safe_dump(document()))
    return path


@pytest.fixture
def arguments(written: Path, tmp_path: Path) -> list[str]:
    return ["run", str(written), "--store", str(tmp_path / "store"), "--report", str(tmp_path / "r.html"), "--work", str(tmp_path / "work")]


def test_work_directory_leaves_everything_that_is_there(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = [tmp_path / "work" / name for name in ("resolve/notes", "first/notes", "second")]
    for path in theirs:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    assert main(arguments) == ExitCode.INVALID  # of the resources; a file named `second` is in nobody's way
    assert [path.read_text() for path in theirs] == ["mine"] * 3
    (made,) = (tmp_path / "work").glob("m-*")
    assert (made / "resolve" / "request.json").is_file()
    assert str(made) in capsys.readouterr().err


def test_work_directory_is_another_one_for_every_run(tmp_path: Path) -> None:
    """So concurrent runs with one --work keep apart, and a second --keep-serving finds no folder of the first."""
    first, second = run._work_directory(tmp_path, "m"), run._work_directory(tmp_path, "m")
    assert first != second
    assert first.parent == second.parent == tmp_path
    assert first.is_dir()
    assert second.is_dir()


def test_work_directory_is_absolute_where_a_relative_one_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run._work_directory(Path("here"), "m").parent == tmp_path / "here"


@pytest.mark.parametrize("place", ["/proc", "/proc/nothing", "model.onnx", "model.onnx/below"])
def test_work_directory_that_cannot_be_made_is_told_with_its_option(
    place: str, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "-o", "json", "--work", str(tmp_path / place)]) == ExitCode.INVALID
    failure = json.loads(capsys.readouterr().out)["status"]["lastFailure"]
    assert failure["reason"] == "InvalidManifest"
    assert failure["message"].startswith("--work: can't make a work directory")


def test_step_folder_is_made_beside_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "resolve").write_text("a file")
    assert [runner._fresh(tmp_path / "resolve").name for _ in range(2)] == ["resolve.2", "resolve.3"]
    assert (tmp_path / "resolve").read_text() == "a file"


def test_step_folder_that_cannot_be_made_is_told_with_its_option(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BurnishError) as caught:
        runner._fresh(tmp_path / "file" / "resolve")
    assert (caught.value.reason, caught.value.field) == (Reason.InvalidManifest, "--work")


def test_full_disk_is_told_as_such_and_not_as_a_wrong_option(tmp_path: Path) -> None:
    place = tmp_path / "full"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "nr_inodes=1", "tmpfs", str(place)], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("this machine lets nobody mount")
    try:
        with pytest.raises(BurnishError) as caught:
            run._work_directory(place, "m")
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
    assert caught.value.reason is Reason.DiskFull


@pytest.mark.parametrize("text", ["spec: {source: {refresh: 2026-02-31}}", "[" * 3000, "a: 1\na: 2", "- 1", "metadata: 3", "", "\x00"])
@pytest.mark.parametrize("form", ["json", "yaml"])
def test_unreadable_manifest_still_gives_an_object(text: str, form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    assert main(["run", str(path), "-o", form]) == ExitCode.INVALID
    found = yaml.safe_load(capsys.readouterr().out)
    assert found["metadata"]["name"] in ("broken", "m")
    assert found["status"]["lastFailure"]["reason"] == "InvalidManifest"


def test_wrong_manifest_keeps_its_names_where_a_date_is_one_to_yaml(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("kind: ConfigMap\n---\n" + yaml.safe_dump(document(nonsense=1)).replace("uri:", "refresh: 2026-02-31\n    uri:"))
    assert main(["run", str(path), "-o", "json"]) == ExitCode.INVALID
    found = json.loads(capsys.readouterr().out)
    assert found["metadata"]["name"] == "m"
    assert [t["name"] for t in found["status"]["targets"]] == ["first", "second"]


@pytest.mark.parametrize("form", ["json", "table"])
@pytest.mark.parametrize("streams", [">&$out", ">&$out 2>&$out"])
def test_exit_code_is_the_runs_own_where_nobody_reads(arguments: list[str], form: str, streams: str) -> None:
    """A pipe whose reader is gone before anything is written."""
    script = f'exec {{out}}> >(exec true); wait $!; "$@" {streams}'
    done = subprocess.run(["bash", "-c", script, "-", str(PROGRAM), *arguments, "-o", form], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == ExitCode.INVALID
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_exit_code_is_not_zero_where_a_listing_was_not_read() -> None:
    script = 'exec {out}> >(exec true); wait $!; "$@" >&$out'
    done = subprocess.run(["bash", "-c", script, "-", str(PROGRAM), "crd"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == ExitCode.FAILED
    assert done.stderr == ""


class CtrlC:
    """A listener during whose news of one target the user presses Ctrl-C."""

    def __init__(self, target: str) -> None:
        self.target = target

    def plan(self, target: str, steps: object) -> None: ...

    def step_started(self, target: str, step: object) -> None: ...

    def event(self, target: str, step: object, event: object) -> None:
        if target == self.target:
            raise KeyboardInterrupt

    def step_ended(self, target: str, step: object, seconds: float, error: object) -> None: ...


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return run._work_directory(tmp_path / "work", "m")


def test_ctrl_c_in_a_target_keeps_what_came_of_those_before(written: Path, tmp_path: Path, work: Path) -> None:
    options = runner.Options(store=str(tmp_path / "store"), work=work, step_memory_bytes=2**30)
    outcome = runner.run(manifest.load(written), tmp_path, options, CtrlC("second"))
    status = outcome.model.status
    assert status is not None
    assert [t.reason for t in status.targets] == [Reason.ResourcesNotEnforceable, Reason.Interrupted]
    assert outcome.exit_code == ExitCode.INTERRUPTED
    assert status.source is not None, "what resolve found is known"
    assert status.last_failure is not None
    assert status.last_failure.reason is Reason.Interrupted
