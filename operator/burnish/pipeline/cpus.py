"""How many CPUs this process may use: by affinity, and by the quota of its control group, which a container's limit is."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")


def usable() -> int:
    """At least one; a fraction of a CPU counts as one."""
    allowed = len(os.sched_getaffinity(0))
    quota = _quota()
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def _quota() -> float | None:
    """CPUs by the CFS quota, of version 2 or 1, as a container sees its own group at the root; None where there is no limit."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = (_ROOT / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    with contextlib.suppress(OSError, ValueError):
        quota_us = int((_ROOT / "cpu" / "cpu.cfs_quota_us").read_text())
        return None if quota_us <= 0 else quota_us / int((_ROOT / "cpu" / "cpu.cfs_period_us").read_text())
    return None
