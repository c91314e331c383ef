"""`burnish run` with passes that train: the chain in the record and the report, checkpoints in the store, and every bad input."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tests.pipeline.conftest import EXAMPLES, Project, Ran, mlp
from tests.pipeline.teams import team_of_two

from burnish.api.job_contract import BuildRecord, CheckpointRecord
from burnish.store.store import open_store

SAMPLES = 1000
TRAINING_MEMORY = "900Mi"


@pytest.fixture
def trainee(project: Project) -> Any:
    """A model of random weights with data that a wide line parts, and what makes its manifest."""
    onnx.save(mlp(hidden=64), project.path / "model.onnx")
    generator = np.random.default_rng(0)
    x = generator.normal(0, 1, (SAMPLES, 16)).astype(np.float32)
    label = (x[:, 0] > 0) * 2 + (x[:, 1] > 0)
    np.savez(project.path / "training.npz", x=x, label=label)
    np.savez(project.path / "evaluation.npz", x=x[:200], label=label[:200])
    np.savez(project.path / "unlabelled.npz", x=x)

    def write(*passes: dict[str, Any], training: dict[str, Any] | None = None, **spec: Any) -> Path:
        data = {"training": {"uri": "file:training.npz"} | (training or {}), "evaluation": {"uri": "file:evaluation.npz", "metric": "Accuracy"}}
        whole = {
            "source": {"uri": "file:model.onnx"},
            "datasets": data,
            "passes": list(passes),
            "targets": [{"name": "cpu", "runtime": "ONNXRuntime", "resources": {"memory": "1Gi"}}],
            "constraints": {"maxSlowdownPercent": 500},
            "measurement": {"timeout": "20s"},
        }
        return project.write(whole | spec, "trained")

    return write


def build_of(project: Project, folder: Path | None = None) -> BuildRecord:
    store = open_store(str(folder or project.store))
    (name,) = store.list_records("builds")
    found = store.get_record("builds", name, BuildRecord)
    assert found is not None
    return found


def finetune(epochs: int, **options: Any) -> dict[str, Any]:
    return {"type": "Finetune", "finetune": {"epochs": epochs, "batchSize": 16} | options}


PRUNE = {"type": "Prune", "prune": {"finetune": {"epochs": 1}}}


def test_chain_of_passes_leaves_a_candidate_each_and_the_truth_about_every_step(project: Project, trainee: Any) -> None:
    ran = project.run(trainee(PRUNE, finetune(2), {"type": "Quantize", "quantize": {"mode": "Dynamic"}}), "--report", project.path / "report.html")
    assert ran.code == 0, ran.stderr
    build = build_of(project)
    assert [c.name for c in build.candidates] == ["prune", "finetune", "dynamic"]  # the last one goes on from what was trained
    assert all(c.artifact is not None for c in build.candidates)
    prune, tuned = build.trained
    assert build.original is not None and build.original.macs == 16 * 64 + 64 * 64 + 64 * 4
    assert prune.facts.macs == 16 * 32 + 32 * 32 + 32 * 4 == tuned.facts.macs
    assert prune.facts.parameters == 16 * 32 + 32 * 32 + 32 * 4
    assert tuned.facts.score is not None and prune.facts.score is not None
    assert tuned.facts.score.candidate >= prune.facts.score.candidate > prune.facts.score.baseline  # random weights know nothing
    assert tuned.change is not None and tuned.change.worst_cosine is not None
    assert len(tuned.losses) == 2 and tuned.losses[1] < tuned.losses[0]
    assert ran.target["artifact"]["served"] == "Candidate"
    page = (project.path / "report.html").read_text()
    assert "The chain of training passes" in page
    assert f"{prune.facts.macs:,}" in page
    assert page.count("as built, ") == 1  # of what the runtime made of the last one
    assert project.burnish("pull", "trained", "--output", project.path / "pulled", "--store", project.store).code == 0
    card = (project.path / "pulled" / "CARD.md").read_text()
    assert "## How it was trained" in card and "seed 0" in card and "1 process, no sockets" in card
    again = project.run(trainee(PRUNE, finetune(2), {"type": "Quantize", "quantize": {"mode": "Dynamic"}}))
    assert (again.code, again.steps) == (0, ["resolve"])


@pytest.mark.long
def test_killed_run_goes_on_from_its_last_checkpoint_and_ends_with_the_same_bytes(project: Project, trainee: Any, make_project: type[Project], tmp_path_factory: pytest.TempPathFactory) -> None:  # fmt: skip
    manifest = trainee(finetune(20, batchSize=4))
    running = project.start(manifest)
    running.wait_for("epoch 3 of 20")
    running.send(signal.SIGKILL)
    running.wait()
    store = open_store(str(project.store))
    (key,) = store.list_records("checkpoints")
    record = store.get_record("checkpoints", key, CheckpointRecord)
    assert record is not None and len(record.files) == 1
    ran = project.run(manifest)
    assert ran.code == 0, ran.stderr
    after = re.search(r"going on from the checkpoint after epoch (\d+)", ran.stderr)
    assert after is not None and 2 <= int(after[1]) < 20  # the news of an epoch come before its checkpoint is filed
    assert f"epoch {after[1]} of 20" not in ran.stderr and f"epoch {int(after[1]) + 1} of 20" in ran.stderr
    assert "export: done by an earlier attempt" in ran.stderr
    forgotten = store.get_record("checkpoints", key, CheckpointRecord)
    assert forgotten is not None and not forgotten.files  # the next sweep takes the blobs
    whole = project.run(manifest, "--store", project.path / "other")
    assert "going on" not in whole.stderr and "epoch 1 of 20" in whole.stderr
    assert whole.target["artifact"]["digest"] == ran.target["artifact"]["digest"]


@pytest.mark.long
def test_run_killed_after_training_trains_nothing_again(project: Project, trainee: Any) -> None:
    manifest = trainee(PRUNE, finetune(2))
    running = project.start(manifest)
    running.wait_for("building baseline")
    running.send(signal.SIGKILL)
    running.wait()
    ran = project.run(manifest)
    assert ran.code == 0, ran.stderr
    assert [f"{step}: done by an earlier attempt" in ran.stderr for step in ("export", "train", "compress")] == [True, True, False]
    assert "epoch" not in ran.stderr
    whole = project.run(manifest, "--store", project.path / "other")
    assert "earlier attempt" not in whole.stderr and "epoch 2 of 2" in whole.stderr
    again, afresh = ([c.artifact for c in build_of(project, folder).candidates] for folder in (project.store, project.path / "other"))
    assert again == afresh and None not in again


def test_two_processes_train_as_one_does(project: Project, trainee: Any) -> None:
    """Data-parallel: the same losses at the same global batch, each process in a network namespace with loopback only where one can be made."""
    rounded = {"type": "QuantizeAwareTrain", "quantizeAwareTrain": {"epochs": 1, "batchSize": 16}}
    ran = project.run(trainee(PRUNE, finetune(2), rounded), "--work", project.path / "work")
    assert ran.code == 0, ran.stderr
    (work,) = ((path / "cpu") for path in (project.path / "work").iterdir())
    alone = json.loads((work / "steps/03-train/record.json").read_text())
    with team_of_two(work) as process:
        _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert "PyTorch sees 0 of 2 GPUs here, so training is on CPUs" in said
    together = json.loads((work / "steps/03-train/record.json").read_text())
    for one, other in zip(alone["passes"], together["passes"], strict=True):
        assert other["losses"] == pytest.approx(one["losses"], rel=1e-3)
        assert other["facts"]["macs"] == one["facts"]["macs"]
    assert alone["trainedWith"] == "1 process, no sockets"
    assert together["trainedWith"] == "2 processes, a network namespace of its own with loopback only"


@pytest.mark.long
def test_process_of_a_team_that_ends_is_told_with_the_reason(project: Project, trainee: Any) -> None:
    """Gloo itself only says that a connection closed."""
    ran = project.run(trainee(finetune(40, batchSize=4)), "--work", project.path / "work")
    assert ran.code == 0, ran.stderr
    (work,) = ((path / "cpu") for path in (project.path / "work").iterdir())
    for number, said in (
        (signal.SIGKILL, "train: OutOfMemory: "),
        (signal.SIGABRT, "train: InternalError: process 2 of 2 that train ended with -6: "),
    ):
        with team_of_two(work) as process:
            assert process.stderr is not None
            while "epoch 2 of 40" not in (line := process.stderr.readline()):
                assert line, "it ended"
            os.kill(_second_of(process.pid), number)
            _, rest = process.communicate(timeout=120)
        assert process.returncode != 0
        assert said in rest, rest


def _second_of(pid: int) -> int:
    """The process of the team that isn't the first."""
    (second,) = (
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/environ")
        if path.parent.name != str(pid) and b"RANK=1" in _environment(path).split(b"\0")
    )
    return second


