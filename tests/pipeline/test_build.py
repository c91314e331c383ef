"""What `build` goes by: the export's record and files alone."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest

from burnish.api.job_contract import BuildStepRecord, StepName
from burnish.pipeline.workdir import WorkDir
from burnish.toolchains import environments


def built(folder: Path) -> dict[str, str | None]:
    """Model -> digest of its loadable files."""
    return {model.name: model.content_digest for model in WorkDir(folder).load(StepName.build, BuildStepRecord).models}


@pytest.mark.parametrize("runtime", ["ONNXRuntime", "OpenVINO"])
def test_build_opens_no_dataset_and_asks_the_first_of_the_calibration_data(project, make_mlp, make_spec, tmp_path, runtime):
    rng = np.random.default_rng(0)
    data = {name: rng.standard_normal((40, 16)).astype(np.float32) for name in ("calibration", "evaluation")}
    for name, x in data.items():
        np.savez(project.path / f"{name}.npz", x=x)
    onnx.save(make_mlp(), project.path / "model.onnx")
    spec = make_spec(
        targets=[{"name": "cpu", "runtime": runtime, "resources": {"cpu": "1", "memory": "1Gi"}}],
        passes=[{"type": "Quantize", "quantize": {"mode": "Static"}}],
        datasets={"calibration": {"uri": "file:calibration.npz"}, "evaluation": {"uri": "file:evaluation.npz", "metric": "Agreement"}},
        constraints={"maxSlowdownPercent": 1000},
        measurement={"timeout": "2s"},
    )
    ran = project.run(project.write(spec), "--work", project.path / "work")
    (first,) = (project.path / "work").glob("*/cpu")
    assert "baseline" in built(first), ran.stderr
    again = tmp_path / "again"
    shutil.copytree(first, again, ignore=shutil.ignore_patterns("calibration*", "evaluation*", "05-build"))
    python = environments.ensure("onnx", print).python
    done = subprocess.run([python, "-m", "burnish.pipeline", "build", "--work", again], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert built(again) == built(first)
    for name in built(first):
        folder = Path("steps/05-build/artifacts") / name
        with np.load(again / folder / "golden.npz") as golden:
            np.testing.assert_array_equal(golden["input:x"], data["calibration"][:1])
        assert (again / folder / "golden.request").read_bytes() == (first / folder / "golden.request").read_bytes()
