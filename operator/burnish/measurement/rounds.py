"""The engine: interleaved rounds against one server, until the question is decided or the budget is spent.

In each round every model gets one block of requests, in shuffled order, so that whatever the machine does in the meantime meets all of them.
A block lasts a fixed time, the same for every model. The engine knows nothing of limits: after 40 rounds, and then after every 20, it asks
`decided`; few looks, because each one is another chance to be wrong.
"""

from __future__ import annotations

import dataclasses
import math
import random
import statistics as stdlib_statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait

from burnish import names
from burnish.api.job_contract import LoadTrace, SideTrace
from burnish.api.v1alpha1.optimized_model import Load
from burnish.errors import BurnishError, Reason
from burnish.measurement.client import ModelError, ModelStatistics, PreparedRequest, RequestTimeoutError, ServerUnreachableError, TritonClient, decode


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How rounds are made; the defaults are those that were tried."""

    first_look: int = 40
    """Rounds before `decided` is asked for the first time."""
    look_every: int = 20
    max_rounds: int = 400
    requests_per_block: int = 25
    """Of the baseline; sets the blocks' duration."""
    requests_per_worker: int = 3
    """At least, in every block, however long it takes."""
    min_block_seconds: float = 0.02
    max_block_seconds: float = 2.0
    warm_up_seconds: float = 0.5
    """Per model, twice: the first shakes out what only happens once, the second gives the latency that sets the blocks' duration."""
    kept_per_block: int = 512
    """Latencies kept of a block. Of more, evenly spaced ranks are kept: 400 rounds of 4 models then stay below a million numbers."""


@dataclasses.dataclass(frozen=True)
class RoundProgress:
    """What a progress display may show after a round."""

    load: str
    rounds: int
    voided_rounds: int
    max_rounds: int
    seconds_left: float
    medians_ms: Mapping[str, float]
    """Model -> median latency in this round, milliseconds."""


@dataclasses.dataclass(frozen=True)
class LoadMeasurement:
    """The rounds, and who did not make it through them."""

    trace: LoadTrace
    failed: Mapping[str, str]
    """Candidate -> why it was dropped, in Triton's words. A dropped candidate is not in `trace`."""


def measure_load(
    client: TritonClient,
    load: Load,
    requests: Mapping[str, Sequence[PreparedRequest]],
    *,
    decided: Callable[[LoadTrace], bool],
    deadline: float,
    void: Callable[[int], bool] | None = None,
    progress: Callable[[RoundProgress], None] | None = None,
    seed: int = 0,
    schedule: Schedule | None = None,
) -> LoadMeasurement:
    """Measure all models of `requests` at one load point. Closes the client's connections at the end (the next `send` opens a new one).

    Args:
        client: of the server that has them all loaded.
        load: batch size (samples per request, for throughput) and concurrency (closed loop: so many workers, each waits for its answer).
        requests: model -> its requests, cycled through; every round starts at the same request for every model. Must hold the baseline; with
            the baseline alone it is measured alone.
        decided: asked with the rounds so far; True ends the measurement.
        deadline: `time.monotonic()` at which no further round starts. Fewer than 40 rounds are what there is then, maybe none.
        void: asked after each round with its number; True drops the round (CFS throttling hit it).
        progress: called after each round that counts.
        seed: of the shuffling.
        schedule: how rounds are made.

    Raises:
        BurnishError: BaselineFailed; ServerLost: the connection broke or the server is not alive, so the samples are void.
        ValueError: no baseline in `requests`.
    """
    if names.BASELINE not in requests or not all(requests.values()):
        raise ValueError("measuring needs the baseline, and at least one request for every model")
    try:
        with ThreadPoolExecutor(load.concurrency, thread_name_prefix="load") as pool:
            measurement = _Measurement(client, load, requests, schedule or Schedule(), pool, deadline)
            return measurement.run(decided, void, progress, random.Random(seed))  # noqa: S311  # shuffles, hides nothing
    finally:
        client.close()  # the workers' connections end with the workers


