"""Step `publish`: file the artifacts, the measurement and the verdict in the store.

Refused candidates are filed too: a refusal is cached like any other answer. Only what is marked as served depends on the verdict. Records
are written last, so that a reader never finds a record whose bytes are missing.
"""

from __future__ import annotations

import zstandard

from burnish import names
from burnish.api import requests
from burnish.api.job_contract import (
    BuildRecord,
    MeasurementIndex,
    MeasurementRecord,
    MeasureStepRecord,
    PipelineRequest,
    Plan,
    ResolveRequest,
    Result,
    StepName,
    TargetPlan,
)
from burnish.api.v1alpha1.optimized_model import Constraints, Target
from burnish.errors import BurnishError, Reason
from burnish.pipeline import keep, records, status, verdict
from burnish.pipeline.progress import emit
from burnish.pipeline.workdir import WorkDir
from burnish.serving import sizes
from burnish.serving.config import ServingOptions, options_of
from burnish.store.artifacts import put_artifact, read_config
from burnish.store.store import Store


def run(work: WorkDir, store: Store) -> Result:
    """File everything and leave the target's status.

    Raises:
        BurnishError: StoreNotWritable, StoreFull; Superseded: another publisher was first with other bytes.
    """
    request, measured = work.load_request(), work.load(StepName.measure, MeasureStepRecord)
    build = measured.build
    if request.plan.plan is Plan.Build:
        _put_artifacts(work, build, store)
        name = records.build_name(build.artifact_key, build.hardware_class)
        winner = store.put_record(records.BUILDS, name, build)
        if not records.has_artifacts(winner, store):
            winner = store.put_record(records.BUILDS, name, build, replace=True)
        if records.artifact_digests(winner) != records.artifact_digests(build):
            raise BurnishError(Reason.Superseded, "another run published this build first, with other bytes; run again to measure those")
        build = winner
        if requests.trains(request.passes):
            keep.forget(build.artifact_key, store)
    index = put_measurement(measured.measurement, store)
    emit("published")
    options = options_of(request.target, request.measurement.loads, request.serving.dynamic_batching)
    return conclude(
        model=request.name,
        target=request.target,
        plan=request.plan,
        build=build,
        index=index,
        constraints=request.constraints,
        options=options,
        store=store,
    )


def conclude(
    *,
    model: str,
    target: Target,
    plan: TargetPlan,
    build: BuildRecord,
    index: MeasurementIndex,
    constraints: Constraints,
    options: ServingOptions,
    store: Store,
) -> Result:
    """Judge a filed measurement and mark what is served; also where nothing had to be measured."""
    decision = verdict.decide(index, build, constraints)
    warning = status.resolution_warning(index.summary.samples, constraints, index.summary.largest_loss)
    warnings = [*index.warnings, *filter(None, [warning])]
    found = status.target_status(target.name, plan, build, index, decision, constraints, uri=store.location)
    if found.artifact is not None:
        shared = sizes.shared_memory_bytes(read_config(store, found.artifact.digest), options)
        found = found.model_copy(update={"artifact": found.artifact.model_copy(update={"shared_memory": f"{shared // 2**20}Mi"})})
    result = Result(status=found, build=build, measurement=index, constraints=constraints, warnings=tuple(warnings))
    name = records.result_name(model, target.name)
    if not _is_told(store.get_record(records.RESULTS, name, Result), result):
        store.put_record(records.RESULTS, name, result, replace=True)
    return result


def _is_told(known: Result | None, result: Result) -> bool:
    """True if the store says so already, whatever it had to do for it: then a store that can only be read answers, too."""
    return known is not None and known.model_copy(update={"status": known.status.model_copy(update={"cache": result.status.cache})}) == result


def conclude_known(request: ResolveRequest | PipelineRequest, target: Target, plan: TargetPlan, store: Store) -> Result:
    """Judge the measurement that `resolve` found: limits may have changed since, nothing is built or measured."""
    index = store.get_record(records.MEASUREMENTS, plan.measurement_key or "", MeasurementIndex)
    if index is None or plan.build is None:
        raise BurnishError(Reason.NotInStore, "the measurement that was just found is gone; run again")
    options = options_of(target, request.measurement.loads, request.serving.dynamic_batching)
    return conclude(
        model=request.name, target=target, plan=plan, build=plan.build, index=index, constraints=request.constraints, options=options, store=store
    )


def put_measurement(record: MeasurementRecord, store: Store) -> MeasurementIndex:
    """File a measurement: the traces as one blob, the index as the record."""
    blob = store.put_blob(zstandard.compress(record.model_dump_json(by_alias=True, exclude_none=True).encode(), 9))
    index = MeasurementIndex(
        measurement_key=record.measurement_key,
        environment=record.environment,
        sides=record.sides,
        summary=record.summary,
        rounds={trace.load.name: trace.rounds for trace in record.loads},
        record=blob,
        measured_at=record.measured_at,
        decided_for=record.decided_for,
        allowed_seconds=record.allowed_seconds,
        warnings=record.warnings,
    )
    store.put_record(records.MEASUREMENTS, record.measurement_key, index, replace=True)
    return index


def load_measurement(index: MeasurementIndex, store: Store) -> MeasurementRecord:
    """The whole measurement behind an index."""
    return MeasurementRecord.model_validate_json(zstandard.decompress(store.read_blob(index.record)))


def _put_artifacts(work: WorkDir, build: BuildRecord, store: Store) -> None:
    wanted = {names.BASELINE: build.baseline} | {c.name: c.artifact for c in build.candidates if c.artifact is not None}
    for name, expected in wanted.items():
        emit(f"publishing {name}")
        found = put_artifact(store, work.folder(StepName.build) / "artifacts" / name)
        if found.digest != expected.digest:
            raise BurnishError(Reason.InternalError, f"artifact {name} changed after it was measured ({expected.digest} became {found.digest})")
