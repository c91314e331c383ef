"""What `build` goes by, the export's record and files alone; and what it refuses: a model that doesn't answer as its source."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from tests.pipeline.conftest import Project

from burnish.api.job_contract import BuildStepRecord, StepName
from burnish.pipeline.exported import MODEL, REFERENCE
from burnish.pipeline.workdir import WorkDir
from burnish.toolchains import environments


def built(folder: Path) -> dict[str, str | None]:
    """Model -> digest of its loadable files."""
    return {model.name: model.content_digest for model in WorkDir(folder).load(StepName.build, BuildStepRecord).models}


def build_again(work: Path) -> subprocess.CompletedProcess[str]:
    """The step alone."""
    python = environments.ensure("onnx", print).python
    return subprocess.run([python, "-m", "burnish.pipeline", "build", "--work", work], capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module", params=["ONNXRuntime", "OpenVINO"])
def finished(request, make_project, make_mlp, make_spec, tmp_path_factory) -> tuple[Project, Path]:
    """A run, and its target's work directory."""
    project = make_project(tmp_path_factory.mktemp("build"))
    rng = np.random.default_rng(0)
    for name in ("calibration", "evaluation"):
        np.savez(project.path / f"{name}.npz", x=rng.standard_normal((40, 16)).astype(np.float32))
    onnx.save(make_mlp(), project.path / "model.onnx")
    spec = make_spec(
        targets=[{"name": "cpu", "runtime": request.param, "resources": {"cpu": "1", "memory": "1Gi"}}],
        passes=[{"type": "Quantize", "quantize": {"mode": "Static"}}],
        datasets={"calibration": {"uri": "file:calibration.npz"}, "evaluation": {"uri": "file:evaluation.npz", "metric": "Agreement"}},
        constraints={"maxSlowdownPercent": 1000},
        measurement={"timeout": "2s"},
    )
    ran = project.run(project.write(spec), "--work", project.path / "work")
    (work,) = (project.path / "work").glob("*/cpu")
    assert "baseline" in built(work), ran.stderr
    return project, work


def test_build_opens_no_dataset_and_asks_the_first_of_the_calibration_data(finished: tuple[Project, Path], tmp_path: Path) -> None:
    project, first = finished
    again = tmp_path / "again"
    shutil.copytree(first, again, ignore=shutil.ignore_patterns("calibration*", "evaluation*", "05-build"))
    done = build_again(again)
    assert done.returncode == 0, done.stderr
    assert built(again) == built(first)
    asked = np.load(project.path / "calibration.npz")["x"][:1]
    for name in built(first):
        folder = Path("steps/05-build/artifacts") / name
        with np.load(again / folder / "golden.npz") as golden:
            np.testing.assert_array_equal(golden["input:x"], asked)
        assert (again / folder / "golden.request").read_bytes() == (first / folder / "golden.request").read_bytes()


def other_weight(export: Path) -> None:
    """As if the way to ONNX had changed one weight."""
    model = onnx.load(export / MODEL)
    weight = next(w for w in model.graph.initializer if len(w.dims) == 2)
    values = onnx.numpy_helper.to_array(weight).copy()
    values[0] += 0.05
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    onnx.save(model, export / MODEL)


def other_samples(export: Path) -> None:
    """As if the source had been asked something else."""
    (path, *_) = sorted((export / REFERENCE).iterdir())
    with np.load(path) as pair:
        arrays = dict(pair)
    np.savez(path, **{name: values[..., ::-1] if name.startswith("input:") else values for name, values in arrays.items()})


@pytest.mark.parametrize("change", [other_weight, other_samples])
def test_model_that_answers_otherwise_than_its_source_is_refused(
    finished: tuple[Project, Path], tmp_path: Path, change: Callable[[Path], None]
) -> None:
    """Nothing is measured against a baseline that isn't the model: no test of the comparison alone would notice if the step forgot it."""
    again = tmp_path / "again"
    shutil.copytree(finished[1], again, ignore=shutil.ignore_patterns("05-build"))
    change(WorkDir(again).folder(StepName.export))
    done = build_again(again)
    assert done.returncode != 0
    failure = json.loads((WorkDir(again).folder(StepName.build) / "failure.json").read_text())
    assert failure["reason"] == "ExportNotEquivalent"
    assert "does not answer as the source does" in failure["message"] and "'y'" in failure["message"], failure["message"]
