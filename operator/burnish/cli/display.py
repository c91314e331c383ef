"""Live progress: a table of steps that redraws itself in a terminal, plain lines in a pipe."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from burnish.api.job_contract import StepName
from burnish.cli.terminal import plain
from burnish.errors import BurnishError
from burnish.pipeline.progress import Event
from burnish.pipeline.runner import Listener


def _text(event: Event) -> str:
    """An event's words. The event comes from a process that runs a model's code: it may have none, or other things in their place."""
    return plain(str(event.get("text", "")))


@contextlib.contextmanager
def display(stream: TextIO) -> Iterator[Listener]:
    """The listener that suits the stream."""
    if not stream.isatty():
        yield PlainDisplay(stream)
        return
    live = LiveDisplay(Console(file=stream))
    with live:
        yield live


class PlainDisplay:
    """One line per piece of news; of continuous news at most one line in five seconds."""

    INTERVAL_S = 5.0

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._last = 0.0

    def _line(self, target: str, step: StepName | None, text: str) -> None:
        prefix = " ".join(filter(None, (target, step.value if step else "")))
        with contextlib.suppress(BrokenPipeError):  # nobody looks on any more; the verdict is still wanted
            print(f"{prefix}: {plain(text)}", file=self._stream, flush=True)

    def plan(self, target: str, steps: tuple[StepName, ...]) -> None:
        """Show what is left to do."""
        text = f"steps: {', '.join(steps)}" if steps else "built and measured before; judged from the record, nothing is run"
        self._line(target, None, text)

    def step_started(self, target: str, step: StepName) -> None:
        """Show that a step runs."""
        self._line(target, step, "started")

    def event(self, target: str, step: StepName | None, event: Event) -> None:
        """Show news."""
        if "done" in event and not event.get("logged"):
            now = time.monotonic()
            if now - self._last < self.INTERVAL_S:
                return
            self._last = now
        self._line(target, step, ("warning: " if event.get("warning") else "") + _text(event))

    def step_ended(self, target: str, step: StepName, seconds: float, error: BurnishError | None) -> None:
        """Show how a step ended, and after how long."""
        self._line(target, step, f"{error.reason.value}: {error}" if error else f"done in {seconds:.1f} s")


class LiveDisplay:
    """The steps of the current target with their times; the running one says what it does."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lock = threading.Lock()
        self._rows: dict[tuple[str, StepName], RenderableType] = {}
        self._times: dict[tuple[str, StepName], str] = {}
        self._started: dict[tuple[str, StepName], float] = {}
        self._news: dict[tuple[str, StepName], Event] = {}
        self._running: tuple[str, StepName] | None = None
        self._spinner = Spinner("dots")
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=8, transient=False)

    def __enter__(self) -> LiveDisplay:
        self._live.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._running = None
        self._live.__exit__(None, None, None)

    def plan(self, target: str, steps: tuple[StepName, ...]) -> None:
        """Show what is left to do."""
        with self._lock:
            for step in steps:
                self._rows.setdefault((target, step), Text("·", style="dim"))
        if not steps:
            self._console.print(Text(f"{target}: built and measured before; judged from the record, nothing is run", style="green"))

    def step_started(self, target: str, step: StepName) -> None:
        """Show that a step runs."""
        with self._lock:
            self._running = (target, step)
            self._rows[self._running] = self._spinner
            self._started[self._running] = time.monotonic()

    def event(self, target: str, step: StepName | None, event: Event) -> None:
        """Show news."""
        with self._lock:
            if step is not None:
                self._news[(target, step)] = event
        if event.get("warning"):
            self._console.print(Text(f"{target} {step.value if step else ''}: {_text(event)}", style="yellow"))

    def step_ended(self, target: str, step: StepName, seconds: float, error: BurnishError | None) -> None:
        """Show how a step ended, and after how long."""
        with self._lock:
            key = (target, step)
            self._rows[key] = Text("✗", style="bold red") if error else Text("✓", style="bold green")
            self._times[key] = f"{seconds:.1f} s"
            self._running = None
            if error:
                self._news[key] = {"text": f"{error.reason.value}: {error}"}

    def _render(self) -> RenderableType:
        with self._lock:
            table = Table.grid(padding=(0, 1))
            for key, mark in self._rows.items():
                target, step = key
                news = self._news.get(key)
                seconds = self._times.get(key) or (f"{time.monotonic() - self._started[key]:.0f} s" if key in self._started else "")
                detail: RenderableType = Text(
                    _text(news) if news else "", style="default" if key == self._running else "dim", overflow="ellipsis", no_wrap=True
                )
                done = news.get("done") if news else None
                if isinstance(done, int | float) and key == self._running:
                    detail = Group(detail, ProgressBar(total=1.0, completed=done, width=48))
                table.add_row(mark, Text(target, style="cyan"), Text(step.value), Text(seconds, style="dim"), detail)
            return table
