"""What a step took: peaks are seen, each piece of work has its own, and the process keeps the largest."""

from __future__ import annotations

import subprocess
import sys
import time

from burnish.api.job_contract import StepName, Usage
from burnish.pipeline import usage
from burnish.pipeline.workdir import WorkDir

MIB = 2**20
SCRIPT = """
import time
from burnish.pipeline import usage
started = time.monotonic()
def take(mib):
    held = bytearray(mib * 2**20)  # zeros that nobody touched take no memory
    held[::4096] = b"1" * len(held[::4096])
before = usage.of_process(started)
large = usage.Meter(); take(200); first = large.read()
small = usage.Meter(); take(20); second = small.read()
print(before.peak_memory_bytes, first.peak_memory_bytes, second.peak_memory_bytes, usage.of_process(started).peak_memory_bytes)
"""


def test_each_piece_of_work_has_its_own_peak_and_the_process_the_largest() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    before, large, small, whole = map(int, done.stdout.split())
    assert large >= before + 150 * MIB
    assert small < large - 100 * MIB
    assert whole == large


def test_seconds_count_from_the_start() -> None:
    meter, started = usage.Meter(), time.monotonic() - 5
    assert meter.read().seconds < 1
    assert 5 <= usage.of_process(started).seconds < 6


def test_memory_is_unknown_where_the_mark_can_not_be_reset(monkeypatch) -> None:
    monkeypatch.setattr(usage, "_restart", lambda: False)
    assert usage.Meter().read().peak_memory_bytes is None


def test_usage_comes_back_as_saved_and_is_none_until_then(tmp_path) -> None:
    work = WorkDir(tmp_path)
    assert work.load_usage(StepName.export) is None
    work.save_usage(StepName.export, Usage(seconds=1.5, peak_memory_bytes=7))
    assert work.load_usage(StepName.export) == Usage(seconds=1.5, peak_memory_bytes=7)
