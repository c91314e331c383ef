"""`burnish run` with a student that has a source of its own: pinned, part of the key, and taught by an original that may hold what PyTorch can't."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from tests.pipeline.conftest import EXAMPLES, Project, mlp
from tests.pipeline.teams import team_of_two

from burnish.api.job_contract import BuildRecord
from burnish.api.scalars import quantity_bytes
from burnish.store.store import open_store
from burnish.toolchains import environments

SAMPLES = 600
ARCHITECTURE = [{"name": "num_classes", "value": "10"}, {"name": "in_chans", "value": "1"}]


def small(names: dict[str, str], **options: Any) -> onnx.ModelProto:
    """A model of 8 hidden units, whose tensors have these names."""
    model = mlp(**({"hidden": 8, "seed": 5} | options))
    for value in (*model.graph.input, *model.graph.output):
        value.name = names.get(value.name, value.name)
    for node in model.graph.node:
        for tensors in (node.input, node.output):
            tensors[:] = [names.get(name, name) for name in tensors]
    return model


def unknown_to_pytorch(model: onnx.ModelProto) -> onnx.ModelProto:
    """With an operator that the converter lacks, in the place of one that answers the same."""
    relu = next(node for node in model.graph.node if node.op_type == "Relu")
    relu.CopyFrom(helper.make_node("ThresholdedRelu", relu.input, relu.output, name=relu.name, alpha=0.0))
    return model


@pytest.fixture
def student(project: Project) -> Callable[..., Path]:
    """A model of random weights that PyTorch can't hold, with data that a wide line parts, a smaller one, and what makes the manifest that lets it learn."""
    onnx.save(unknown_to_pytorch(mlp(hidden=256)), project.path / "model.onnx")
    onnx.save(small({"x": "pixels", "y": "scores"}), project.path / "small.onnx")
    generator = np.random.default_rng(0)
    x = generator.normal(0, 1, (SAMPLES, 16)).astype(np.float32)
    label = (x[:, 0] > 0) * 2 + (x[:, 1] > 0)
    np.savez(project.path / "training.npz", x=x, label=label)
    np.savez(project.path / "evaluation.npz", x=x[:200], label=label[:200])

    def write(source: dict[str, Any] | None = None, *, options: dict[str, Any] | None = None, **beside: Any) -> Path:
        made = {"source": {"uri": "file:small.onnx"} | (source or {}), **beside}
        distill = {"student": made, "alpha": "0.9", "epochs": 10, "learningRate": "0.01", "batchSize": 16, "compareSeeds": 0} | (options or {})
        spec = {
            "source": {"uri": "file:model.onnx"},
            "datasets": {"training": {"uri": "file:training.npz"}, "evaluation": {"uri": "file:evaluation.npz", "metric": "Accuracy"}},
            "passes": [{"type": "Distill", "distill": distill}],
            "targets": [{"name": "cpu", "runtime": "ONNXRuntime", "resources": {"memory": "1Gi"}}],
            "constraints": {"maxSlowdownPercent": 500, "onUndecided": "Accept"},
            "measurement": {"timeout": "4s"},
        }
        return project.write(spec, "taught")

    return write


def builds_of(project: Project) -> list[BuildRecord]:
    store = open_store(str(project.store))
    found = [store.get_record("builds", name, BuildRecord) for name in store.list_records("builds")]
    return [build for build in found if build is not None]


def plan_of(project: Project, manifest: Path) -> dict[str, Any]:
    ran = project.call("plan", manifest, "--store", project.store, "-o", "json")
    assert ran.code == 0, ran.stderr
    return ran.object


