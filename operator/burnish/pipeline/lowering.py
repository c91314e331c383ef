"""Which candidates a request asks for: its passes, lowered for the target's runtime.

Lowering is pure, so every step that has to know asks again; `export` asks first, so that a pass that can't be done is refused before work is.
"""

from __future__ import annotations

from burnish.api.job_contract import PipelineRequest
from burnish.plugins import base as plugins
from burnish.plugins import registry


def lower(request: PipelineRequest, graph: plugins.GraphFacts) -> plugins.Lowering:
    """The recipes, and what was left out and why.

    Raises:
        BurnishError: CalibrationMissing, PassNotApplicable: an explicit request that can't be met.
    """
    passes = [plugins.PassRequest(e.name, registry.passes()[e.name].config.model_validate(e.config)) for e in request.passes]
    runtime = registry.runtimes()[request.target.runtime.value]
    return runtime.lower(passes, graph, request.hardware_class, has_calibration=request.datasets.calibration is not None)
