"""A work queue over keys, as every controller has one: a key that is waiting is there once, one that is worked on waits until that is done.

What arrives while a key is worked on is not lost: it runs once more afterwards. Failures back off per key, so that one resource in trouble costs
the others nothing. A key that was never worked on goes before those that were: of a thousand resources that appear at once each starts, before
what the first ones did meanwhile is looked at.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from typing import Generic, TypeVar

K = TypeVar("K")

FIRST_RETRY_SECONDS = 0.2
MAX_RETRY_SECONDS = 60.0


class WorkQueue(Generic[K]):
    """Keys to work on: new ones first, then in the order in which they came. Not thread-safe; one event loop."""

    def __init__(self) -> None:
        self._ready: asyncio.PriorityQueue[tuple[bool, int, K]] = asyncio.PriorityQueue()
        self._count = itertools.count()
        self._known: set[K] = set()
        """What was worked on before."""
        self._waiting: dict[K, float] = {}
        """Ready -> since when (monotonic)."""
        self._active: dict[K, float] = {}
        self._again: set[K] = set()
        self._later: dict[K, tuple[float, asyncio.TimerHandle]] = {}
        self._failures: dict[K, int] = {}

    def __len__(self) -> int:
        """Keys that wait for a worker."""
        return len(self._waiting)

    @property
    def oldest_seconds(self) -> float:
        """How long the longest has waited, or been worked on."""
        now = time.monotonic()
        return max((now - since for since in (*self._waiting.values(), *self._active.values())), default=0.0)

    def add(self, key: K) -> None:
        """Work on it now."""
        if key in self._active:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting[key] = time.monotonic()
            self._ready.put_nowait((key in self._known, next(self._count), key))

    def add_after(self, key: K, seconds: float) -> None:
        """Work on it later, if nothing does before; the earlier of two times holds."""
        loop = asyncio.get_running_loop()
        due = loop.time() + seconds
        if (known := self._later.get(key)) is not None:
            if known[0] <= due:
                return
            known[1].cancel()
        self._later[key] = (due, loop.call_later(seconds, self._is_due, key))

    async def get(self) -> tuple[K, float]:
        """The next key, and how many seconds it waited; `done` must follow."""
        _, _, key = await self._ready.get()
        now = time.monotonic()
        waited = now - self._waiting.pop(key)
        self._active[key] = now
        self._known.add(key)
        if (later := self._later.pop(key, None)) is not None:
            later[1].cancel()
        return key, waited

    def done(self, key: K) -> None:
        """It has been worked on."""
        self._active.pop(key, None)
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    def succeeded(self, key: K) -> None:
        """Its next failure is its first."""
        self._failures.pop(key, None)

    def forget(self, key: K) -> None:
        """It is gone."""
        self._known.discard(key)

    def retry(self, key: K) -> float:
        """Work on it again after a while that grows with each failure. Returns that while, in seconds."""
        count = self._failures[key] = self._failures.get(key, 0) + 1
        seconds = min(MAX_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2.0 ** min(count - 1, 16)) * random.uniform(0.8, 1.2)  # noqa: S311  # jitter
        self.add_after(key, seconds)
        return seconds

    def _is_due(self, key: K) -> None:
        self._later.pop(key, None)
        self.add(key)
