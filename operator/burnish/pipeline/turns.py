"""One measurement at a time on a machine: two that share its CPUs would measure each other.

A file lock (flock(2)) rather than a file that is there or not: the kernel frees it when its holder dies, however that happens.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

FILE = "measuring.lock"
"""Its name in the user's cache directory."""
_OPENING = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


class Tell(Protocol):
    """Takes one line for the user."""

    def __call__(self, text: str, /, *, warning: bool = False) -> None:
        """Tell."""


@contextlib.contextmanager
def turn(lock: Path, tell: Tell) -> Iterator[float]:
    """Have this machine's measurements to ourselves while the block runs; yields the seconds that were waited for it.

    There is no limit on the wait: whoever measures has a deadline of its own, and Ctrl-C ends it at once.

    Args:
        lock: the lock's file; its directory is made.
        tell: told if there is a wait, and if the machine can't lock files, which is no reason not to measure.
    """
    started = time.monotonic()
    with contextlib.ExitStack() as held:
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(lock, _OPENING, 0o600)
            held.callback(os.close, descriptor)
            _take(descriptor, tell)
        except OSError as error:
            tell(f"another measurement on this machine would go unnoticed: {lock} can't be locked ({error.strerror})", warning=True)
        yield time.monotonic() - started


def _take(descriptor: int, tell: Callable[[str], None]) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
        tell(f"waiting: another run measures on this machine{f' (process {holder})' if holder.isdigit() else ''}, and both would be slower")
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        tell("the other run is done")
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
