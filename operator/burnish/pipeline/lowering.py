"""Which candidates a request asks for: its passes, lowered for the target's runtime.

Lowering is pure, so every step that has to know asks again; `export` asks first, so that a pass that can't be done is refused before work is. Passes that
train come first in every list: each model that they leave is a candidate where it may be faster than the one before, and the runtime's own passes
go on from the last one.
"""

from __future__ import annotations

import dataclasses

from burnish.api import requests
from burnish.api.job_contract import ExportRecord, PipelineRequest, StepName, TrainedPass, TrainRecord
from burnish.errors import BurnishError
from burnish.pipeline.workdir import WorkDir
from burnish.plugins import base as plugins
from burnish.plugins import order, registry
from burnish.plugins.passes.quantize import Mode, Quantize, QuantizeConfig
from burnish.plugins.passes.quantize_aware_train import QuantizeAwareTrain


def passes_of(request: PipelineRequest) -> list[plugins.PassRequest]:
    """The passes with their options."""
    return requests.parsed(request.passes)


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
    beside, unasked = _beside(request, exported, models, runtime)
    first = [_as_it_is(model) for position, model in enumerate(models) if _may_be_faster(model) or position == len(models) - 1]
    after = [dataclasses.replace(recipe, start=models[-1].name) for recipe in found.recipes]
    return plugins.Lowering((*first, *beside, *after), (*found.skipped, *unasked))


def recipes(work: WorkDir, request: PipelineRequest, exported: ExportRecord) -> dict[str, plugins.Recipe]:
    """The recipes by name, once every pass that trains is done."""
    return {recipe.name: recipe for recipe in lower(request, exported, trained(work, request)).recipes}


def _beside(
    request: PipelineRequest, exported: ExportRecord, models: tuple[TrainedPass, ...], runtime: plugins.Runtime
) -> tuple[tuple[plugins.Recipe, ...], tuple[plugins.Skipped, ...]]:
    """What a trained quantization is compared with: the runtime's own, after training, of the same model. It may win."""
    if models[-1].type != QuantizeAwareTrain.name:
        return (), ()
    before = models[-2] if len(models) > 1 else None
    if request.datasets.calibration is None:
        return (), (plugins.Skipped(STATIC, "for comparison with quantization after training there is no data; set spec.datasets.calibration"),)
    plain = [plugins.PassRequest(Quantize.name, QuantizeConfig(mode=Mode.Static))]
    try:
        found = runtime.lower(plain, before.graph if before else exported.graph, request.hardware_class, has_calibration=True)
    except BurnishError as error:
        return (), (plugins.Skipped(STATIC, error.message),)
    (recipe,) = found.recipes
    told = f"for comparison, after training: {recipe.summary}"
    return (dataclasses.replace(recipe, name=STATIC, summary=told, start=before.name if before else ""),), ()


STATIC = "static"
"""The candidate that a trained quantization is compared with."""


def _may_be_faster(model: TrainedPass) -> bool:
    plugin = registry.passes()[model.type]
    return isinstance(plugin, plugins.TrainingPass) and plugin.shrinks


def _as_it_is(model: TrainedPass) -> plugins.Recipe:
    return plugins.Recipe(model.name, model.summary, (), start=model.name)
