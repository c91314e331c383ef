"""A child process that takes no more than its share and leaves nothing behind, whatever happens to it or to us.

Each child has a guard (`burnish.pipeline.confine`) that does the watching; here is the parent's side of it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from burnish.errors import BurnishError, Reason
from burnish.pipeline import confine, cpu_limit, procfs

_START_TIMEOUT_S = 60.0
_GUARD_MARGIN_S = 5.0
"""How long a guard may need to end everything after its grace, before it is ended itself."""
_EVENT_BYTES = 64 * 1024


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a child may use."""

    memory_bytes: int | None = None
    """Anonymous memory (RSS minus shared) of the child and all its descendants together."""
    deadline_s: float | None = None
    grace_s: float = 5.0
    """From SIGTERM to SIGKILL."""
    cpus: Decimal | None = None
    """Whole CPUs or a fraction; None: all that we have."""
    poll_s: float = 0.1
    """How often memory is looked at."""


class Ending(StrEnum):
    """How a child came to its end."""

    Exited = confine.EXITED  # by itself, with an exit code
    Signalled = confine.SIGNALLED  # by a signal that neither we nor its guard sent
    Terminated = confine.TERMINATED  # because we asked for it
    Deadline = confine.DEADLINE
    OutOfMemory = confine.OUT_OF_MEMORY
    Orphaned = confine.ORPHANED


@dataclasses.dataclass(frozen=True)
class ChildExit:
    """The end of a child."""

    ending: Ending
    code: int | None
    """Exit code, where it exited."""
    signal: int | None
    """The signal that ended it, where one did."""
    peak_memory_bytes: int
    """Largest sum of anonymous memory that the guard saw; shorter peaks are missed."""
    seconds: float

    @property
    def out_of_memory(self) -> bool:
        """True where it was ended because it used more memory than its limit."""
        return self.ending is Ending.OutOfMemory

    @property
    def deadline_exceeded(self) -> bool:
        """True where it was ended because its time was over."""
        return self.ending is Ending.Deadline

    @property
    def ended_from_outside(self) -> bool:
        """True where a signal ended it that neither we nor its guard sent."""
        return self.ending in (Ending.Signalled, Ending.Orphaned)


_live: set[ConfinedProcess] = set()


def end_all() -> None:
    """End every child that is still there, with all its descendants; for the handler of a signal that ends Burnish itself."""
    processes = list(_live)
    for process in processes:
        process.request_end()
    for process in processes:
        process.end()


