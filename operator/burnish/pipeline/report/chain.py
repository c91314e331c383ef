"""The chain of training passes: what each did to the model, as a table and as a figure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from burnish.api import numbers
from burnish.api.job_contract import CandidateBuild, EquivalenceSummary, ModelFacts, ScoreSummary, TrainedPass, Usage
from burnish.pipeline.report import figures, wording
from burnish.pipeline.report.inputs import ReportInput
from burnish.pipeline.report.tables import Cell, Row

HEADS = ("Weights", "Multiply-accumulates", "Size as ONNX", "Score", "Outputs, worst cosine", "Training", "It took")


def rows(data: ReportInput) -> list[Row]:
    """The original, each training pass, then what the runtime made of the last one; nothing where no pass trains."""
    build = data.build
    if build.original is None:
        return []
    first = Row("original", (*_facts(build.original, None), Cell(), Cell(), Cell()))
    after = [_built(data, candidate, begun) for candidate, begun in _after(data)]
    return [first, *(_row(step, build.original) for step in build.trained), *after]


def _after(data: ReportInput) -> list[tuple[CandidateBuild, ModelFacts]]:
    """What the runtime's own passes made, each with the facts of what they began with: they change neither the number of weights nor of products."""
    original, trained = data.build.original, {step.name: step.facts for step in data.build.trained}
    if original is None:
        return []
    return [(c, trained.get(c.start, original)) for c in data.build.candidates if c.name not in trained and c.artifact is not None]


def _built(data: ReportInput, candidate: CandidateBuild, begun: ModelFacts) -> Row:
    """Size, score and difference are those that were measured."""
    found, usage = data.summary(candidate.name), candidate.usage
    weights, macs, *_ = _facts(begun, data.build.original)
    assert candidate.artifact is not None  # noqa: S101  # whoever asks has looked
    size = Cell(numbers.size(candidate.artifact.size_bytes), f"as built, {_share(candidate.artifact.size_bytes, data.build.baseline.size_bytes)}")
    score = Cell()
    if found.score is not None:
        drop = wording.drop_interval(found.score)
        score = Cell(numbers.text(found.score.candidate, drop, 2), _lost(found.score))
    took = _took(usage) if usage else Cell()
    return Row(candidate.name, (weights, macs, size, score, _cosines(found.equivalence, None), Cell("none", candidate.summary), took))


def _lost(score: ScoreSummary) -> str:
    drop = wording.drop_interval(score)
    return f"{wording.loss(score)} {numbers.text(drop.estimate, drop, 2)}, at most {numbers.text(drop.high, drop, 2)} (95 %)"


def _row(step: TrainedPass, original: ModelFacts) -> Row:
    return Row(step.name, (*_facts(step.facts, original), _cosines(step.facts.equivalence, step.change), _training(step), _took(step.usage)))


def _took(usage: Usage) -> Cell:
    peak = usage.peak_memory_bytes
    return Cell(f"{usage.seconds:.1f} s", f"{numbers.size(peak)} of memory at most" if peak else "")


def _facts(facts: ModelFacts, original: ModelFacts | None) -> tuple[Cell, ...]:
    zeros = facts.parameters - facts.non_zeros
    sparse = f"{zeros:,} of them zero" if zeros > 0.01 * facts.parameters else ""
    whole = original or ModelFacts(parameters=0, non_zeros=0, size_bytes=0)
    weights = Cell(f"{facts.parameters:,}", _joined(sparse, _share(facts.parameters, whole.parameters)))
    macs = Cell(f"{facts.macs:,}", _share(facts.macs, whole.macs)) if facts.macs else Cell("not counted")
    size = Cell(numbers.size(facts.size_bytes), _share(facts.size_bytes, whole.size_bytes))
    score = facts.score
    if score is None:
        return weights, macs, size, Cell()
    drop = wording.drop_interval(score)
    detail = _lost(score) if original else ""
    return weights, macs, size, Cell(numbers.text(score.candidate, drop, 2) if original else f"{score.candidate:.4g}", detail)


