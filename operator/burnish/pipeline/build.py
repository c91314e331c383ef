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
    ResolvedInput,
    StepName,
    TensorDifference,
    TrainedPass,
)
from burnish.errors import BurnishError, Reason
from burnish.measurement import equivalence
from burnish.pipeline import compress, export, lowering, repository, samples
from burnish.pipeline.progress import emit
from burnish.pipeline.workdir import WorkDir
from burnish.plugins import base as plugins
from burnish.plugins import registry
from burnish.serving import images
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
    with compress.baseline_errors(builder.runtime):
        baseline = builder.build(names.BASELINE, BASELINE_SUMMARY, work.folder(StepName.export) / export.MODEL, ())
    difference = builder.compare_with_source()
    recipes, trained = compress.recipes(work, request, exported), lowering.trained(work, request)
    models = [baseline]
    for candidate in work.load(StepName.compress, CompressRecord).candidates:
        if candidate.file is None:
            models.append(BuiltModel(name=candidate.name, summary=candidate.summary, reason=candidate.reason, message=candidate.message))
            continue
        try:
            built = builder.build(
                candidate.name,
                candidate.summary,
                work.path(candidate.file),
                (*_trained(recipes[candidate.name], trained), *recipes[candidate.name].steps),
            )
            models.append(_unless_known(built, models))
        except BurnishError as error:
            if error.reason not in (Reason.CandidateNotBuildable, Reason.UnsupportedOpset):
                raise
            emit(f"candidate {candidate.name} is left out: {error.message}", warning=True)
            models.append(BuiltModel(name=candidate.name, summary=candidate.summary, reason=Reason.CandidateNotBuildable, message=error.message))
    folders = {m.name: work.path(m.directory) for m in models if m.directory is not None}
    repository.write(work.folder(StepName.build) / "repository", folders, request)
    return BuildStepRecord(models=tuple(models), inputs=builder.inputs, difference=difference)


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
        data = samples.open_datasets(work, request, exported.signature)
        self.inputs: tuple[ResolvedInput, ...] = data.inputs
        self.data = data
        self.golden = data.golden
        self.threads = request.target.resources.threads

    def build(self, name: str, summary: str, model: Path, steps: tuple[plugins.Step, ...]) -> BuiltModel:
        emit(f"building {name}")
        directory = self.work.folder(StepName.build) / "artifacts" / name
        loadable = directory / "model"
        loadable.mkdir(parents=True)
        self.runtime.build(model, loadable, image=self.image)
        answer = self.runtime.open(loadable, threads=self.threads).infer(self.golden)
        samples.save_pair(directory / "golden.npz", self.golden, answer)
        (directory / "golden.request").write_bytes(samples.request_body(self.golden, self.exported.signature))
        config = ArtifactConfig(
            name=name,
            summary=summary,
            runtime=self.runtime.name,
            backend=self.runtime.backend,
            model_file=self.runtime.model_file,
            signature=self.exported.signature,
            inputs=self.inputs,
            source_digest=self.request.resolved.source.tree.digest,
            artifact_key=self.request.plan.artifact_key,
            toolchain=environments.identity(self.runtime.toolchain),
            hardware_class=self.request.hardware_class,
            steps=tuple({"kind": s.kind, "options": dict(s.options)} for s in steps),
        )
        companions = self.work.folder(StepName.export) / export.COMPANIONS
        if companions.is_dir():
            shutil.copytree(companions, directory / export.COMPANIONS)
        (directory / "artifact.json").write_bytes(artifacts.config_bytes(config))
        size = sum(f.stat().st_size for f in loadable.rglob("*") if f.is_file())
        return BuiltModel(
            name=name,
            summary=summary,
            directory=directory.relative_to(self.work.root).as_posix(),
            content_digest=artifacts.content_digest(directory),
            size_bytes=size,
        )

    def compare_with_source(self) -> tuple[TensorDifference, ...]:
        """The built baseline against the source framework's own outputs; always held to the preserving bound (DESIGN.md section 1)."""
        session = self.runtime.open(self.work.folder(StepName.build) / "artifacts" / names.BASELINE / "model", threads=self.threads)
        parts = []
        for path in sorted((self.work.folder(StepName.export) / export.REFERENCE).iterdir()):
            feed, expected = samples.load_pair(path)
            source, built = (self.data.as_batch(answer, self.data.smallest_batch) for answer in (expected, session.infer(feed)))
            parts.append(equivalence.compare(source, built))
        differences = equivalence.concatenate(parts)
        violation = equivalence.preserving_violation(differences)
        if violation:
            raise BurnishError(Reason.ExportNotEquivalent, f"the converted model does not answer as the source does: {violation}")
        return differences
