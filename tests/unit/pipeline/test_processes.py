"""Running steps: their news, their limits, their ends, and that nothing of them outlives us. Real processes throughout."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from decimal import Decimal
from pathlib import Path

import pytest

from burnish.errors import BurnishError, Reason
from burnish.pipeline import procfs
from burnish.pipeline.confined_process import ConfinedProcess
from burnish.pipeline.processes import Child, Ending, Limits, child_environment, end_all

FAST = Limits(grace_s=1.0)


def python(code: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(code)]


@pytest.fixture
def run(tmp_path):
    def call(command, *, limits=FAST, env=None, on_event=None):
        with Child.start(command, env=env or child_environment(), cwd=tmp_path, limits=limits, log=tmp_path / "log.txt") as child:
            return child.wait(on_event)

    return call


@pytest.fixture
def start(tmp_path):
    def call(command, *, limits=FAST):
        return ConfinedProcess.start(command, env=child_environment(), cwd=tmp_path, log=tmp_path / "log.txt", limits=limits)

    return call


def is_alive(pid: int) -> bool:
    fields = procfs._stat_fields(pid)
    return bool(fields) and fields[0] not in "ZX"


def wait_until(condition, timeout_s: float = 15.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def read_pids(path: Path, count: int = 1) -> list[int]:
    assert wait_until(lambda: path.exists() and path.read_text().count("\n") >= count)
    return [int(line) for line in path.read_text().split()]


WITH_GRANDCHILDREN = """
    import os, subprocess, sys, time
    inner = "import time; time.sleep(600)"
    children = [subprocess.Popen([sys.executable, "-c", inner]), subprocess.Popen([sys.executable, "-c", inner], start_new_session=True)]
    with open("pids", "w") as file:
        file.writelines(f"{pid}\\n" for pid in (os.getpid(), *(c.pid for c in children)))
"""


def test_child_that_ends_by_itself_passes_on_its_exit_code_and_output(run, tmp_path):
    ended = run(python("import sys; print('out'); print('err', file=sys.stderr); sys.exit(65)"))
    assert (ended.ending, ended.code, ended.signal) == (Ending.Exited, 65, None)
    assert sorted((tmp_path / "log.txt").read_text().split()) == ["err", "out"]
    assert ended.seconds > 0


def test_child_gets_only_the_environment_that_was_given(run, tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "x")
    run(python("import json, os; json.dump(dict(os.environ), open('env', 'w'))"), env={"ONE": "1"})
    found = json.loads((tmp_path / "env").read_text())
    assert found["ONE"] == "1"
    assert "SECRET" not in found
    assert "BURNISH_PROGRESS_FD" in found


def test_child_is_not_led_astray_by_the_work_directory(run, tmp_path):
    """The guard runs in our interpreter: a module in the directory that a model's files fill must not get into it."""
    (tmp_path / "json.py").write_text("raise SystemExit('hijacked')")
    (tmp_path / "burnish").mkdir()
    assert run(["/bin/true"]).code == 0


def test_child_can_read_nothing_from_our_stdin(run):
    assert run(python("import sys; sys.exit(len(sys.stdin.read()))")).code == 0


def test_child_gets_default_signal_handling(run, tmp_path):
    run(python("open('status', 'w').write(open('/proc/self/status').read())"))
    status = dict(line.split(":\t", 1) for line in (tmp_path / "status").read_text().splitlines() if ":\t" in line)
    assert int(status["SigBlk"], 16) == 0
    assert not int(status["SigIgn"], 16) & (1 << (signal.SIGHUP - 1) | 1 << (signal.SIGTERM - 1))


def test_events_come_in_order_and_what_is_none_is_left_out(run):
    events = []
    code = """
        import os
        fd = int(os.environ["BURNISH_PROGRESS_FD"])
        for line in (b'{"text": "a"}\\n{"te', b'xt": "b"}\\n', b'nonsense\\n[1]\\n\\xff\\n', b'x' * 200000 + b'\\n', b'{"text": "c", "done": 0.5}\\n'):
            while line:
                line = line[os.write(fd, line):]
    """
    assert run(python(code), on_event=events.append).code == 0
    assert [event["text"] for event in events] == ["a", "b", "c"]


def test_event_handler_that_raises_ends_the_child(run, tmp_path):
    def stop(event):
        raise KeyboardInterrupt

    code = "import os; os.write(int(os.environ['BURNISH_PROGRESS_FD']), b'{}\\n')\n"
    with pytest.raises(KeyboardInterrupt):
        run(python(textwrap.dedent(WITH_GRANDCHILDREN) + code + "time.sleep(600)"), on_event=stop)
    assert not any(is_alive(pid) for pid in read_pids(tmp_path / "pids", 3))


