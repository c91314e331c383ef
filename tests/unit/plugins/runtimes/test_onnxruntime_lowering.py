"""Which candidates ONNX Runtime builds for which graph, data and CPU."""

from __future__ import annotations

from dataclasses import replace

import pytest

from burnish.errors import BurnishError, Reason
from burnish.plugins import base, registry
from burnish.plugins.passes.quantize import CalibrationMethod, Mode, Precision, QuantizeConfig

ORT = registry.runtimes()["ONNXRuntime"]


def _graph(*, names: tuple[str, ...] = ("conv1", "conv2", "fc"), **weighted: int) -> base.GraphFacts:
    return base.GraphFacts(opset=18, op_counts=weighted, weighted_ops=weighted, parameters=1, node_names=names)


CNN = _graph(Conv=2, Gemm=1)
TEXT = _graph(MatMul=4, Gather=1)
CONV_ONLY = _graph(Conv=3)


def _lower(
    graph: base.GraphFacts, hardware: base.HardwareClass, config: QuantizeConfig | None = None, *, has_calibration: bool = True
) -> base.Lowering:
    return ORT.lower([base.PassRequest("Quantize", config or QuantizeConfig())], graph, hardware, has_calibration=has_calibration)


def _names(lowering: base.Lowering) -> list[str]:
    return [recipe.name for recipe in lowering.recipes]


def test_lower_builds_nothing_without_passes(vnni: base.HardwareClass) -> None:
    assert ORT.lower([], CNN, vnni, has_calibration=True) == base.Lowering(())


def test_lower_is_pure(vnni: base.HardwareClass) -> None:
    assert _lower(CNN, vnni) == _lower(CNN, vnni)


def test_auto_tries_three_candidates_with_data(vnni: base.HardwareClass) -> None:
    lowering = _lower(CNN, vnni)
    assert _names(lowering) == ["static", "dynamic", "static-ends"]
    assert lowering.skipped == ()


def test_auto_without_data_tries_only_what_needs_none_and_says_so(vnni: base.HardwareClass) -> None:
    lowering = _lower(TEXT, vnni, has_calibration=False)
    assert _names(lowering) == ["dynamic"]
    assert [s.name for s in lowering.skipped] == ["static", "static-ends"]
    assert all("spec.datasets.calibration" in s.message for s in lowering.skipped)


def test_auto_never_makes_convolutions_dynamic(vnni: base.HardwareClass) -> None:
    lowering = _lower(CONV_ONLY, vnni)
    assert _names(lowering) == ["static", "static-ends"]
    assert [s.name for s in lowering.skipped] == ["dynamic"]
    assert "Conv" in lowering.skipped[0].message


def test_auto_skips_the_ends_where_nothing_lies_between(vnni: base.HardwareClass) -> None:
    lowering = _lower(_graph(MatMul=2), vnni)
    assert _names(lowering) == ["static", "dynamic"]
    assert lowering.skipped[0].name == "static-ends" and "2" in lowering.skipped[0].message


def test_auto_on_a_graph_without_weights_skips_everything_with_reasons(vnni: base.HardwareClass) -> None:
    lowering = _lower(_graph(names=()), vnni)
    assert lowering.recipes == ()
    assert [s.name for s in lowering.skipped] == ["static", "dynamic", "static-ends"]
    assert all("constant" in s.message for s in lowering.skipped)


def test_static_builds_one_candidate_and_needs_data(vnni: base.HardwareClass) -> None:
    config = QuantizeConfig(mode=Mode.Static)
    assert _names(_lower(CNN, vnni, config)) == ["static"]
    with pytest.raises(BurnishError) as caught:
        _lower(CNN, vnni, config, has_calibration=False)
    assert caught.value.reason is Reason.CalibrationMissing
    assert caught.value.field == "spec.passes[0].quantize.mode"


