"""Our `onnxruntime` backend, slowed by real work: arithmetic in every request, as much as the config's parameter `extra_work_units` says.

Loaded by Triton's Python stub from a directory beside the backend it is made of. A sleep would not do: it costs no CPU, so caches stay warm and
neighbours get the core. A unit is a step of a 64-bit linear congruential generator (constants: Knuth, MMIX).
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

_spec = importlib.util.spec_from_file_location("burnish_onnxruntime", Path(__file__).resolve().parents[1] / "onnxruntime" / "model.py")
ours: Any = importlib.util.module_from_spec(_spec)  # type: ignore[arg-type]  # the file is laid out beside this one
_spec.loader.exec_module(ours)  # type: ignore[union-attr]


def work(units: int, state: int) -> int:
    """So many steps of the generator."""
    for _ in range(units):
        state = (state * 6364136223846793005 + 1442695040888963407) & 0xFFFFFFFFFFFFFFFF
    return state


class TritonPythonModel(ours.TritonPythonModel):
    """One model instance; Triton's stub finds the class by this name."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model, and read how much to work."""
        super().initialize(args)
        self.units = int(json.loads(args["model_config"])["parameters"]["extra_work_units"]["string_value"])
        self.state = 1

    def execute(self, requests: list[Any]) -> list[Any]:
        """Work, then answer."""
        self.state = work(self.units * len(requests), self.state)
        return super().execute(requests)
