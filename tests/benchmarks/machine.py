"""The machine that figures belong to: what it is, what else it was doing, and which of its CPUs a benchmark keeps to."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from burnish.pipeline import machine
from burnish.serving import images

ROOT = Path(__file__).resolve().parents[2]

_CODE = ("operator", "examples", "tests/benchmarks", "requirements")
_FIGURES = "tests/benchmarks/results"


def describe() -> dict[str, Any]:
    """What stands beside every figure. No host name and no path: the page is public."""
    facts = machine.facts()
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "revision": _revision(),
        "cpu": facts.cpu_model,
        "isa": list(machine.hardware_class().isa),
        "cpus": facts.cpus,
        "memoryGiB": round(facts.memory_bytes / 2**30, 1),
        "kernel": facts.kernel,
        "python": platform.python_version(),
        "onnxruntime": version("onnxruntime"),
        "triton": images.LOCAL_CPU.triton,
    }


def load_average() -> float:
    """Processes that wanted a CPU, averaged over the last minute: ours, and whatever disturbed us."""
    return round(os.getloadavg()[0], 2)


@contextlib.contextmanager
def kept_to(cpus: Sequence[int]) -> Iterator[None]:
    """Run on these CPUs only, and on all that we had before again afterwards: a server that is started later takes the last of *ours*."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def end_cleanly_on_sigterm() -> None:
    """Let SIGTERM unwind as Ctrl-C does, so that no server is left behind."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


def _revision() -> str:
    """The commit, with `+` where the code that is measured differs from it."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", *_CODE, f":!{_FIGURES}")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
