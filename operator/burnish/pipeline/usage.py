"""What a step took: seconds, and the most memory that its own process held.

The peak is the kernel's own high-water mark, so no short peak is missed. It holds the libraries' pages too, also where other processes share them,
and not what child processes held. A `Meter` inside another one's time starts the mark anew; the outer one keeps what was seen before.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from burnish.api.job_contract import Usage
from burnish.pipeline import procfs

_CLEAR_PEAK = "5"  # proc_pid_clear_refs(5): resets the peak of the resident set


class Meter:
    """Measures from its making until `read`. One inside another; not side by side."""

    _highest = 0
    """Of this process, before the mark was last reset."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._resets = _restart()

    def read(self) -> Usage:
        """What was used so far; without memory where the kernel doesn't tell it, or can't start the mark anew."""
        seconds = round(time.monotonic() - self._started, 2)
        return Usage(seconds=seconds, peak_memory_bytes=_peak() if self._resets else None)


def of_process(started: float) -> Usage:
    """Of this whole process.

    Args:
        started: when its work began, on the monotonic clock.
    """
    peak = _peak()
    return Usage(seconds=round(time.monotonic() - started, 2), peak_memory_bytes=None if peak is None else max(peak, Meter._highest))


def _peak() -> int | None:
    return procfs.peak_resident_bytes(os.getpid())


def _restart() -> bool:
    Meter._highest = max(Meter._highest, _peak() or 0)
    try:
        Path("/proc/self/clear_refs").write_text(_CLEAR_PEAK)
    except OSError:
        return False
    return True
