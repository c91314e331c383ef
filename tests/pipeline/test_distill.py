"""Distill: distill_cases.py trains small students in PyTorch's environment, and here its outcome is read; and whole runs, alone and in a chain."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.pipeline.conftest import EXAMPLES, Project
from tests.pipeline.format_outcomes import run_script

from burnish.api.scalars import quantity_bytes

SCRIPT = Path(__file__).with_name("distill_cases.py")


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run_script("torch", SCRIPT, tmp_path_factory.mktemp("distill")) / "outcome.json").read_text())
    return found


def test_student_has_a_share_of_the_channels_and_learns(outcome: dict[str, Any]) -> None:
    found = outcome["width"]
    assert found["widths"] == [4, 8, 8, 4]  # of 16, 32 and 32; the answer keeps its own
    assert found["untouched"] and found["difference"] < 1e-5
    assert found["accuracy"] > 0.9 and found["losses"][-1] < found["losses"][0]
    assert found["summary"].startswith(
        "25 % of the channels, 2,692 weights where the original has 41,860, learned from the original (alpha 0.1, temperature 4); "
    )
    assert found["said"][0].startswith("training 1 of 4 (with the original): epoch 1 of 3: loss ")
    assert found["said"][-1].startswith("training 4 of 4 (without it, to compare): epoch 3 of 3: loss ")


def test_first_training_is_kept_whatever_the_others_score(outcome: dict[str, Any]) -> None:
    assert outcome["first is kept"] == {"same": True, "different trainings": 4, "trainings": 4}


@pytest.mark.parametrize(
    ("case", "told"),
    [
        ("helped", "the original helped: score 0.85 with it, 0.7 without, mean of 2 seeds"),
        ("not", "the original did not help: score 0.7 with it, 0.9 without, mean of 2 seeds"),
        ("errors", "the original helped: score 0.7 with it, 0.9 without, of one seed"),
        ("no data", "not compared with training without the original: there is no evaluation data"),
        ("no labels", "not compared with training without the original: there are no labels to learn from alone"),
        ("diverging", "the original's help is not known: a training diverged"),
    ],
)
def test_notes_say_whether_the_original_helped(outcome: dict[str, Any], case: str, told: str) -> None:
    assert outcome["verdicts"][case] == [told]


def test_training_that_goes_on_in_the_third_of_four_ends_as_if_never_interrupted(outcome: dict[str, Any]) -> None:
    found = outcome["resumed"]
    assert found["equal"] and len(set(found["summaries"])) == 1 and found["losses"][0] == found["losses"][1]
    assert found["kept"] == [12, 4]


def test_pruned_model_is_the_student_where_none_is_given(outcome: dict[str, Any]) -> None:
    found = outcome["of a pruned model"]
    assert found["before"] == found["after"] == [8, 16, 16, 4]
    assert found["summary"].startswith("the model that the passes before left, 10,564 weights, ")


@pytest.mark.parametrize(("case", "kept", "wide"), [("half the blocks", [0, 2, 4], 2), ("a tenth of the blocks", [0], 2)])
def test_student_has_a_share_of_the_repeated_blocks_evenly_spaced(outcome: dict[str, Any], case: str, kept: list[int], wide: int) -> None:
    found = outcome[case]
    assert (found["kept"], found["wide"]) == (kept, wide)  # of the sequence, whose first layer is no block, one of two blocks is left
    assert found["difference"] < 1e-5 and found["weights"][0] < found["weights"][1]


def test_another_architecture_gets_the_original_s_output_name_and_starts_from_its_seed(outcome: dict[str, Any]) -> None:
    assert outcome["architecture"]["same"] and outcome["architecture"]["difference"] < 1e-5


def test_student_with_a_source_goes_on_from_its_own_weights_under_the_original_s_names(outcome: dict[str, Any]) -> None:
    found = outcome["source"]
    assert found["names"] == [["image"], ["output"]]  # it had others
    assert 0 < found["moved"] < 1e-5  # what hardly learns hardly leaves them
    assert found["accuracy"][0] > 0.9 > found["accuracy"][1]
    assert max(found["difference"]) < 1e-5 and found["copy moved"]
    assert found["summary"].startswith(
        "file:small.onnx (sha256:abababababab), 1,196 weights where the original has 41,860, learned from the original "
    )
    assert "; the original " in found["summary"]


def test_student_s_inputs_are_told_apart_by_name_in_the_original_s_order(outcome: dict[str, Any]) -> None:
    assert outcome["swapped"] == {"same": True, "order": ["image", "mask"]}


def test_original_that_is_only_asked_teaches_as_a_module_does(outcome: dict[str, Any]) -> None:
    found = outcome["asked"]
    assert found["accuracy"] > 0.9
    assert "1,196 weights where the original has 41,860" in found["summary"]
    assert found["architecture"].startswith("timm.test_resnet, ")


@pytest.mark.parametrize(
    ("case", "reason", "words"),
    [
        ("other outputs", "PassNotApplicable", "answers output [7] float32, and the original output [4] float32"),
        (
            "source with other outputs",
            "PassNotApplicable",
            "the student (file:small.onnx (sha256:abababababab)) answers output [7] float32, and the original",
        ),
        ("source with other inputs", "PassNotApplicable", "the student takes the inputs image, mask, and the original image"),
        ("other inputs", "PassNotApplicable", "does not take the original's inputs (image [-1, 1, 12, 12])"),
        ("unknown architecture", "ArchitectureMismatch", "Did you mean timm.test_resnet?"),
        ("no blocks", "PassNotApplicable", "use student: {widthPercent: 50}"),
        ("no channels", "PassNotApplicable", "lower widthPercent"),
    ],
)
def test_student_that_can_not_be_made_is_refused_with_the_cure(outcome: dict[str, Any], case: str, reason: str, words: str) -> None:
    assert outcome[case]["reason"] == reason
    assert words in outcome[case]["message"]


def spec(source: str, passes: list[dict[str, Any]], samples: int) -> dict[str, Any]:
    digits = EXAMPLES / "digits"
    return {
        "source": {"uri": f"file:{EXAMPLES / source}"},
        "datasets": {
            "training": {"uri": f"file:{digits / 'training.npz'}", "samples": samples},
            "calibration": {"uri": f"file:{digits / 'calibration.npz'}", "samples": 64},
            "evaluation": {"uri": f"file:{digits / 'evaluation.npz'}", "metric": "Accuracy", "samples": 400},
        },
        "passes": passes,
        "targets": [{"name": "cpu", "runtime": "ONNXRuntime", "resources": {"cpu": "1", "memory": "1Gi"}}],
    }


@pytest.mark.long
@pytest.mark.parametrize(("source", "share"), [("digits/model.onnx", 0.5), ("keras/model.keras", 0.9)])  # of so small a graph the nodes count too
def test_chain_of_prune_distill_and_quantize_aware_train_makes_a_candidate_of_each(tmp_path: Path, source: str, share: float) -> None:
    project = Project(tmp_path)
    passes = [
        {"type": "Prune", "prune": {"sparsityPercent": 50, "finetune": {"epochs": 1}}},
        {"type": "Distill", "distill": {"epochs": 2, "compareSeeds": 1}},
        {"type": "QuantizeAwareTrain", "quantizeAwareTrain": {"epochs": 1, "distill": {}}},
    ]
    ran = project.run(project.write(spec(source, passes, 512)), timeout=580)
    found = {c["name"]: c for c in ran.target["candidates"]}
    assert set(found) == {"prune", "distill", "qat", "static"}, ran.stderr
    assert quantity_bytes(found["qat"]["size"]) < share * quantity_bytes(found["prune"]["size"])
    assert "cpu train: distill: the model that the passes before left, " in ran.stderr
    assert "help" in next(line for line in ran.stderr.splitlines() if "cpu train: distill: " in line)