def test_child_that_cant_be_executed_is_named(run):
    with pytest.raises(BurnishError, match="/nowhere/program") as caught:
        run(["/nowhere/program"])
    assert caught.value.reason is Reason.InternalError


def test_deadline_ends_child_and_grandchildren(run, tmp_path):
    ended = run(python(textwrap.dedent(WITH_GRANDCHILDREN) + "time.sleep(600)"), limits=Limits(deadline_s=1.5, grace_s=1.0))
    assert ended.deadline_exceeded
    assert ended.signal == signal.SIGTERM
    assert not any(is_alive(pid) for pid in read_pids(tmp_path / "pids", 3))


def test_deadline_kills_a_child_that_ignores_sigterm_after_the_grace(run):
    ended = run(
        python("import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"), limits=Limits(deadline_s=1.0, grace_s=0.5)
    )
    assert (ended.ending, ended.signal) == (Ending.Deadline, signal.SIGKILL)
    assert 1.4 < ended.seconds < 10


def test_memory_above_the_limit_ends_the_child_and_tells_the_peak(run):
    limit = 150 * 2**20
    ended = run(python("import time; x = b'x' * (400 * 2**20); time.sleep(600)"), limits=Limits(memory_bytes=limit))
    assert ended.out_of_memory
    assert ended.peak_memory_bytes > limit


def test_memory_of_grandchildren_counts(run):
    code = """
        import subprocess, sys, time
        children = [subprocess.Popen([sys.executable, "-c", "import time; x = b'x' * (120 * 2**20); time.sleep(600)"]) for _ in range(2)]
        time.sleep(600)
    """
    assert run(python(code), limits=Limits(memory_bytes=200 * 2**20)).out_of_memory


def test_memory_that_is_shared_does_not_count(run, tmp_path):
    (tmp_path / "large").write_bytes(bytes(200 * 2**20))
    code = """
        import mmap, time
        with open("large", "rb") as file:
            m = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        sum(m[i] for i in range(0, len(m), 4096))
        time.sleep(0.5)
    """
    ended = run(python(code), limits=Limits(memory_bytes=150 * 2**20))
    assert (ended.ending, ended.code) == (Ending.Exited, 0)
    assert 2**20 < ended.peak_memory_bytes < 100 * 2**20


def test_signal_from_outside_is_told_apart(run):
    ended = run(python("import os, signal; os.kill(os.getpid(), signal.SIGKILL)"))
    assert (ended.ending, ended.code, ended.signal) == (Ending.Signalled, None, signal.SIGKILL)
    assert ended.ended_from_outside


def test_kill_of_the_guard_leaves_nothing(start, tmp_path):
    process = start(python(textwrap.dedent(WITH_GRANDCHILDREN) + "time.sleep(600)"))
    pids = read_pids(tmp_path / "pids", 3)
    os.kill(process._guard.pid, signal.SIGKILL)
    ended = process.wait(10)
    process.end()
    assert ended.ended_from_outside
    assert wait_until(lambda: not any(is_alive(pid) for pid in pids[:2]))  # of the child's own session
    for pid in pids[2:]:  # nobody can know a process that left the session and lost every ancestor
        os.kill(pid, signal.SIGKILL)


def test_child_that_ends_by_itself_leaves_no_grandchild(run, tmp_path):
    assert run(python(WITH_GRANDCHILDREN)).code == 0
    assert not any(is_alive(pid) for pid in read_pids(tmp_path / "pids", 3))


def test_leaving_the_context_ends_the_child(start, tmp_path):
    with start(python(textwrap.dedent(WITH_GRANDCHILDREN) + "time.sleep(600)")) as process:
        pids = read_pids(tmp_path / "pids", 3)
        assert process.wait(0) is None
        assert process.pid == pids[0]
    assert not any(is_alive(pid) for pid in pids)
    assert process.end().ending is Ending.Terminated


def test_child_outlives_the_thread_that_started_it(start, tmp_path):
    """The kernel tells children of a thread that it died as if it were the process."""
    started = []
    thread = threading.Thread(target=lambda: started.append(start(python("import time; time.sleep(600)"))))
    thread.start()
    thread.join()
    with started[0] as process:
        assert process.wait(0.5) is None


def test_kill_of_the_parent_ends_children_and_grandchildren(tmp_path):
    code = f"""
        import sys
        from pathlib import Path
        from burnish.pipeline.processes import Child, Limits, child_environment
        with Child.start([sys.executable, "-c", {textwrap.dedent(WITH_GRANDCHILDREN) + "time.sleep(600)"!r}], env=child_environment(),
                         cwd=Path({str(tmp_path)!r}), limits=Limits(), log=Path({str(tmp_path / "log.txt")!r})) as child:
            child.wait()
    """
    parent = subprocess.Popen(python(code))
    try:
        pids = read_pids(tmp_path / "pids", 3)
    finally:
        parent.kill()
        parent.wait()
    assert wait_until(lambda: not any(is_alive(pid) for pid in pids))


