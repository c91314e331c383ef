"""Which candidates OpenVINO builds for which graph, data and CPU."""

from __future__ import annotations

import pytest

from burnish.errors import BurnishError, Reason
from burnish.plugins import base, registry
from burnish.plugins.passes.quantize import AccuracyControl, CalibrationMethod, Mode, Precision, QuantizeConfig

OPENVINO = registry.runtimes()["OpenVINO"]


def _graph(*, names: tuple[str, ...] = ("conv1", "conv2", "fc"), others: dict[str, int] | None = None, **weighted: int) -> base.GraphFacts:
    counts = weighted | {op: count + weighted.get(op, 0) for op, count in (others or {}).items()}
    return base.GraphFacts(opset=18, op_counts=counts, weighted_ops=weighted, parameters=1, node_names=names)


CNN = _graph(Conv=2, Gemm=1)
TRANSFORMER = _graph(MatMul=4, Gather=1, others={"MatMul": 2, "Softmax": 1})
TABLE = _graph(Gather=1, names=("embed",))
NOTHING = _graph(names=())


def _lower(
    graph: base.GraphFacts, hardware: base.HardwareClass, config: QuantizeConfig | None = None, *, has_calibration: bool = True
) -> base.Lowering:
    return OPENVINO.lower([base.PassRequest("Quantize", config or QuantizeConfig())], graph, hardware, has_calibration=has_calibration)


def _names(lowering: base.Lowering) -> list[str]:
    return [recipe.name for recipe in lowering.recipes]


def _option(lowering: base.Lowering, key: str) -> list[object]:
    return [step.options[key] for recipe in lowering.recipes for step in recipe.steps if step.kind == "static"]


def test_no_passes_build_nothing_and_lowering_is_pure(vnni: base.HardwareClass) -> None:
    assert OPENVINO.lower([], CNN, vnni, has_calibration=True) == base.Lowering(())
    assert _lower(CNN, vnni) == _lower(CNN, vnni)


def test_auto_tries_three_candidates_with_data(vnni: base.HardwareClass) -> None:
    assert _names(_lower(CNN, vnni)) == ["static", "weights", "static-ends"]
    assert _lower(CNN, vnni).skipped == ()


def test_auto_without_data_compresses_weights_and_says_why_no_more(vnni: base.HardwareClass) -> None:
    lowering = _lower(CNN, vnni, has_calibration=False)
    assert _names(lowering) == ["weights"]
    assert [s.name for s in lowering.skipped] == ["static", "static-ends"]
    assert all("spec.datasets.calibration" in s.message for s in lowering.skipped)


def test_auto_names_what_there_is_nothing_for(vnni: base.HardwareClass) -> None:
    assert [s.name for s in _lower(TABLE, vnni).skipped] == ["static", "static-ends"]
    assert [s.name for s in _lower(NOTHING, vnni).skipped] == ["static", "weights", "static-ends"]
    few = _lower(_graph(Conv=2), vnni).skipped
    assert [(s.name, "only 2" in s.message) for s in few] == [("static-ends", True)]


@pytest.mark.parametrize(
    ("graph", "is_transformer"),
    [
        (CNN, False),
        (_graph(Conv=2, Gemm=1, others={"Softmax": 1}), False),  # a classifier that ends in one
        (_graph(MatMul=4, others={"MatMul": 2}), False),  # products of activations, but nothing attends
        (TRANSFORMER, True),
        (_graph(MatMul=4, others={"Attention": 1}), True),
    ],
)
def test_transformers_get_their_own_scheme(vnni: base.HardwareClass, graph: base.GraphFacts, is_transformer: bool) -> None:
    lowering = _lower(graph, vnni)
    assert set(_option(lowering, "transformer")) == {is_transformer}
    assert ("transformers" in lowering.recipes[0].summary) is is_transformer


def test_weights_get_seven_bits_only_where_sums_saturate(vnni: base.HardwareClass, avx2: base.HardwareClass) -> None:
    arm = base.HardwareClass(architecture="aarch64", vendor="ARM", isa=("NEON-DOT",))
    assert [set(_option(_lower(CNN, hardware), "reduceRange")) for hardware in (vnni, avx2, arm)] == [{False}, {True}, {False}]
    assert "7-bit" in _lower(CNN, avx2).recipes[0].summary


