"""Opening a model in OpenVINO the one way that Burnish does it: threads and precision written out, its errors typed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from burnish.errors import BurnishError, Reason
from burnish.plugins import base

if TYPE_CHECKING:
    import numpy as np

PROPERTIES = ("INFERENCE_NUM_THREADS", "NUM_STREAMS", "INFERENCE_PRECISION_HINT")
"""Of `Runtime.parameters`: what OpenVINO itself knows; the rest is for Triton's backend."""


class OpenVinoSession(base.Session):
    """A model loaded in OpenVINO on the CPU."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._outputs = [output.get_any_name() for output in compiled.outputs]

    def infer(self, feeds: base.Arrays) -> dict[str, np.ndarray]:
        """Run once; all outputs by name.

        Raises:
            BurnishError: CandidateNotBuildable: OpenVINO refuses the feeds or fails.
        """
        with typed_errors("OpenVINO does not run the model"):
            found = self._compiled(dict(feeds))
            return {name: found[name] for name in self._outputs}


def compile_model(model: Any) -> Any:
    """A model in memory, ready to run with FP32 where it says FP32."""
    import openvino

    return openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


def open_session(path: Path, parameters: Mapping[str, str]) -> OpenVinoSession:
    """Load the IR at `path`.

    Raises:
        BurnishError: CandidateNotBuildable: OpenVINO does not load it.
    """
    import openvino

    properties = {key: parameters[key] for key in PROPERTIES}
    with typed_errors("OpenVINO does not load the model"):
        return OpenVinoSession(openvino.Core().compile_model(path, "CPU", properties))


@contextlib.contextmanager
def typed_errors(what: str) -> Iterator[None]:
    """Turn what OpenVINO and NNCF raise (a dozen classes without a common base below Exception) into CandidateNotBuildable.

    The machine's trouble (OSError, MemoryError) stays what it is: it says nothing about the model.
    """
    try:
        yield
    except (BurnishError, OSError, MemoryError):
        raise
    except Exception as error:
        raise BurnishError(Reason.CandidateNotBuildable, f"{what}: {line(error)}") from error


def line(error: Exception) -> str:
    """The error's own words in one line, without where in OpenVINO's source it was raised."""
    lines = (text.strip() for text in str(error).splitlines())
    return " ".join(text for text in lines if text and not text.startswith(("Exception from src/", "Check '")))[:600] or type(error).__name__
