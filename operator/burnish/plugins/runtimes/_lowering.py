"""What lowering has in common on every CPU runtime: which requests can't be met, which nodes are named, how they are told. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from burnish.errors import BurnishError, Reason
from burnish.plugins import base
from burnish.plugins.passes.quantize import CalibrationMethod, Mode, Precision, Quantize, QuantizeConfig
from burnish.plugins.passes.share_weights import GROUP_SIZE, Granularity, ShareWeights, ShareWeightsConfig
from burnish.plugins.runtimes import _codebook

ENDS_WORTHWHILE = 3
"""Weighted nodes below which nothing would be left between the first and the last."""
NEEDS_CALIBRATION = "static quantization needs calibration data; set spec.datasets.calibration"


def refuse(found: base.Objection | None) -> None:
    """Raise what a runtime objects to.

    Raises:
        BurnishError: the objection.
    """
    if found is not None:
        field = f"spec.passes[{found.position}]"
        raise BurnishError(found.reason, found.message, field=f"{field}.{found.field}" if found.field else field)


def the_quantize(passes: Sequence[base.PassRequest], graph: base.GraphFacts) -> QuantizeConfig:
    """The options of the one Quantize pass, checked against the graph.

    Args:
        passes: of the target; there is no objection to them, and they share no weights.
        graph: what is quantized.

    Raises:
        BurnishError: PassNotApplicable for excluded nodes that the graph doesn't have.
    """
    config = passes[0].config
    assert isinstance(config, QuantizeConfig)  # noqa: S101  # else there was an objection
    _check_excluded(config, graph)
    return config


def shared(passes: Sequence[base.PassRequest]) -> base.Recipe | None:
    """The candidate of ShareWeights, which is the same on every CPU; None where another pass is asked for."""
    config = passes[0].config
    if not isinstance(config, ShareWeightsConfig):
        return None
    size = config.group_size or GROUP_SIZE
    step = base.Step(_codebook.STEP, {"clusters": config.clusters, "granularity": config.granularity.value, "groupSize": size, "seed": config.seed})
    scaled = {Granularity.Tensor: "", Granularity.Channel: ", scaled per channel", Granularity.Group: f", scaled per {size}"}[config.granularity]
    return base.Recipe("shared", f"{config.clusters} different values per weight{scaled}: smaller; not faster", (step,))


_AFTER = {
    (
        Quantize.name,
        Quantize.name,
    ): "is a second Quantize, and a quantized graph is not quantized again; keep one entry (mode: Auto tries several ways)",
    (ShareWeights.name, ShareWeights.name): "is a second ShareWeights, and shared values are not shared again; keep one entry",
    (ShareWeights.name, Quantize.name): "rounds every weight anew, which undoes ShareWeights before it; keep one of the two",
    (Quantize.name, ShareWeights.name): "needs weights in floating point, and Quantize before it leaves others; keep one of the two",
}
"""A pass and the one before it -> why that makes no sense."""


def objection(
    runtime: str,
    passes: Sequence[base.PassRequest],
    *,
    has_calibration: bool,
    controls_accuracy: bool = False,
    methods: Sequence[CalibrationMethod] = tuple(CalibrationMethod),
) -> base.Objection | None:
    """What of a list of passes can't be met whatever the graph is; see `Runtime.objection`.

    Args:
        runtime: its name.
        passes: of the target.
        has_calibration: there is calibration data.
        controls_accuracy: the runtime has accuracyControl.
        methods: of calibration, that it has.
    """
    for position, entry in enumerate(passes):
        if entry.name not in (Quantize.name, ShareWeights.name):
            return base.Objection(Reason.PassNotApplicable, f"{runtime} does not offer the pass {entry.name}; remove it", position)
        if position:
            return base.Objection(Reason.PassNotApplicable, _AFTER[passes[position - 1].name, entry.name], position)
        if isinstance(entry.config, QuantizeConfig):
            found = _to_quantize(runtime, entry.config, has_calibration=has_calibration, controls_accuracy=controls_accuracy, methods=methods)
            if found is not None:
                return found
    return None


def _to_quantize(
    runtime: str, config: QuantizeConfig, *, has_calibration: bool, controls_accuracy: bool, methods: Sequence[CalibrationMethod]
) -> base.Objection | None:
    """What of a Quantize that comes first can't be met."""
    if config.precision is Precision.INT8 and config.mode is Mode.Static and not has_calibration:
        why = "Static fixes activation scales from data and there is none; set spec.datasets.calibration, or use mode: Auto or Dynamic"
        return base.Objection(Reason.CalibrationMissing, why, 0, "quantize.mode")
    if config.calibration_method not in methods:
        why = f"{runtime} does not offer {config.calibration_method}; use {' or '.join(methods)}, or give this target passes of its own (targets[].passes)"
        return base.Objection(Reason.PassNotApplicable, why, 0, "quantize.calibrationMethod")
    if config.accuracy_control is not None and not controls_accuracy:
        why = f"{runtime} does not offer it; remove it, or give this target passes of its own (targets[].passes)"
        return base.Objection(Reason.PassNotApplicable, why, 0, "quantize.accuracyControl")
    if config.accuracy_control is not None and not has_calibration:
        why = "is judged on calibration data and there is none; set spec.datasets.calibration, or remove it"
        return base.Objection(Reason.CalibrationMissing, why, 0, "quantize.accuracyControl")
    return None


def note(hardware: base.HardwareClass) -> str:
    """The end of a summary, where the hardware decided something."""
    return "; 7-bit weights, as this CPU has no VNNI and its 16-bit sums saturate" if hardware.saturates else ""


def count(graph: base.GraphFacts, ops: Sequence[str]) -> int:
    """Nodes of these types with a constant weight."""
    return sum(graph.weighted_ops.get(op, 0) for op in ops)


def nothing_for(ops: Sequence[str]) -> str:
    """Why a scheme for these types is of no use."""
    return f"the graph has no {', '.join(ops[:-1])} or {ops[-1]} with a constant floating-point weight"


def not_applicable(what: str, why: str) -> BurnishError:
    """An explicit request that finds nothing to do."""
    return BurnishError(
        Reason.PassNotApplicable, f"Quantize {what} finds nothing to do: {why}; use mode: Auto, or remove the pass", field="spec.passes[0]"
    )


def skipped_ends(static_nodes: int, ops: Sequence[str], *, has_calibration: bool) -> base.Skipped | None:
    """Why there is no candidate `static-ends`; None where there should be one."""
    if has_calibration and static_nodes >= ENDS_WORTHWHILE:
        return None
    why = NEEDS_CALIBRATION if static_nodes else nothing_for(ops)
    few = f"only {static_nodes} node(s) with a constant weight, so nothing would be left between the first and the last"
    return base.Skipped("static-ends", few if has_calibration and static_nodes else why)


def _check_excluded(config: QuantizeConfig, graph: base.GraphFacts) -> None:
    unknown = [name for name in config.excluded_nodes if name not in graph.node_names]
    if not unknown:
        return
    hints = {name: difflib.get_close_matches(name, graph.node_names, n=3, cutoff=0.4) for name in unknown}
    told = "; ".join(f"{name!r}" + (f" (close: {', '.join(close)})" if close else "") for name, close in hints.items())
    raise BurnishError(
        Reason.PassNotApplicable,
        f"excludedNodes names nodes that no pass would touch: {told}; the graph's weighted nodes are: {_sample(graph.node_names)}",
        field="spec.passes[0].quantize.excludedNodes",
    )


def _sample(names: Sequence[str], limit: int = 8) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "") if names else "none"