@pytest.mark.parametrize(
    ("config", "graph"),
    [
        (QuantizeConfig(mode=Mode.Static), _graph(Gather=1)),
        (QuantizeConfig(mode=Mode.Dynamic), CONV_ONLY),
        (QuantizeConfig(precision=Precision.FP16), _graph(names=())),
        (QuantizeConfig(precision=Precision.INT4), CONV_ONLY),
    ],
    ids=["static", "dynamic", "fp16", "int4"],
)
def test_explicit_request_that_finds_nothing_is_refused(config: QuantizeConfig, graph: base.GraphFacts, vnni: base.HardwareClass) -> None:
    with pytest.raises(BurnishError) as caught:
        _lower(graph, vnni, config)
    assert caught.value.reason is Reason.PassNotApplicable


def test_fp16_needs_no_data(vnni: base.HardwareClass) -> None:
    assert _names(_lower(CNN, vnni, QuantizeConfig(precision=Precision.FP16), has_calibration=False)) == ["fp16"]


def test_int4_needs_no_data_and_tells_what_it_costs(vnni: base.HardwareClass) -> None:
    [recipe] = _lower(CNN, vnni, QuantizeConfig(precision=Precision.INT4, block_size=64), has_calibration=False).recipes
    assert recipe.name == "int4" and recipe.steps[0].options["blockSize"] == 64
    assert "slower" in recipe.summary


def test_calibration_method_reaches_every_static_candidate(vnni: base.HardwareClass) -> None:
    lowering = _lower(CNN, vnni, QuantizeConfig(calibration_method=CalibrationMethod.Entropy))
    methods = [step.options.get("calibrationMethod") for recipe in lowering.recipes for step in recipe.steps if step.kind == "static"]
    assert methods == ["Entropy", "Entropy"]


def test_excluded_nodes_must_exist_and_close_names_are_shown(vnni: base.HardwareClass) -> None:
    with pytest.raises(BurnishError) as caught:
        _lower(CNN, vnni, QuantizeConfig(excluded_nodes=["conv1", "konv2"]))
    assert caught.value.reason is Reason.PassNotApplicable
    assert "'konv2' (close: conv2" in caught.value.message and "'conv1'" not in caught.value.message


def test_excluded_nodes_reach_every_step(vnni: base.HardwareClass) -> None:
    lowering = _lower(CNN, vnni, QuantizeConfig(excluded_nodes=["fc"]))
    assert all(step.options["excluded"] == ["fc"] for recipe in lowering.recipes for step in recipe.steps)


@pytest.mark.parametrize(
    ("architecture", "isa", "reduced", "activation"),
    [
        ("x86-64", ("AVX2",), True, "QUInt8"),
        ("x86-64", ("AVX2", "AVX512-VNNI"), False, "QUInt8"),
        ("x86-64", ("AVX2", "AVX-VNNI"), False, "QUInt8"),
        ("x86-64", ("AVX2", "AMX"), False, "QUInt8"),
        ("aarch64", ("NEON-DOT",), False, "QInt8"),
    ],
)
def test_scheme_follows_the_cpu(architecture: str, isa: tuple[str, ...], reduced: bool, activation: str) -> None:
    hardware = base.HardwareClass(architecture=architecture, vendor="any", isa=isa)
    for recipe in _lower(CNN, hardware).recipes:
        assert recipe.steps[0].options["reduceRange"] is reduced
        assert recipe.steps[0].options["activationType"] == activation
        assert ("saturate" in recipe.summary) is reduced


def test_two_quantize_passes_are_refused(vnni: base.HardwareClass) -> None:
    request = base.PassRequest("Quantize", QuantizeConfig())
    with pytest.raises(BurnishError) as caught:
        ORT.lower([request, request], CNN, vnni, has_calibration=True)
    assert caught.value.reason is Reason.PassNotApplicable


def test_a_pass_of_another_kind_is_refused_by_name(vnni: base.HardwareClass) -> None:
    with pytest.raises(BurnishError) as caught:
        ORT.lower([replace(base.PassRequest("Quantize", QuantizeConfig()), name="Prune")], CNN, vnni, has_calibration=True)
    assert caught.value.reason is Reason.PassNotApplicable
    assert "Prune" in caught.value.message


def test_candidate_names_are_dns_labels(vnni: base.HardwareClass) -> None:
    for recipe in (*_lower(CNN, vnni).recipes, *_lower(CNN, vnni, QuantizeConfig(precision=Precision.FP16)).recipes):
        assert recipe.name.replace("-", "").isalnum() and recipe.name.islower() and len(recipe.name) <= 24
