"""Progress and tables: what comes out of a model never reaches a terminal raw."""

from __future__ import annotations

import io
from typing import cast

import pytest
from rich.console import Console

from burnish.api.job_contract import StepName
from burnish.api.v1alpha1 import status as api
from burnish.cli import output, terminal
from burnish.cli.display import LiveDisplay, PlainDisplay
from burnish.cli.main import main
from burnish.errors import BurnishError, Reason
from burnish.pipeline.progress import Event
from burnish.pipeline.runner import Listener

EVIL = "Relu\x1b[2J\x1b]0;owned\x07\rdone\u202e"
ODD_EVENTS = [{}, {"done": 0.5}, {"done": "half"}, {"text": 5}, {"text": None, "warning": True}, {"warning": True}]


def tell(listener: Listener, event: Event, error: BurnishError | None = None) -> None:
    listener.plan("cpu", (StepName.export,))
    listener.step_started("cpu", StepName.export)
    listener.event("cpu", StepName.export, event)
    listener.step_ended("cpu", StepName.export, 1.0, error)


@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize("event", [{"text": EVIL}, {"text": EVIL, "warning": True}, {"text": "fine"}])
def test_display_escapes_what_would_control_the_terminal(live: bool, event: Event) -> None:
    stream, error = io.StringIO(), BurnishError(Reason.UnsupportedOperator, EVIL)
    if live:
        with LiveDisplay(Console(file=stream, width=200)) as display:
            tell(display, event, error)
    else:
        tell(PlainDisplay(stream), event, error)
    shown = stream.getvalue()
    assert "\\x1b[2J" in shown
    assert not set(shown) & {"\x1b", "\x07", "\r", "\u202e"}


@pytest.mark.parametrize("event", ODD_EVENTS, ids=str)
@pytest.mark.parametrize("live", [True, False])
def test_display_bears_events_of_any_kind(live: bool, event: dict[str, object]) -> None:
    if live:
        with LiveDisplay(Console(file=io.StringIO(), force_terminal=True)) as display:
            display.step_started("cpu", StepName.export)
            display.event("cpu", StepName.export, cast(Event, event))
            display._console.print(display._render())
    else:
        tell(PlainDisplay(io.StringIO()), cast(Event, event))


def test_plain_keeps_line_breaks_and_ordinary_text() -> None:
    assert terminal.plain("drop ≤ 0,01 %\nspec.targets[0]: größer") == "drop ≤ 0,01 %\nspec.targets[0]: größer"


def test_errors_of_a_command_are_escaped(capsys: pytest.CaptureFixture[str], tmp_path: object) -> None:
    assert main(["pull", EVIL, "--store", f"{tmp_path}/store", "-o", f"{tmp_path}/out"]) == 5
    told = capsys.readouterr().err
    assert "\\x1b[2J" in told
    assert "\x1b" not in told


def measurement(p50: str, verdict: api.Verdict | None) -> api.MeasurementStatus:
    latency = api.LatencyStatus(p50="1ms", p95="2ms", p99="3ms", p99_high="4ms", throughput_per_second="10")
    speed = api.SpeedupStatus(p50=p50, low="0.9", high="1.6")
    return api.MeasurementStatus(name="single", rounds=40, baseline=latency, optimized=latency, speedup=speed, verdict=verdict)


def table(target: api.TargetStatus) -> list[str]:
    stream = io.StringIO()
    Console(file=stream, width=200).print(output._numbers(target))
    return stream.getvalue().splitlines()


@pytest.mark.parametrize(
    ("cosine", "equal", "shown"),
    [
        ("0.99", None, "cosine 0.99"),
        (None, "0.25", "25 % equal"),
        (None, "0.999999", "99.9999 % equal"),
        ("1", "1", "cosine 1, 100 % equal"),
        (None, None, ""),
    ],
)
def test_candidates_outputs_are_told_by_what_they_are(cosine: str | None, equal: str | None, shown: str) -> None:
    found = api.CandidateStatus(name="static", reason=Reason.LimitsHeld, worst_cosine=cosine, exact_match=equal)
    assert output._outputs(found) == shown


@pytest.mark.parametrize(("p50", "words"), [("1.50", "1.50× faster"), ("0.98", "0.98× as fast"), ("1.00", "1.00× as fast")])
def test_table_calls_only_what_is_faster_faster(p50: str, words: str) -> None:
    baseline = api.BaselineStatus(digest="sha256:" + "0" * 64, size="1", stored_size="1")
    target = api.TargetStatus(name="cpu", state=api.State.Refused, baseline=baseline, measurements=[measurement(p50, None)])
    (row,) = (line for line in table(target) if "p50 single" in line)
    assert f"{words} (0.9 to 1.6, 99 %)" in row
    assert "limits" not in "".join(table(target))


@pytest.mark.parametrize(("verdict", "mark"), [("Accepted", "✓ held"), ("Refused", "✗ not held"), ("Undecided", "? undecided")])
def test_table_marks_the_limits_of_a_load_point_and_not_its_speedup(verdict: str, mark: str) -> None:
    baseline = api.BaselineStatus(digest="sha256:" + "0" * 64, size="1", stored_size="1")
    target = api.TargetStatus(name="cpu", state=api.State.Refused, baseline=baseline, measurements=[measurement("1.50", api.Verdict(verdict))])
    speed, limits = (next(line for line in table(target) if words in line) for words in ("p50 single", "latency limits single"))
    assert mark in limits
    assert mark[0] not in speed


def test_table_escapes_what_a_candidate_says() -> None:
    candidate = api.CandidateStatus(name="static", reason=Reason.CandidateNotBuildable, message=EVIL, verdict=api.Verdict.Refused)
    stream = io.StringIO()
    target = api.TargetStatus(name="cpu", state=api.State.Refused, candidates=[candidate])
    Console(file=stream, width=200).print(output._candidates(target))
    assert "\x1b" not in stream.getvalue()
    assert "\\x1b[2J" in stream.getvalue()
