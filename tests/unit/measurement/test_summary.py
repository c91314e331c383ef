"""The summary holds what the traces say, for compared, identical, failed and absent candidates."""

from __future__ import annotations

import numpy as np
import pytest

from burnish import names
from burnish.api.job_contract import ArtifactRef, Evaluated, LoadTrace, SideFacts, SideTrace
from burnish.api.v1alpha1.optimized_model import Load
from burnish.measurement import equivalence, statistics, summary


def facts(content: str) -> SideFacts:
    return SideFacts(
        artifact=ArtifactRef(digest="sha256:" + "0" * 64, size_bytes=1, stored_bytes=1, content_digest="sha256:" + content * 64), loaded=True
    )


def trace(load: str, rounds: int = 30, **factors: float) -> LoadTrace:
    rng = np.random.default_rng(1)
    sides = {}
    for name, factor in factors.items():
        blocks = tuple(map(tuple, (factor * rng.lognormal(2, 0.1, (rounds, 8))).tolist()))
        sides[name] = SideTrace(latencies_ms=blocks, throughput_per_second=(100 / factor,) * rounds, compute_us=1000 * factor)
    return LoadTrace(load=Load(name=load), rounds=rounds, block_seconds=0.1, sides=sides)


SIDES = {names.BASELINE: facts("a"), "fast": facts("b"), "same": facts("a"), "gone": facts("c")}


def test_summary_holds_every_figure_of_every_candidate() -> None:
    loads = [trace("single", baseline=1, fast=0.5), trace("busy", baseline=2, fast=1)]
    scores = Evaluated(metric="Accuracy", decode="ArgMax", output="y", baseline=(1.0,) * 100, candidate=(1.0,) * 98 + (0.0,) * 2)
    output = np.eye(4)
    differences = equivalence.compare({"y": output}, {"y": output * 0.9})
    found = summary.summarize(SIDES, loads, {"fast": scores}, (1.0,) * 100, {"fast": differences})
    fast = found.candidates["fast"]
    assert [s.load for s in fast.speeds] == [latency.load for latency in fast.latencies] == ["single", "busy"]
    assert fast.speeds[0].ratio.low < 0.5 < fast.speeds[0].ratio.high
    assert fast.speeds[0].compute_speedup == 2
    assert fast.score is not None
    assert (fast.score.drop, fast.score.samples) == (0.02, 100)
    assert fast.score.high == statistics.binary_drop(2, 0, 100).high
    assert fast.equivalence is not None
    assert fast.equivalence.worst_cosine == pytest.approx(1)
    assert fast.equivalence.max_absolute_error == pytest.approx(0.1)
    assert (found.baseline_score, found.samples) == (1.0, 100)
    assert found.baseline_latencies[1].p50.estimate == pytest.approx(2 * np.exp(2), rel=0.05)
    assert (found.baseline_latencies[0].rounds, found.baseline_latencies[0].requests, found.baseline_latencies[0].throughput_per_second) == (
        30,
        240,
        100,
    )
    assert type(found).model_validate_json(found.model_dump_json()) == found


def test_identical_candidate_has_the_baselines_figures_and_exactly_one() -> None:
    found = summary.summarize(SIDES, [trace("single", baseline=1, fast=0.5)], {}, (1.0, 0.0), {})
    same = found.candidates["same"]
    assert same.identical
    assert same.latencies == found.baseline_latencies
    assert (same.speeds[0].ratio.low, same.speeds[0].ratio.high) == (1, 1)
    assert same.score is not None
    assert (same.score.candidate, same.score.drop, same.score.high) == (0.5, 0, 0)


def test_candidate_without_traces_has_no_figures() -> None:
    gone = summary.summarize(SIDES, [trace("single", baseline=1, fast=0.5)], {}, (), {}).candidates["gone"]
    assert (gone.latencies, gone.speeds, gone.score, gone.equivalence, gone.identical) == ((), (), None, None, False)


def test_speed_at_another_load_never_stands_for_the_first() -> None:
    empty = LoadTrace(
        load=Load(name="single"),
        rounds=0,
        block_seconds=0.1,
        sides={n: SideTrace(latencies_ms=(), throughput_per_second=()) for n in (names.BASELINE, "fast")},
    )
    found = summary.summarize(SIDES, [empty, trace("busy", baseline=1, fast=0.5)], {}, (), {})
    assert found.candidates["fast"].speeds == ()
    assert [latency.load for latency in found.candidates["fast"].latencies] == ["busy"]
