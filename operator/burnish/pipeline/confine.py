"""The guard of one child process: `python -P -m burnish.pipeline.confine [options] --parent PID -- command ...`.

Steps run a model's code and the server runs many processes of its own, and none of them may outlive the run, take more than its share, or be
left behind when Burnish itself is killed. A process can't see to that from outside once it is dead, so each child gets a guard: a small
process, leader of a session of its own, that starts the command under the limits, watches memory and time, and ends everything that descends
from it (orphans too: it is their subreaper, prctl(2)) when the command ends, when it is told to, or when the parent dies.

Lines of JSON on --status-fd tell the parent: `started` or `refused` first, `exit` last.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import dataclasses
import json
import os
import signal
import sys
import time
from decimal import Decimal
from pathlib import Path
from typing import NoReturn

from burnish.errors import BurnishError, Reason
from burnish.pipeline import cpu_limit, procfs

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PR_SET_CHILD_SUBREAPER = 36

_PARENT_DIED = signal.SIGHUP
_WATCHED = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, _PARENT_DIED}
_PATIENCE_S = 1.0
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)

EXITED = "exited"
SIGNALLED = "signalled"
TERMINATED = "terminated"
DEADLINE = "deadline"
OUT_OF_MEMORY = "out of memory"
ORPHANED = "orphaned"


@dataclasses.dataclass(frozen=True)
class Order:
    """What to run, and under which limits."""

    command: list[str]
    environment: dict[str, str]
    cwd: str
    parent: int
    status: int
    cpus: Decimal | None
    memory_bytes: int | None
    deadline_s: float | None
    grace_s: float
    poll_s: float
    shm_prefix: str


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


class Guard:
    """Runs one order to its end."""

    def __init__(self, order: Order, limit: cpu_limit.CpuLimit | None) -> None:
        self._order = order
        self._limit = limit
        self._ending = ""
        self._kill_at = float("inf")
        self._deadline = float("inf") if order.deadline_s is None else time.monotonic() + order.deadline_s
        self._peak_bytes = 0

    def run(self) -> int:
        """Start the command and wait; returns the exit code to pass on."""
        self._main = self._start()
        self._tell_started()
        status = self._watch()
        status = self._end_descendants(status)
        self._clean_up()
        code = os.waitstatus_to_exitcode(status)
        _tell(
            self._order.status,
            event="exit",
            code=code if code >= 0 else None,
            signal=-code if code < 0 else None,
            ending=self._ending or (SIGNALLED if code < 0 else EXITED),
            peak_memory_bytes=self._peak_bytes,
        )
        return code if code >= 0 else 128 - code

    def _start(self) -> int:
        """Fork and execute; a command that can't be executed is told before anything else."""
        reader, writer = os.pipe()  # closed by a successful exec
        pid = os.fork()
        if pid == 0:
            self._become_command(writer)
        os.close(writer)
        with os.fdopen(reader) as problem:
            if message := problem.read():
                os.waitpid(pid, 0)
                self._clean_up()
                raise BurnishError(Reason.InternalError, message)
        return pid

    def _become_command(self, problem: int) -> NoReturn:
        try:
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if self._limit is not None:
                self._limit.enter()
            os.chdir(self._order.cwd)
            for number in _IGNORED_BY_PYTHON:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)
            os.execvpe(self._order.command[0], self._order.command, self._order.environment)  # noqa: S606  no shell wanted
        except BaseException as error:  # this is a copy of the guard: whatever happens, it must not go on
            os.write(problem, f"can't start {self._order.command[0]}: {error}".encode())
        os._exit(127)

    def _tell_started(self) -> None:
        limit = self._limit
        _tell(
            self._order.status,
            event="started",
            pid=self._main,
            enforcement=limit.enforcement if limit else None,
            cpus=list(limit.cpus) if limit else [],
            cgroup=str(limit.cgroup) if limit and limit.cgroup else None,
        )

    def _watch(self) -> int | None:
        """Wait for the command, the parent, the limits. Returns the command's wait status, or None where everything is to be killed."""
        while True:
            info = signal.sigtimedwait(_WATCHED, self._order.poll_s)
            if info is not None and info.si_signo == signal.SIGCHLD:
                if (status := self._reap()) is not None:
                    return status
            elif info is not None and info.si_signo == _PARENT_DIED:
                if os.getppid() != self._order.parent:  # sent also when only the thread that started us ended
                    self._ending = ORPHANED
                    return None
            elif info is not None:
                self._terminate(TERMINATED if info.si_pid == self._order.parent else SIGNALLED)
            now = time.monotonic()
            if now >= self._deadline:
                self._deadline = float("inf")
                self._terminate(DEADLINE)
            if now >= self._kill_at:
                return None
            if self._is_out_of_memory():
                self._ending = OUT_OF_MEMORY
                return None

    def _reap(self) -> int | None:
        """Collect ended children; returns the command's wait status if it is among them."""
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == self._main:
                    return ended[1]
        return None

    def _terminate(self, ending: str) -> None:
        if not self._ending:
            self._ending = ending
            self._kill_at = time.monotonic() + self._order.grace_s
            os.kill(self._main, signal.SIGTERM)

    def _is_out_of_memory(self) -> bool:
        used = sum(procfs.anonymous_bytes(pid) for pid in procfs.descendants(os.getpid()))
        self._peak_bytes = max(self._peak_bytes, used)
        return self._order.memory_bytes is not None and used > self._order.memory_bytes

    def _end_descendants(self, status: int | None) -> int:
        """End the command, if it still runs, and then its descendants, until there are none; returns the command's wait status.

        What the command leaves becomes our child. It is asked first: a guard among it (the server's) then removes what it made.
        """
        if status is None:
            os.kill(self._main, signal.SIGKILL)
        patience = time.monotonic() + _PATIENCE_S
        while True:
            try:
                while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                    if ended[0] == self._main:
                        status = ended[1]
            except ChildProcessError:
                return 0 if status is None else status
            number = signal.SIGTERM if time.monotonic() < patience else signal.SIGKILL
            for pid in procfs.children(os.getpid()):
                os.kill(pid, number)  # ours to reap, so the number can't belong to another process by now
            signal.sigtimedwait({signal.SIGCHLD}, 0.02)

    def _clean_up(self) -> None:
        if self._limit is not None:
            self._limit.remove()
        if self._order.shm_prefix:
            remove_shared_memory(self._order.shm_prefix)


