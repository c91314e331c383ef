"""Whose turn it is to measure, between real processes."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from burnish.pipeline import turns

HOLDER = """
    import sys, time
    from pathlib import Path
    from burnish.pipeline import turns
    with turns.turn(Path(sys.argv[1]), lambda text, warning=False: print(text, flush=True)):
        print("mine", flush=True)
        sys.stdin.read()
"""


class Holder:
    """A process that takes its turn and keeps it until its stdin ends."""

    def __init__(self, lock: Path) -> None:
        command = [sys.executable, "-c", textwrap.dedent(HOLDER), str(lock)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def leave(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(30) == 0


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "measuring.lock"


@pytest.fixture
def holders(lock: Path) -> Iterator[list[Holder]]:
    found = [Holder(lock)]
    assert found[0].line() == "mine"
    found.append(Holder(lock))
    yield found
    for holder in found:
        holder.process.kill()
        holder.process.wait()
        for stream in (holder.process.stdin, holder.process.stdout):
            assert stream is not None
            stream.close()


def test_second_waits_says_for_whom_and_goes_on_when_the_first_leaves(holders: list[Holder]) -> None:
    first, second = holders
    assert second.line() == f"waiting: another run measures on this machine (process {first.process.pid}), and both would be slower"
    assert second.process.poll() is None
    first.leave()
    assert [second.line(), second.line()] == ["the other run is done", "mine"]
    second.leave()


def test_death_of_the_first_frees_the_turn(holders: list[Holder]) -> None:
    first, second = holders
    assert second.line().startswith("waiting")
    first.process.send_signal(signal.SIGKILL)
    assert [second.line(), second.line()] == ["the other run is done", "mine"]


def test_ctrl_c_ends_the_wait(holders: list[Holder]) -> None:
    _, second = holders
    assert second.line().startswith("waiting")
    second.process.send_signal(signal.SIGINT)
    assert second.process.wait(30) != 0
    assert second.line() == ""


def test_children_do_not_keep_the_turn(lock: Path) -> None:
    with turns.turn(lock, lambda text, warning=False: None):
        child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    third = Holder(lock)
    assert third.line() == "mine"
    third.leave()
    child.communicate()


def test_machine_without_room_for_the_lock_is_told_and_measures(tmp_path: Path) -> None:
    (tmp_path / "afile").touch()
    told: list[tuple[str, bool]] = []
    with turns.turn(tmp_path / "afile" / "measuring.lock", lambda text, warning=False: told.append((text, warning))) as waited:
        assert waited < 10
    ((text, warning),) = told
    assert warning
    assert "can't be locked" in text
