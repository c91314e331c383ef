"""What `export` leaves for the steps after it, apart from its record; light, as `build` opens no dataset and needs nothing of those that do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from burnish.errors import BurnishError, Reason
from burnish.plugins import base as plugins

MODEL = "model.onnx"
REFERENCE = "reference"
"""Folder of requests and the source framework's own answers to them."""
GOLDEN = "golden.npz"
"""The golden request (`Samples.golden`), without an answer: each artifact has its own."""
COMPANIONS = "companions"
"""Files of the source that clients need; `build` puts them into every artifact."""


@contextlib.contextmanager
def baseline_errors(runtime: plugins.Runtime) -> Iterator[None]:
    """Without a baseline nothing can be compared: that it isn't buildable is an error, not a finding.

    Raises:
        BurnishError: BaselineNotLoadable.
    """
    try:
        yield
    except BurnishError as error:
        if error.reason is Reason.CandidateNotBuildable:
            raise BurnishError(Reason.BaselineNotLoadable, f"{runtime.name} does not load the converted source: {error.message}") from error
        raise
