"""The report's tables as plain rows of text; the template only lays them out."""

from __future__ import annotations

from typing import NamedTuple

from burnish import names
from burnish.api import numbers
from burnish.api.job_contract import StepName
from burnish.api.v1alpha1.status import Served, Verdict
from burnish.measurement.limits import Judgement
from burnish.pipeline.report import wording
from burnish.pipeline.report.inputs import ReportInput


class Cell(NamedTuple):
    """One cell: text, a line below it, and the verdict whose mark stands before it."""

    text: str = ""
    detail: str = ""
    verdict: Verdict | None = None


class Column(NamedTuple):
    """A model's column in the table of candidates."""

    name: str
    color: int
    verdict: Verdict | None
    is_served: bool


class Row(NamedTuple):
    """A row: what it tells, and a cell per column."""

    label: str
    cells: tuple[Cell, ...]


class Tile(NamedTuple):
    """A big number at the head of the page."""

    label: str
    value: str
    detail: str


def tiles(data: ReportInput) -> list[Tile]:
    """Speed, size, score and tail latency of the candidate that the page speaks of, else of the baseline."""
    name = data.shown or names.BASELINE
    found = []
    if data.shown and (speed := data.speed(name)) is not None:
        interval = wording.speedup(speed)
        found.append(Tile("Speedup at the client", numbers.times(numbers.center(interval)), f"99 % interval {numbers.between(interval)}"))
    if latencies := data.latencies(name):
        before = f"baseline {numbers.center(data.latencies(names.BASELINE)[0].p50, ' ms')}" if data.shown else ""
        found.append(Tile("Median latency (p50)", numbers.center(latencies[0].p50, " ms"), before))
        found.append(Tile("Tail latency (p99)", numbers.center(latencies[0].p99, " ms"), f"99 % interval {numbers.between(latencies[0].p99)}"))
    if name in data.record.sides:
        before = f"baseline {numbers.size(data.record.sides[names.BASELINE].artifact.size_bytes)}" if data.shown else ""
        found.append(Tile("Size", numbers.size(data.record.sides[name].artifact.size_bytes), before))
    if data.shown and (score := data.summary(name).score) is not None:
        drop = wording.drop_interval(score)
        found.append(
            Tile(
                wording.heading(wording.metric_name(data)),
                numbers.text(score.candidate, drop, 2),
                f"{wording.loss(score)} at most {numbers.text(drop.high, drop, 2)} (95 %)",
            )
        )
    return found


def columns(data: ReportInput) -> list[Column]:
    """The baseline and every candidate, also those that were never measured."""
    artifact = data.target.artifact
    served = None if artifact is None else names.BASELINE if artifact.served is Served.Baseline else artifact.candidate
    verdicts = {name: judgement.verdict for name, judgement in data.judgements.items()}
    return [Column(name, data.color(name), verdicts.get(name), name == served) for name in (names.BASELINE, *data.candidates)]


def rows(data: ReportInput) -> list[Row]:
    """What is known of each model; rows in which nobody has anything to tell are left out."""
    sides = (names.BASELINE, *data.candidates)
    at = f" at {data.record.loads[0].load.name}" if data.record.loads else ""
    made = [
        Row("What it is", tuple(_summary(data, side) for side in sides)),
        Row("Size", tuple(_size(data, side) for side in sides)),
        Row(f"Latency{at}", tuple(_latency(data, side) for side in sides)),
        Row(f"Throughput{at}", tuple(_throughput(data, side) for side in sides)),
        Row(f"Speedup{at}", tuple(_speedup(data, side) for side in sides)),
        Row(wording.heading(wording.metric_name(data)), tuple(_score(data, side) for side in sides)),
        Row("Making it took", tuple(_usage(data, side) for side in sides)),
        Row("Outputs against the baseline", tuple(_equivalence(data, side) for side in sides)),
    ]
    return [row for row in made if any(cell.text or cell.detail for cell in row.cells)]


def limits(data: ReportInput) -> list[Row]:
    """Every limit, with its verdict and numbers per candidate."""
    judged = [data.judgement(side) for side in (names.BASELINE, *data.candidates)]
    order = list(dict.fromkeys(limit.name for judgement in reversed(judged) if judgement for limit in judgement.limits))
    return [Row(wording.limit_label(name, data.constraints), tuple(_limit(judgement, name) for judgement in judged)) for name in order]


def environment(data: ReportInput) -> list[tuple[str, str]]:
    """Where the numbers hold."""
    where = data.record.environment
    return [
        ("CPU", f"{where.cpu_model} ({where.cpus} logical)"),
        ("Hardware class", str(where.hardware_class)),
        ("CPU given to the server", f"{where.cpu_limit}, held by {where.cpu_enforcement}"),
        ("Threads", str(where.threads)),
        ("Memory given to the server", where.memory_limit),
        ("Machine", f"{where.node}, {numbers.size(where.memory_bytes)}, kernel {where.kernel}"),
        ("Triton", where.triton),
        ("Versions", ", ".join(f"{name} {version}" for name, version in sorted(where.versions.items()))),
        ("Measured", data.record.measured_at),
    ]


