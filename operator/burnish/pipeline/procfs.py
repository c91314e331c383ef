"""Reads what the kernel says about processes: who descends from whom, and how much memory each one holds.

Everything here may race with a process that ends in the middle: a process that is gone counts as having no children and no memory.
"""

from __future__ import annotations

import os
from pathlib import Path

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    except OSError:
        return ""


def _stat_fields(pid: int) -> list[str]:
    """Fields of /proc/<pid>/stat from the state on: state, ppid, pgrp, session, ... (proc(5)); the name before may hold anything."""
    return _read(pid, "stat").rpartition(")")[2].split()


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208  names are all that is needed, ten times a second


def _children(pid: int) -> list[int]:
    """Direct children, by the `children` file of each thread (a child belongs to the thread that forked it)."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208
    except OSError:
        return []
    return [int(child) for thread in threads for child in _read(pid, f"task/{thread}/children").split()]


def _children_by_scan(pid: int) -> list[int]:
    return [other for other in _pids() if (fields := _stat_fields(other)) and int(fields[1]) == pid]


_children_of = _children if Path("/proc/self/task", str(os.getpid()), "children").exists() else _children_by_scan
"""Kernels without CONFIG_PROC_CHILDREN are asked the long way."""


def children(pid: int) -> list[int]:
    """Process ids of the direct children of `pid`, zombies included."""
    return _children_of(pid)


def descendants(pid: int) -> list[int]:
    """Process ids of all descendants of `pid`, parents before their children."""
    found = children(pid)
    for child in found:  # grows while it is walked
        found.extend(children(child))
    return found


def session_members(session: int) -> list[int]:
    """Process ids of the living processes of a session, in no order; zombies are left out."""
    table = ((pid, _stat_fields(pid)) for pid in _pids())
    return [pid for pid, fields in table if fields and int(fields[3]) == session and fields[0] not in "ZX"]


def anonymous_bytes(pid: int) -> int:
    """Resident memory of a process that it shares with no file and no other process: RSS minus shared, of /proc/<pid>/statm."""
    fields = _read(pid, "statm").split()
    return (int(fields[1]) - int(fields[2])) * _PAGE_BYTES if fields else 0


def peak_resident_bytes(pid: int) -> int | None:
    """Largest resident memory a process ever had (VmHWM), shared pages included; None where it can't be read."""
    for line in _read(pid, "status").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None


def command_line(pid: int) -> list[str]:
    """Arguments of a process; empty for a zombie."""
    return _read(pid, "cmdline").split("\0")[:-1]
