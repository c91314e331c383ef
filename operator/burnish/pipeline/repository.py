"""The model repository that the measuring server loads: the baseline and every candidate, side by side in one server."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from burnish.api.job_contract import PipelineRequest, Plan, StepName
from burnish.pipeline.workdir import WorkDir
from burnish.serving.config import options_of
from burnish.serving.repository import write_repository


def write(target: Path, artifacts: Mapping[str, Path], request: PipelineRequest) -> None:
    """Render the repository from artifact directories, with the options that serving will use."""
    options = options_of(request.target, request.measurement.loads, request.serving.dynamic_batching)
    write_repository(target, artifacts, options)


def folder(work: WorkDir, plan: Plan) -> Path:
    """Where the repository of this run is: `build` wrote it, or `stage` where nothing was built."""
    return work.folder(StepName.build if plan is Plan.Build else StepName.stage) / "repository"
