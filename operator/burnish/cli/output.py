"""What `burnish run` prints on stdout: the object as JSON or YAML, or a table for people."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from burnish import names
from burnish.api import numbers, yaml_reader
from burnish.api.v1alpha1 import status as api
from burnish.api.v1alpha1.optimized_model import OptimizedModel
from burnish.api.v1alpha1.status import Served, State, Verdict
from burnish.cli.terminal import plain
from burnish.errors import BurnishError
from burnish.pipeline.status import last_failure

FORMATS = ("table", "json", "yaml")
PIPE_WIDTH = 140
_MARKS = {Verdict.Accepted: "[green]✓[/]", Verdict.Refused: "[red]✗[/]", Verdict.Undecided: "[yellow]?[/]", None: "[dim]·[/]"}
_WORDS = {Verdict.Accepted: "held", Verdict.Refused: "not held", Verdict.Undecided: "undecided"}
_STYLES = {State.Published: "bold green", State.Refused: "bold red", State.Undecided: "bold yellow", State.Failed: "bold red"}


def add_option(parser: argparse.ArgumentParser) -> None:
    """`--output`, the same for every command that prints an object."""
    parser.add_argument("-o", "--output", choices=FORMATS, default="table", help="what to print on stdout (default: %(default)s)")


def print_object(model: OptimizedModel, form: str) -> None:
    """Print the object with its status."""
    if form == "table":
        _print_table(model)
    else:
        dump(model.model_dump(mode="json", by_alias=True, exclude_none=True), form)


def print_unreadable(path: Path, error: BurnishError, form: str) -> None:
    """The object of a manifest that could not be read: as much of it as stands in the file, and the reason."""
    if form == "table":
        return
    name, targets = _salvage(path)
    failure = last_failure(error.reason, str(error), now=datetime.now(UTC))
    failed = [api.TargetStatus(name=t, state=State.Failed, reason=error.reason) for t in targets]
    status = api.Status(phase=api.Phase.Failed, targets=failed, last_failure=failure)
    found = {"apiVersion": names.API_VERSION, "kind": names.KIND, "metadata": {"name": name}}
    dump(found | {"status": status.model_dump(mode="json", by_alias=True, exclude_none=True)}, form)


def print_places(model: OptimizedModel, reports: dict[str, Path], work: Path | None) -> None:
    """Where the rest is, on stderr."""
    for target, path in reports.items():
        print(f"report of {target}: {path}", file=sys.stderr)
    if work is not None:
        print(f"files and logs of the steps: {work}", file=sys.stderr)


def _salvage(path: Path) -> tuple[str, list[str]]:
    """Name and target names of a broken manifest, as far as they can be read."""
    try:
        with path.open("rb") as file:
            documents = yaml_reader.read(file.read(yaml_reader.MAX_BYTES).decode(errors="replace"), path.name)
    except (OSError, BurnishError):
        return path.stem, []
    found = next((d for d in documents if isinstance(d, dict) and d.get("kind") == names.KIND), documents[0] if documents else None)
    name = _within(_within(found, "metadata"), "name")
    targets = _within(_within(found, "spec"), "targets")
    found_names = [_within(t, "name") for t in targets] if isinstance(targets, list) else []
    return str(name or path.stem)[:40], [t[:40] for t in found_names[:8] if isinstance(t, str)]


def _within(value: object, key: str) -> Any:
    """An entry of a map that may be anything else."""
    return value.get(key) if isinstance(value, dict) else None


def dump(value: object, form: str) -> None:
    """Print as `json` or `yaml`."""
    if form == "json":
        print(json.dumps(value, indent=2))
    else:
        print(yaml.safe_dump(value, sort_keys=False, allow_unicode=True), end="")


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Rich would end the program with exit code 1; ours tells the verdict."""
        raise BrokenPipeError


