"""Which candidates a request asks for: its passes, lowered for the target's runtime.

Lowering is pure, so every step that has to know asks again; `export` asks first, so that a pass that can't be done is refused before work is. Passes that
train come first in every list: each model that they leave is a candidate where it may be faster than the one before, and the runtime's own passes
go on from the last one.
"""

from __future__ import annotations

import dataclasses

from burnish.api import requests
from burnish.api.job_contract import ExportRecord, PipelineRequest, StepName, TrainedPass, TrainRecord
from burnish.pipeline.workdir import WorkDir
from burnish.plugins import base as plugins
from burnish.plugins import order, registry


def passes_of(request: PipelineRequest) -> list[plugins.PassRequest]:
    """The passes with their options."""
    return [plugins.PassRequest(e.name, registry.passes()[e.name].config.model_validate(e.config)) for e in request.passes]


def trained(work: WorkDir, request: PipelineRequest) -> tuple[TrainedPass, ...]:
    """What the step before left; nothing where no pass trains."""
    return work.load(StepName.train, TrainRecord).passes if requests.trains(request.passes) else ()


def lower(request: PipelineRequest, exported: ExportRecord, models: tuple[TrainedPass, ...] = ()) -> plugins.Lowering:
    """The recipes, and what was left out and why.

    Args:
        models: of the training passes, as far as they are done.

    Raises:
        BurnishError: CalibrationMissing, PassNotApplicable: an explicit request that can't be met.
    """
    runtime = registry.runtimes()[request.target.runtime.value]
    own = order.graph_part(passes_of(request))
    graph = models[-1].graph if models else exported.graph
    found = runtime.lower(own, graph, request.hardware_class, has_calibration=request.datasets.calibration is not None)
    if not models:
        return found
    first = [_as_it_is(model) for position, model in enumerate(models) if _may_be_faster(model) or position == len(models) - 1]
    after = [dataclasses.replace(recipe, start=models[-1].name) for recipe in found.recipes]
    return plugins.Lowering((*first, *after), found.skipped)


def _may_be_faster(model: TrainedPass) -> bool:
    plugin = registry.passes()[model.type]
    return isinstance(plugin, plugins.TrainingPass) and plugin.shrinks


def _as_it_is(model: TrainedPass) -> plugins.Recipe:
    return plugins.Recipe(model.name, model.summary, (), start=model.name)