def _environment(path: Path) -> bytes:
    with contextlib.suppress(OSError):
        return path.read_bytes()
    return b""


def _kill_after_two_epochs(project: Project, manifest: Path) -> None:
    running = project.start(manifest)
    running.wait_for("epoch 2 of 20")
    running.send(signal.SIGKILL)
    running.wait()


@pytest.mark.long
def test_damaged_checkpoint_is_left_out_and_the_work_starts_over(project: Project, trainee: Any) -> None:
    manifest = trainee(finetune(20, batchSize=4))
    _kill_after_two_epochs(project, manifest)
    store = open_store(str(project.store))
    (key,) = store.list_records("checkpoints")
    record = store.get_record("checkpoints", key, CheckpointRecord)
    assert record is not None
    path = project.store / "local" / "default" / "blobs" / "sha256" / record.files[0].digest.removeprefix("sha256:")
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(damaged)
    ran = project.run(manifest)
    assert ran.code == 0, ran.stderr
    assert "a checkpoint can't be read and is left out" in ran.stderr
    assert "epoch 1 of 20" in ran.stderr


@pytest.mark.long
def test_checkpoint_of_other_data_is_never_gone_on_from(project: Project, trainee: Any) -> None:
    manifest = trainee(finetune(20, batchSize=4))
    _kill_after_two_epochs(project, manifest)
    with np.load(project.path / "training.npz") as data:
        np.savez(project.path / "training.npz", x=data["x"], label=3 - data["label"])
    ran = project.run(manifest)
    assert ran.code == 0, ran.stderr
    assert "going on" not in ran.stderr and "epoch 1 of 20" in ran.stderr
    assert len(open_store(str(project.store)).list_records("checkpoints")) == 2