def _cosines(against_original: EquivalenceSummary | None, change: EquivalenceSummary | None) -> Cell:
    if against_original is None or against_original.worst_cosine is None:
        return Cell()
    before = f"{numbers.cosine(change.worst_cosine)} to what the pass was given" if change and change.worst_cosine is not None else ""
    return Cell(f"{numbers.cosine(against_original.worst_cosine)} to the original", before)


def _training(step: TrainedPass) -> Cell:
    options: Any = step.config.get("finetune", step.config)
    options = options if isinstance(options, Mapping) else {}
    settings = [f"{label} {options[name]}" for name, label in _SETTINGS if options.get(name) is not None] if step.losses else []
    epochs = numbers.counted(len(step.losses), "epoch")
    text = f"{epochs}, loss {step.losses[0]:.3g} to {step.losses[-1]:.3g}" if step.losses else "none"
    return Cell(text, _joined(", ".join(settings), *step.notes))


_SETTINGS = (("optimizer", "by"), ("learningRate", "from rate"), ("batchSize", "batches of"), ("seed", "seed"))


def _share(value: int | None, whole: int | None) -> str:
    return f"{100 * value / whole:.3g} % of the original's" if value is not None and whole else ""


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


def _as_built(data: ReportInput, original: ModelFacts) -> Iterator[tuple[str, ModelFacts]]:
    """What the runtime made, with its bytes as a share of the baseline's: both stand in the runtime's own format."""
    for candidate, begun in _after(data):
        assert candidate.artifact is not None  # noqa: S101  # `_after` has looked
        size = round(original.size_bytes * candidate.artifact.size_bytes / data.build.baseline.size_bytes)
        yield candidate.name, begun.model_copy(update={"size_bytes": size, "score": data.summary(candidate.name).score})


_MARKS = "osv"
"""Lines often lie on each other."""


def figure(data: ReportInput) -> str | None:
    """Weights that aren't zero, multiply-accumulates and bytes after each pass that trains and in what the runtime made of the last, as shares of the original's; the score beside it."""
    original = data.build.original
    if original is None:
        return None
    models = [("original", original), *((step.name, step.facts) for step in data.build.trained), *_as_built(data, original)]
    names = [name for name, _ in models]
    shares = [
        ("weights that aren't zero", [m.non_zeros / original.non_zeros for _, m in models]),
        ("bytes", [m.size_bytes / original.size_bytes for _, m in models]),
    ]
    if original.macs:
        shares.insert(1, ("multiply-accumulates", [(m.macs or 0) / original.macs for _, m in models]))
    scores, trained = [m.score for _, m in models], 1 + len(data.build.trained)

    def plot(axes: Any) -> None:
        left, right = axes
        for number, (label, values) in enumerate(shares):
            shown, color = [100 * v for v in values], figures.SIDES[number + 1]
            left.plot(shown[:trained], range(trained), f"{_MARKS[number]}-", color=color, label=label, linewidth=1.4, markersize=4)
            left.plot(shown[trained:], range(trained, len(models)), _MARKS[number], color=color, markersize=4)  # each begins where it does
        left.set(xlim=(0, 105), ylim=(len(models) - 0.5, -0.6), xlabel="% of the original's")
        left.set_yticks(range(len(models)), names, color=figures.INK)
        left.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=1, borderaxespad=0.2, borderpad=0)
        for position, score in enumerate(scores):
            if score is None:
                continue
            drop = wording.drop_interval(score)
            figures.interval(right, drop, position, figures.SIDES[1 if position else 0])
        right.axvline(0, color=figures.MUTED, linewidth=0.8)
        if data.constraints.score is not None:
            right.axvline(float(data.constraints.score.max_drop), color=figures.LIMIT, linewidth=1.2, linestyle="--")
        right.set(ylim=(len(models) - 0.5, -0.6), xlabel="drop of the score, 95 % each end")
        right.set_yticks(range(len(models)), [""] * len(models))
        right.locator_params(axis="x", nbins=4)

    told = "; ".join(f"{name}: {', '.join(f'{label} {100 * values[i]:.3g} %' for label, values in shares)}" for i, name in enumerate(names))
    return figures.draw("chain", 1.5 + 0.32 * len(models), plot, f"What each pass left. {told}", columns=2)
