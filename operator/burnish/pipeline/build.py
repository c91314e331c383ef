"""Step `build`: from ONNX graphs to artifacts of the target's runtime, and the model repository that Triton loads.

The baseline is held to the source framework's own outputs here, over the whole preserving chain (export and FP32 build): whatever changed
the numbers on the way, nothing is measured against a baseline that isn't the model.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from burnish import names
from burnish.api.job_contract import (
    ArtifactConfig,
    BuildStepRecord,
    BuiltModel,
    CompressRecord,
    ExportRecord,
    PipelineRequest,
    StepName,
    TensorDifference,
    TrainedPass,
)
from burnish.errors import BurnishError, Reason
from burnish.measurement import equivalence
from burnish.pipeline import lowering, pairs, repository
from burnish.pipeline.exported import COMPANIONS, GOLDEN, MODEL, REFERENCE, baseline_errors
from burnish.pipeline.progress import emit
from burnish.pipeline.workdir import WorkDir
from burnish.plugins import base as plugins
from burnish.plugins import registry
from burnish.serving import images
from burnish.serving.config import smallest_batch
from burnish.store import artifacts
from burnish.toolchains import environments

BASELINE_SUMMARY = "the source, converted, uncompressed"


def run(work: WorkDir) -> BuildStepRecord:
    """Build the baseline and every candidate that `compress` made; leave `artifacts/<name>/` and `repository/`.

    Raises:
        BurnishError: ExportNotEquivalent; BaselineNotLoadable where the runtime itself refuses the converted source.
    """
    request, exported = work.load_request(), work.load(StepName.export, ExportRecord)
    builder = _Builder(work, request, exported)
    with baseline_errors(builder.runtime):
        session = builder.convert(names.BASELINE, work.folder(StepName.export) / MODEL)
        answer = session.infer(builder.golden)
    difference = builder.compare_with_source(session)
    del session  # one model in memory at a time
    baseline = builder.describe(names.BASELINE, BASELINE_SUMMARY, answer, ())
    recipes, trained = lowering.recipes(work, request, exported), lowering.trained(work, request)
    models = [baseline]
    for candidate in work.load(StepName.compress, CompressRecord).candidates:
        if candidate.file is None:
            models.append(BuiltModel(name=candidate.name, summary=candidate.summary, reason=candidate.reason, message=candidate.message))
            continue
        try:
            steps = (*_trained(recipes[candidate.name], trained), *recipes[candidate.name].steps)
            answer = builder.convert(candidate.name, work.path(candidate.file)).infer(builder.golden)
            built = builder.describe(candidate.name, candidate.summary, answer, steps)
            models.append(_unless_known(built, models))
        except BurnishError as error:
            if error.reason not in (Reason.CandidateNotBuildable, Reason.UnsupportedOpset):
                raise
            emit(f"candidate {candidate.name} is left out: {error.message}", warning=True)
            models.append(BuiltModel(name=candidate.name, summary=candidate.summary, reason=Reason.CandidateNotBuildable, message=error.message))
    folders = {m.name: work.path(m.directory) for m in models if m.directory is not None}
    repository.write(work.folder(StepName.build) / "repository", folders, request)
    return BuildStepRecord(models=tuple(models), inputs=exported.inputs, difference=difference)


def _trained(recipe: plugins.Recipe, models: Sequence[TrainedPass]) -> list[plugins.Step]:
    """The training passes that a recipe starts behind, as steps of the artifact."""
    names_of = [model.name for model in models]
    return [plugins.Step(m.type, m.config) for m in models[: names_of.index(recipe.start) + 1]] if recipe.start else []


def _unless_known(built: BuiltModel, before: Sequence[BuiltModel]) -> BuiltModel:
    """`built`, or that it is left out, as an earlier candidate is the same: nothing is measured twice."""
    same = next((m.name for m in before if m.content_digest == built.content_digest and m.name != names.BASELINE), None)
    if same is None:
        return built
    return BuiltModel(name=built.name, summary=built.summary, reason=Reason.CandidateSkipped, message=f"the same model as {same} ({built.summary})")


class _Builder:
    """What all models of one target have in common."""

    def __init__(self, work: WorkDir, request: PipelineRequest, exported: ExportRecord) -> None:
        self.work, self.request, self.exported = work, request, exported
        self.runtime = registry.runtimes()[request.target.runtime.value]
        self.image = images.image(request.serving_image)
        self.golden, _ = pairs.load_pair(work.folder(StepName.export) / GOLDEN)
        self.threads = request.target.resources.threads

    def folder(self, name: str) -> Path:
        """Of a model's artifact."""
        return self.work.folder(StepName.build) / "artifacts" / name

    def convert(self, name: str, model: Path) -> plugins.Session:
        """Write the loadable files of an ONNX graph's artifact, and load them."""
        emit(f"building {name}")
        loadable = self.folder(name) / "model"
        loadable.mkdir(parents=True)
        self.runtime.build(model, loadable, image=self.image)
        return self.runtime.open(loadable, threads=self.threads)

    def describe(self, name: str, summary: str, answer: plugins.Arrays, steps: tuple[plugins.Step, ...]) -> BuiltModel:
        """Complete the artifact that `convert` began: with its golden answer, its description, and what clients need."""
        directory = self.folder(name)
        pairs.save_pair(directory / "golden.npz", self.golden, answer)
        (directory / "golden.request").write_bytes(pairs.request_body(self.golden, self.exported.signature))
        config = ArtifactConfig(
            name=name,
            summary=summary,
            runtime=self.runtime.name,
            backend=self.runtime.backend,
            model_file=self.runtime.model_file,
            signature=self.exported.signature,
            inputs=self.exported.inputs,
            source_digest=self.request.resolved.source.tree.digest,
            artifact_key=self.request.plan.artifact_key,
            toolchain=environments.identity(self.runtime.toolchain),
            hardware_class=self.request.hardware_class,
            steps=tuple({"kind": s.kind, "options": dict(s.options)} for s in steps),
        )
        companions = self.work.folder(StepName.export) / COMPANIONS
        if companions.is_dir():
            shutil.copytree(companions, directory / COMPANIONS)
        (directory / "artifact.json").write_bytes(artifacts.config_bytes(config))
        size = sum(f.stat().st_size for f in (directory / "model").rglob("*") if f.is_file())
        return BuiltModel(
            name=name,
            summary=summary,
            directory=directory.relative_to(self.work.root).as_posix(),
            content_digest=artifacts.content_digest(directory),
            size_bytes=size,
        )

    def compare_with_source(self, session: plugins.Session) -> tuple[TensorDifference, ...]:
        """The built baseline against the source framework's own outputs; always held to the preserving bound (DESIGN.md section 1)."""
        count, parts = smallest_batch([i for i in self.exported.inputs if i.is_batched]), []
        for path in sorted((self.work.folder(StepName.export) / REFERENCE).iterdir()):
            feed, expected = pairs.load_pair(path)
            answers = (expected, session.infer(feed))
            source, built = (pairs.as_batch(answer, count, keeps_axis=self.exported.keeps_axis) for answer in answers)
            parts.append(equivalence.compare(source, built))
        differences = equivalence.concatenate(parts)
        violation = equivalence.preserving_violation(differences)
        if violation:
            raise BurnishError(Reason.ExportNotEquivalent, f"the converted model does not answer as the source does: {violation}")
        return differences
