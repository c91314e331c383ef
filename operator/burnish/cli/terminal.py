"""What may go to a person's terminal, and what to do when nobody reads it any more.

Names of operators, a checker's words and a step's news come out of a model or its data: an escape sequence in them could rewrite the screen.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from burnish.errors import BurnishError


def plain(text: str) -> str:
    """Text from outside with control and direction characters escaped; line breaks stay, since our own messages have them."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def complain(error: BurnishError) -> None:
    """An error's reason and words, on stderr."""
    print(f"burnish: {error.reason.value}: {plain(str(error))}", file=sys.stderr)


def drop_readers() -> None:
    """Point the streams whose reader went away at nothing: otherwise Python complains when it flushes them at its end."""
    with Path(os.devnull).open("w") as nothing:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except BrokenPipeError:
                os.dup2(nothing.fileno(), stream.fileno())