class ConfinedProcess:
    """A child process under a guard, in a session of its own. A context manager: leaving it ends the child and all its descendants."""

    def __init__(self, guard: subprocess.Popen[bytes], status: int, limits: Limits) -> None:
        """Use `start`."""
        self._guard = guard
        self._status = status
        self._buffer = b""
        self._limits = limits
        self._started = time.monotonic()
        self._exit: ChildExit | None = None
        self.pid = 0
        """Process id of the command itself; the session's is the guard's."""
        self.enforcement: str | None = None
        """How the CPU limit is held: affinity, cgroup v1 quota, cgroup v2 quota."""
        self.cpus: tuple[int, ...] = ()
        """The CPUs that the child was put on; empty where it may use all."""
        self.cgroup: Path | None = None
        """The group that holds a CPU quota."""
        _live.add(self)

    @classmethod
    def start(
        cls,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        log: Path,
        limits: Limits,
        descriptors: Sequence[int] = (),
        shm_prefix: str = "",
    ) -> ConfinedProcess:
        """Start `command`.

        Args:
            command: program and arguments.
            env: its environment, all of it; nothing is inherited.
            cwd: working directory.
            log: gets stdout and stderr, appended.
            limits: what it may use.
            descriptors: file descriptors to inherit.
            shm_prefix: shared-memory regions of this prefix are removed at the end.

        Raises:
            BurnishError: ResourcesNotEnforceable; InternalError, where the command can't be executed.
        """
        process: ConfinedProcess | None = None
        reader, writer = os.pipe()
        try:
            with log.open("ab") as output, _interrupts_wait():
                guard = subprocess.Popen(
                    [sys.executable, "-P", "-m", "burnish.pipeline.confine", *_options(limits, cwd, writer, shm_prefix), "--", *command],
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=output,
                    pass_fds=(writer, *descriptors),
                    start_new_session=True,
                )
                process = cls(guard, reader, limits)
        except BaseException:
            if process is None:
                os.close(reader)
            else:
                process.end()
            raise
        finally:
            os.close(writer)
        try:
            process._begin(env)
        except BaseException:
            process.end()
            raise
        return process

    def _begin(self, env: Mapping[str, str]) -> None:
        assert self._guard.stdin is not None  # noqa: S101  Popen was told so
        with contextlib.suppress(BrokenPipeError), self._guard.stdin as stdin:
            stdin.write(json.dumps(dict(env)).encode())
        event = self._next_event(_START_TIMEOUT_S)
        if event.get("event") == "refused":
            raise BurnishError(Reason(event["reason"]), event["message"], field=event["field"])
        if event.get("event") != "started":
            raise BurnishError(Reason.InternalError, f"the guard of a child process did not start (exit code {self._guard.poll()}); see its log")
        self.pid = event["pid"]
        self.enforcement = event["enforcement"]
        self.cpus = tuple(event["cpus"])
        self.cgroup = Path(event["cgroup"]) if event["cgroup"] else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.end()

    def fileno(self) -> int:
        """Readable when the child may have ended."""
        return self._status

    def wait(self, timeout_s: float) -> ChildExit | None:
        """The child's end, waiting at most `timeout_s`; None while it runs."""
        if self._exit is None:
            event = self._next_event(timeout_s)
            if event:
                self._finish(event)
        return self._exit

    def throttled_periods(self) -> int | None:
        """CFS periods in which the child was throttled so far; None without a quota."""
        return cpu_limit.throttled_periods(self.cgroup) if self.cgroup else None

    def request_end(self) -> None:
        """Send SIGTERM; the guard sends SIGKILL after the grace. Returns at once."""
        if self._guard.poll() is None:
            self._guard.send_signal(signal.SIGTERM)

    def end(self) -> ChildExit | None:
        """SIGTERM, the grace, SIGKILL; returns when nothing of the child is left. Idempotent."""
        try:
            if self.wait(0) is None:
                self.request_end()
                self.wait(self._limits.grace_s + _GUARD_MARGIN_S)
        finally:  # a second Ctrl-C as well
            self.kill()
        return self._exit

    def kill(self) -> None:
        """End the child and all its descendants now. Idempotent."""
        if self not in _live:
            return
        for pid in self._members():
            if pid != self._guard.pid:  # which then removes what it made
                _kill(pid)
        self.wait(_GUARD_MARGIN_S)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._guard.wait(_GUARD_MARGIN_S)
        while members := self._members():
            for pid in members:
                _kill(pid)
            time.sleep(0.01)
        self._guard.wait()
        self.wait(0)
        if self.cgroup is not None:
            cpu_limit.remove_cgroup(self.cgroup)
        os.close(self._status)
        _live.discard(self)

    def _members(self) -> list[int]:
        return procfs.session_members(self._guard.pid)

    def _finish(self, event: dict[str, Any]) -> None:
        self._exit = ChildExit(
            ending=Ending(event.get("ending", Ending.Signalled)),
            code=event.get("code"),
            signal=event.get("signal", signal.SIGKILL if "event" not in event else None),
            peak_memory_bytes=event.get("peak_memory_bytes", 0),
            seconds=time.monotonic() - self._started,
        )

    def _next_event(self, timeout_s: float) -> dict[str, Any]:
        """The guard's next event; empty after `timeout_s`. A guard that ended without a word was killed: `{"ending": "signalled"}`."""
        deadline = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._status, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    return {}
                data = os.read(self._status, _EVENT_BYTES)
                if not data:
                    return {"ending": Ending.Signalled}
                self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        event: dict[str, Any] = json.loads(line)
        return event


def _options(limits: Limits, cwd: Path, status: int, shm_prefix: str) -> list[str]:
    options = {
        "--parent": os.getpid(),
        "--status-fd": status,
        "--cwd": cwd,
        "--cpus": limits.cpus,
        "--memory-bytes": limits.memory_bytes,
        "--deadline-s": limits.deadline_s,
        "--grace-s": limits.grace_s,
        "--poll-s": limits.poll_s,
        "--shm-prefix": shm_prefix or None,
    }
    return ["--environment-stdin", *(f"{name}={value}" for name, value in options.items() if value is not None)]


@contextlib.contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Ctrl-C comes afterwards: a process that is started and not yet known to `end_all` would be nobody's to end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if pressed:
            os.kill(os.getpid(), signal.SIGINT)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