def refused(ran: Ran, reason: str, *words: str) -> None:
    assert ran.failure["reason"] == reason, ran.stderr
    assert all(word in ran.failure["message"] for word in words), ran.failure["message"]
    assert "artifact" not in ran.target


def test_labels_that_a_hard_loss_needs_are_asked_for_and_the_original_teaches_without(project: Project, trainee: Any) -> None:
    unlabelled = {"uri": "file:unlabelled.npz"}
    ran = project.run(trainee(finetune(1), training=unlabelled))
    refused(ran, "LabelsMissing", "no array 'label'", "distill: {alpha:")
    assert ran.code == 2 and ran.steps[-1] == "train"
    ran = project.run(trainee(finetune(1, distill={"alpha": "0"}), training=unlabelled))
    assert ran.code == 0, ran.stderr
    assert "asking the original for its answers to 1000 training samples" in ran.stderr


def test_labels_that_are_not_the_outputs_are_refused_before_training(project: Project, trainee: Any) -> None:
    with np.load(project.path / "training.npz") as data:
        np.savez(project.path / "training.npz", x=data["x"], label=data["label"] + 1)
    refused(project.run(trainee(finetune(1, batchSize=64))), "InvalidDataset", "from 1 to 4", "0 to 3")


def test_diverging_loss_ends_the_run_with_the_reason(project: Project, trainee: Any) -> None:
    ran = project.run(trainee(finetune(2, learningRate="1000", optimizer="SGD")))
    refused(ran, "TrainingDiverged", "lower learningRate (1000)")
    assert ran.code == 2


def test_too_little_memory_for_training_is_told_as_that(project: Project, trainee: Any) -> None:
    """A limit under which a small model is trained and a large one is not: its weights, gradients and moments have 400 MB more."""
    small = project.run(trainee(finetune(1, batchSize=512)), "--step-memory", TRAINING_MEMORY)
    assert small.code == 0, small.stderr
    onnx.save(mlp(hidden=5000), project.path / "model.onnx")
    ran = project.run(trainee(finetune(1, batchSize=512)), "--step-memory", TRAINING_MEMORY)
    refused(ran, "OutOfMemory", "train used", "raise --step-memory")


def test_graph_that_can_not_be_trained_is_refused_with_the_operators_name(project: Project, trainee: Any) -> None:
    manifest = trainee(finetune(1))
    model = onnx.load(project.path / "model.onnx")
    last = model.graph.node[-1]
    after = onnx.helper.make_node("LpNormalization", ["inner"], [last.output[0]])
    last.output[0] = "inner"
    model.graph.node.append(after)
    onnx.save(model, project.path / "model.onnx")
    refused(project.run(manifest), "PassNotApplicable", "onnx2torch has no LpNormalization", "type: Quantize")


@pytest.mark.long
def test_digits_lose_half_of_their_channels_and_hold_every_limit(make_project: type[Project], tmp_path: Path) -> None:
    project = make_project(tmp_path / "project")
    ran = project.run(EXAMPLES / "prune.yaml")
    assert ran.code == 0, ran.stderr
    build = build_of(project)
    assert build.original is not None and build.original.macs and build.trained[0].facts.macs
    assert build.trained[0].facts.macs < 0.3 * build.original.macs
    served = next(c.artifact for c in build.candidates if c.name == "prune")
    assert served is not None and served.size_bytes < 0.3 * build.baseline.size_bytes
    assert float(ran.target["measurements"][0]["speedup"]["low"]) > 1.5