def test_onnx_student_learns_is_served_smaller_and_its_digest_is_part_of_the_key(project: Project, student: Any) -> None:
    manifest = student()
    digest = f"sha256:{hashlib.sha256((project.path / 'small.onnx').read_bytes()).hexdigest()}"
    field = "spec.passes[0].distill.student.source.uri"
    before = plan_of(project, manifest)
    assert {s["field"]: s["digest"] for s in before["sources"]}[field] == digest and before["targets"][0]["plan"] == "Build"
    ran = project.run(manifest, "--report", project.path / "report.html")
    assert ran.code == 0, ran.stderr
    assert "student is ONNX" in ran.stderr
    assert (
        "its multiply-accumulates are not counted: the graph can't be brought to PyTorch for training: onnx2torch has no ThresholdedRelu\n"
        in ran.stderr
    )
    target = ran.target
    assert target["artifact"]["served"] == "Candidate" and target["artifact"]["candidate"] == "distill"
    assert quantity_bytes(target["artifact"]["size"]) < 0.1 * quantity_bytes(target["baseline"]["size"])
    (build,) = builds_of(project)
    (step,) = build.trained
    assert step.facts.parameters == 16 * 8 + 8 * 8 + 8 * 4 and step.facts.score is not None and step.facts.score.candidate > 0.8
    assert build.original is not None and build.original.macs is None and step.facts.macs == step.facts.parameters
    assert step.summary.startswith(f"file:small.onnx ({digest[:19]}), 224 weights where the original has ")
    assert [t.name for t in (*build.signature.inputs, *build.signature.outputs)] == ["x", "y"]
    page = (project.path / "report.html").read_text()
    assert digest[:19] in page and "not counted" in page
    assert project.call("pull", "taught", "--output", project.path / "pulled", "--store", project.store).code == 0
    assert digest[:19] in (project.path / "pulled" / "CARD.md").read_text()

    again = project.try_out(manifest)
    assert (again.code, again.steps) == (0, ["resolve"])
    pin = {"digest": digest, "uri": f"file:{project.path / 'small.onnx'}"}
    assert plan_of(project, student(pin))["targets"][0]["plan"] == "Nothing"  # neither place nor pin makes other work
    onnx.save(small({}, seed=6), project.path / "small.onnx")
    assert plan_of(project, student())["targets"][0]["plan"] == "Build"
    refused = project.try_out(student(pin))
    assert (refused.code, refused.failure["reason"]) == (2, "DigestMismatch") and field.removesuffix(".uri") in refused.stderr


@pytest.mark.long
def test_two_processes_teach_a_student_of_a_source_of_its_own_as_one_does(project: Project, student: Any) -> None:
    ran = project.run(student(options={"epochs": 2}), "--work", project.path / "work")
    assert ran.code == 0, ran.stderr
    (work,) = ((path / "cpu") for path in (project.path / "work").iterdir())
    (alone,) = json.loads((work / "steps/03-train/record.json").read_text())["passes"]
    with team_of_two(work) as process:
        _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    record = json.loads((work / "steps/03-train/record.json").read_text())
    (together,) = record["passes"]
    assert record["trainedWith"].startswith("2 processes")
    assert together["losses"] == pytest.approx(alone["losses"], rel=1e-3) and together["losses"][-1] < together["losses"][0]
    assert (together["summary"], together["facts"]["parameters"]) == (alone["summary"], alone["facts"]["parameters"])


@pytest.mark.long
def test_state_dict_student_learns_in_its_architecture(project: Project) -> None:
    found = environments.find("torch")
    assert found is not None
    make = "import sys, timm, torch, safetensors.torch as s; torch.manual_seed(0); "
    make += "s.save_file(timm.create_model('test_resnet', num_classes=10, in_chans=1).state_dict(), sys.argv[1])"
    subprocess.run([found.python, "-c", make, project.path / "small.safetensors"], check=True, timeout=120)
    data = EXAMPLES / "digits"
    student = {"source": {"uri": "file:small.safetensors"}, "architecture": "timm.test_resnet", "architectureArgs": ARCHITECTURE}
    spec = {
        "source": {"uri": f"file:{data / 'model.onnx'}"},
        "datasets": {
            "training": {"uri": f"file:{data / 'training.npz'}", "samples": 512},
            "evaluation": {"uri": f"file:{data / 'evaluation.npz'}", "metric": "Accuracy", "samples": 200},
        },
        "passes": [{"type": "Distill", "distill": {"student": student, "epochs": 3, "learningRate": "0.01", "batchSize": 32, "compareSeeds": 0}}],
        "targets": [{"name": "cpu", "runtime": "ONNXRuntime", "resources": {"memory": "1Gi"}}],
        "constraints": {"maxSlowdownPercent": 1000, "onUndecided": "Accept"},
        "measurement": {"timeout": "4s"},
    }
    ran = project.run(project.write(spec), "--report", project.path / "report.html")
    assert ran.code == 0, ran.stderr
    assert "student is StateDict" in ran.stderr
    (build,) = builds_of(project)
    (step,) = build.trained
    assert build.original is not None and build.original.macs and step.facts.macs  # of an original that can become torch they are counted
    assert step.losses[-1] < step.losses[0]
    assert step.facts.score is not None and step.facts.score.candidate > 0.5 and step.facts.score.baseline > 0.9
    assert [t.name for t in (*build.signature.inputs, *build.signature.outputs)] == ["image", "logits"]
    assert "small.safetensors (sha256:" in step.summary and " in timm.test_resnet, " in step.summary


MAKE_BERTS = """
import sys, transformers
sizes = {"vocab_size": 50, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 32, "num_labels": 3}
for name, layers in (("teacher", 4), ("small", 1)):
    config = transformers.BertConfig(**sizes, num_hidden_layers=layers)
    transformers.BertForSequenceClassification(config).save_pretrained(f"{sys.argv[1]}/{name}")
"""


