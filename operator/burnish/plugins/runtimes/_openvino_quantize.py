"""Applying lowered steps with NNCF on OpenVINO's own graph, and believing nothing before it was loaded and run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from burnish.plugins import base
from burnish.plugins.runtimes import _openvino_control as control
from burnish.plugins.runtimes import _openvino_model as ir
from burnish.plugins.runtimes import _openvino_session as session

_LARGEST_HALF = 65504.0


def apply(step: base.Step, source: Path, target: Path, *, calibration: Sequence[base.Arrays], answers: base.Answers | None) -> str:
    """Run one step; see `Runtime.apply`.

    Raises:
        BurnishError: UnsupportedOperator; CandidateNotBuildable.
        OSError, MemoryError: the machine has no room.
    """
    model = ir.read(source)
    kept = ir.find(model, _strings(step, "excluded"), source)
    with session.typed_errors(f"{step.kind} quantization failed"):
        if "maxDrop" in step.options:
            assert answers is not None  # noqa: S101  # the pass reads answers
            made, note = _controlled(step, model, kept, calibration, answers)
        else:
            made = _APPLY[step.kind](step, model, kept, calibration)
            note = _four_bits(made) if step.kind == "int4" else ""
    ir.save(made, target)
    believe(target, calibration)
    return note


def _fp16(step: base.Step, model: Any, kept: list[Any], calibration: Sequence[base.Arrays]) -> Any:
    """Halve the weights, but for those of `kept` and those out of FP16's range. OpenVINO's own conversion can't leave any out."""
    import numpy as np
    from openvino import opset1

    spared = {weight.get_friendly_name() for op in kept if (weight := ir.weight(op)) is not None}
    for constant in model.get_ordered_ops():
        if constant.get_type_name() != "Constant" or constant.get_element_type().get_type_name() != "f32":
            continue
        if constant.get_friendly_name() in spared or constant.data.size < 2 or not (np.abs(constant.data) <= _LARGEST_HALF).all():
            continue
        half = opset1.convert(opset1.constant(constant.data.astype(np.float16)), "f32")
        half.set_friendly_name(constant.get_friendly_name())
        for user in constant.output(0).get_target_inputs():
            user.replace_source_output(half.output(0))
    return model


def _weights(step: base.Step, model: Any, kept: list[Any], calibration: Sequence[base.Arrays]) -> Any:
    import nncf

    scope = nncf.IgnoredScope(names=[op.get_friendly_name() for op in kept])
    return nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM, ignored_scope=scope)


def _int4(step: base.Step, model: Any, kept: list[Any], calibration: Sequence[base.Arrays]) -> Any:
    import nncf

    return nncf.compress_weights(
        model,
        mode=nncf.CompressWeightsMode.INT4_ASYM,
        group_size=int(str(step.options["blockSize"])),
        ignored_scope=nncf.IgnoredScope(names=[op.get_friendly_name() for op in kept]),
        # a layer whose width no block divides gets the largest block that does, or 8 bits
        advanced_parameters=nncf.AdvancedCompressionParameters(group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST),
    )


def _four_bits(model: Any) -> str:
    """How many layers got them: of a small model it may be none."""
    types = [ir.weight(op).get_element_type().get_type_name() for op in ir.weighted_ops(model)]  # type: ignore[union-attr]  # they have weights
    return f"4 bits in {sum(name in ('u4', 'i4') for name in types) or 'none'} of {len(types)} layers"


def _static(step: base.Step, model: Any, kept: list[Any], calibration: Sequence[base.Arrays]) -> Any:
    if step.options["keepEnds"]:
        names = {op.get_friendly_name() for op in kept}
        touched = [op for op in ir.weighted_ops(model) if op.get_type_name() != "Gather" and op.get_friendly_name() not in names]
        kept = [*kept, *dict.fromkeys((touched[0], touched[-1]))] if touched else kept
    return _quantized(step, model, [op.get_friendly_name() for op in kept], calibration)


def _controlled(step: base.Step, model: Any, kept: list[Any], calibration: Sequence[base.Arrays], answers: base.Answers) -> tuple[Any, str]:
    """Static INT8 with what costs most in float, and what that is."""
    excluded = [op.get_friendly_name() for op in kept]
    labels = {op.get_friendly_name(): ir.label(op) for op in model.get_ordered_ops()}
    found = control.control(
        model,
        lambda names: _quantized(step, model.clone(), [*excluded, *names], calibration),
        lambda: _quantized(step, model.clone(), excluded, calibration, switchable=True),
        calibration,
        answers,
        max_drop=float(str(step.options["maxDrop"])),
    )
    back = ", ".join(labels[name] for name in found.kept) or "nothing"
    return found.model, f"{found.same:.1%} of the calibration's answers stay; in float: {back}"


def _quantized(step: base.Step, model: Any, kept: Sequence[str], calibration: Sequence[base.Arrays], *, switchable: bool = False) -> Any:
    """Static INT8 by NNCF; `switchable`: weights and biases as they were, the weights behind quantizers."""
    import nncf

    return nncf.quantize(
        model,
        nncf.Dataset(calibration, dict),
        subset_size=len(calibration),
        target_device=nncf.TargetDevice.CPU,
        model_type=nncf.ModelType.TRANSFORMER if step.options["transformer"] else None,
        ignored_scope=nncf.IgnoredScope(names=list(kept)),
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            overflow_fix=nncf.OverflowFix.ENABLE if step.options["reduceRange"] else nncf.OverflowFix.DISABLE,
            disable_bias_correction=switchable,
            backend_params={"compress_weights": not switchable},
            activations_range_estimator_params=_range_estimator(str(step.options["calibrationMethod"])),
        ),
    )


def _range_estimator(method: str) -> Any:
    """NNCF's own choice for MinMax; for Percentile the mean over requests of the quantiles that leave one value in ten thousand out at either end."""
    from nncf.quantization.range_estimator import RangeEstimatorParameters, RangeEstimatorParametersSet

    return RangeEstimatorParametersSet.MEAN_QUANTILE if method == "Percentile" else RangeEstimatorParameters()


_APPLY: dict[str, Callable[[base.Step, Any, list[Any], Sequence[base.Arrays]], Any]] = {
    "fp16": _fp16,
    "weights": _weights,
    "static": _static,
    "int4": _int4,
}


def believe(path: Path, calibration: Sequence[base.Arrays]) -> None:
    """Load the written model and run it once, where there is a request to run it on.

    Raises:
        BurnishError: CandidateNotBuildable.
    """
    loaded = session.open_session(path, {"INFERENCE_NUM_THREADS": "1", "NUM_STREAMS": "1", "INFERENCE_PRECISION_HINT": "f32"})
    if calibration:
        loaded.infer(calibration[0])


def _strings(step: base.Step, key: str) -> Sequence[str]:
    value = step.options.get(key, ())
    return [str(v) for v in value] if isinstance(value, (list, tuple)) else []
