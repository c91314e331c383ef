"""Step `resolve`: pin the source, look up what is known, and say what each target still needs.

Runs once per manifest, in seconds, without an ML library and before any accelerator is held. Everything it knows is in the store, so a lost
status or Job is restored without touching the source.
"""

from __future__ import annotations

from pathlib import Path

from burnish.api.job_contract import (
    BuildRecord,
    MeasurementIndex,
    Plan,
    ResolveRecord,
    ResolveRequest,
    SourceRecord,
    StudentRecord,
    TargetPlan,
)
from burnish.api.scalars import duration_seconds
from burnish.api.v1alpha1.optimized_model import Target
from burnish.api.v1alpha1.status import Lookup
from burnish.pipeline import fetch, formats, lookup, records, students, verdict
from burnish.pipeline.progress import emit
from burnish.plugins import registry
from burnish.plugins.base import Format, HardwareClass
from burnish.plugins.files import Files
from burnish.serving import images
from burnish.store import trees
from burnish.store.store import Store


def run(request: ResolveRequest, store: Store, access: fetch.Access | None = None) -> ResolveRecord:
    """Fetch and pin source, datasets and students, then plan every target.

    Args:
        request: what to resolve.
        store: where it is kept.
        access: what sources may be read with; None: as a user at a terminal.

    Raises:
        BurnishError: what `fetch.fetch`, `format_of` and the store raise.
    """
    base = Path(request.base)

    def pin(uri: str, digest: str | None, refresh: str | None, field: str) -> SourceRecord:
        return fetch.fetch(
            uri, base, store, digest=digest, refresh=refresh, limits=fetch.FetchLimits(), field=field, progress=emit, access=access or fetch.Access()
        )

    source = pin(request.source.uri, request.source.digest, request.source.refresh, "spec.source.uri")
    files = _stored(store, source)
    plugin = format_of(request, files)
    emit(f"source is {formats.told(plugin, files, request.source.format)}")
    data = request.datasets
    calibration = data.calibration and pin(data.calibration.uri, data.calibration.digest, request.source.refresh, "spec.datasets.calibration.uri")
    evaluation = data.evaluation and pin(data.evaluation.uri, data.evaluation.digest, request.source.refresh, "spec.datasets.evaluation.uri")
    training = data.training and pin(data.training.uri, data.training.digest, request.source.refresh, "spec.datasets.training.uri")
    own: dict[str, StudentRecord] = {}
    for wanted in students.of_targets(request):
        field = wanted.field("uri")
        if field not in own:
            found = pin(wanted.source.uri, wanted.source.digest, request.source.refresh, field)
            content = _stored(store, found)
            theirs = wanted.find_format(content)
            own[field] = StudentRecord(source=found, format=theirs.name)
            emit(f"student is {formats.told(theirs, content, wanted.source.format)}")
    record = ResolveRecord(
        source=source,
        calibration=calibration,
        evaluation=evaluation,
        training=training,
        students={wanted.target: own[wanted.field("uri")] for wanted in students.of_targets(request)},
        format=request.source.format.value if request.source.format else None,
        detected=plugin.name,
        targets=(),
    )
    targets = tuple(plan_target(request, record, target, store, request.hardware_class) for target in request.targets)
    if any(plan.plan is not Plan.Nothing for plan in targets):
        store.ensure_writable()  # now, not after an hour's work
    return record.model_copy(update={"targets": targets})


def _stored(store: Store, record: SourceRecord) -> Files:
    return trees.StoredFiles(store, record.tree, formats.source_name(record))


def format_of(request: ResolveRequest, source: Files) -> Format:
    """The plugin for the source, which some target can load.

    Raises:
        BurnishError: as `formats.find` and `formats.check_versions`.
    """
    plugin = formats.find(source, request.source.format.value if request.source.format else None, request.source.options)
    runtimes = [registry.runtimes()[target.runtime.value] for target in request.targets]
    formats.check_versions(plugin, source, runtimes, images.image(request.serving_image))
    return plugin


def plan_target(request: ResolveRequest, resolved: ResolveRecord, target: Target, store: Store, hardware_class: HardwareClass | None) -> TargetPlan:
    """Look up one target's artifacts and measurement.

    Args:
        hardware_class: what has to have been built and measured on; None: any class will do, one that was measured before one that wasn't.
    """
    artifact_key = lookup.artifact_key(
        resolved,
        options=request.source.options,
        inputs=request.inputs,
        datasets=request.datasets,
        passes=request.passes[target.name],
        target=target,
        image=request.serving_image,
    )
    # A build whose artifacts were swept or lost is made again, the bytes will be the same.
    builds = [b for b in records.find_builds(artifact_key, hardware_class, store) if records.has_artifacts(b, store)]
    plans = [_plan_of_build(request, resolved, target, store, build) for build in builds]
    missing = TargetPlan(target=target.name, plan=Plan.Build, artifact_key=artifact_key, artifact=Lookup.Miss, measurement=Lookup.Miss)
    return min(plans, key=lambda plan: plan.plan is not Plan.Nothing, default=missing)


def _plan_of_build(request: ResolveRequest, resolved: ResolveRecord, target: Target, store: Store, build: BuildRecord) -> TargetPlan:
    measurement_key = lookup.measurement_key(
        resolved,
        build,
        datasets=request.datasets,
        loads=request.measurement.loads,
        batching=request.serving.dynamic_batching,
        target=target,
        hardware_class=build.hardware_class,
        image=request.serving_image,
    )
    index = store.get_record(records.MEASUREMENTS, measurement_key, MeasurementIndex)
    allowed = duration_seconds(request.measurement.timeout)
    known = index is not None and not verdict.wants_more(index, build, request.constraints, allowed)
    return TargetPlan(
        target=target.name,
        plan=Plan.Nothing if known else Plan.Measure,
        artifact_key=build.artifact_key,
        measurement_key=measurement_key,
        artifact=Lookup.Hit,
        measurement=Lookup.Hit if known else Lookup.Miss,
        build=build,
    )
