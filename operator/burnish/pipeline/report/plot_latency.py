"""Figures about speed: rounds, speedups, distributions, load points."""

from __future__ import annotations

import math
from typing import Any

from burnish import names
from burnish.api.job_contract import LoadTrace
from burnish.api.scalars import duration_seconds
from burnish.measurement import statistics
from burnish.pipeline.report import figures, wording
from burnish.pipeline.report.inputs import ReportInput


def speedups(data: ReportInput) -> str | None:
    """Speedup of every candidate at every load point with its interval, against the limits."""
    rows = [(name, speed) for name in data.candidates for speed in data.speeds(name)]
    if not rows:
        return None
    several = len({speed.load for _, speed in rows}) > 1

    def plot(axes: Any) -> None:
        for position, (name, speed) in enumerate(rows):
            interval, color = wording.speedup(speed), figures.SIDES[data.color(name)]
            figures.interval(axes, interval, position, color)
            axes.annotate(
                wording.speedup_text(speed),
                (interval.high, position),
                (7, 0),
                textcoords="offset points",
                va="center",
                color=figures.INK,
                fontsize=8,
                bbox=figures.HALO,
            )
        ends = [end for _, speed in rows for end in (wording.speedup(speed).low, wording.speedup(speed).high)]
        margin = 1 / (1 + data.constraints.max_slowdown_percent / 100)
        _limit_line(axes, margin, f"limit: {data.constraints.max_slowdown_percent} % slower", -1)
        if data.constraints.min_speedup is not None:
            ends.append(float(data.constraints.min_speedup))
            _limit_line(axes, ends[-1], f"minSpeedup {data.constraints.min_speedup}", 1)
        axes.axvline(1, color=figures.MUTED, linewidth=0.8)
        axes.set_yticks(range(len(rows)), [f"{name}, {speed.load}" if several else name for name, speed in rows], color=figures.INK)
        low, high = min(*ends, margin, 1), max(*ends, 1)
        reach = math.log(high / low)
        axes.set(xscale="log", xlim=(low * math.exp(-0.08 * reach), high * math.exp(0.55 * reach)), ylim=(len(rows) - 0.5, -0.8))
        axes.set_xlabel("speedup: baseline p50 / candidate p50 at the client, 99 % interval (log scale)")
        _plain_ticks(axes.xaxis, "×")
        axes.grid(visible=False, axis="y")

    label = "Speedup of each candidate with its interval: " + "; ".join(f"{name} {wording.speedup_text(speed)}" for name, speed in rows)
    return figures.draw("speedup", 1.2 + 0.3 * len(rows), plot, label)


def rounds(data: ReportInput, trace: LoadTrace) -> str:
    """What was compared: each model's median in each round, and the speedups that they make, with their interval."""
    baseline = statistics.block_medians(trace.sides[names.BASELINE].latencies_ms)
    numbers_of_rounds = range(1, len(baseline) + 1)
    candidates = [side for side in _measured(data, trace) if side != names.BASELINE]

    def plot(axes: Any) -> None:
        medians_axes, ratio_axes = axes if candidates else (axes, axes)
        for side in _measured(data, trace):
            medians = statistics.block_medians(trace.sides[side].latencies_ms)
            medians_axes.plot(numbers_of_rounds, medians, "-o", color=_color(data, side), linewidth=1, markersize=2.6, label=side)
            if side in candidates:
                ratio_axes.plot(numbers_of_rounds, baseline / medians, "o", color=_color(data, side), markersize=2.6)
        for speed in (speed for side in candidates for speed in data.speeds(side) if speed.load == trace.load.name):
            side = next(side for side in candidates if speed in data.speeds(side))
            interval = wording.speedup(speed)
            ratio_axes.axhspan(interval.low, interval.high, color=_color(data, side), alpha=0.22, linewidth=0)
        medians_axes.set(ylabel="median, ms", xlim=(0.5, trace.rounds + 0.5))
        medians_axes.set_ylim(bottom=0)
        if candidates:
            ratio_axes.axhline(1, color=figures.MUTED, linewidth=0.8)
            ratio_axes.set(ylabel="speedup")
        ratio_axes.set_xlabel("round: one block per model, in shuffled order")
        _legend(medians_axes)

    label = f"Per round at load {trace.load.name}: median latency of every model and the speedup of every candidate"
    return figures.draw(f"rounds-{trace.load.name}", 3.6 if candidates else 2.4, plot, label, rows=2 if candidates else 1)


