"""Lowering for OpenVINO on CPUs: NNCF on OpenVINO's own graph. Pure; every choice names the finding it rests on.

INT8 of weights alone needs no data and costs the least accuracy: embeddings and matrix products run on them with activations quantized per
request, convolutions are only smaller. With data, activations get fixed scales and everything runs on integers. Transformers need it said: the
products of two activations in attention lose too much otherwise (cosine .9965 with NNCF's transformer scheme).
"""

from __future__ import annotations

from collections.abc import Sequence

from burnish.plugins import base
from burnish.plugins.passes.quantize import BLOCK_SIZE, CalibrationMethod, Mode, Precision, QuantizeConfig
from burnish.plugins.runtimes import _lowering as common

STATIC_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
WEIGHT_OPS = (*STATIC_OPS, "Gather")
METHODS = (CalibrationMethod.MinMax, CalibrationMethod.Percentile)
"""What NNCF has."""
PRODUCT_OPS = ("Gemm", "MatMul", "Gather")


def lower(passes: Sequence[base.PassRequest], graph: base.GraphFacts, hardware: base.HardwareClass, *, has_calibration: bool) -> base.Lowering:
    """The candidates for a list of passes; see `Runtime.lower`."""
    if not passes:
        return base.Lowering(())
    common.refuse(objection(passes, has_calibration=has_calibration))
    if shared := common.shared(passes):
        return base.Lowering((shared,))
    config = common.the_quantize(passes, graph)
    if config.precision is Precision.FP16:
        return base.Lowering((_fp16(config, graph),))
    if config.precision is Precision.INT4:
        return base.Lowering((_explicit(_int4(config), "INT4", graph, PRODUCT_OPS),))
    if config.mode is Mode.Static:
        static = _static_control if config.accuracy_control else _static
        return base.Lowering((_explicit(static(config, graph, hardware), "Static", graph, STATIC_OPS),))
    if config.mode is Mode.Dynamic:
        return base.Lowering((_explicit(_weights(config), "Dynamic", graph, WEIGHT_OPS),))
    return _auto(config, graph, hardware, has_calibration=has_calibration)


def objection(passes: Sequence[base.PassRequest], *, has_calibration: bool) -> base.Objection | None:
    """What of a list of passes can't be met whatever the graph is; see `Runtime.objection`."""
    return common.objection("OpenVINO", passes, has_calibration=has_calibration, controls_accuracy=True, methods=METHODS)


def _auto(config: QuantizeConfig, graph: base.GraphFacts, hardware: base.HardwareClass, *, has_calibration: bool) -> base.Lowering:
    recipes, skipped = [], []
    static_nodes = common.count(graph, STATIC_OPS)
    if static_nodes and has_calibration:
        recipes.append(_static(config, graph, hardware))
    else:
        skipped.append(base.Skipped("static", common.NEEDS_CALIBRATION if static_nodes else common.nothing_for(STATIC_OPS)))
    if common.count(graph, WEIGHT_OPS):
        recipes.append(_weights(config))
    else:
        skipped.append(base.Skipped("weights", common.nothing_for(WEIGHT_OPS)))
    without_ends = common.skipped_ends(static_nodes, STATIC_OPS, has_calibration=has_calibration)
    if config.accuracy_control:
        recipes += [_static_control(config, graph, hardware)] if static_nodes else []
    elif without_ends:
        skipped.append(without_ends)
    else:
        recipes.append(_static_ends(config, graph, hardware))
    return base.Lowering(tuple(recipes), tuple(skipped))


def _explicit(recipe: base.Recipe, what: str, graph: base.GraphFacts, ops: Sequence[str]) -> base.Recipe:
    if not common.count(graph, ops):
        raise common.not_applicable(what, common.nothing_for(ops))
    return recipe


def _fp16(config: QuantizeConfig, graph: base.GraphFacts) -> base.Recipe:
    if not graph.weighted_ops:
        raise common.not_applicable("FP16", "no node has a constant floating-point weight")
    return base.Recipe("fp16", "FP16 weights, FP32 arithmetic", (base.Step("fp16", {"excluded": list(config.excluded_nodes)}),))


def _weights(config: QuantizeConfig) -> base.Recipe:
    return base.Recipe("weights", "INT8 weights, activations in float or quantized per request", (_step("weights", config),))


def _int4(config: QuantizeConfig) -> base.Recipe:
    size = config.block_size or BLOCK_SIZE
    return base.Recipe(
        "int4",
        f"INT4 weights of matrix products in blocks of {size}, INT8 of the last one, embeddings and convolutions",
        (_step("int4", config, blockSize=size),),
    )


def _static(config: QuantizeConfig, graph: base.GraphFacts, hardware: base.HardwareClass) -> base.Recipe:
    step = _step("static", config, **_static_options(config, graph, hardware), keepEnds=False)
    return base.Recipe("static", f"static INT8{_scheme(graph)}{common.note(hardware)}", (step,))


def _static_ends(config: QuantizeConfig, graph: base.GraphFacts, hardware: base.HardwareClass) -> base.Recipe:
    step = _step("static", config, **_static_options(config, graph, hardware), keepEnds=True)
    return base.Recipe("static-ends", f"static INT8{_scheme(graph)}, the first and the last weighted node in float{common.note(hardware)}", (step,))


def _static_control(config: QuantizeConfig, graph: base.GraphFacts, hardware: base.HardwareClass) -> base.Recipe:
    assert config.accuracy_control is not None  # noqa: S101  # else this is not asked for
    limit = config.accuracy_control.max_drop
    step = _step("static", config, **_static_options(config, graph, hardware), keepEnds=False, maxDrop=limit)
    return base.Recipe(
        "static-control", f"static INT8{_scheme(graph)}, in float what costs more than {limit} of the answers{common.note(hardware)}", (step,)
    )


def _step(kind: str, config: QuantizeConfig, **options: object) -> base.Step:
    return base.Step(kind, {**options, "excluded": list(config.excluded_nodes)})


def _static_options(config: QuantizeConfig, graph: base.GraphFacts, hardware: base.HardwareClass) -> dict[str, object]:
    method = config.calibration_method.value
    return {"transformer": _is_transformer(graph), "reduceRange": hardware.saturates, "calibrationMethod": method}


def _is_transformer(graph: base.GraphFacts) -> bool:
    """True where the graph attends: a softmax, and matrix products of two activations before and behind it."""
    products = graph.op_counts.get("MatMul", 0) - graph.weighted_ops.get("MatMul", 0)
    return "Attention" in graph.op_counts or ("Softmax" in graph.op_counts and products >= _PRODUCTS_OF_ATTENTION)


_PRODUCTS_OF_ATTENTION = 2


def _scheme(graph: base.GraphFacts) -> str:
    return " with NNCF's scheme for transformers" if _is_transformer(graph) else ""
