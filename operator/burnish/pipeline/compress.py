"""Step `compress`: one graph per candidate, or the reason why there is none.

A candidate that can't be made is a finding, not a failure: it stands in the report beside the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from burnish.api.job_contract import CompressedCandidate, CompressRecord, ExportRecord, PipelineRequest, StepName, TrainedPass
from burnish.errors import BurnishError, Reason
from burnish.measurement import scoring
from burnish.pipeline import samples, usage
from burnish.pipeline.exported import MODEL, baseline_errors
from burnish.pipeline.lowering import lower, trained
from burnish.pipeline.progress import emit
from burnish.pipeline.workdir import WorkDir
from burnish.plugins import base as plugins
from burnish.plugins import registry
from burnish.serving import images


def run(work: WorkDir) -> CompressRecord:
    """Lower the passes for the target's runtime and apply them.

    Raises:
        BurnishError: CalibrationMissing, PassNotApplicable: an explicit request that can't be met; UnsupportedOperator, UnsupportedOpset,
            BaselineNotLoadable: the runtime, or the serving image, can't load the converted source.
    """
    request, exported = work.load_request(), work.load(StepName.export, ExportRecord)
    runtime = registry.runtimes()[request.target.runtime.value]
    with baseline_errors(runtime):
        runtime.check(work.folder(StepName.export) / MODEL, image=images.image(request.serving_image))
    data = samples.open_datasets(work, request, exported.signature)
    calibration: Sequence[plugins.Arrays] = data.calibration.feeds(data.smallest_batch, fill=True) if data.calibration else ()
    models = trained(work, request)
    lowering = lower(request, exported, models)
    candidates = [CompressedCandidate(name=s.name, summary="", reason=Reason.CandidateSkipped, message=s.message) for s in lowering.skipped]
    for number, recipe in enumerate(lowering.recipes):
        emit(f"candidate {recipe.name}: {recipe.summary}", done=number / len(lowering.recipes))
        candidates.append(_make(work, runtime, recipe, _start(work, recipe, models), calibration, _answers(request, data)))
    return CompressRecord(candidates=tuple(candidates))


def _answers(request: PipelineRequest, data: samples.Samples) -> plugins.Answers:
    """How the outputs to one request become answers: as the evaluation is decoded, else by ArgMax over the first output."""
    spec = request.datasets.evaluation
    decoder = scoring.decoder(spec)

    def decode(outputs: plugins.Arrays) -> Sequence[object]:
        batch = data.as_batch(outputs, data.smallest_batch)
        name = (spec.output if spec else None) or next(iter(batch))
        return decoder.decode(batch[name], name)

    return plugins.Answers(decode, decoder.alike)


def _make(
    work: WorkDir,
    runtime: plugins.Runtime,
    recipe: plugins.Recipe,
    start: Path,
    calibration: Sequence[plugins.Arrays],
    answers: plugins.Answers,
) -> CompressedCandidate:
    folder = work.folder(StepName.compress)
    current = start
    meter = usage.Meter()
    summary = recipe.summary
    try:
        for number, step in enumerate(recipe.steps):
            target = folder / f"{recipe.name}.{number}" / runtime.model_file
            target.parent.mkdir(parents=True, exist_ok=True)
            if note := runtime.apply(step, current, target, calibration=calibration, answers=answers):
                emit(f"candidate {recipe.name}: {note}")
                summary = f"{summary}; {note}"
            current = target
    except BurnishError as error:
        if error.reason is not Reason.CandidateNotBuildable:  # a full disk says nothing about the candidate, and findings are kept for ever
            raise
        emit(f"candidate {recipe.name} is left out: {error.message}", warning=True)
        return CompressedCandidate(name=recipe.name, summary=recipe.summary, reason=error.reason, message=error.message)
    return CompressedCandidate(name=recipe.name, summary=summary, file=_relative(work, current), start=recipe.start, usage=meter.read())


def _start(work: WorkDir, recipe: plugins.Recipe, models: Sequence[TrainedPass]) -> Path:
    """What a recipe's first step reads."""
    if not recipe.start:
        return work.folder(StepName.export) / MODEL
    return work.path(next(model.file for model in models if model.name == recipe.start))


def _relative(work: WorkDir, path: Path) -> str:
    return path.relative_to(work.root).as_posix()
