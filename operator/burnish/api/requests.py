"""What the steps are asked to do, made from a manifest: the same for local runs and for the Jobs of a cluster. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from burnish.api.job_contract import PassEntryJson, PipelineRequest, Plan, ResolveRecord, ResolveRequest, StepName, TargetPlan
from burnish.api.uris import scrub
from burnish.api.v1alpha1.optimized_model import Datasets, OptimizedModel, Target
from burnish.plugins import base as plugins
from burnish.plugins import order, registry
from burnish.plugins.base import HardwareClass

BUILD_STEPS = (StepName.stage, StepName.export, StepName.train, StepName.compress, StepName.build, StepName.measure, StepName.publish)
MEASURE_STEPS = (StepName.stage, StepName.measure, StepName.publish)
STORE_STEPS = (StepName.resolve, StepName.stage, StepName.publish)
"""Those that reach the store; they need no ML library."""
OFFLINE_STEPS = (StepName.export, StepName.train, StepName.compress, StepName.build)
"""They open the model; a model's code, if it had any, would find no network."""


def resolve_request(model: OptimizedModel, *, base: str, hardware_class: HardwareClass | None, serving_image: str) -> ResolveRequest:
    """What `resolve` gets.

    Args:
        base: absolute directory that relative `file:` URIs start from; empty on a cluster, where there are none.
        hardware_class: of this machine; None on a cluster.
        serving_image: name in `burnish.serving.images`.
    """
    spec = model.spec
    return ResolveRequest(
        name=model.metadata.name,
        namespace=model.metadata.namespace,
        generation=model.metadata.generation,
        source=spec.source,
        datasets=spec.datasets,
        inputs=tuple(spec.inputs),
        targets=tuple(spec.targets),
        constraints=spec.constraints,
        measurement=spec.measurement,
        serving=spec.serving,
        jobs=spec.jobs,
        base=base,
        hardware_class=hardware_class,
        serving_image=serving_image,
        passes={target.name: _passes(spec.passes_of(target)) for target in spec.targets},
    )


def _passes(requests: list[plugins.PassRequest]) -> tuple[PassEntryJson, ...]:
    return tuple(PassEntryJson(name=p.name, config=p.config.model_dump(mode="json", by_alias=True)) for p in requests)


def pipeline_request(
    request: ResolveRequest, resolved: ResolveRecord, target: Target, plan: TargetPlan, *, hardware_class: HardwareClass
) -> PipelineRequest:
    """What the pipeline of one target gets.

    Args:
        request: what `resolve` got.
        resolved: what it found.
        plan: what the target needs on this `hardware_class`.
    """
    return PipelineRequest(
        name=request.name,
        namespace=request.namespace,
        generation=request.generation,
        target=target,
        plan=plan,
        resolved=resolved,
        options=request.source.options,
        inputs=request.inputs,
        datasets=_without_secrets(request.datasets),
        passes=_shown(request.passes[target.name], resolved, target),
        constraints=request.constraints,
        measurement=request.measurement,
        serving=request.serving,
        hardware_class=hardware_class,
        serving_image=request.serving_image,
    )


def steps(plan: Plan, passes: Sequence[PassEntryJson] = ()) -> tuple[StepName, ...]:
    """The steps of a pipeline with this plan; `train` is one only where some of the passes do."""
    found = {Plan.Build: BUILD_STEPS, Plan.Measure: MEASURE_STEPS, Plan.Nothing: ()}[plan]
    return tuple(step for step in found if step is not StepName.train or trains(passes))


def trains(passes: Sequence[PassEntryJson]) -> bool:
    """Whether some of the passes work on a torch module."""
    return any(isinstance(registry.passes()[entry.name], plugins.TrainingPass) for entry in passes)


def located(passes: Sequence[PassEntryJson]) -> tuple[str, plugins.PassSource] | None:
    """The model of its own that one of the passes starts from, and that pass's place (`passes[0]`); None where none does."""
    found = order.source_of(parsed(passes))
    return None if found is None else (f"passes[{found[0]}]", found[1])


def relocated(passes: Sequence[PassEntryJson], uri: str, digest: str | None) -> tuple[PassEntryJson, ...]:
    """The passes, with this place for the model of its own that one starts from."""
    made = []
    for entry, request in zip(passes, parsed(passes), strict=True):
        plugin = registry.passes()[request.name]
        if plugin.source(request.config) is not None:
            config = plugin.relocated(request.config, uri, digest)
            entry = entry.model_copy(update={"config": config.model_dump(mode="json", by_alias=True)})
        made.append(entry)
    return tuple(made)


def parsed(passes: Sequence[PassEntryJson]) -> list[plugins.PassRequest]:
    """The passes with their options."""
    return [plugins.PassRequest(entry.name, registry.passes()[entry.name].config.model_validate(entry.config)) for entry in passes]


def _shown(passes: tuple[PassEntryJson, ...], resolved: ResolveRecord, target: Target) -> tuple[PassEntryJson, ...]:
    """As `_without_secrets`, and pinned to what was found."""
    found, student = located(passes), resolved.students.get(target.name)
    return passes if found is None or student is None else relocated(passes, scrub(found[1].uri), student.source.tree.digest)


def _without_secrets(datasets: Datasets) -> Datasets:
    """The datasets with URIs as they may be shown: the steps of a target read files, and a model's code can read what they read."""
    found = {
        name: data.model_copy(update={"uri": scrub(data.uri)})
        for name in ("calibration", "evaluation", "training")
        if (data := getattr(datasets, name))
    }
    return datasets.model_copy(update=found)