def remove_shared_memory(prefix: str) -> None:
    """Remove the POSIX shared-memory regions whose names start with `prefix`."""
    for region in Path("/dev/shm").glob(f"{prefix}*"):  # noqa: S108  where the C library keeps them, shm_overview(7)
        region.unlink(missing_ok=True)


def _tell(status: int, **event: object) -> None:
    with contextlib.suppress(OSError):  # nobody listens any more
        os.write(status, json.dumps(event).encode() + b"\n")


def _order(arguments: list[str]) -> Order:
    parser = argparse.ArgumentParser(prog="burnish.pipeline.confine", description="Run a command under limits; end all that it leaves.")
    parser.add_argument("--parent", type=int, required=True, help="end everything when this process, our parent, is gone")
    parser.add_argument("--status-fd", type=int, default=2, help="where events go, as lines of JSON")
    parser.add_argument("--environment-stdin", action="store_true", help="read the command's environment from stdin, as a JSON object")
    parser.add_argument("--cwd", default=".")
    parser.add_argument("--cpus", type=Decimal, help="CPUs; whole: the last ones by affinity, fractions: a CFS quota")
    parser.add_argument("--memory-bytes", type=int, help="sum of anonymous memory; above it everything is killed")
    parser.add_argument("--deadline-s", type=float)
    parser.add_argument("--grace-s", type=float, default=5.0, help="from SIGTERM to SIGKILL")
    parser.add_argument("--poll-s", type=float, default=0.1, help="how often memory is looked at")
    parser.add_argument("--shm-prefix", default="", help="shared-memory regions to remove at the end")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args(arguments)
    environment = _read_environment() if options.environment_stdin else dict(os.environ)
    return Order(
        command=options.command,
        environment=environment,
        cwd=options.cwd,
        parent=options.parent,
        status=options.status_fd,
        cpus=options.cpus,
        memory_bytes=options.memory_bytes,
        deadline_s=options.deadline_s,
        grace_s=options.grace_s,
        poll_s=options.poll_s,
        shm_prefix=options.shm_prefix,
    )


def _read_environment() -> dict[str, str]:
    """The environment that the parent writes to stdin: not on the command line, which everybody may read. The command's stdin is empty."""
    environment: dict[str, str] = json.load(sys.stdin)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return environment


def main(arguments: list[str]) -> int:
    """Guard one command. Returns its exit code, 128 + signal, or the reason's exit code where it could not be started."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)  # from here on signals wait until `_watch` takes them
    order = _order(arguments)
    if order.status > 2:
        os.set_inheritable(order.status, False)  # so that its end means the end of this guard
    _prctl(_PR_SET_PDEATHSIG, _PARENT_DIED)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    if os.getppid() != order.parent:
        return 128 + _PARENT_DIED
    try:
        guard = Guard(order, cpu_limit.prepare(order.cpus) if order.cpus is not None else None)
        return guard.run()
    except BurnishError as error:
        _tell(order.status, event="refused", reason=error.reason.value, message=error.message, field=error.field)
        return int(error.exit_code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
