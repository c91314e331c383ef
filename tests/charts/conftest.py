"""Helm on the charts, and the control plane of tests/cluster for what has to be admitted."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "cluster"))
import control_plane
from control_plane import ROOT, ControlPlane

CHARTS = ROOT / "charts"
REQUIRED = {
    "images.burnish": "burnish:1",
    "images.optimizers.onnx": "optimizer-onnx:1",
    "images.triton": "triton:1",
    "store.uri": "s3://models/store",
}


class Helm:
    """The helm of `e2e/cluster`."""

    def __init__(self) -> None:
        self.program = control_plane.program("helm")

    def __call__(self, *arguments: object, api: ControlPlane | None = None) -> subprocess.CompletedProcess[str]:
        """Run it, on a cluster where one is named; whether it worked is for the caller to see."""
        cluster = ["--kubeconfig", str(api.kubeconfig)] if api is not None else []
        return subprocess.run([self.program, *map(str, arguments), *cluster], capture_output=True, text=True, timeout=120)

    def template(self, namespace: str = "burnish-system", chart: str = "burnish", **values: object) -> list[dict[str, Any]]:
        """What the chart makes of values (`images__triton` for `images.triton`), on top of those that have to be set."""
        done = self("template", "burnish", CHARTS / chart, "--namespace", namespace, *(sets(values) if chart == "burnish" else ()))
        assert done.returncode == 0, done.stderr
        return [document for document in yaml.safe_load_all(done.stdout) if document]


def sets(values: dict[str, object]) -> list[str]:
    """Flags for values; None leaves out one that has to be set."""
    chosen = REQUIRED | {name.replace("__", "."): value for name, value in values.items()}
    return [part for name, value in chosen.items() if value is not None for part in ("--set", f"{name}={value}")]


@pytest.fixture(scope="session")
def helm() -> Helm:
    return Helm()


@pytest.fixture(scope="session")
def flags() -> Callable[..., list[str]]:
    return lambda **values: sets(values)


@pytest.fixture
def restricted(api: ControlPlane, request: pytest.FixtureRequest) -> Iterator[str]:
    """Name of a fresh namespace that takes Restricted pods only, and says so."""
    modes = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    name = api.create_namespace(request.node.name, modes)
    yield name
    api.delete_namespace(name)
