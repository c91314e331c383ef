"""Runs an example as a user does, with a store and a work directory that can be looked at afterwards."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import time
from pathlib import Path

from burnish.api import manifest
from burnish.api.job_contract import MeasureStepRecord, StepName
from burnish.pipeline.workdir import WorkDir
from machine import ROOT

EXAMPLES = ROOT / "examples"
_STEP = re.compile(r"^(?:\S+ )?(?P<step>[a-z]+): done in (?P<seconds>[0-9.]+) s$", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Run:
    """One `burnish run`."""

    seconds: float
    """Of the whole command, as a stopwatch beside the terminal tells."""
    steps: dict[str, float]
    """Step -> seconds, as the command itself tells."""
    work: WorkDir
    """Of the first target."""

    @property
    def record(self) -> MeasureStepRecord:
        """What the target's `measure` step left."""
        return self.work.load(StepName.measure, MeasureStepRecord)


def run(name: str, folder: Path, *, store: Path | None = None) -> Run:
    """`burnish run examples/<name>.yaml`; every verdict is fine, a failed step is not.

    Args:
        name: of the example.
        folder: for the work directory, and for the store where none is given.
        store: an existing one.
    """
    return run_manifest(EXAMPLES / f"{name}.yaml", folder, store=store)


def run_manifest(path: Path, folder: Path, *, store: Path | None = None) -> Run:
    """As `run`, of any manifest."""
    work = folder / "work"
    command = [str(Path(sys.executable).parent / "burnish"), "run", str(path), "--store", str(store or folder / "store"), "--work", str(work)]
    started = time.perf_counter()
    done = subprocess.run([*command, "--report", str(folder / "report.html"), "-o", "json"], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode not in (0, 3, 4):
        raise SystemExit(f"burnish run {path.name} ended with {done.returncode}:\n{done.stderr}")
    steps = {found["step"]: float(found["seconds"]) for found in _STEP.finditer(done.stderr)}
    (run_folder,) = work.iterdir()  # `burnish run --work` makes one of its own in there
    return Run(seconds, steps, WorkDir(run_folder / manifest.load(path).spec.targets[0].name))


def missing_data(name: str) -> list[str]:
    """Files that the example's manifest names and that are not there (`make examples` makes them)."""
    spec = manifest.load(EXAMPLES / f"{name}.yaml").spec
    named = [spec.source, spec.datasets.calibration, spec.datasets.evaluation]
    files = [entry.uri.removeprefix("file:") for entry in named if entry is not None]
    return [file for file in files if not (EXAMPLES / file).exists()]
