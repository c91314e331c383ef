"""Figures about what compression costs and saves: score, equivalence, size."""

from __future__ import annotations

from typing import Any

from burnish.api import numbers
from burnish.api.job_contract import TensorDifference
from burnish.measurement import equivalence
from burnish.pipeline.report import figures, wording
from burnish.pipeline.report.inputs import ReportInput

_MOST_NINES = 7.0
"""Cosines nearer to 1 than 1e-7 are 1 in FP32."""


def drops(data: ReportInput) -> str | None:
    """Loss of score of every candidate with its interval, against maxDrop."""
    rows = [(name, score) for name in data.candidates if (score := data.summary(name).score) is not None]
    if not rows:
        return None

    def plot(axes: Any) -> None:
        for position, (name, score) in enumerate(rows):
            interval, color = wording.drop_interval(score), figures.SIDES[data.color(name)]
            figures.interval(axes, interval, position, color)
            text = f"{numbers.center(interval, digits=2)} (≤ {numbers.text(interval.high, interval, 2)})"
            axes.annotate(
                text, (interval.high, position), (7, 0), textcoords="offset points", va="center", color=figures.INK, fontsize=8, bbox=figures.HALO
            )
        ends = [0.0, *(end for _, score in rows for end in (score.low, score.high))]
        if data.constraints.score is not None:
            ends.append(float(data.constraints.score.max_drop))
            axes.axvline(ends[-1], color=figures.LIMIT, linewidth=1.2, linestyle="--")
            axes.annotate(
                f"maxDrop {data.constraints.score.max_drop}", (ends[-1], 1), (4, -1), xycoords=("data", "axes fraction"),
                textcoords="offset points", va="top", color=figures.LIMIT, fontsize=7.5,
            )  # fmt: skip
        axes.axvline(0, color=figures.MUTED, linewidth=0.8)
        reach = max(ends) - min(ends) or 1.0
        axes.set(xlim=(min(ends) - 0.08 * reach, max(ends) + 0.5 * reach), ylim=(len(rows) - 0.5, -0.8))
        axes.set_yticks(range(len(rows)), [name for name, _ in rows], color=figures.INK)
        axes.set_xlabel(f"{wording.loss(rows[0][1])} of {wording.metric_name(data)} on {rows[0][1].samples} samples; each end holds with 95 %")
        axes.grid(visible=False, axis="y")

    label = "Drop of the score: " + "; ".join(f"{name} {wording.score_text(score)}" for name, score in rows)
    return figures.draw("drop", 1.2 + 0.3 * len(rows), plot, label)


def agreement(data: ReportInput) -> str | None:
    """Cosine of every sample of every candidate's worst output, sorted, the worst one marked.

    The axis counts nines: 0.9, 0.99, 0.999 are equally far apart, because that is how cosines differ.
    """
    import numpy as np

    curves = {
        name: worst for name, found in data.record.equivalence.items() if (worst := equivalence.worst_output(found)) and name in data.candidates
    }
    if not curves:
        return None

    def nines(cosines: Any) -> Any:
        return np.minimum(_MOST_NINES, -np.log10(np.maximum(1 - np.clip(np.asarray(cosines, dtype=np.float64), 0, 1), 10**-_MOST_NINES)))

    def plot(axes: Any) -> None:
        for name, difference in curves.items():
            cosines, color = np.sort(np.asarray(equivalence.known_cosines(difference))), figures.SIDES[data.color(name)]
            keep = np.unique(np.linspace(0, cosines.size - 1, 300).astype(int))
            ranks = 100 * (keep + 0.5) / cosines.size
            axes.plot(ranks, nines(cosines[keep]), color=color, linewidth=1.4, label=f"{name} ({difference.output})"[:40] + _of_the_first(difference))
            axes.plot(ranks[0], nines(cosines[0]), "o", color=color, markersize=5)
            axes.annotate(
                f"worst {numbers.cosine(max(0.0, float(cosines[0])))}", (ranks[0], nines(cosines[0])), (8, 7),
                textcoords="offset points", va="center", color=figures.INK, fontsize=7.5, bbox=figures.HALO,
            )  # fmt: skip
        lowest = min(float(nines(min(equivalence.known_cosines(d)))) for d in curves.values())
        if data.constraints.equivalence is not None:
            limit = float(data.constraints.equivalence.min_cosine)
            lowest = min(lowest, float(nines(limit)))
            axes.axhline(nines(limit), color=figures.LIMIT, linewidth=1.2, linestyle="--")
            axes.annotate(
                f"minCosine {data.constraints.equivalence.min_cosine}", (1, nines(limit)), (0, 3), xycoords=("axes fraction", "data"),
                textcoords="offset points", ha="right", color=figures.LIMIT, fontsize=7.5,
            )  # fmt: skip
        ticks = [0, *range(1, int(_MOST_NINES) + 1)]
        axes.set_yticks(ticks, ["0", *(f"0.{'9' * n}" for n in ticks[1:-1]), "1"])
        highest = max(float(nines(max(d.cosine))) for d in curves.values())
        axes.set(ylim=(max(-0.2, int(lowest) - 0.2), min(_MOST_NINES, highest) + 0.4), xlim=(-1, 101))
        axes.set(xlabel=f"share of samples, worst first ({data.record.equivalence_samples} samples)", ylabel="cosine to the baseline")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g} %")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, borderaxespad=0.2, borderpad=0)

    return figures.draw("agreement", 2.6, plot, "Cosine of each sample's output to the baseline's, sorted")


def sizes(data: ReportInput) -> str:
    """Bytes of each model's loadable files, and of what is stored."""
    facts = [(side, data.record.sides[side].artifact) for side in data.sides]
    unit, factor = next(((u, f) for u, f in (("MiB", 2**20), ("KiB", 2**10)) if facts[0][1].size_bytes >= f), ("bytes", 1))

    def plot(axes: Any) -> None:
        for position, (side, artifact) in enumerate(facts):
            color = figures.SIDES[data.color(side)]
            axes.barh(position - 0.16, artifact.size_bytes / factor, height=0.32, color=color)
            axes.barh(position + 0.2, artifact.stored_bytes / factor, height=0.2, color=color, alpha=0.45)
            axes.annotate(
                numbers.size(artifact.size_bytes), (artifact.size_bytes / factor, position - 0.16), (5, 0),
                textcoords="offset points", va="center", color=figures.INK, fontsize=8, bbox=figures.HALO,
            )  # fmt: skip
        largest = max(max(a.size_bytes, a.stored_bytes) for _, a in facts) / factor
        axes.set(xlim=(0, 1.22 * largest), ylim=(len(facts) - 0.4, -0.6), xlabel=f"{unit}: loadable files, and below them what the store holds")
        axes.set_yticks(range(len(facts)), [side for side, _ in facts], color=figures.INK)
        axes.grid(visible=False, axis="y")

    label = "Sizes: " + ", ".join(f"{side} {numbers.size(artifact.size_bytes)}" for side, artifact in facts)
    return figures.draw("sizes", 0.75 + 0.42 * len(facts), plot, label)


def _of_the_first(difference: TensorDifference) -> str:
    return f", first {len(difference.cosine)} samples and the worst" if difference.unlisted_samples else ""
