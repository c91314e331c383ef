"""Which candidates training passes come to."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from burnish.api.job_contract import ExportRecord, PipelineRequest, TrainedPass
from burnish.api.v1alpha1.optimized_model import RuntimeName
from burnish.pipeline import lowering
from burnish.plugins import base

CNN = base.GraphFacts(opset=20, op_counts={"Conv": 2, "Gemm": 1}, weighted_ops={"Conv": 2, "Gemm": 1}, parameters=100)
NOTHING = base.GraphFacts(opset=20, op_counts={"Add": 1}, weighted_ops={}, parameters=1)
VNNI = base.HardwareClass(architecture="x86-64", vendor="AuthenticAMD", isa=("AVX2", "AVX512-VNNI"))


def lower(*names: str, runtime: str = "ONNXRuntime", calibration: object | None = "some", exported: base.GraphFacts = CNN) -> base.Lowering:
    shorts = {"QuantizeAwareTrain": "qat", "Prune": "prune", "Finetune": "finetune"}
    models = [SimpleNamespace(type=name, name=shorts[name], summary=f"what {name} did", graph=CNN) for name in names]
    request: Any = SimpleNamespace(
        target=SimpleNamespace(runtime=RuntimeName(runtime)),
        passes=[SimpleNamespace(name=name, config={}) for name in names],
        hardware_class=VNNI,
        datasets=SimpleNamespace(calibration=calibration),
    )
    record: Any = SimpleNamespace(graph=exported)
    return lowering.lower(cast("PipelineRequest", request), cast("ExportRecord", record), cast("tuple[TrainedPass, ...]", tuple(models)))


@pytest.mark.parametrize("runtime", ["ONNXRuntime", "OpenVINO"])
def test_static_int8_of_the_model_before_stands_beside_a_trained_quantization(runtime: str) -> None:
    found = lower("Prune", "QuantizeAwareTrain", runtime=runtime)
    assert [(r.name, r.start) for r in found.recipes] == [("prune", "prune"), ("qat", "qat"), ("static", "prune")]
    static = found.recipes[-1]
    assert static.summary.startswith("for comparison, after training: static INT8")
    assert [step.kind for step in static.steps] == ["static"]
    assert not found.skipped


def test_static_int8_is_of_the_export_where_nothing_was_trained_before() -> None:
    assert [(r.name, r.start) for r in lower("QuantizeAwareTrain").recipes] == [("qat", "qat"), ("static", "")]


def test_comparison_is_left_out_with_the_reason() -> None:
    without = lower("QuantizeAwareTrain", calibration=None)
    assert [r.name for r in without.recipes] == ["qat"]
    assert [(s.name, "set spec.datasets.calibration" in s.message) for s in without.skipped] == [("static", True)]
    nothing = lower("QuantizeAwareTrain", exported=NOTHING)
    assert [(s.name, "finds nothing to do" in s.message) for s in nothing.skipped] == [("static", True)]


def test_other_training_has_no_comparison() -> None:
    found = lower("Prune", "Finetune")
    assert [r.name for r in found.recipes] == ["prune", "finetune"]
    assert not found.skipped
