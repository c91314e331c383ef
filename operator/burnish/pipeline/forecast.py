"""What a run of a manifest would do, without doing any of it: sources are looked up, not fetched, and nothing is written.

The plan of a target comes from the very function that `resolve` plans with, so a forecast can't promise what a run doesn't keep. Where only
fetching a source would tell what it holds, the forecast says that instead of guessing.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Protocol

from burnish.api import requests
from burnish.api.job_contract import MeasurementIndex, Plan, ResolveRecord, ResolveRequest, SourceRecord, StepName, StudentRecord, TargetPlan, TreeRef
from burnish.api.uris import scrub
from burnish.api.v1alpha1.optimized_model import OptimizedModel, Target
from burnish.pipeline import fetch, records, resolve, students, verdict
from burnish.pipeline.verdict import Decision
from burnish.plugins.base import HardwareClass
from burnish.store.store import Store


class _Place(Protocol):
    """What the manifest says of one thing to fetch."""

    @property
    def uri(self) -> str: ...
    @property
    def digest(self) -> str | None: ...


@dataclasses.dataclass(frozen=True)
class Pinned:
    """One URI of the manifest."""

    field: str
    uri: str
    """Without credentials."""
    seen: fetch.Seen


@dataclasses.dataclass(frozen=True)
class TargetForecast:
    """One target."""

    name: str
    plan: TargetPlan | None
    """None: it depends on what the sources hold."""
    passes: tuple[str, ...]
    steps: dict[StepName, bool]
    """Each step of the pipeline -> whether it would run; empty where `plan` is None."""
    decision: Decision | None
    """The verdict, where nothing has to be measured for it."""


@dataclasses.dataclass(frozen=True)
class Forecast:
    """What a run comes to."""

    sources: tuple[Pinned, ...]
    targets: tuple[TargetForecast, ...]


def make(model: OptimizedModel, base: Path, store: Store, hardware_class: HardwareClass, *, serving_image: str) -> Forecast:
    """Forecast a run on a machine of this hardware class.

    Args:
        model: the manifest.
        base: directory that relative `file:` URIs start from.
        store: only read.
        hardware_class: what would build and measure.
        serving_image: name in `burnish.serving.images`.

    Raises:
        BurnishError: as `fetch.look_up` and `resolve.format_of`; StoreNotReadable, StoreCorrupted.
    """
    request = requests.resolve_request(model, base=str(base), hardware_class=hardware_class, serving_image=serving_image)
    data = request.datasets
    wanted: dict[str, _Place | None] = {
        "spec.source.uri": request.source,
        "spec.datasets.calibration.uri": data.calibration,
        "spec.datasets.evaluation.uri": data.evaluation,
        "spec.datasets.training.uri": data.training,
        **{own.field("uri"): own.source for own in students.of_targets(request)},
    }
    seen = {
        field: Pinned(
            field,
            scrub(place.uri),
            fetch.look_up(
                place.uri,
                base,
                store,
                digest=place.digest,
                refresh=request.source.refresh,
                limits=fetch.FetchLimits(),
                field=field,
            ),
        )
        for field, place in wanted.items()
        if place is not None
    }
    resolved = _resolved(request, seen)
    targets = tuple(_target(request, resolved, target, store, hardware_class) for target in request.targets)
    return Forecast(tuple(seen.values()), targets)


def _resolved(request: ResolveRequest, seen: dict[str, Pinned]) -> ResolveRecord | None:
    """What `resolve` would record, as far as keys are made of it; None where a digest isn't known."""

    def record(field: str) -> SourceRecord | None:
        pinned = seen.get(field)
        if pinned is None or pinned.seen.digest is None:
            return None
        return SourceRecord(uri=pinned.uri, tree=TreeRef(digest=pinned.seen.digest, is_directory=False, files=()), fetched_at="")

    source = record("spec.source.uri")
    if source is None or any(pinned.seen.digest is None for pinned in seen.values()):
        return None
    own = {}
    for student in students.of_targets(request):
        field = student.field("uri")
        pinned, place = record(field), seen[field].seen.files
        if pinned is not None:
            own[student.target] = StudentRecord(source=pinned, format=student.find_format(place).name if place else None)
    files = seen["spec.source.uri"].seen.files
    return ResolveRecord(
        source=source,
        calibration=record("spec.datasets.calibration.uri"),
        evaluation=record("spec.datasets.evaluation.uri"),
        training=record("spec.datasets.training.uri"),
        students=own,
        format=request.source.format.value if request.source.format else None,
        detected=resolve.format_of(request, files).name if files else None,
        targets=(),
    )


def _target(request: ResolveRequest, resolved: ResolveRecord | None, target: Target, store: Store, hardware_class: HardwareClass) -> TargetForecast:
    passes = tuple(entry.name for entry in request.passes[target.name])
    if resolved is None:
        return TargetForecast(target.name, None, passes, {}, None)
    plan = resolve.plan_target(request, resolved, target, store, hardware_class)
    needed = requests.steps(plan.plan, request.passes[target.name])
    steps = {step: step in needed for step in requests.steps(Plan.Build, request.passes[target.name])}
    return TargetForecast(target.name, plan, passes, steps, _decision(request, plan, store))


def _decision(request: ResolveRequest, plan: TargetPlan, store: Store) -> Decision | None:
    """As `publish.conclude_known` judges, which files it too."""
    if plan.plan is not Plan.Nothing or plan.build is None or plan.measurement_key is None:
        return None
    index = store.get_record(records.MEASUREMENTS, plan.measurement_key, MeasurementIndex)
    return None if index is None else verdict.decide(index, plan.build, request.constraints)
