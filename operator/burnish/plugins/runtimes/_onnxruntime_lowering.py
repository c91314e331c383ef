"""Lowering for ONNX Runtime on CPUs: which quantization suits which graph. Pure; every choice names the finding it rests on.

INT8 pays where ONNX Runtime has an integer kernel for the whole chain: Conv, Gemm and MatMul with constant weights when scales are fixed
(static), MatMul, Gemm and embeddings (Gather) when they are found per request (dynamic). Dynamic INT8 of Conv runs seven times slower than
FP32 (ConvInteger has no fast kernel), so it is never built.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from burnish.errors import BurnishError, Reason
from burnish.plugins import base
from burnish.plugins.passes.quantize import Mode, Precision, Quantize, QuantizeConfig

STATIC_OPS = ("Conv", "Gemm", "MatMul")
DYNAMIC_OPS = ("MatMul", "Gemm", "Gather")

_NON_SATURATING = frozenset({"AVX512-VNNI", "AVX-VNNI", "AMX"})
_NEEDS_CALIBRATION = "static quantization needs calibration data; set spec.datasets.calibration"


def lower(passes: Sequence[base.PassRequest], graph: base.GraphFacts, hardware: base.HardwareClass, *, has_calibration: bool) -> base.Lowering:
    """The candidates for a list of passes; see `Runtime.lower`."""
    if not passes:
        return base.Lowering(())
    found = objection(passes, has_calibration=has_calibration)
    if found is not None:
        field = f"spec.passes[{found.position}]"
        raise BurnishError(found.reason, found.message, field=f"{field}.{found.field}" if found.field else field)
    config = passes[0].config
    assert isinstance(config, QuantizeConfig)  # noqa: S101  # else there was an objection
    _check_excluded(config, graph)
    if config.precision is Precision.FP16:
        return base.Lowering((_fp16(config, graph),))
    if config.mode is Mode.Static:
        return base.Lowering((_explicit_static(config, graph, hardware),))
    if config.mode is Mode.Dynamic:
        return base.Lowering((_explicit_dynamic(config, graph, hardware),))
    return _auto(config, graph, hardware, has_calibration=has_calibration)


def objection(passes: Sequence[base.PassRequest], *, has_calibration: bool) -> base.Objection | None:
    """What of a list of passes can't be met whatever the graph is; see `Runtime.objection`."""
    for position, entry in enumerate(passes):
        if entry.name != Quantize.name or not isinstance(entry.config, QuantizeConfig):
            return base.Objection(Reason.PassNotApplicable, f"ONNXRuntime does not offer the pass {entry.name}; remove it", position)
        if position:
            why = "is a second Quantize, and a quantized graph is not quantized again; keep one entry (mode: Auto tries several ways)"
            return base.Objection(Reason.PassNotApplicable, why, position)
        if entry.config.precision is Precision.INT8 and entry.config.mode is Mode.Static and not has_calibration:
            why = "Static fixes activation scales from data and there is none; set spec.datasets.calibration, or use mode: Auto or Dynamic"
            return base.Objection(Reason.CalibrationMissing, why, position, "quantize.mode")
    return None


def _auto(config: QuantizeConfig, graph: base.GraphFacts, hardware: base.HardwareClass, *, has_calibration: bool) -> base.Lowering:
    recipes, skipped = [], []
    static_nodes = _count(graph, STATIC_OPS)
    if static_nodes and has_calibration:
        recipes.append(_static(config, hardware))
    else:
        skipped.append(base.Skipped("static", _NEEDS_CALIBRATION if static_nodes else _nothing_for(STATIC_OPS)))
    if _count(graph, DYNAMIC_OPS):
        recipes.append(_dynamic(config, hardware))
    else:
        skipped.append(base.Skipped("dynamic", f"{_nothing_for(DYNAMIC_OPS)}; dynamic INT8 of Conv is many times slower than FP32"))
    if not has_calibration or static_nodes < _ENDS_WORTHWHILE:
        why = _NEEDS_CALIBRATION if static_nodes else _nothing_for(STATIC_OPS)
        few = f"only {static_nodes} node(s) with a constant weight, so nothing would be left between the first and the last"
        skipped.append(base.Skipped("static-ends", few if has_calibration and static_nodes else why))
    else:
        recipes.append(_static_ends(config, hardware))
    return base.Lowering(tuple(recipes), tuple(skipped))