@dataclasses.dataclass
class _Side:
    """One model: its requests, and what was seen of it."""

    requests: Sequence[PreparedRequest]
    latencies_ms: list[tuple[float, ...]] = dataclasses.field(default_factory=list)
    per_second: list[float] = dataclasses.field(default_factory=list)
    counters: ModelStatistics = dataclasses.field(default_factory=ModelStatistics)
    """At the start of the rounds."""
    compute_us: float | None = None


@dataclasses.dataclass(frozen=True)
class _Block:
    latencies_ms: list[float]
    per_second: float


class _Measurement:
    """The state of one `measure_load`."""

    def __init__(
        self,
        client: TritonClient,
        load: Load,
        requests: Mapping[str, Sequence[PreparedRequest]],
        schedule: Schedule,
        pool: ThreadPoolExecutor,
        deadline: float,
    ) -> None:
        self.client, self.load, self.schedule, self.pool, self.deadline = client, load, schedule, pool, deadline
        self.sides = {name: _Side(prepared) for name, prepared in requests.items()}
        self.failed: dict[str, str] = {}
        self.voided = self.rounds = 0
        self.block_seconds = schedule.min_block_seconds

    def run(
        self,
        decided: Callable[[LoadTrace], bool],
        void: Callable[[int], bool] | None,
        progress: Callable[[RoundProgress], None] | None,
        shuffler: random.Random,
    ) -> LoadMeasurement:
        self._warm_up()
        ended = "rounds"
        # Voided rounds are replaced, but not for ever.
        for number in range(2 * self.schedule.max_rounds):
            if time.monotonic() >= self.deadline:
                ended = "time"
                break
            blocks = self._round(number, shuffler)
            if void and void(number):
                self.voided += 1
                continue
            self._keep(blocks)
            if progress:
                progress(self._progress(blocks))
            if self._is_look() and decided(self._trace("decided")):
                ended = "decided"
                break
            if self.rounds >= self.schedule.max_rounds:
                break
        self._attempt_each(self._read_counters)
        return LoadMeasurement(self._trace(ended), self.failed)

    def _warm_up(self) -> None:
        def warm_up(name: str, side: _Side) -> None:
            decode(self.client.send(side.requests[0]))  # a backend may answer 200 with nothing in it
            self._block(side, 0, self.schedule.warm_up_seconds)
            again = self._block(side, 0, self.schedule.warm_up_seconds)
            if name == names.BASELINE:
                self.block_seconds = self._block_duration(stdlib_statistics.median(again.latencies_ms) / 1e3)
            side.counters = self.client.statistics(name)

        self._attempt_each(warm_up)

    def _block_duration(self, latency_s: float) -> float:
        """So long that the baseline gets about 25 requests, and so short that 40 rounds fit into the time that is left."""
        per_worker = max(self.schedule.requests_per_block / self.load.concurrency, self.schedule.requests_per_worker)
        fitting = (self.deadline - time.monotonic()) / (self.schedule.first_look * len(self.sides))
        longest = max(self.schedule.min_block_seconds, min(self.schedule.max_block_seconds, fitting))
        return min(max(per_worker * latency_s, self.schedule.min_block_seconds), longest)

    def _round(self, number: int, shuffler: random.Random) -> dict[str, _Block]:
        blocks: dict[str, _Block] = {}

        def measure(name: str, side: _Side) -> None:
            blocks[name] = self._block(side, number * self.schedule.requests_per_block, self.block_seconds)

        order = list(self.sides)
        shuffler.shuffle(order)
        self._attempt_each(measure, order)
        return blocks

    def _block(self, side: _Side, first: int, seconds: float) -> _Block:
        minimum, workers = self.schedule.requests_per_worker, self.load.concurrency
        futures = [self.pool.submit(_work, self.client, side.requests, first + worker, workers, seconds, minimum) for worker in range(workers)]
        wait(futures)
        results = [future.result() for future in futures]
        # A worker's own rate has no idle end; workers that end early would make count/duration of the whole block too low.
        rate = sum(len(latencies) / duration for latencies, duration in results)
        return _Block([latency * 1e3 for latencies, _ in results for latency in latencies], rate * self.load.batch_size)

    def _attempt_each(self, action: Callable[[str, _Side], None], order: Sequence[str] | None = None) -> None:
        """Do something with every model; a candidate that fails is dropped, anything else that fails ends the measurement."""
        for name in order or list(self.sides):
            try:
                action(name, self.sides[name])
            except (ModelError, ServerUnreachableError) as error:
                self._judge_failure(name, error)

    def _judge_failure(self, name: str, error: ModelError | ServerUnreachableError) -> None:
        if not self.client.is_live():
            raise BurnishError(Reason.ServerLost, f"Triton was lost while {name} was measured: {error}") from error
        if not isinstance(error, (ModelError, RequestTimeoutError)):
            raise BurnishError(Reason.ServerLost, f"Triton closed a connection while {name} was measured, it may have restarted: {error}") from error
        if name == names.BASELINE:
            raise BurnishError(Reason.BaselineFailed, f"the baseline does not answer requests: {error}") from error
        self.failed[name] = str(error)
        del self.sides[name]

    def _keep(self, blocks: Mapping[str, _Block]) -> None:
        self.rounds += 1
        for name, side in self.sides.items():
            side.latencies_ms.append(_thinned(blocks[name].latencies_ms, self.schedule.kept_per_block))
            side.per_second.append(blocks[name].per_second)

    def _is_look(self) -> bool:
        since = self.rounds - self.schedule.first_look
        return since >= 0 and since % self.schedule.look_every == 0

    def _read_counters(self, name: str, side: _Side) -> None:
        added = self.client.statistics(name).since(side.counters)
        side.compute_us = added.compute_infer_ns / added.success_count / 1e3 if added.success_count > 0 else None

    def _progress(self, blocks: Mapping[str, _Block]) -> RoundProgress:
        medians = {name: stdlib_statistics.median(blocks[name].latencies_ms) for name in self.sides}
        left = max(0.0, self.deadline - time.monotonic())
        return RoundProgress(self.load.name, self.rounds, self.voided, self.schedule.max_rounds, left, medians)

    def _trace(self, ended: str) -> LoadTrace:
        sides = {
            name: SideTrace(latencies_ms=tuple(side.latencies_ms), throughput_per_second=tuple(side.per_second), compute_us=side.compute_us)
            for name, side in self.sides.items()
        }
        return LoadTrace(load=self.load, rounds=self.rounds, voided_rounds=self.voided, block_seconds=self.block_seconds, sides=sides, ended=ended)


def _work(
    client: TritonClient, requests: Sequence[PreparedRequest], first: int, step: int, seconds: float, minimum: int
) -> tuple[list[float], float]:
    """One worker's block: (latencies, time from its first request to its last answer), seconds. The loop does nothing else."""
    send, clock, count = client.send, time.perf_counter, len(requests)
    latencies: list[float] = []
    index = first
    start = done = clock()
    end = start + seconds
    while done < end or len(latencies) < minimum:
        request = requests[index % count]
        sent = clock()
        send(request)
        done = clock()
        latencies.append(done - sent)
        index += step
    return latencies, done - start


def _thinned(latencies_ms: list[float], most: int) -> tuple[float, ...]:
    """At most `most` latencies with the same distribution: of more, evenly spaced ranks. Rounded to 0.1 us, far below what a clock tells."""
    if len(latencies_ms) > most:
        ranked = sorted(latencies_ms)
        latencies_ms = [ranked[math.floor((i + 0.5) * len(ranked) / most)] for i in range(most)]
    return tuple(round(latency, 4) for latency in latencies_ms)