def _print_table(model: OptimizedModel) -> None:
    console = _Console(width=None if sys.stdout.isatty() else PIPE_WIDTH)
    status = model.status
    if status is None:
        return
    for target in status.targets:
        console.print(Text.assemble((f"{model.metadata.name}/{target.name}  ", "bold"), (target.state.value, _STYLES.get(target.state, "bold"))))
        if target.message:
            console.print(Text(f"  {plain(target.message)}"))
        if target.baseline:
            console.print(_numbers(target))
        if target.candidates:
            console.print(_candidates(target))
        if target.measured_on:
            console.print(
                Text(f"  measured on {target.measured_on.node} ({target.measured_on.hardware_class}), {target.measured_on.triton}", style="dim")
            )
        if target.cache:
            console.print(
                Text(f"  store: artifact {target.cache.artifact.value.lower()}, measurement {target.cache.measurement.value.lower()}", style="dim")
            )
        if target.artifact:
            console.print(Text(f"  artifact {target.artifact.digest}", style="dim"))
    for condition in status.conditions:
        if condition.type in (api.ConditionType.DataIndependent, api.ConditionType.DataSufficient):
            console.print(Text(f"warning: {plain(condition.message)}", style="yellow"))


def _numbers(target: api.TargetStatus) -> Table:
    """Baseline against what is served; where nothing is, against the fastest candidate."""
    baseline = target.baseline
    assert baseline is not None  # noqa: S101  # the caller looked
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    named = bool(target.artifact and target.artifact.served is Served.Candidate)
    right = f"served: {target.artifact.candidate}" if named and target.artifact else "fastest candidate (not served)"
    compared = any(m.optimized for m in target.measurements) or target.score is not None
    for column in ("", "baseline", *((right, "") if compared else ())):
        table.add_column(column)

    def row(*cells: str) -> None:
        table.add_row(*(cells if compared else cells[:2]))

    size = target.artifact.size if named and target.artifact else _fastest_size(target)
    row("size", numbers.reading(baseline.size, "B"), numbers.reading(size, "B"), "")
    if baseline.score is not None:
        score = target.score
        row(
            "score",
            baseline.score,
            score.value if score else "",
            f"drop {score.drop}, at most {score.high} (95 %) {_MARKS[score.verdict]}" if score else "",
        )
    for m in target.measurements:
        o, s = m.optimized, m.speedup
        row(
            f"p50 {m.name}",
            numbers.reading(m.baseline.p50),
            numbers.reading(o.p50) if o else "",
            f"{_speed(s)} ({s.low} to {s.high}, 99 %)" if s else "",
        )
        row(
            f"p99 {m.name}",
            numbers.reading(m.baseline.p99),
            numbers.reading(o.p99) if o else "",
            f"at most {numbers.reading(o.p99_high)}" if o and o.p99_high else "",
        )
        row(f"samples/s {m.name}", m.baseline.throughput_per_second, o.throughput_per_second if o else "", "")
        if m.verdict:  # of all limits on this load point: the mark belongs to no single figure
            row(f"latency limits {m.name}", "", "", f"{_MARKS[m.verdict]} {_WORDS[m.verdict]}")
    return table


def _speed(speedup: api.SpeedupStatus) -> str:
    return f"{numbers.times(speedup.p50)} {'faster' if float(speedup.p50) > 1 else 'as fast'}"


def _fastest_size(target: api.TargetStatus) -> str:
    measured = [c for c in target.candidates if c.speedup is not None and c.size is not None]
    return str(max(measured, key=lambda c: float(c.speedup or 0)).size) if measured else ""


def _outputs(candidate: api.CandidateStatus) -> str:
    """How its outputs compare with the baseline's in the worst sample."""
    cosine, equal = candidate.worst_cosine, candidate.exact_match
    return ", ".join(filter(None, (f"cosine {cosine}" if cosine else "", f"{numbers.percent(float(equal))} equal" if equal else "")))


def _candidates(target: api.TargetStatus) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("candidate", "", "size", "score", "outputs, worst", "speedup", "why"):
        table.add_column(column, overflow="fold")
    for c in target.candidates:
        speed = numbers.times(c.speedup) if c.speedup else ""
        table.add_row(
            c.name,
            _MARKS[c.verdict],
            numbers.reading(c.size or "", "B"),
            c.score or "",
            _outputs(c),
            speed,
            Text(plain(f"{c.reason.value}: {c.message}")),
        )
    return table