@pytest.mark.long
def test_huggingface_student_of_a_huggingface_original(project: Project) -> None:
    """Several inputs, which go by their names."""
    found = environments.find("torch")
    assert found is not None
    subprocess.run([found.python, "-c", MAKE_BERTS, project.path], check=True, timeout=120)
    ids = np.random.default_rng(0).integers(4, 50, (256, 12))
    arrays = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids), "label": ids[:, 0] % 3}
    np.savez(project.path / "data.npz", **arrays)
    distill = {"student": {"source": {"uri": "file:small", "task": "TextClassification"}}, "alpha": "0.9", "epochs": 2, "compareSeeds": 0}
    spec = {
        "source": {"uri": "file:teacher"},
        "datasets": {"training": {"uri": "file:data.npz"}, "evaluation": {"uri": "file:data.npz", "metric": "Accuracy", "samples": 64}},
        "passes": [{"type": "Distill", "distill": distill}],
        "targets": [{"name": "cpu", "runtime": "ONNXRuntime", "resources": {"memory": "1Gi"}}],
        "constraints": {"maxSlowdownPercent": 500, "onUndecided": "Accept"},
        "measurement": {"timeout": "4s"},
    }
    ran = project.run(project.write(spec))
    assert ran.code == 0, ran.stderr
    assert "student is HuggingFace" in ran.stderr
    (build,) = builds_of(project)
    (step,) = build.trained
    assert build.original is not None and step.facts.parameters < 0.5 * build.original.parameters
    assert [c.name for c in build.candidates if c.artifact] == ["distill"]


@pytest.mark.parametrize(
    ("source", "beside", "reason", "words"),
    [
        ({"uri": "file:missing.onnx"}, {}, "SourceNotFound", ["student.source.uri", "missing.onnx"]),
        ({"digest": "sha256:" + "0" * 64}, {}, "DigestMismatch", ["student.source.uri", "change the pin"]),
        ({"uri": "http://example.com/small.onnx"}, {}, "InvalidManifest", ["student.source.uri", "use https:"]),
        ({"uri": "pvc://claim/small.onnx"}, {}, "InvalidManifest", ["student.source.uri", "a volume of a cluster"]),
        ({}, {"widthPercent": 50}, "InvalidManifest", ["spec.passes[0].distill.student", "a cut of the original; keep one of them"]),
        ({"format": "Keras"}, {}, "InvalidManifest", ["student.source.format", "is not one of HuggingFace, ONNX, StateDict"]),
        ({"format": "HuggingFace"}, {}, "UnsupportedFormat", ["student.source.format", "the student: small.onnx is ONNX, not HuggingFace"]),
        ({}, {"architecture": "timm.test_resnet"}, "InvalidManifest", ["student.architecture", "a source of format ONNX has no use for it"]),
        ({"uri": f"file:{EXAMPLES / 'keras/model.keras'}"}, {}, "UnsupportedFormat", ["student.source.uri", "is Keras", "one of HuggingFace, ONNX, StateDict"]),
    ],
    ids=["missing", "digest", "http", "pvc", "cut", "format Keras", "another format", "architecture of ONNX", "Keras"],
)  # fmt: skip
def test_student_that_is_wrong_is_refused_when_it_is_looked_at(
    project: Project, student: Any, source: dict[str, Any], beside: dict[str, Any], reason: str, words: list[str]
) -> None:
    manifest = student(source, **beside)
    planned = project.call("plan", manifest, "--store", project.store)
    ran = project.try_out(manifest)
    assert (ran.code, ran.failure["reason"]) == (2, reason) and set(ran.steps) <= {"resolve"}
    assert planned.code == 2 and project.records("builds") == []
    for told in (planned.stderr, ran.stderr):
        assert all(word in told for word in words), told


@pytest.mark.parametrize(
    ("made", "reason", "words"),
    [
        (small({}, classes=7), "PassNotApplicable", "answers y [7] float32, and the original y [4] float32"),
        pytest.param(
            small({}, inputs=9),
            "PassNotApplicable",
            "the student takes x FP32 [-1, 9], and the original x FP32 [-1, 16]",
            marks=pytest.mark.long,
        ),
    ],
    ids=["outputs", "inputs"],
)
def test_student_of_other_tensors_is_refused_before_it_is_trained(
    project: Project, student: Any, made: onnx.ModelProto, reason: str, words: str
) -> None:
    onnx.save(made, project.path / "small.onnx")
    ran = project.try_out(student())
    assert (ran.code, ran.failure["reason"]) == (2, reason), ran.stderr
    assert words in ran.failure["message"] and "the student: the student" not in ran.stderr and "spec.passes[0]" in ran.stderr
    assert "epoch 1" not in ran.stderr
    assert project.records("builds") == []
