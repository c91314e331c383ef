"""Prometheus metrics of the controller: what it does, how long that takes, what waits, what came of Jobs, and the latencies that were measured.

Names of objects are labels only where a figure is an object's own (a target's latency), and then for a bounded number of targets: a metrics store
must not grow with a tenant's loop that makes resources.
"""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Callable, Iterable
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from burnish.api.scalars import duration_seconds
from burnish.api.v1alpha1.status import LatencyStatus, Served, Status, TargetStatus
from burnish.reconcile.observed import Key

MAX_TARGETS = 500
_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60)


class Metrics:
    """All of them, in a registry of their own."""

    def __init__(self, waiting: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        self.reconciles = Counter("burnish_reconciles", "Reconciles by how they ended (done, failed).", ["result"], registry=self.registry)
        self.seconds = Histogram("burnish_reconcile_seconds", "Duration of a reconcile.", buckets=_BUCKETS, registry=self.registry)
        self.waited = Histogram("burnish_queue_wait_seconds", "Time from a change to its reconcile.", buckets=_BUCKETS, registry=self.registry)
        depth = Gauge("burnish_queue_depth", "Resources that wait for a reconcile.", registry=self.registry)
        depth.set_function(lambda: float(waiting()))
        self.jobs = Counter(
            "burnish_jobs", "Jobs that ended, by component (resolve, pipeline) and outcome.", ["component", "outcome"], registry=self.registry
        )
        self.leader = Gauge("burnish_leader", "1 while this process holds the lease.", registry=self.registry)
        self.targets = TargetMetrics()
        self.registry.register(self.targets)


class _Measured(NamedTuple):
    """What is shown of one target."""

    target: str
    state: str
    latencies: tuple[tuple[str, str, float, float], ...]
    """Load, whose, p50 and p99 in seconds."""
    speedups: tuple[tuple[str, float], ...]
    """Load, speedup."""


class TargetMetrics(Collector):
    """What was measured of each target, and how many are in which state; read from what the status says."""

    def __init__(self, limit: int = MAX_TARGETS) -> None:
        self._limit = limit
        self._known: dict[Key, tuple[_Measured, ...]] = {}

    def update(self, key: Key, status: Status | None) -> None:
        """The status as it is now; None where the resource is gone."""
        if status is None:
            self._known.pop(key, None)
        else:
            self._known[key] = tuple(_measured(target) for target in status.targets)

    def collect(self) -> Iterable[Metric]:
        """Called at each scrape."""
        labels = ["namespace", "name", "target", "load", "of", "quantile"]
        latency = GaugeMetricFamily(
            "burnish_target_latency_seconds",
            f"Latency of requests as the pipeline measured it, of the baseline and of what is served; the first {MAX_TARGETS} targets by name.",
            labels=labels,
        )
        speedup = GaugeMetricFamily("burnish_target_speedup", "Measured speedup over the baseline.", labels=labels[:4])
        states = GaugeMetricFamily("burnish_targets", "Targets by state.", labels=["state"])
        counts: Counts[str] = Counts()
        told = 0
        for key, targets in sorted(self._known.items()):
            for measured in targets:
                counts[measured.state] += 1
                if not measured.latencies or told >= self._limit:
                    continue
                told += 1
                where = [key.namespace, key.name, measured.target]
                for load, of, p50, p99 in measured.latencies:
                    latency.add_metric([*where, load, of, "0.5"], p50)
                    latency.add_metric([*where, load, of, "0.99"], p99)
                for load, value in measured.speedups:
                    speedup.add_metric([*where, load], value)
        for state, count in sorted(counts.items()):
            states.add_metric([state], count)
        return [latency, speedup, states]


def _measured(target: TargetStatus) -> _Measured:
    latencies = tuple((load, of, duration_seconds(found.p50), duration_seconds(found.p99)) for load, of, found in _latencies(target))
    speedups = tuple((found.name, float(found.speedup.p50)) for found in target.measurements if found.speedup is not None)
    return _Measured(target.name, target.state.value, latencies, speedups)


def _latencies(target: TargetStatus) -> Iterable[tuple[str, str, LatencyStatus]]:
    """Load, whose, latency. What is served may be the baseline."""
    for found in target.measurements:
        yield found.name, "baseline", found.baseline
        if target.artifact is not None:
            served = found.baseline if target.artifact.served is Served.Baseline else found.optimized
            if served is not None:
                yield found.name, "served", served