def distribution(data: ReportInput, trace: LoadTrace) -> str:
    """Share of requests answered within a time, with p50, p95 and p99 marked."""
    import numpy as np

    def plot(axes: Any) -> None:
        for side in _measured(data, trace):
            latencies = np.sort(np.concatenate([np.asarray(block) for block in trace.sides[side].latencies_ms]))
            shares = np.arange(1, latencies.size + 1) / latencies.size
            keep = np.unique(np.linspace(0, latencies.size - 1, 400).astype(int))
            axes.plot(latencies[keep], shares[keep], color=_color(data, side), linewidth=1.4, label=side, drawstyle="steps-post")
            for quantile in (0.5, 0.95, 0.99):
                axes.plot(np.quantile(latencies, quantile, method="inverted_cdf"), quantile, "o", color=_color(data, side), markersize=4.5)
        axes.set(xscale="log", xlabel="latency at the client, ms (log scale)", ylim=(0, 1.02))
        axes.set_yticks([0, 0.25, 0.5, 0.75, 0.95, 0.99], ["0", "25 %", "p50", "75 %", "p95", "p99"])
        axes.get_yticklabels()[-1].set_verticalalignment("bottom")
        axes.get_yticklabels()[-2].set_verticalalignment("top")
        _plain_ticks(axes.xaxis)
        _legend(axes)

    return figures.draw(f"distribution-{trace.load.name}", 2.6, plot, f"Distribution of latencies at load {trace.load.name}, one curve per model")


def load_points(data: ReportInput) -> str | None:
    """p50 to p99 and throughput of every model at every load point."""
    loads = [latency.load for latency in data.latencies(names.BASELINE)]
    if not loads:
        return None
    sides = [side for side in data.sides if data.latencies(side)]

    def plot(axes: Any) -> None:
        latency_axes, rate_axes = axes
        for number, side in enumerate(sides):
            offset = 0.7 * ((number + 0.5) / len(sides) - 0.5)
            color = _color(data, side)
            for latency in data.latencies(side):
                y = loads.index(latency.load) + offset
                latency_axes.plot([latency.p50.estimate, latency.p99.estimate], [y, y], color=color, linewidth=1.6)
                latency_axes.plot(latency.p50.estimate, y, "o", color=color, markersize=5)
                latency_axes.plot(latency.p95.estimate, y, "|", color=color, markersize=7, markeredgewidth=1.6)
                latency_axes.plot(latency.p99.estimate, y, "|", color=color, markersize=7, markeredgewidth=1.6)
                rate_axes.barh(y, latency.throughput_per_second, height=0.6 / len(sides), color=color)
        for limit in data.constraints.latency:
            if limit.load in loads:
                _latency_limit(latency_axes, loads.index(limit.load), limit.max)
        for one in axes:
            one.set(ylim=(len(loads) - 0.5, -0.5))
            one.grid(visible=False, axis="y")
            one.set_xlim(left=0)
        latency_axes.set_yticks(range(len(loads)), [_load_label(data, name) for name in loads], color=figures.INK)
        rate_axes.set_yticks(range(len(loads)), [])
        latency_axes.set_xlabel("latency, ms: p50 (dot), p95, p99")
        rate_axes.set_xlabel("samples per second")

    height = 0.75 + max(0.55, 0.17 * len(sides) + 0.1) * len(loads)
    return figures.draw("load-points", height, plot, "Latency and throughput of every model at every load point", columns=2)


def _load_label(data: ReportInput, name: str) -> str:
    load = next(trace.load for trace in data.record.loads if trace.load.name == name)
    return f"{name}\nbatch {load.batch_size} × {load.concurrency}"


def _latency_limit(axes: Any, row: int, limit: str) -> None:
    axes.plot([duration_seconds(limit) * 1e3] * 2, [row - 0.45, row + 0.45], color=figures.LIMIT, linewidth=1.2, linestyle="--")


def _measured(data: ReportInput, trace: LoadTrace) -> list[str]:
    return [side for side in data.sides if side in trace.sides and trace.sides[side].latencies_ms]


def _color(data: ReportInput, side: str) -> str:
    return figures.SIDES[data.color(side)]


def _legend(axes: Any) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=4, borderaxespad=0.2, borderpad=0)


def _limit_line(axes: Any, value: float, text: str, side: int) -> None:
    axes.axvline(value, color=figures.LIMIT, linewidth=1.2, linestyle="--")
    axes.annotate(
        text, (value, 1), (4 * side, -1), xycoords=("data", "axes fraction"), textcoords="offset points",
        ha="left" if side > 0 else "right", va="top", color=figures.LIMIT, fontsize=7.5,
    )  # fmt: skip


def _plain_ticks(axis: Any, unit: str = "") -> None:
    """Few round numbers on a logarithmic axis, without exponents."""
    from matplotlib import ticker

    axis.set_major_locator(ticker.LogLocator(base=10, subs=(1, 2, 5)))
    low, high = axis.get_view_interval()
    if high / low < 6:
        axis.set_major_locator(ticker.MaxNLocator(nbins=7, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}{unit}"))
    axis.set_minor_formatter(ticker.NullFormatter())
