"""What can happen to the processes of a run: Ctrl-C at any moment, limits, kills from outside; and the server that --keep-serving leaves on."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import onnx
import pytest

pytestmark = pytest.mark.alone

DYNAMIC = {"type": "Quantize", "quantize": {"mode": "Dynamic"}}
END_TIMEOUT_S = 30


@pytest.fixture
def manifest(project, make_mlp, make_spec) -> Path:
    """A tiny model's, with one candidate that holds its limit."""
    onnx.save(make_mlp(), project.path / "model.onnx")
    return project.write(make_spec(passes=[DYNAMIC], constraints={"maxSlowdownPercent": 1000}))


def pids_of(project, *words: str) -> list[int]:
    """Processes of this project whose program is named by the first word, and whose command line holds the others; no guards."""
    found = [(pid, line.split()) for pid, line in project.processes() if "burnish.pipeline.confine" not in line]
    return [pid for pid, line in found if words[0] in Path(line[0]).name and all(word in line for word in words[1:])]


def wait_for_pid(project, *words: str, timeout: float = 60) -> int:
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        if pids := pids_of(project, *words):
            return pids[0]
        time.sleep(0.02)
    raise AssertionError(f"no process {words} among {project.processes()}")


def assert_nothing_runs(project, within: float = 0) -> None:
    until = time.monotonic() + within
    while (left := project.processes()) and time.monotonic() < until:
        time.sleep(0.05)
    assert left == []


def server_id(project) -> str:
    """The name that the running server has, and its shared memory begins with."""
    pid = wait_for_pid(project, "tritonserver")
    line = next(line for number, line in project.processes() if number == pid)
    return next(word.removeprefix("--id=") for word in line.split() if word.startswith("--id="))


def shared_memory(prefix: str) -> list[str]:
    return [path.name for path in Path("/dev/shm").iterdir() if path.name.startswith(prefix)]


def assert_whole(project) -> None:
    """Nothing half-written: every blob is what its name says, and no record was left that names a missing one."""
    root = project.store / "local" / "default"
    for path in (root / "blobs" / "sha256").glob("*"):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
    assert not list((root / "tmp").glob("*"))
    assert project.records("results") == []


MOMENTS = [
    "resolve: started",
    "cpu export: started",
    "cpu measure: started",
    "samples answered",
    "cpu publish: started",
]


@pytest.mark.parametrize("moments", [MOMENTS[1::2], pytest.param(MOMENTS[::2], marks=pytest.mark.long)], ids=["some", "others"])
def test_ctrl_c_at_any_moment_leaves_nothing_running_and_nothing_half_written(project, manifest, moments):
    for moment in moments:
        running = project.start(manifest)
        running.wait_for(moment)
        running.press_ctrl_c()
        ran = running.wait(END_TIMEOUT_S)
        assert ran.code == 130, (moment, ran.stderr)
        assert_nothing_runs(project)
        assert ran.failure["reason"] == "Interrupted"
        assert (ran.target["state"], ran.target["reason"]) == ("Failed", "Interrupted")
        assert "done in" not in ran.stderr.splitlines()[-2], "the step that was ended is not said to be done"
        assert_whole(project)
        assert list((project.cache / "runs").iterdir()) == []
    assert project.run(manifest).code == 0


@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.long), signal.SIGKILL])
def test_end_of_burnish_itself_takes_server_and_shared_memory_along(project, manifest, number):
    running = project.start(manifest)
    running.wait_for("samples answered")
    prefix = server_id(project)
    assert shared_memory(prefix)
    running.send(number)
    ran = running.wait(END_TIMEOUT_S)
    assert_nothing_runs(project, within=END_TIMEOUT_S)  # SIGKILL: the guards notice, and need a moment
    assert shared_memory(prefix) == []
    if number is signal.SIGTERM:
        assert (ran.code, ran.failure["reason"]) == (130, "Interrupted")
    assert_whole(project)


def test_second_run_on_the_machine_waits_until_the_first_has_measured(project, manifest):
    first = project.start(manifest)
    first.wait_for("cpu measure: started")
    second = project.start(manifest, "--store", project.path / "another")
    waiting = second.wait_for("waiting: another run measures on this machine")
    assert f"(process {first.pid})" in waiting
    second.wait_for("the other run is done")
    first.wait_for("cpu measure: done", timeout=5)
    assert [first.wait().code, second.wait().code] == [0, 0]


def test_step_above_its_memory_limit_is_told(project, make_mlp, make_spec):
    onnx.save(make_mlp(hidden=2048), project.path / "model.onnx")  # 16 MiB, of which a step holds several copies
    ran = project.run(project.write(make_spec()), "--step-memory", "50Mi")
    assert (ran.code, ran.failure["reason"], ran.failure["step"]) == (5, "OutOfMemory", "export"), ran.stderr
    assert "--step-memory" in ran.failure["message"]
    assert project.records("results") == []


def test_server_above_its_memory_limit_is_told(project, make_mlp, make_spec):
    onnx.save(make_mlp(hidden=4096), project.path / "model.onnx")  # 64 MiB
    target = {"name": "cpu", "runtime": "ONNXRuntime", "resources": {"cpu": "1", "memory": "64Mi"}}
    ran = project.run(project.write(make_spec(targets=[target])))
    assert (ran.code, ran.failure["reason"], ran.failure["step"]) == (5, "OutOfMemory", "measure"), ran.stderr
    assert "resources.memory" in ran.failure["message"]
    assert project.records("results") == []


