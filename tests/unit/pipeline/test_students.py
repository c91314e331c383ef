"""Students with a source of their own: which target has which, how they are pinned and named, and what of them is part of the key."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from burnish.api import manifest, requests
from burnish.api.job_contract import Plan, ResolveRecord, ResolveRequest
from burnish.errors import BurnishError, Reason
from burnish.pipeline import fetch, forecast, resolve, stage
from burnish.pipeline.students import of_targets
from burnish.pipeline.workdir import WorkDir
from burnish.plugins.base import HardwareClass
from burnish.serving import images
from burnish.store.store import Store, open_store

HARDWARE = HardwareClass(architecture="x86-64", vendor="AuthenticAMD", isa=("AVX2",))
NO_DIGEST = "sha256:" + "0" * 64
SHARED, OWN = "spec.passes[1].distill.student.source.uri", "spec.targets[2].passes[0].distill.student.source.uri"


def model(path: Path, nodes: int) -> None:
    names = ["x", *(f"h{n}" for n in range(nodes - 1)), "y"]
    layers = [helper.make_node("Relu", [names[n]], [names[n + 1]]) for n in range(nodes)]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in ("x", "y")]
    onnx.save(helper.make_model(helper.make_graph(layers, "g", values[:1], values[1:])), path)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    for name, nodes in (("model", 4), ("small", 1), ("other", 2)):
        model(tmp_path / f"{name}.onnx", nodes)
    np.savez(tmp_path / "training.npz", x=np.zeros((8, 4), np.float32), label=np.zeros(8, np.int64))
    return tmp_path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


def distill(uri: str = "file:small.onnx", source: dict[str, Any] | None = None, **student: Any) -> dict[str, Any]:
    return {"type": "Distill", "distill": {"student": {"source": {"uri": uri, **(source or {})}, **student}}}


def spec(shared: dict[str, Any] | None = None, own: dict[str, Any] | None = None) -> dict[str, Any]:
    """Three targets: two with the passes of all, one with its own; and one that trains nothing."""
    entry = {"runtime": "ONNXRuntime"}
    return {
        "source": {"uri": "file:model.onnx"},
        "datasets": {"training": {"uri": "file:training.npz"}},
        "passes": [{"type": "Finetune"}, shared or distill()],
        "targets": [
            {"name": "a", **entry},
            {"name": "b", **entry},
            {"name": "c", **entry, "passes": [own or distill("file:other.onnx")]},
            {"name": "d", **entry, "passes": [{"type": "Quantize", "quantize": {"mode": "Dynamic"}}]},
        ],
    }


def request_of(base: Path, wanted: dict[str, Any]) -> ResolveRequest:
    parsed = manifest.parse({"apiVersion": "burnish.dev/v1alpha1", "kind": "OptimizedModel", "metadata": {"name": "m"}, "spec": wanted})
    return requests.resolve_request(parsed, base=str(base), hardware_class=HARDWARE, serving_image=images.LOCAL_CPU.name)


def keys_of(record: ResolveRecord) -> dict[str, str]:
    return {plan.target: plan.artifact_key for plan in record.targets}


def test_each_list_of_passes_has_its_own_student(base: Path, store: Store) -> None:
    request = request_of(base, spec())
    assert [(s.target, s.field("uri")) for s in of_targets(request)] == [("a", SHARED), ("b", SHARED), ("c", OWN)]
    record = resolve.run(request, store)
    assert {t: (s.source.tree.files[0].path, s.format) for t, s in record.students.items()} == {
        "a": ("small.onnx", "ONNX"),
        "b": ("small.onnx", "ONNX"),
        "c": ("other.onnx", "ONNX"),
    }
    parsed = manifest.parse({"apiVersion": "burnish.dev/v1alpha1", "kind": "OptimizedModel", "metadata": {"name": "m"}, "spec": spec()})
    planned = forecast.make(parsed, base, store, HARDWARE, serving_image=images.LOCAL_CPU.name)
    assert {s.field: s.seen.digest for s in planned.sources if "student" in s.field} == {
        SHARED: record.students["a"].source.tree.digest,
        OWN: record.students["c"].source.tree.digest,
    }
    assert {t.name: t.plan.artifact_key for t in planned.targets if t.plan} == keys_of(record)


def test_what_a_student_holds_is_part_of_the_key_of_its_targets_and_its_place_is_not(base: Path, store: Store) -> None:
    record = resolve.run(request_of(base, spec()), store)
    first = keys_of(record)
    shutil.copy(base / "small.onnx", base / "copy.onnx")
    pin = {"digest": record.students["a"].source.tree.digest}
    assert keys_of(resolve.run(request_of(base, spec(distill("file:copy.onnx", pin))), store)) == first
    declared = keys_of(resolve.run(request_of(base, spec(distill(source={"format": "ONNX"}))), store))
    assert {t for t in first if declared[t] != first[t]} == {"a", "b"}
    model(base / "small.onnx", 3)
    changed = keys_of(resolve.run(request_of(base, spec()), store))
    assert {t for t in first if changed[t] != first[t]} == {"a", "b"}


def test_pipeline_gets_the_student_pinned_and_no_secret_of_its_uri(base: Path, store: Store) -> None:
    request = request_of(base, spec())
    record = resolve.run(request, store)
    passes = [entry.model_copy(deep=True) for entry in request.passes["a"]]
    passes[1].config["student"]["source"]["uri"] = "https://user:hunter2@models.example/small.onnx?signature=hunter2"  # type: ignore[index]
    request = request.model_copy(update={"passes": {**request.passes, "a": tuple(passes)}})
    target, plan = request.targets[0], record.targets[0]
    assert plan.plan is Plan.Build
    made = requests.pipeline_request(request, record, target, plan, hardware_class=HARDWARE)
    assert "hunter2" not in made.model_dump_json()
    student: Any = made.passes[1].config["student"]
    assert student["source"]["uri"] == "https://models.example/small.onnx?..."
    assert student["source"]["digest"] == record.students["a"].source.tree.digest
    work = WorkDir(base / "work")
    work.save_request(made)
    staged = stage.run(work, store)
    assert staged.student is not None
    assert work.path(staged.student).read_bytes() == (base / "small.onnx").read_bytes()
    d = next(t for t in request.targets if t.name == "d")
    work.save_request(requests.pipeline_request(request, record, d, record.targets[3], hardware_class=HARDWARE))
    assert stage.run(work, store).student is None


@pytest.mark.parametrize(
    ("student", "reason", "field", "words"),
    [
        (distill("file:none.onnx"), Reason.SourceNotFound, "source.uri", "none.onnx"),
        (distill(source={"digest": NO_DIGEST}), Reason.DigestMismatch, "source.uri", "change the pin"),
        (distill("file:training.npz"), Reason.UnsupportedFormat, "source.uri", "training.npz is of no known format"),
        (distill(source={"format": "HuggingFace"}), Reason.UnsupportedFormat, "source.format", "small.onnx is ONNX, not HuggingFace"),
        (distill(source={"task": "FillMask"}), Reason.InvalidManifest, "source.task", "format ONNX has no use for it"),
        (distill(architecture="timm.test_resnet"), Reason.InvalidManifest, "architecture", "format ONNX has no use for it"),
        (distill("file:model.keras"), Reason.UnsupportedFormat, "source.uri", "model.keras is Keras, which can't become a PyTorch module"),
        (distill("file:weights.pt"), Reason.InvalidManifest, "architecture", "a state dict holds weights only"),
    ],
)
def test_student_that_can_not_be_one_is_refused_with_its_field(
    base: Path, store: Store, student: dict[str, Any], reason: Reason, field: str, words: str
) -> None:
    shutil.copy(Path(__file__).parents[3] / "examples/keras/model.keras", base / "model.keras")
    header = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    (base / "weights.pt").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    for wanted, where in ((spec(student), "spec.passes[1]"), (spec(own=student), "spec.targets[2].passes[0]")):
        with pytest.raises(BurnishError) as caught:
            resolve.run(request_of(base, wanted), store)
        assert (caught.value.reason, caught.value.field) == (reason, f"{where}.distill.student.{field}")
        assert words in caught.value.message


def test_student_is_read_with_what_the_source_is_read_with(base: Path, store: Store) -> None:
    """On a cluster no file of the node is, and a volume only where it was mounted."""
    (base / "volume").mkdir()
    shutil.move(base / "small.onnx", base / "volume" / "small.onnx")
    shutil.copytree(base / "volume", base / "claim")
    for name in ("model.onnx", "training.npz"):
        shutil.copy(base / name, base / "claim" / name)
    access = fetch.Access(claims={"models": base / "claim"})
    wanted = copy.deepcopy(spec(distill("pvc://models/small.onnx")))
    wanted["source"]["uri"], wanted["datasets"]["training"]["uri"] = "pvc://models/model.onnx", "pvc://models/training.npz"
    wanted["targets"] = wanted["targets"][:1]
    assert resolve.run(request_of(base, wanted), store, access).students["a"].format == "ONNX"
    for uri, words in (("file:volume/small.onnx", "a file of one machine"), ("pvc://models/../volume/small.onnx", "leads out of the volume")):
        wanted["passes"][1] = distill(uri)
        with pytest.raises(BurnishError) as caught:
            resolve.run(request_of(base, wanted), store, access)
        assert caught.value.field == SHARED and words in caught.value.message
