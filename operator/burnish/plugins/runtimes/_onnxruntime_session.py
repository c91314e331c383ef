"""Opening an ONNX Runtime session the one way that Burnish does it: thread counts written out, sequential, no telemetry, its errors typed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from burnish.errors import BurnishError, Reason
from burnish.plugins import base

if TYPE_CHECKING:
    import numpy as np


class OrtError(BurnishError):
    """What ONNX Runtime said when it refused to load or run a model; typed, so that it may also go to the user as it is."""

    def __init__(self, message: str) -> None:
        super().__init__(Reason.CandidateNotBuildable, message)


def import_onnxruntime() -> Any:
    """The `onnxruntime` module, its telemetry switched off before it is imported (it reads the variable once, at import)."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    return onnxruntime


class OrtSession(base.Session):
    """A model loaded in ONNX Runtime on the CPU."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._outputs = [o.name for o in session.get_outputs()]
        self.inputs = [(i.name, i.type, i.shape) for i in session.get_inputs()]
        """(name, type such as `tensor(float)`, shape with names or None where it varies) of each input."""

    def infer(self, feeds: base.Arrays) -> dict[str, np.ndarray]:
        """Run once; all outputs by name.

        Raises:
            OrtError: ONNX Runtime refuses the feeds or fails.
        """
        with typed_errors():
            return dict(zip(self._outputs, self._session.run(self._outputs, dict(feeds)), strict=True))


def open_session(path: Path, *, threads: int, optimize: bool = True) -> OrtSession:
    """Load the ONNX file `path` with `threads` intra-op threads; `optimize=False` runs the graph as it was written.

    Raises:
        OrtError: ONNX Runtime does not load it.
    """
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4  # fatal only: errors come as exceptions, and are told once
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
    with typed_errors():
        return OrtSession(ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]))


@contextlib.contextmanager
def typed_errors() -> Iterator[None]:
    """Turn what ONNX Runtime raises (a dozen classes without a common base below RuntimeError and Exception) into OrtError."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise OrtError(" ".join(str(error).split())[:600]) from error


_NUMPY_NAMES = {"float": "float32", "double": "float64", "float16": "float16", "bool": "bool", "string": "object"}


def zeros(session: OrtSession) -> dict[str, np.ndarray]:
    """Feeds of zeros for every input, with size 1 in each dimension that varies."""
    import numpy as np

    feeds = {}
    for name, kind, shape in session.inputs:
        element = kind.removeprefix("tensor(").removesuffix(")")
        sizes = [size if isinstance(size, int) and size > 0 else 1 for size in shape]
        dtype = _NUMPY_NAMES.get(element, element)
        feeds[name] = np.full(sizes, "", dtype=object) if dtype == "object" else np.zeros(sizes, dtype=dtype)
    return feeds
