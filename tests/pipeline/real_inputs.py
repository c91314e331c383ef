"""Specs out of the examples, for tests that need a real model and not all of an example's data or time."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

EXAMPLES = Path(__file__).parents[2] / "examples"
RUNTIMES = ("ONNXRuntime", "OpenVINO")
AUTO = [{"type": "Quantize", "quantize": {"precision": "INT8", "mode": "Auto"}}]


def example_spec(name: str, *, calibration: int, evaluation: int) -> dict[str, Any]:
    """An example's spec with absolute URIs and at most so many samples."""
    spec: dict[str, Any] = yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text())["spec"]
    for entry in (spec["source"], *spec["datasets"].values()):
        path = EXAMPLES / entry["uri"].removeprefix("file:")
        if not path.exists():
            pytest.fail(f"{path} is missing: make examples")
        entry["uri"] = f"file:{path}"
    spec["datasets"]["calibration"]["samples"] = calibration
    spec["datasets"]["evaluation"]["samples"] = evaluation
    return spec


def on_every_runtime(spec: dict[str, Any]) -> dict[str, Any]:
    """The spec with every INT8 candidate on each runtime, whatever their verdicts, and a few rounds."""
    made = copy.deepcopy(spec)
    made["passes"] = AUTO
    made["targets"] = [{"name": name[:4].lower(), "runtime": name, "resources": {"cpu": "1", "memory": "2Gi"}} for name in RUNTIMES]
    made["measurement"] = {"timeout": "8s"}
    made["constraints"] = {"maxSlowdownPercent": 1000, "onUndecided": "Accept", "onInfeasible": "ServeBaseline"}
    return made
