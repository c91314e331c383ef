"""Passes that have their place: QuantizeAwareTrain is the last, Distill has one student. No library is needed to say so."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from burnish.errors import Reason
from burnish.plugins import base, order, registry


def entry(name: str, **options: Any) -> base.PassRequest:
    return base.PassRequest(name, registry.passes()[name].config.model_validate(options))


def objection(*passes: base.PassRequest, calibrated: bool = True, trained: bool = True) -> base.Objection | None:
    return order.objection(passes, registry.runtimes()["ONNXRuntime"], has_calibration=calibrated, has_training=trained)


@pytest.mark.parametrize(
    ("after", "cure"),
    [
        ("Quantize", "remove Quantize: plain static INT8 is measured beside it"),
        ("ShareWeights", "remove ShareWeights"),
        ("Prune", "put Prune before QuantizeAwareTrain"),
        ("Finetune", "put Finetune before QuantizeAwareTrain"),
        ("QuantizeAwareTrain", "keep one"),
    ],
)
def test_nothing_comes_after_quantize_aware_train(after: str, cure: str) -> None:
    found = objection(entry("Finetune"), entry("QuantizeAwareTrain"), entry(after))
    assert found is not None
    assert (found.reason, found.position) == (Reason.PassNotApplicable, 1)
    assert found.message.endswith(cure)


def test_quantize_aware_train_needs_training_data_and_no_calibration_data() -> None:
    found = objection(entry("QuantizeAwareTrain"), trained=False)
    assert found is not None
    assert found.reason is Reason.TrainingDataMissing
    assert objection(entry("QuantizeAwareTrain"), calibrated=False) is None


def test_chain_of_three_makes_sense() -> None:
    assert objection(entry("Prune"), entry("Distill"), entry("QuantizeAwareTrain")) is None


@pytest.mark.parametrize("before", [[], ["Finetune"]])
def test_distill_without_a_student_is_refused_where_nothing_got_smaller(before: list[str]) -> None:
    found = objection(*map(entry, before), entry("Distill"))
    assert found is not None
    assert (found.reason, found.position) == (Reason.PassNotApplicable, len(before))
    assert "student: {widthPercent: 50}, or put Prune before it" in found.message
    assert objection(*map(entry, before), entry("Distill", student={"widthPercent": 50})) is None


def test_distill_with_a_student_is_refused_where_a_pass_made_one() -> None:
    found = objection(entry("Prune"), entry("Finetune"), entry("Distill", student={"depthPercent": 50}))
    assert found is not None
    assert (found.reason, found.position) == (Reason.PassNotApplicable, 2)
    assert found.message.endswith("remove student, so that it teaches that one, or remove Prune")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"alpha": "1"}, "use type: Finetune"),
        ({"alpha": "1.5"}, "more than the whole"),
        ({"temperature": "0"}, "no temperature"),
        ({"learningRate": "0"}, "no learning rate"),
        ({"epochs": 0}, "greater than or equal to 1"),
        ({"compareSeeds": 6}, "less than or equal to 5"),
        ({"student": {}}, "says nothing of the student"),
        ({"student": {"widthPercent": 100}}, "less than or equal to 99"),
        ({"student": {"widthPercent": 0}}, "greater than or equal to 1"),
        ({"student": {"widthPercent": 50, "architecture": "timm.test_resnet"}}, "keep one of them"),
        ({"student": {"widthPercent": 50, "architectureArgs": [{"name": "a", "value": "1"}]}}, "no architecture"),
        ({"student": {"architecture": "my.network"}}, "no other code is run"),
        ({"student": {"architecture": "timm.x", "architectureArgs": [{"name": "a", "value": "1"}, {"name": "a", "value": "2"}]}}, "'a' twice"),
        ({"student": {"widthPercent": 50, "source": {"uri": "file:x"}}}, "has a source of its own, and a cut of the original; keep one of them"),
        ({"student": {"depthPercent": 50, "source": {"uri": "file:x"}}}, "has a source of its own, and a cut of the original; keep one of them"),
        ({"student": {"source": {}}}, "Field required"),
        ({"student": {"source": {"uri": "file:x", "digest": "abc"}}}, "match pattern"),
        ({"student": {"source": {"uri": "file:x", "format": "Keras"}}}, "'HuggingFace', 'ONNX' or 'StateDict'"),
        ({"student": {"source": {"uri": "file:x", "format": "TorchScript"}}}, "'HuggingFace', 'ONNX' or 'StateDict'"),
        ({"student": {"source": {"uri": "file:x", "format": "StateDict"}}}, "name what they belong to"),
        ({"student": {"source": {"uri": "file:x", "format": "ONNX"}, "architecture": "timm.x"}}, "belongs to a source of format StateDict"),
        ({"student": {"source": {"uri": "file:x", "format": "ONNX", "task": "FillMask"}}}, "belongs to format HuggingFace"),
        ({"student": {"source": {"uri": "file:x"}, "architectureArgs": [{"name": "a", "value": "1"}]}}, "no architecture"),
    ],
)
def test_distill_refuses_options_that_make_no_sense(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError) as caught:
        entry("Distill", **options)
    assert told in str(caught.value)


@pytest.mark.parametrize(("options", "told"), [({"epochs": 0}, "greater than or equal to 1"), ({"learningRate": "NaN"}, "match pattern")])
def test_quantize_aware_train_refuses_options_that_make_no_sense(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError) as caught:
        entry("QuantizeAwareTrain", **options)
    assert told in str(caught.value)


SOURCE = {"uri": "https://example.com/small?token=secret", "digest": "sha256:" + "0" * 64, "format": "StateDict"}


@pytest.mark.parametrize("share", [float("nan"), float("inf"), "NaN", 0, 100, -1, 12.5])
def test_a_share_of_weights_that_is_none_is_refused(share: object) -> None:
    with pytest.raises(ValidationError, match="sparsityPercent"):
        entry("Prune", sparsityPercent=share)


def test_student_with_a_source_is_told_to_whoever_fetches_it() -> None:
    own = entry("Distill", student={"source": SOURCE, "architecture": "timm.x", "architectureArgs": [{"name": "depth", "value": "2"}]})
    found = order.source_of([entry("Finetune"), own, entry("QuantizeAwareTrain")])
    assert found is not None
    position, source = found
    assert (position, source.uri, source.digest, source.format) == (1, SOURCE["uri"], SOURCE["digest"], "StateDict")
    assert source.options == base.SourceOptions(architecture="timm.x", architecture_args={"depth": 2})
    assert (source.fields["uri"], source.fields["architecture"]) == ("distill.student.source.uri", "distill.student.architecture")
    assert order.source_of([entry("Distill", student={"architecture": "timm.x"}), entry("Quantize")]) is None


@pytest.mark.parametrize("student", [{"source": SOURCE | {"format": None}}, {"architecture": "timm.x"}])
def test_student_of_its_own_only_asks_the_original(student: dict[str, Any]) -> None:
    plugin = registry.passes()["Distill"]
    assert isinstance(plugin, base.TrainingPass)
    assert plugin.only_asks(entry("Distill", student=student).config)
    assert not plugin.only_asks(entry("Distill", student={"widthPercent": 50}).config)
    assert not plugin.only_asks(entry("Distill").config)
    assert objection(entry("Distill", student=student)) is None
    refused = objection(entry("Prune"), entry("Distill", student=student))
    assert refused is not None
    assert refused.message.endswith("remove student, so that it teaches that one, or remove Prune")


def test_labels_are_needed_where_the_loss_has_them() -> None:
    for name in ("Distill", "QuantizeAwareTrain"):
        plugin = registry.passes()[name]
        assert isinstance(plugin, base.TrainingPass)
        own = {"student": {"widthPercent": 50}} if name == "Distill" else {}
        alone = own | ({"alpha": "0"} if name == "Distill" else {"distill": {"alpha": "0"}})
        assert plugin.needs_labels(entry(name, **own).config)
        assert not plugin.needs_labels(entry(name, **alone).config)
        assert plugin.learns_from_original(entry(name, **alone).config)
    qat = registry.passes()["QuantizeAwareTrain"]
    assert isinstance(qat, base.TrainingPass)
    assert not qat.learns_from_original(entry("QuantizeAwareTrain").config)


@pytest.mark.parametrize(("isa", "does"), [(("AVX2",), True), (("AVX2", "AVX-VNNI"), False), (("AMX",), False)])
def test_sums_saturate_on_x86_without_instructions_for_them(isa: tuple[str, ...], does: bool) -> None:
    assert base.HardwareClass(architecture="x86-64", vendor="GenuineIntel", isa=isa).saturates is does
    assert not base.HardwareClass(architecture="aarch64", vendor="ARM", isa=isa).saturates
