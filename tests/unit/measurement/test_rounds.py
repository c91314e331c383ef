"""The engine against a server whose models' latencies are known by design."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest

from burnish import names
from burnish.api.v1alpha1.optimized_model import Load
from burnish.errors import BurnishError, Reason
from burnish.measurement import summary
from burnish.measurement.client import TritonClient
from burnish.measurement.rounds import LoadMeasurement, RoundProgress, Schedule, measure_load

QUICK = Schedule(first_look=6, look_every=2, max_rounds=12, requests_per_block=5, min_block_seconds=0.005, warm_up_seconds=0.03)


def measure(
    server, load: Load | None = None, *, decided=lambda trace: True, seconds: float = 60.0, timeout_s: float = 5.0, **options
) -> LoadMeasurement:
    client = TritonClient(server.url, timeout_s)
    requests = {name: [client.prepare(name, {"x": np.full((1, 4), i, dtype=np.float32)}) for i in range(3)] for name in server.models}
    options = {"schedule": QUICK} | options
    return measure_load(client, load or Load(name="single"), requests, decided=decided, deadline=time.monotonic() + seconds, **options)


def test_speedup_is_that_of_the_models(v2_server, model) -> None:
    v2_server.models |= {names.BASELINE: model(0.008), "int8": model(0.004)}
    found = measure(v2_server, decided=lambda trace: trace.rounds >= 12)
    speed = summary.summarize_speed(found.trace, "int8")
    assert found.failed == {}
    assert found.trace.ended == "decided"
    assert 1.5 < 1 / speed.ratio.estimate < 2.3
    assert speed.compute_speedup == pytest.approx(2, rel=0.01)
    assert found.trace.sides["int8"].compute_us == pytest.approx(4000, rel=0.01)
    assert summary.summarize_latency(found.trace, names.BASELINE).p50.estimate == pytest.approx(8, rel=0.4)


def test_every_round_has_one_block_of_every_model_in_shuffled_order(v2_server, model) -> None:
    v2_server.models |= {name: model(0.001) for name in (names.BASELINE, "a", "b")}
    starts: list[int] = []
    found = measure(v2_server, decided=lambda trace: False, progress=lambda _: starts.append(len(v2_server.requests)))
    assert found.trace.rounds == 12
    orders = set()
    for begin, end in itertools.pairwise(starts):
        blocks = [name for i, name in enumerate(v2_server.requests[begin:end]) if i == 0 or v2_server.requests[begin + i - 1] != name]
        assert sorted(blocks) == ["a", "b", names.BASELINE]
        orders.add(tuple(blocks))
    assert len(orders) > 2
    for side in found.trace.sides.values():
        assert len(side.latencies_ms) == len(side.throughput_per_second) == 12
        assert min(len(block) for block in side.latencies_ms) >= 3


def test_block_lasts_as_long_as_enough_requests_of_the_baseline(v2_server, model) -> None:
    v2_server.models |= {names.BASELINE: model(0.006)}
    found = measure(v2_server)
    assert 5 * 0.006 <= found.trace.block_seconds < 5 * 0.006 * 1.6
    assert 4 <= np.median([len(block) for block in found.trace.sides[names.BASELINE].latencies_ms]) <= 6


def test_concurrency_multiplies_throughput_and_batch_counts_samples(v2_server, model) -> None:
    v2_server.models |= {names.BASELINE: model(0.02)}
    one = measure(v2_server, Load(name="one"))
    four = measure(v2_server, Load(name="four", concurrency=4, batch_size=8))
    rates = [np.median(found.trace.sides[names.BASELINE].throughput_per_second) for found in (one, four)]
    assert rates[1] / rates[0] == pytest.approx(4 * 8, rel=0.25)
    assert min(len(block) for block in four.trace.sides[names.BASELINE].latencies_ms) >= 4 * 3


def test_looks_are_few_and_decided_ends_the_rounds(v2_server, model) -> None:
    v2_server.models |= {names.BASELINE: model(0.001)}
    looks: list[int] = []

    def decided(trace) -> bool:
        looks.append(trace.rounds)
        return trace.rounds >= 10

    found = measure(v2_server, decided=decided)
    assert looks == [6, 8, 10]
    assert (found.trace.rounds, found.trace.ended) == (10, "decided")


def test_undecided_ends_by_rounds_or_by_time(v2_server, model) -> None:
    v2_server.models |= {names.BASELINE: model(0.001)}
    assert measure(v2_server, decided=lambda trace: False).trace.ended == "rounds"
    started = time.monotonic()
    slow = Schedule(first_look=6, max_rounds=10_000, warm_up_seconds=0.03)
    late = measure(v2_server, decided=lambda trace: False, seconds=0.6, schedule=slow)
    assert late.trace.ended == "time"
    assert 0 < late.trace.rounds < 10_000
    assert time.monotonic() - started < 3


def test_void_rounds_are_dropped_counted_and_replaced(v2_server, model) -> None:
    v2_server.models |= {names.BASELINE: model(0.001)}
    found = measure(v2_server, decided=lambda trace: False, void=lambda number: number % 3 == 0)
    assert (found.trace.rounds, found.trace.voided_rounds) == (12, 6)
    assert len(found.trace.sides[names.BASELINE].latencies_ms) == 12


def test_voiding_every_round_ends(v2_server, model) -> None:
    v2_server.models |= {names.BASELINE: model(0.001)}
    found = measure(v2_server, void=lambda number: True)
    assert (found.trace.rounds, found.trace.voided_rounds, found.trace.ended) == (0, 24, "rounds")


@pytest.mark.parametrize("fail_after", [0, 60])
def test_failing_candidate_is_dropped_with_its_words_and_the_others_go_on(v2_server, model, fail_after: int) -> None:
    v2_server.models |= {names.BASELINE: model(0.002), "good": model(0.001), "bad": model(0.001, fail_after=fail_after)}
    found = measure(v2_server, decided=lambda trace: False)
    assert found.failed == {"bad": "Stub process is not healthy"}
    assert set(found.trace.sides) == {names.BASELINE, "good"}
    assert {len(side.latencies_ms) for side in found.trace.sides.values()} == {12}


def test_candidate_that_falls_silent_is_dropped(v2_server, model) -> None:
    v2_server.models |= {names.BASELINE: model(0.002), "bad": model(0.002, hang_after=20)}
    found = measure(v2_server, timeout_s=0.4)
    assert "no answer within 0.4 s" in found.failed["bad"]
    assert set(found.trace.sides) == {names.BASELINE}


def test_candidate_that_answers_nothing_is_dropped(v2_server, model) -> None:
    v2_server.models |= {names.BASELINE: model(0.002), "bad": model(0.002, empty=True)}
    assert "can't be read" in measure(v2_server).failed["bad"]


def test_failing_baseline_ends_the_measurement(v2_server, model) -> None:
    v2_server.models |= {names.BASELINE: model(0.001, fail_after=80), "good": model(0.001)}
    with pytest.raises(BurnishError, match="not healthy") as caught:
        measure(v2_server, decided=lambda trace: False)
    assert caught.value.reason is Reason.BaselineFailed


@pytest.mark.parametrize("concurrency", [1, 3])
def test_lost_server_voids_everything(v2_server, model, concurrency: int) -> None:
    v2_server.models |= {names.BASELINE: model(0.001), "good": model(0.001)}
    v2_server.on_request = lambda name: v2_server.vanish() if v2_server.models["good"].count == 60 and name == "good" else None
    with pytest.raises(BurnishError) as caught:
        measure(v2_server, Load(name="x", concurrency=concurrency), decided=lambda trace: False)
    assert caught.value.reason is Reason.ServerLost
    assert caught.value.retriable


def test_restarted_server_voids_everything(v2_server, model) -> None:
    """The process is back and answers, but it is not the one that the earlier rounds met."""
    v2_server.models |= {names.BASELINE: model(0.001), "good": model(0.001)}

    def cut(name: str) -> None:
        if v2_server.models["good"].count == 60:
            v2_server.cut_connections()

    v2_server.on_request = cut
    with pytest.raises(BurnishError, match="restarted") as caught:
        measure(v2_server, decided=lambda trace: False)
    assert caught.value.reason is Reason.ServerLost


def test_progress_tells_rounds_and_medians(v2_server, model) -> None:
    v2_server.models |= {names.BASELINE: model(0.002), "a": model(0.001)}
    seen: list[RoundProgress] = []
    measure(v2_server, progress=seen.append)
    assert [p.rounds for p in seen] == [1, 2, 3, 4, 5, 6]
    assert set(seen[0].medians_ms) == {names.BASELINE, "a"}
    assert seen[-1].medians_ms[names.BASELINE] > 1.9


def test_kept_latencies_of_a_block_are_capped_and_keep_their_distribution(v2_server, model) -> None:
    v2_server.models |= {names.BASELINE: model()}
    schedule = Schedule(first_look=2, min_block_seconds=0.2, warm_up_seconds=0.03, kept_per_block=20)
    blocks = measure(v2_server, schedule=schedule).trace.sides[names.BASELINE]
    assert {len(block) for block in blocks.latencies_ms} == {20}
    assert blocks.throughput_per_second[0] * 0.2 > 20


def test_measuring_without_the_baseline_is_a_mistake(v2_server, model) -> None:
    v2_server.models["a"] = model()
    with pytest.raises(ValueError, match="baseline"):
        measure(v2_server)
