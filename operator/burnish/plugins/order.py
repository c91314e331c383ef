"""Which lists of passes make sense, whatever the model and the runtime are. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from burnish.errors import Reason
from burnish.plugins import base, registry
from burnish.plugins.base import Objection, PassRequest, TrainingPass

TRAINER = "torch"
"""The toolchain in which passes train."""
DATA_CURE = "set spec.datasets.training"


def training_part(passes: Sequence[PassRequest]) -> tuple[PassRequest, ...]:
    """The passes that work on a torch module; they come first."""
    return tuple(p for p in passes if _trains(p))


def graph_part(passes: Sequence[PassRequest]) -> tuple[PassRequest, ...]:
    """The passes that the runtime lowers."""
    return tuple(p for p in passes if not _trains(p))


def _trains(entry: PassRequest) -> bool:
    return isinstance(registry.passes()[entry.name], TrainingPass)


def source_of(passes: Sequence[PassRequest]) -> tuple[int, base.PassSource] | None:
    """The model of its own that one of the passes starts from, and the pass's position; None where none does."""
    for position, entry in enumerate(passes):
        found = registry.passes()[entry.name].source(entry.config)
        if found is not None:
            return position, found
    return None


def objection(passes: Sequence[PassRequest], runtime: base.Runtime, *, has_calibration: bool, has_training: bool) -> Objection | None:
    """What of a list of passes can't be met: a senseless order, missing data, or what the runtime says of its part."""
    found = _order(passes) or _data(passes, has_calibration=has_calibration, has_training=has_training)
    if found is not None:
        return found
    own = graph_part(passes)
    found = runtime.objection(own, has_calibration=has_calibration)
    if found is None:
        return None
    positions = [number for number, entry in enumerate(passes) if not _trains(entry)]
    return Objection(found.reason, found.message, positions[found.position], found.field)


def _order(passes: Sequence[PassRequest]) -> Objection | None:
    graph = ""
    for position, entry in enumerate(passes):
        plugin = registry.passes()[entry.name]
        if not isinstance(plugin, TrainingPass):
            graph = graph or entry.name
        elif graph:
            why = f"trains weights, which would undo {graph} before it; put {entry.name} before {graph}"
            return Objection(Reason.PassNotApplicable, why, position)
        why_not = plugin.misplaced(entry.config, passes[:position], passes[position + 1 :])
        if why_not:
            return Objection(Reason.PassNotApplicable, why_not, position)
    return None


def _data(passes: Sequence[PassRequest], *, has_calibration: bool, has_training: bool) -> Objection | None:
    for position, entry in enumerate(passes):
        plugin = registry.passes()[entry.name]
        if not isinstance(plugin, TrainingPass):
            continue
        if plugin.trains(entry.config) and not has_training:
            return Objection(Reason.TrainingDataMissing, f"trains the model and there is no data for it; {DATA_CURE}{_spared(entry)}", position)
        if plugin.reads_calibration(entry.config) and not (has_calibration or has_training):
            why = "looks at activations and there is no data; set spec.datasets.calibration"
            return Objection(Reason.CalibrationMissing, why, position)
    return None


def _spared(entry: PassRequest) -> str:
    return ", or write finetune: {epochs: 0}" if hasattr(entry.config, "finetune") else ""
