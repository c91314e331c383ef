"""Step `compress`: one graph per candidate, or the reason why there is none.

A candidate that can't be made is a finding, not a failure: it stands in the report beside the others.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from burnish.api.job_contract import CompressedCandidate, CompressRecord, ExportRecord, PipelineRequest, StepName
from burnish.errors import BurnishError, Reason
from burnish.pipeline import samples
from burnish.pipeline.export import MODEL
from burnish.pipeline.lowering import lower
from burnish.pipeline.progress import emit
from burnish.pipeline.workdir import WorkDir
from burnish.plugins import base as plugins
from burnish.plugins import registry


def run(work: WorkDir) -> CompressRecord:
    """Lower the passes for the target's runtime and apply them.

    Raises:
        BurnishError: CalibrationMissing, PassNotApplicable: an explicit request that can't be met.
    """
    request, exported = work.load_request(), work.load(StepName.export, ExportRecord)
    runtime = registry.runtimes()[request.target.runtime.value]
    data = samples.open_datasets(work, request, exported.signature)
    calibration: Sequence[plugins.Arrays] = data.calibration.feeds(data.smallest_batch, fill=True) if data.calibration else ()
    lowering = lower(request, exported.graph)
    candidates = [CompressedCandidate(name=s.name, summary="", reason=Reason.CandidateSkipped, message=s.message) for s in lowering.skipped]
    for number, recipe in enumerate(lowering.recipes):
        emit(f"candidate {recipe.name}: {recipe.summary}", done=number / len(lowering.recipes))
        candidates.append(_make(work, runtime, recipe, calibration))
    return CompressRecord(candidates=tuple(candidates))


def recipes(work: WorkDir, request: PipelineRequest, exported: ExportRecord) -> dict[str, plugins.Recipe]:
    """The recipes by name; lowering is pure, so asking again gives the same."""
    return {recipe.name: recipe for recipe in lower(request, exported.graph).recipes}


def _make(work: WorkDir, runtime: plugins.Runtime, recipe: plugins.Recipe, calibration: Sequence[plugins.Arrays]) -> CompressedCandidate:
    folder = work.folder(StepName.compress)
    current = work.folder(StepName.export) / MODEL
    started = time.monotonic()
    try:
        for number, step in enumerate(recipe.steps):
            target = folder / f"{recipe.name}.{number}" / runtime.model_file
            target.parent.mkdir(parents=True, exist_ok=True)
            runtime.apply(step, current, target, calibration=calibration)
            current = target
    except BurnishError as error:
        if error.reason is not Reason.CandidateNotBuildable:  # a full disk says nothing about the candidate, and findings are kept for ever
            raise
        emit(f"candidate {recipe.name} is left out: {error.message}", warning=True)
        return CompressedCandidate(name=recipe.name, summary=recipe.summary, reason=error.reason, message=error.message)
    return CompressedCandidate(name=recipe.name, summary=recipe.summary, file=_relative(work, current), seconds=round(time.monotonic() - started, 2))


def _relative(work: WorkDir, path: Path) -> str:
    return path.relative_to(work.root).as_posix()
