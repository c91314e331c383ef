"""Lowering for ONNX Runtime on CPUs: which quantization suits which graph. Pure; every choice names the finding it rests on.

INT8 pays where ONNX Runtime has an integer kernel for the whole chain: Conv, Gemm and MatMul with constant weights when scales are fixed
(static), MatMul, Gemm and embeddings (Gather) when they are found per request (dynamic). Dynamic INT8 of Conv runs seven times slower than
FP32 (ConvInteger has no fast kernel), so it is never built.
"""

from __future__ import annotations

from collections.abc import Sequence

from burnish.plugins import base
from burnish.plugins.passes.quantize import BLOCK_SIZE, Mode, Precision, QuantizeConfig
from burnish.plugins.runtimes import _lowering as common

STATIC_OPS = ("Conv", "Gemm", "MatMul")
DYNAMIC_OPS = ("MatMul", "Gemm", "Gather")


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
        return base.Lowering((_int4(config, graph),))
    if config.mode is Mode.Static:
        return base.Lowering((_explicit_static(config, graph, hardware),))
    if config.mode is Mode.Dynamic:
        return base.Lowering((_explicit_dynamic(config, graph, hardware),))
    return _auto(config, graph, hardware, has_calibration=has_calibration)


def objection(passes: Sequence[base.PassRequest], *, has_calibration: bool) -> base.Objection | None:
    """What of a list of passes can't be met whatever the graph is; see `Runtime.objection`."""
    return common.objection("ONNXRuntime", passes, has_calibration=has_calibration)


def _auto(config: QuantizeConfig, graph: base.GraphFacts, hardware: base.HardwareClass, *, has_calibration: bool) -> base.Lowering:
    recipes, skipped = [], []
    static_nodes = common.count(graph, STATIC_OPS)
    if static_nodes and has_calibration:
        recipes.append(_static(config, hardware))
    else:
        skipped.append(base.Skipped("static", common.NEEDS_CALIBRATION if static_nodes else common.nothing_for(STATIC_OPS)))
    if common.count(graph, DYNAMIC_OPS):
        recipes.append(_dynamic(config, hardware))
    else:
        skipped.append(base.Skipped("dynamic", f"{common.nothing_for(DYNAMIC_OPS)}; dynamic INT8 of Conv is many times slower than FP32"))
    without_ends = common.skipped_ends(static_nodes, STATIC_OPS, has_calibration=has_calibration)
    if without_ends:
        skipped.append(without_ends)
    else:
        recipes.append(_static_ends(config, hardware))
    return base.Lowering(tuple(recipes), tuple(skipped))


def _explicit_static(config: QuantizeConfig, graph: base.GraphFacts, hardware: base.HardwareClass) -> base.Recipe:
    if not common.count(graph, STATIC_OPS):
        raise common.not_applicable("Static", common.nothing_for(STATIC_OPS))
    return _static(config, hardware)


def _explicit_dynamic(config: QuantizeConfig, graph: base.GraphFacts, hardware: base.HardwareClass) -> base.Recipe:
    if not common.count(graph, DYNAMIC_OPS):
        raise common.not_applicable(
            "Dynamic", f"{common.nothing_for(DYNAMIC_OPS)}; for Conv use mode: Static, as dynamic INT8 of Conv is many times slower than FP32"
        )
    return _dynamic(config, hardware)


def _fp16(config: QuantizeConfig, graph: base.GraphFacts) -> base.Recipe:
    if not graph.weighted_ops:
        raise common.not_applicable("FP16", "no node has a constant floating-point weight")
    step = base.Step("fp16", {"excluded": list(config.excluded_nodes)})
    return base.Recipe("fp16", "FP16 weights and arithmetic, FP32 inputs and outputs", (step,))


def _int4(config: QuantizeConfig, graph: base.GraphFacts) -> base.Recipe:
    if not common.count(graph, DYNAMIC_OPS):
        raise common.not_applicable("INT4", common.nothing_for(DYNAMIC_OPS))
    size = config.block_size or BLOCK_SIZE
    step = base.Step("int4", {"blockSize": size, "excluded": list(config.excluded_nodes)})
    return base.Recipe(
        "int4", f"INT4 weights of {', '.join(DYNAMIC_OPS)} in blocks of {size}, unpacked in each request: smaller, on CPUs mostly slower", (step,)
    )


def _static(config: QuantizeConfig, hardware: base.HardwareClass) -> base.Recipe:
    step = base.Step("static", {**_static_options(config, hardware), "keepEnds": False})
    return base.Recipe("static", f"static INT8 (QDQ, per channel) of {', '.join(STATIC_OPS)}{common.note(hardware)}", (step,))


def _static_ends(config: QuantizeConfig, hardware: base.HardwareClass) -> base.Recipe:
    # The first and the last layer carry the input's and the answer's precision; leaving them in float is the usual cure for lost accuracy
    # (Krishnamoorthi 2018, arXiv:1806.08342; Wu et al. 2020, arXiv:2004.09602, section 5).
    step = base.Step("static", {**_static_options(config, hardware), "keepEnds": True})
    return base.Recipe("static-ends", f"static INT8, the first and the last weighted node in float{common.note(hardware)}", (step,))


def _dynamic(config: QuantizeConfig, hardware: base.HardwareClass) -> base.Recipe:
    step = base.Step("dynamic", _int8_options(config, hardware))
    return base.Recipe("dynamic", f"dynamic INT8 (per channel) of {', '.join(DYNAMIC_OPS)}{common.note(hardware)}", (step,))


def _static_options(config: QuantizeConfig, hardware: base.HardwareClass) -> dict[str, object]:
    return {**_int8_options(config, hardware), "calibrationMethod": config.calibration_method.value}


def _int8_options(config: QuantizeConfig, hardware: base.HardwareClass) -> dict[str, object]:
    # x86 kernels are fast for u8 activations x s8 weights only; ARM's dot product is fast for s8 x s8 (onnxruntime.quantization's own guidance).
    activation = "QInt8" if hardware.architecture == "aarch64" else "QUInt8"
    return {"activationType": activation, "weightType": "QInt8", "reduceRange": hardware.saturates, "excluded": list(config.excluded_nodes)}