def test_ctrl_c_ends_everything_before_it_propagates(tmp_path):
    code = f"""
        import sys
        from pathlib import Path
        from burnish.pipeline.processes import Child, Limits, child_environment
        try:
            with Child.start([sys.executable, "-c", {textwrap.dedent(WITH_GRANDCHILDREN) + "time.sleep(600)"!r}], env=child_environment(),
                             cwd=Path({str(tmp_path)!r}), limits=Limits(grace_s=1.0), log=Path({str(tmp_path / "log.txt")!r})) as child:
                child.wait()
        except KeyboardInterrupt:
            from burnish.pipeline import procfs
            left = [int(p) for p in Path({str(tmp_path / "pids")!r}).read_text().split() if (f := procfs._stat_fields(int(p))) and f[0] not in "ZX"]
            sys.exit(1 if left else 130)
    """
    parent = subprocess.Popen(python(code))
    read_pids(tmp_path / "pids", 3)
    parent.send_signal(signal.SIGINT)
    assert parent.wait(30) == 130


def test_end_all_ends_every_live_child(start):
    processes = [start(python("import time; time.sleep(600)")) for _ in range(3)]
    end_all()
    assert [process.wait(0).ending for process in processes] == [Ending.Terminated] * 3
    end_all()


def test_cpus_are_held_and_told(run, start, tmp_path):
    last = max(os.sched_getaffinity(0))
    with start(python("import time; time.sleep(600)"), limits=Limits(cpus=Decimal(1))) as process:
        assert process.enforcement == "affinity"
        assert process.cpus == (last,)
        assert os.sched_getaffinity(process.pid) == {last}


def test_cpus_that_dont_exist_are_refused_before_anything_runs(run, tmp_path):
    with pytest.raises(BurnishError) as caught:
        run(python("open('ran', 'w')"), limits=Limits(cpus=Decimal(4096)))
    assert caught.value.reason is Reason.ResourcesNotEnforceable
    assert not (tmp_path / "ran").exists()


def test_no_descriptor_is_left_open(run):
    before = {path.name for path in Path("/proc/self/fd").iterdir()}
    run(["/bin/true"])
    with pytest.raises(BurnishError):
        run(["/nowhere"])
    assert {path.name for path in Path("/proc/self/fd").iterdir()} == before


STEP = [sys.executable, "-m", "burnish.pipeline"]


def test_step_loads_ahead_and_runs_when_told_with_what_it_is_told(tmp_path):
    (tmp_path / "work").mkdir()
    command = [*STEP, "resolve", "--work", str(tmp_path / "work")]
    with Child.start(command, env=child_environment(), cwd=tmp_path, limits=FAST, log=tmp_path / "log.txt") as child:
        time.sleep(1.0)
        assert not (tmp_path / "work/steps").exists()
        ended = child.wait(arguments=["--no-such-option"])
    assert ended.code == 2
    assert "--no-such-option" in (tmp_path / "log.txt").read_text()


def test_step_that_is_not_needed_any_more_leaves_nothing(tmp_path):
    (tmp_path / "work").mkdir()
    command = [*STEP, "export", "--work", str(tmp_path / "work")]
    with Child.start(command, env=child_environment(), cwd=tmp_path, limits=FAST, log=tmp_path / "log.txt") as child:
        pid = child._process.pid
    assert not is_alive(pid)
    assert list((tmp_path / "work").iterdir()) == []
    assert (tmp_path / "log.txt").read_text() == ""


def test_waiting_step_whose_runner_is_gone_ends_well_and_leaves_nothing(tmp_path):
    reader, writer = os.pipe()
    environment = {**child_environment(), "BURNISH_GO_FD": str(reader)}
    process = subprocess.Popen([*STEP, "export", "--work", str(tmp_path)], env=environment, pass_fds=(reader,))
    os.close(reader)
    os.close(writer)
    assert process.wait(30) == 0
    assert list(tmp_path.iterdir()) == []


def test_waiting_step_has_no_network(tmp_path):
    """What a model's file could make a library do while it loads has nobody to tell either."""
    with Child.start(
        [*STEP, "compress", "--work", str(tmp_path)], env=child_environment(), cwd=tmp_path, limits=FAST, log=tmp_path / "log.txt"
    ) as child:
        status = Path(f"/proc/{child._process.pid}/status")
        assert wait_until(lambda: "Seccomp:\t2" in status.read_text())