@pytest.mark.parametrize(
    ("config", "recipe", "kind"),
    [
        ({"mode": Mode.Static}, "static", "static"),
        ({"mode": Mode.Dynamic}, "weights", "weights"),
        ({"precision": Precision.FP16}, "fp16", "fp16"),
        ({"precision": Precision.INT4}, "int4", "int4"),
    ],
)
def test_explicit_request_is_the_only_candidate_and_keeps_what_is_excluded(vnni, config, recipe, kind) -> None:
    lowering = _lower(CNN, vnni, QuantizeConfig(excluded_nodes=["fc"], **config))
    assert _names(lowering) == [recipe]
    [step] = lowering.recipes[0].steps
    assert (step.kind, step.options["excluded"]) == (kind, ["fc"])


@pytest.mark.parametrize("config", [{"mode": Mode.Static}, {"mode": Mode.Dynamic}, {"precision": Precision.FP16}, {"precision": Precision.INT4}])
def test_explicit_request_that_finds_nothing_is_refused(vnni: base.HardwareClass, config: dict) -> None:
    with pytest.raises(BurnishError, match="finds nothing to do") as caught:
        _lower(NOTHING, vnni, QuantizeConfig(**config))
    assert caught.value.reason is Reason.PassNotApplicable


def test_calibration_method_that_nncf_lacks_is_refused_by_name(vnni: base.HardwareClass) -> None:
    with pytest.raises(BurnishError, match="OpenVINO does not offer Entropy; use MinMax or Percentile") as caught:
        _lower(CNN, vnni, QuantizeConfig(calibration_method=CalibrationMethod.Entropy))
    assert (caught.value.reason, caught.value.field) == (Reason.PassNotApplicable, "spec.passes[0].quantize.calibrationMethod")
    assert set(_option(_lower(CNN, vnni, QuantizeConfig(calibration_method=CalibrationMethod.Percentile)), "calibrationMethod")) == {"Percentile"}


def test_static_without_data_is_refused_with_the_cure(vnni: base.HardwareClass) -> None:
    with pytest.raises(BurnishError, match=r"datasets\.calibration") as caught:
        _lower(CNN, vnni, QuantizeConfig(mode=Mode.Static), has_calibration=False)
    assert (caught.value.reason, caught.value.field) == (Reason.CalibrationMissing, "spec.passes[0].quantize.mode")


def test_excluded_node_unknown_is_refused_with_what_is_close(vnni: base.HardwareClass) -> None:
    with pytest.raises(BurnishError, match="conv1") as caught:
        _lower(CNN, vnni, QuantizeConfig(excluded_nodes=["conv3"]))
    assert caught.value.reason is Reason.PassNotApplicable


CONTROL = AccuracyControl(max_drop="0.01")


def test_accuracy_control_is_a_candidate_of_its_own_beside_what_it_controls(vnni: base.HardwareClass) -> None:
    lowering = _lower(CNN, vnni, QuantizeConfig(accuracy_control=CONTROL))
    assert _names(lowering) == ["static", "weights", "static-control"]
    assert [step.options.get("maxDrop") for recipe in lowering.recipes for step in recipe.steps] == [None, None, "0.01"]
    assert _names(_lower(CNN, vnni, QuantizeConfig(mode=Mode.Static, accuracy_control=CONTROL))) == ["static-control"]
    assert _names(_lower(TABLE, vnni, QuantizeConfig(accuracy_control=CONTROL))) == ["weights"]


def test_accuracy_control_needs_data_and_openvino(vnni: base.HardwareClass) -> None:
    passes = [base.PassRequest("Quantize", QuantizeConfig(accuracy_control=CONTROL))]
    missing = OPENVINO.objection(passes, has_calibration=False)
    assert missing is not None
    assert (missing.reason, missing.field) == (Reason.CalibrationMissing, "quantize.accuracyControl")
    assert OPENVINO.objection(passes, has_calibration=True) is None
    other = registry.runtimes()["ONNXRuntime"].objection(passes, has_calibration=True)
    assert other is not None
    assert (other.reason, other.field) == (Reason.PassNotApplicable, "quantize.accuracyControl")


def test_only_accuracy_control_reads_answers() -> None:
    quantize = registry.passes()["Quantize"]
    assert quantize.reads_answers(QuantizeConfig(accuracy_control=CONTROL))
    assert not quantize.reads_answers(QuantizeConfig())


def test_parameters_write_out_threads_streams_and_precision() -> None:
    found = OPENVINO.parameters(3)
    assert (found["INFERENCE_NUM_THREADS"], found["NUM_STREAMS"], found["INFERENCE_PRECISION_HINT"]) == ("3", "1", "f32")