def method(data: ReportInput) -> list[tuple[str, str]]:
    """How each load point was measured."""
    found = []
    for trace in data.record.loads:
        requests = sum(len(block) for block in trace.sides[names.BASELINE].latencies_ms) if names.BASELINE in trace.sides else 0
        ended = {"decided": "every limit was decided", "rounds": "the largest number of rounds was reached", "time": "the time was spent"}
        text = (
            f"{trace.rounds} rounds, blocks of {trace.block_seconds:.2g} s, {requests} requests per model; "
            f"batch size {trace.load.batch_size}, {trace.load.concurrency} in flight; ended because {ended.get(trace.ended, trace.ended)}"
        )
        found.append((trace.load.name, f"{text}; {trace.voided_rounds} more rounds were void" if trace.voided_rounds else text))
    return found


def keys(data: ReportInput) -> list[tuple[str, str]]:
    """What identifies source records, artifacts and the measurement in the store."""
    found = [
        ("Artifact key", data.build.artifact_key),
        ("Measurement key", f"{data.record.measurement_key} (method {data.record.method_version})"),
        ("Baseline", data.build.baseline.digest),
    ]
    found += [(candidate.name, candidate.artifact.digest) for candidate in data.build.candidates if candidate.artifact is not None]
    if data.target.artifact is not None:
        found.append(("Served artifact", data.target.artifact.uri))
    return found


def _summary(data: ReportInput, side: str) -> Cell:
    if side == names.BASELINE:
        return Cell(detail="the source, converted, with no passes")
    build = next(candidate for candidate in data.build.candidates if candidate.name == side)
    facts = data.record.sides.get(side)
    if facts is None:
        return Cell("not built", build.message or build.summary)
    return Cell("not loaded" if not facts.loaded else "failed while it answered" if facts.failed else "", build.summary)


def _usage(data: ReportInput, side: str) -> Cell:
    """Of the baseline the export's, of a candidate that of its passes: both start from nothing and from the export."""
    if side == names.BASELINE:
        found = data.build.usage.get(StepName.export.value)
    else:
        found = next(candidate.usage for candidate in data.build.candidates if candidate.name == side)
    if found is None:
        return Cell()
    return Cell(f"{found.seconds:.1f} s", f"{numbers.size(found.peak_memory_bytes)} of memory at most" if found.peak_memory_bytes else "")


def _size(data: ReportInput, side: str) -> Cell:
    facts = data.record.sides.get(side)
    if facts is None:
        return Cell()
    details = [f"{numbers.size(facts.artifact.stored_bytes)} stored"]
    if facts.peak_memory_bytes:
        details.append(f"{numbers.size(facts.peak_memory_bytes)} of memory at most under load")
    phrase = f" ({wording.size_phrase(data, side)})" if side != names.BASELINE else ""
    return Cell(numbers.size(facts.artifact.size_bytes) + phrase, ", ".join(details))


def _latency(data: ReportInput, side: str) -> Cell:
    found = next(iter(data.latencies(side)), None)
    if found is None:
        return Cell()
    tails = f"p95 {numbers.center(found.p95)}, p99 {numbers.center(found.p99)} ({numbers.between(found.p99)})"
    return Cell(f"p50 {numbers.center(found.p50, ' ms')}", tails)


def _throughput(data: ReportInput, side: str) -> Cell:
    found = next(iter(data.latencies(side)), None)
    return Cell(wording.throughput_text(found)) if found else Cell()


def _speedup(data: ReportInput, side: str) -> Cell:
    if side == names.BASELINE:
        return Cell()
    if data.summary(side).identical:
        return Cell("1×", "the same model: not compared")
    speed = data.speed(side)
    if speed is None:
        return Cell()
    compute = f"{speed.compute_speedup:.3g}× in the backend alone" if speed.compute_speedup else ""
    return Cell(wording.speedup_text(speed), compute)


def _score(data: ReportInput, side: str) -> Cell:
    if side == names.BASELINE:
        score = data.record.summary.baseline_score
        others = [found for name in data.candidates if (found := data.summary(name).score) is not None]
        text = "" if score is None else numbers.text(score, wording.drop_interval(others[0]), 2) if others else f"{score:.3g}"
        return Cell(text, f"{data.record.summary.samples} samples") if text else Cell()
    score_summary = data.summary(side).score
    if score_summary is None:
        return Cell()
    drop = wording.drop_interval(score_summary)
    return Cell(
        numbers.text(score_summary.candidate, drop, 2),
        f"{wording.loss(score_summary)} {numbers.text(drop.estimate, drop, 2)}, at most {numbers.text(drop.high, drop, 2)} (95 %)",
    )


def _equivalence(data: ReportInput, side: str) -> Cell:
    found = data.summary(side).equivalence if side != names.BASELINE else None
    if found is None:
        return Cell()
    details = [f"largest error {found.max_absolute_error:.2g}"] if found.max_absolute_error is not None else []
    if found.non_finite_samples:
        details.append(f"NaN or infinite in {found.non_finite_samples} samples")
    if found.worst_cosine is None or found.cosine is None:
        text = f"{numbers.percent(found.exact_match)} equal in the worst sample" if found.exact_match is not None else ""
        return Cell(text, ", ".join(details))
    details.insert(0, f"median {numbers.cosine(found.cosine)}")
    if found.exact_match is not None:
        details.append(f"other outputs {numbers.percent(found.exact_match)} equal in the worst sample")
    return Cell(f"worst cosine {numbers.cosine(found.worst_cosine)}", ", ".join(details))


def _limit(judgement: Judgement | None, name: str) -> Cell:
    found = next((limit for limit in judgement.limits if limit.name == name), None) if judgement else None
    return Cell(str(found.verdict), found.message, found.verdict) if found else Cell()
