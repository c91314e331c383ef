"""The guard on its own, as the command line that reproduce.sh and a person would use."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from burnish.pipeline import cpu_limit, procfs
from burnish.pipeline.confine import remove_shared_memory

CAN_SET_QUOTA = os.geteuid() == 0 and os.access("/sys/fs/cgroup/cpu/cgroup.procs", os.W_OK)


def guard(*options: str, command: list[str], **popen) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "burnish.pipeline.confine", "--parent", str(os.getpid()), *options, "--", *command],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **popen,
    )


def events(process: subprocess.Popen) -> list[dict]:
    _, text = process.communicate(timeout=60)
    return [json.loads(line) for line in text.splitlines()]


def test_guard_passes_on_exit_code_and_tells_start_and_end():
    process = guard(command=["/bin/sh", "-c", "exit 7"])
    started, ended = events(process)
    assert process.returncode == 7
    assert started["event"] == "started"
    assert started["enforcement"] is None
    assert (ended["event"], ended["code"], ended["ending"]) == ("exit", 7, "exited")


def test_guard_tells_a_signal_as_shells_do():
    process = guard(command=["/bin/sh", "-c", "kill -SEGV $$"])
    assert events(process)[-1]["signal"] == signal.SIGSEGV
    assert process.returncode == 128 + signal.SIGSEGV


def test_guard_of_another_parent_starts_nothing(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "burnish.pipeline.confine", "--parent", "1", "--", "/usr/bin/touch", str(tmp_path / "ran")]
    )
    assert process.wait(60) != 0
    assert not (tmp_path / "ran").exists()


def test_guard_told_to_end_by_its_parent_says_so():
    process = guard("--grace-s=1", command=["/bin/sleep", "600"])
    assert json.loads(process.stderr.readline())["event"] == "started"
    process.terminate()
    assert json.loads(process.stderr.readline())["ending"] == "terminated"
    process.communicate()


def test_guard_told_to_end_by_somebody_else_says_that():
    process = guard("--grace-s=1", command=["/bin/sleep", "600"])
    assert json.loads(process.stderr.readline())["event"] == "started"
    subprocess.run(["/bin/sh", "-c", f"kill -TERM {process.pid}"], check=True)
    assert json.loads(process.stderr.readline())["ending"] == "signalled"
    process.communicate()


def test_guard_within_a_guard_cleans_up_when_the_outer_one_ends():
    """The server's guard below a step's: what it made must go although nobody is left to tell it."""
    region = f"burnish-test-{os.getpid()}-"
    script = f"""
import os, subprocess, sys, time
open("/dev/shm/{region}x", "w").close()
subprocess.Popen([sys.executable, "-P", "-m", "burnish.pipeline.confine", "--parent", str(os.getpid()), "--shm-prefix", "{region}", "--",
                  "/bin/sleep", "600"], start_new_session=True, stderr=subprocess.PIPE).stderr.readline()
"""
    process = guard(command=[sys.executable, "-c", script])
    assert events(process)[-1]["code"] == 0
    assert not Path(f"/dev/shm/{region}x").exists()


@pytest.mark.skipif(not CAN_SET_QUOTA, reason="needs root and a writable v1 cpu cgroup")
def test_quota_throttles_for_real_and_its_group_goes_away():
    burn = "import time\nend = time.monotonic() + 1.5\nwhile time.monotonic() < end: pass\nprint(time.process_time())"
    process = guard("--cpus=0.25", command=[sys.executable, "-c", burn], stdout=subprocess.PIPE)
    started = json.loads(process.stderr.readline())
    assert started["enforcement"] == "cgroup v1 quota"
    group = cpu_limit.quota_group(started["pid"])
    assert str(group) == started["cgroup"]
    throttled = 0
    while process.poll() is None:
        if group.exists():
            try:
                throttled = max(throttled, cpu_limit.throttled_periods(group))
            except OSError:
                break
        time.sleep(0.05)
    used_s = float(process.communicate()[0])
    assert throttled > 3
    assert used_s < 0.25 * 1.5 * 1.5
    assert not group.exists()


def test_shared_memory_of_others_is_left_alone():
    mine, other = Path(f"/dev/shm/burnish-a{os.getpid()}-x"), Path(f"/dev/shm/burnish-b{os.getpid()}-x")
    mine.touch()
    other.touch()
    try:
        remove_shared_memory(f"burnish-a{os.getpid()}-")
        assert not mine.exists()
        assert other.exists()
    finally:
        other.unlink()


def test_descendants_are_found_across_sessions():
    code = (
        "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); import time; time.sleep(600)'], start_new_session=True)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        parent.stdout.readline()
        found = procfs.descendants(os.getpid())
        assert parent.pid in found
        [grandchild] = procfs.children(parent.pid)
        assert grandchild in found
        assert procfs._children_by_scan(parent.pid) == [grandchild]
        assert procfs.session_members(grandchild) == [grandchild]
        assert procfs.anonymous_bytes(grandchild) > 2**20
        assert procfs.peak_resident_bytes(grandchild) > 2**20
        os.kill(grandchild, signal.SIGKILL)
    finally:
        parent.kill()
        parent.wait()
    end = time.monotonic() + 10
    while procfs.command_line(grandchild) and time.monotonic() < end:
        time.sleep(0.01)
    assert procfs.anonymous_bytes(grandchild) == 0
    assert procfs.peak_resident_bytes(grandchild) is None
    assert procfs.command_line(grandchild) == []