_ENDS_WORTHWHILE = 3


def _explicit_static(config: QuantizeConfig, graph: base.GraphFacts, hardware: base.HardwareClass) -> base.Recipe:
    if not _count(graph, STATIC_OPS):
        raise _not_applicable("Static", _nothing_for(STATIC_OPS))
    return _static(config, hardware)


def _explicit_dynamic(config: QuantizeConfig, graph: base.GraphFacts, hardware: base.HardwareClass) -> base.Recipe:
    if not _count(graph, DYNAMIC_OPS):
        raise _not_applicable(
            "Dynamic", f"{_nothing_for(DYNAMIC_OPS)}; for Conv use mode: Static, as dynamic INT8 of Conv is many times slower than FP32"
        )
    return _dynamic(config, hardware)


def _fp16(config: QuantizeConfig, graph: base.GraphFacts) -> base.Recipe:
    if not graph.weighted_ops:
        raise _not_applicable("FP16", "no node has a constant floating-point weight")
    step = base.Step("fp16", {"excluded": list(config.excluded_nodes)})
    return base.Recipe("fp16", "FP16 weights and arithmetic, FP32 inputs and outputs", (step,))


def _static(config: QuantizeConfig, hardware: base.HardwareClass) -> base.Recipe:
    step = base.Step("static", {**_int8_options(config, hardware), "keepEnds": False})
    return base.Recipe("static", f"static INT8 (QDQ, per channel) of {', '.join(STATIC_OPS)}{_note(hardware)}", (step,))


def _static_ends(config: QuantizeConfig, hardware: base.HardwareClass) -> base.Recipe:
    # The first and the last layer carry the input's and the answer's precision; leaving them in float is the usual cure for lost accuracy
    # (Krishnamoorthi 2018, arXiv:1806.08342; Wu et al. 2020, arXiv:2004.09602, section 5).
    step = base.Step("static", {**_int8_options(config, hardware), "keepEnds": True})
    return base.Recipe("static-ends", f"static INT8, the first and the last weighted node in float{_note(hardware)}", (step,))


def _dynamic(config: QuantizeConfig, hardware: base.HardwareClass) -> base.Recipe:
    step = base.Step("dynamic", _int8_options(config, hardware))
    return base.Recipe("dynamic", f"dynamic INT8 (per channel) of {', '.join(DYNAMIC_OPS)}{_note(hardware)}", (step,))


def _int8_options(config: QuantizeConfig, hardware: base.HardwareClass) -> dict[str, object]:
    # x86 kernels are fast for u8 activations x s8 weights only; ARM's dot product is fast for s8 x s8 (onnxruntime.quantization's own guidance).
    activation = "QInt8" if hardware.architecture == "aarch64" else "QUInt8"
    return {"activationType": activation, "weightType": "QInt8", "reduceRange": _saturates(hardware), "excluded": list(config.excluded_nodes)}


def _saturates(hardware: base.HardwareClass) -> bool:
    """True where 8-bit products overflow: AVX2's VPMADDUBSW adds two u8 x s8 products in 16 bits with saturation, so weights get 7 bits."""
    return hardware.architecture == "x86-64" and not _NON_SATURATING & set(hardware.isa)


def _note(hardware: base.HardwareClass) -> str:
    return "; 7-bit weights, as this CPU has no VNNI and its 16-bit sums saturate" if _saturates(hardware) else ""


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


def _count(graph: base.GraphFacts, ops: Sequence[str]) -> int:
    return sum(graph.weighted_ops.get(op, 0) for op in ops)


def _nothing_for(ops: Sequence[str]) -> str:
    return f"the graph has no {', '.join(ops[:-1])} or {ops[-1]} with a constant floating-point weight"


def _not_applicable(what: str, why: str) -> BurnishError:
    return BurnishError(
        Reason.PassNotApplicable, f"Quantize {what} finds nothing to do: {why}; use mode: Auto, or remove the pass", field="spec.passes[0]"
    )