def test_step_that_is_killed_from_outside_is_told(project, manifest):
    running = project.start(manifest, "--work", project.path / "work")
    os.kill(wait_for_pid(project, "python", "burnish.pipeline", "export"), signal.SIGKILL)
    ran = running.wait()
    assert (ran.code, ran.failure["reason"], ran.failure["step"]) == (5, "StepKilled", "export"), ran.stderr
    assert "signal 9" in ran.failure["message"]
    assert "cpu/steps" in ran.failure["message"], "names the log"
    assert project.records("results") == []


def test_server_that_is_killed_in_the_middle_of_measuring_is_told(project, manifest):
    running = project.start(manifest)
    running.wait_for("samples answered")
    prefix = server_id(project)
    os.kill(wait_for_pid(project, "tritonserver"), signal.SIGKILL)
    ran = running.wait()
    assert (ran.code, ran.failure["reason"], ran.failure["step"]) == (5, "ServerLost", "measure"), ran.stderr
    assert_nothing_runs(project)
    assert shared_memory(prefix) == []
    assert project.records("measurements") + project.records("results") == []
    assert "files and logs of the steps" in ran.stderr


def test_deadline_of_all_steps_is_held(project, make_mlp, make_spec):
    onnx.save(make_mlp(), project.path / "model.onnx")
    ran = project.run(project.write(make_spec(jobs={"deadline": "2s"})))
    assert (ran.code, ran.failure["reason"]) == (5, "DeadlineExceeded"), ran.stderr
    assert "spec.jobs.deadline" in ran.failure["message"]
    assert ran.seconds < 40
    assert project.records("results") == []


def test_failed_step_leaves_a_script_that_repeats_the_failure(project, make_mlp, make_spec):
    (project.path / "model.onnx").write_bytes(make_mlp().SerializeToString()[:200])
    work = project.path / "work"
    ran = project.run(project.write(make_spec()), "--work", work)
    (folder,) = work.glob("*/cpu/steps/02-export")
    first = (folder / "failure.json").read_text()
    (folder / "failure.json").unlink()
    repeated = subprocess.run([folder / "reproduce.sh"], capture_output=True, text=True, timeout=60, check=False)
    assert repeated.returncode == 65, "not retriable"
    assert (folder / "failure.json").read_text() == first
    assert json.loads(first)["reason"] == ran.failure["reason"] == "InvalidModel"


# --- --keep-serving -----------------------------------------------------------------------------------------------------------------------


def answer(line: str) -> dict:
    """What the printed curl command prints; without curl the same request from here."""
    if shutil.which("curl"):
        return json.loads(subprocess.run(line, shell=True, capture_output=True, timeout=60, check=True).stdout)  # noqa: S602  as a user pastes it
    words = shlex.split(line)
    headers = dict(words[i + 1].split(": ") for i, word in enumerate(words) if word == "-H")
    body = Path(words[words.index("--data-binary") + 1].removeprefix("@")).read_bytes()
    with urllib.request.urlopen(urllib.request.Request(words[-1], data=body, headers=headers), timeout=60) as response:
        return json.loads(response.read())


def test_keep_serving_answers_the_printed_curl_line_until_ctrl_c(tiny, project, copy_of, port):
    copy_of(tiny.project)
    running = project.start(project.path / tiny.manifest.name, "--keep-serving", "--port", port)
    line = running.wait_for("curl ").strip()
    assert f"http://127.0.0.1:{port}/v2/models/tiny/infer" in line
    assert "Content-Type: application/octet-stream" in line, "curl's own kind of body ends Triton where it is large"
    found = answer(line)
    assert found["model_name"] == "tiny"
    assert [(o["name"], o["datatype"], o["shape"]) for o in found["outputs"]] == [("y", "FP32", [1, 4])]
    prefix = server_id(project)
    running.press_ctrl_c()
    ran = running.wait(END_TIMEOUT_S)
    assert ran.code == 0, ran.stderr
    assert ran.target["state"] == "Published", "one object, printed once"
    assert_nothing_runs(project)
    assert shared_memory(prefix) == []
    assert list((project.cache / "runs").iterdir()) == []


def test_keep_serving_on_a_port_that_is_taken_says_so(tiny, project, copy_of):
    copy_of(tiny.project)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ran = project.run(project.path / tiny.manifest.name, "--keep-serving", "--port", taken.getsockname()[1])
    assert ran.code == 5
    assert ran.target["state"] == "Published"
    assert "ServerNotReady" in ran.stderr
    assert "already in use" in ran.stderr


def test_keep_serving_serves_nothing_that_was_refused(tiny, project, copy_of, port):
    copy_of(tiny.project)
    manifest = project.write({**tiny.spec, "constraints": {"maxSlowdownPercent": 1000, "minSpeedup": "50"}})
    ran = project.run(manifest, "--keep-serving", "--port", port)
    assert ran.code == 3
    assert "curl" not in ran.stderr
