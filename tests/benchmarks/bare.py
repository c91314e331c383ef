"""Models measured bare: open sessions in one process, on one CPU, in interleaved blocks."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence

import numpy as np

from burnish.measurement import statistics
from burnish.measurement.statistics import Interval
from burnish.plugins.base import Session

FEEDS = 16
BLOCK_SECONDS = 0.02
MIN_REQUESTS = 3


def measure(sessions: Mapping[str, Session], feeds: Sequence[Mapping[str, np.ndarray]], rounds: int) -> dict[str, np.ndarray]:
    """Session -> median seconds per round; in each round every session gets one block, in shuffled order."""
    shuffler, order = random.Random(0), list(sessions)  # shuffles, hides nothing
    blocks: dict[str, list[list[float]]] = {name: [] for name in sessions}
    for session in sessions.values():
        _block(session, feeds, 0.5)
    for _ in range(rounds):
        shuffler.shuffle(order)
        for name in order:
            blocks[name].append(_block(sessions[name], feeds, BLOCK_SECONDS))
    return {name: statistics.block_medians(found) for name, found in blocks.items()}


def interval(found: Interval) -> dict[str, float]:
    """As it stands in the results."""
    return {"estimate": round(found.estimate, 4), "low": round(found.low, 4), "high": round(found.high, 4)}


def _block(session: Session, feeds: Sequence[Mapping[str, np.ndarray]], seconds: float) -> list[float]:
    clock = time.perf_counter
    times: list[float] = []
    end = clock() + seconds
    while clock() < end or len(times) < MIN_REQUESTS:
        feed = feeds[len(times) % len(feeds)]
        started = clock()
        session.infer(feed)
        times.append(clock() - started)
    return times
