"""How a step tells what it is doing: JSON lines on a pipe where a runner listens, plain lines on stderr where none does (a cluster's log)."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import TypedDict

DESCRIPTOR_VARIABLE = "BURNISH_PROGRESS_FD"


class Event(TypedDict, total=False):
    """One piece of news. `text` alone is a line worth keeping; with `done`, it replaces the step's previous news."""

    text: str
    done: float
    """Fraction of the step that is done, 0 to 1, where that is known."""
    warning: bool
    logged: bool
    """Worth a line of its own although it has `done`."""


def emit(text: str, *, done: float | None = None, warning: bool = False, logged: bool = False) -> None:
    """Tell the runner, or the log; a log gets no news that the next ones replace, unless they are `logged`."""
    event: Event = {"text": text}
    if done is not None:
        event["done"] = round(done, 4)
    if warning:
        event["warning"] = True
    if logged:
        event["logged"] = True
    descriptor = os.environ.get(DESCRIPTOR_VARIABLE)
    if descriptor is None:
        if done is None or logged:
            print(text, file=sys.stderr, flush=True)  # noqa: T201  # the cluster's log
        return
    with contextlib.suppress(OSError):  # the runner is gone; the step ends by its own means
        os.write(int(descriptor), (json.dumps(event) + "\n").encode())
