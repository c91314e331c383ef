"""Runs the steps as child processes, and listens to what they tell on the way."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from burnish.pipeline import ahead
from burnish.pipeline.confined_process import ChildExit, ConfinedProcess, Ending, Limits, end_all
from burnish.pipeline.progress import DESCRIPTOR_VARIABLE
from burnish.store.credentials import KEYS, SOURCE_VARIABLES

__all__ = ["Child", "ChildExit", "Ending", "Limits", "child_environment", "end_all"]

_MAX_EVENT_BYTES = 64 * 1024


PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "XDG_CACHE_HOME", "SSL_CERT_FILE", "SSL_CERT_DIR")
"""Environment variables that children inherit; a list of those, so that nobody's token reaches a model's code."""

PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy")
"""Only for what downloads: a proxy's address often holds a password."""


def child_environment(*, downloads: bool = False, uses_store: bool = False) -> dict[str, str]:
    """The environment for a step: what programs need to run at all, and telemetry off.

    Args:
        downloads: whether it fetches from the network, and so needs the sources' credentials.
        uses_store: whether it reaches the store, and so needs the credentials of one on S3. Never where a model's code runs.
    """
    names = (*PASSED_ON, *((*PROXIES, *SOURCE_VARIABLES) if downloads else ()), *(KEYS if uses_store else ()))
    ours = {name: os.environ[name] for name in names if name in os.environ}
    return {**ours, "ORT_DISABLE_TELEMETRY": "1", "PYTHONUNBUFFERED": "1"}


class Child:
    """A started command that we listen to. A context manager: leaving it ends the command and all its descendants."""

    def __init__(self, process: ConfinedProcess, events: int, go: int) -> None:
        """Use `start`."""
        self._process, self._events, self._go = process, events, go

    @classmethod
    def start(cls, command: Sequence[str], *, env: Mapping[str, str], cwd: Path, limits: Limits, log: Path) -> Self:
        """Start a command. Nothing of it is left after the context, KeyboardInterrupt included.

        Args:
            command: program and arguments.
            env: its environment, all of it but for two descriptors, which are added. BURNISH_PROGRESS_FD takes progress events as lines of JSON; a
                command that knows of BURNISH_GO_FD loads its libraries, and then waits for `wait` (`burnish.pipeline.ahead`).
            cwd: working directory.
            limits: what it may use.
            log: gets stdout and stderr, appended.

        Raises:
            BurnishError: ResourcesNotEnforceable; InternalError, where the command can't be executed.
        """
        events, writer = os.pipe()
        reader, go = os.pipe()
        descriptors = {DESCRIPTOR_VARIABLE: writer, ahead.DESCRIPTOR_VARIABLE: reader}
        try:
            process = ConfinedProcess.start(
                command,
                env={**env, **{name: str(number) for name, number in descriptors.items()}},
                cwd=cwd,
                log=log,
                limits=limits,
                descriptors=tuple(descriptors.values()),
            )
        except BaseException:
            os.close(events)
            os.close(go)
            raise
        finally:
            os.close(writer)
            os.close(reader)
        return cls(process, events, go)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._process.end()
        finally:
            os.close(self._events)
            if self._go >= 0:
                os.close(self._go)

    def wait(self, on_event: Callable[[dict[str, Any]], None] | None = None, arguments: Sequence[str] = ()) -> ChildExit:
        """Let the command go, and return its end.

        Args:
            on_event: called in this thread with each progress event; what it raises propagates.
            arguments: more of them, for a command that waits.
        """
        with contextlib.suppress(BrokenPipeError):  # it is gone, or doesn't wait
            os.write(self._go, json.dumps(list(arguments)).encode())
        os.close(self._go)
        self._go = -1
        events = _EventReader(self._events, on_event)
        with selectors.DefaultSelector() as selector:
            selector.register(self._process, selectors.EVENT_READ)
            selector.register(self._events, selectors.EVENT_READ)
            while (ended := self._process.wait(0)) is None:
                for key, _ in selector.select():
                    if key.fd == self._events and not events.read():
                        selector.unregister(self._events)
        while events.read():
            pass
        return ended


class _EventReader:
    """Cuts what comes through the progress pipe into events. The other end runs a model's code: what is no event is left out."""

    def __init__(self, descriptor: int, on_event: Callable[[dict[str, Any]], None] | None) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._on_event = on_event
        self._buffer = b""

    def read(self) -> bool:
        """Take what is there; False where there is nothing, or the other end is closed."""
        try:
            data = os.read(self._descriptor, _MAX_EVENT_BYTES)
        except BlockingIOError:
            return False
        *lines, rest = (self._buffer + data).split(b"\n")
        self._buffer = rest if len(rest) <= _MAX_EVENT_BYTES else b""
        for line in lines:
            event = _parse(line)
            if event is not None and self._on_event is not None:
                self._on_event(event)
        return bool(data)


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None
