"""Everything that can be wrong with a manifest, a model or data: a typed reason, an exit code, a message with the cure, and nothing served.

Each row makes one thing wrong in a project that is right otherwise. What the layers below say in detail has tests of its own; here it is what
reaches the user. Most rows call `burnish`; those of downloads, and one of each kind besides, start it.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

QUANTIZE = {"type": "Quantize"}
TWO_TARGETS = [{"name": name, "runtime": "ONNXRuntime", "resources": {"cpu": "1", "memory": "1Gi"}} for name in ("cpu", "second")]
NO_DIGEST = "sha256:" + "0" * 64


NO_NODE = {"passes": [{"type": "Quantize", "quantize": {"mode": "Dynamic", "excludedNodes": ["layer9"]}}]}


@pytest.mark.parametrize("change", [{"source": {}}, NO_NODE], ids=["manifest", "model"])
def test_installed_program_tells_what_a_call_tells(project, make_mlp, make_spec, change):
    """So that the other tests here may call it."""
    onnx.save(make_mlp(), project.path / "model.onnx")
    manifest = project.write(make_spec(**change))
    started, called = project.run(manifest), project.try_out(manifest)
    assert (started.code, started.steps, started.conditions) == (called.code, called.steps, called.conditions)
    assert started.failure | {"time": ""} == called.failure | {"time": ""}
    assert started.stderr.splitlines()[-1] == called.stderr.splitlines()[-1]


@pytest.fixture
def refused(project, make_mlp, make_spec) -> Callable[..., dict[str, Any]]:
    """Runs a spec and checks what holds for every bad input; returns `lastFailure`."""
    onnx.save(make_mlp(), project.path / "model.onnx")
    save(project, x=np.zeros((40, 16), np.float32))

    def check(spec: dict[str, Any], reason: str, code: int = 2, env: dict[str, str] | None = None) -> dict[str, Any]:
        whole = make_spec(**spec)
        manifest = project.write(whole)
        ran = project.run(manifest, env=env) if env else project.try_out(manifest)
        assert (ran.code, ran.failure["reason"]) == (code, reason), ran.stderr
        assert {t["name"]: (t["state"], t["reason"]) for t in ran.status["targets"]} == {t["name"]: ("Failed", reason) for t in whole["targets"]}
        assert ran.status["phase"] == "Failed"
        assert ran.failure["message"]
        assert reason in ran.stderr
        assert project.records("results") == []
        assert project.records("builds") == []
        return ran.failure

    return check


def save(project, name: str = "data.npz", **arrays: np.ndarray) -> None:
    np.savez_compressed(project.path / name, **arrays)


# --- the manifest ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param({"sauce": {"uri": "file:x"}}, ["spec.sauce", "source"], id="unknown field"),
        pytest.param({"source": {}}, ["spec.source.uri", "missing"], id="missing field"),
        pytest.param({"source": {"uri": 5}}, ["spec.source.uri"], id="number for text"),
        pytest.param({"source": {"uri": "file:model.onnx", "format": "Onnx"}}, ["spec.source.format", "ONNX"], id="enum in wrong case"),
        pytest.param({"source": {"uri": "file:model.onnx", "digest": "abc"}}, ["spec.source.digest", "sha256:"], id="no digest"),
        pytest.param({"constraints": {"score": {"maxDrop": "0.01"}}}, ["spec.constraints.score", "datasets.evaluation"], id="limit without data"),
        pytest.param({"constraints": {"minSpeedup": 1.2}}, ["spec.constraints.minSpeedup", '"1.2"'], id="number for decimal"),
        pytest.param({"constraints": {"maxSlowdownPercent": -1}}, ["spec.constraints.maxSlowdownPercent"], id="negative percent"),
        pytest.param({"measurement": {"timeout": "5 minutes"}}, ["spec.measurement.timeout", "timeout: 90s"], id="no duration"),
        pytest.param({"measurement": {"loads": [{"name": "a"}, {"name": "a"}]}}, ["spec.measurement.loads[1].name", "differ"], id="name twice"),
        pytest.param(
            {"constraints": {"latency": [{"load": "peak", "percentile": "P99", "max": "5ms"}]}},
            ["spec.constraints.latency[0].load", "peak", "single"],
            id="unknown load",
        ),
        pytest.param({"passes": [{"type": "Sparsify"}]}, ["spec.passes[0].type", "Quantize"], id="unknown pass"),
        pytest.param({"passes": [{"type": "Quantize", "quantize": {"precision": "INT2"}}]}, ["spec.passes[0].quantize.precision", "INT8"], id="enum"),
        pytest.param({"targets": [{"name": "CPU", "runtime": "ONNXRuntime"}]}, ["spec.targets[0].name"], id="upper case name"),
        pytest.param({"targets": [{"name": "cpu", "runtime": "TensorRT"}]}, ["spec.targets[0].runtime", "ONNXRuntime"], id="unknown runtime"),
        pytest.param(
            {"targets": [{"name": "cpu", "runtime": "ONNXRuntime", "resources": {"memory": "1GB"}}]},
            ["spec.targets[0].resources.memory", "memory: 1G"],
            id="wrong unit",
        ),
    ],
)
def test_manifest_error_names_field_and_cure_and_every_target(project, make_spec, change, said):
    spec = make_spec(**change)
    ran = project.try_out(project.write(spec))
    assert ran.code == 2
    assert ran.failure["reason"] == "InvalidManifest"
    assert ran.object["metadata"]["name"] == "tiny"
    assert [(t["name"], t["state"]) for t in ran.status["targets"]] == [(t["name"], "Failed") for t in spec["targets"]]
    for text in said:
        assert text in ran.failure["message"]
        assert text in ran.stderr
    assert not project.store.exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(None, "no such file", id="missing"),
        pytest.param(b"", "empty", id="empty"),
        pytest.param(b"\x89PNG\r\n\x1a\n\0\0", "UTF-8", id="binary"),
        pytest.param(b"spec: [", "line 1", id="no YAML"),
        pytest.param(b"apiVersion: v1\nkind: Secret\n", "OptimizedModel", id="other kind"),
        pytest.param(b"- 1\n- 2\n", "apiVersion", id="a list"),
    ],
)
def test_manifest_that_is_none_is_refused_with_an_object(project, content, said):
    path = project.path / "tiny.yaml"
    if content is not None:
        path.write_bytes(content)
    ran = project.try_out(path)
    assert ran.code == 2
    assert ran.failure["reason"] == "InvalidManifest"
    assert said in ran.failure["message"]
    assert ran.status["targets"] == []


def test_manifest_error_prints_nothing_on_stdout_as_table(project, make_spec):
    ran = project.burnish("run", project.write(make_spec(source={})), "--store", project.store)
    assert (ran.code, ran.stdout) == (2, "")
    assert "spec.source.uri" in ran.stderr


# --- where the source is ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "reason", "code"),
    [
        ("404/model.onnx", "SourceNotFound", 2),
        ("403/model.onnx", "SourceForbidden", 2),
        ("500/model.onnx", "SourceUnavailable", 5),
        ("cut/model.onnx", "SourceIncomplete", 5),
        ("more/model.onnx", "SourceTooLarge", 2),
        ("plain/model.onnx", "UnsafeSource", 2),
        pytest.param("silent/model.onnx", "SourceTimeout", 5, marks=pytest.mark.long),
    ],
)
def test_download_that_fails_is_told_by_its_reason(refused, site, path, reason, code):
    site.content = os.urandom(100_000)
    failure = refused({"source": {"uri": site.uri(path) + "?signature=hunter2"}, "targets": TWO_TARGETS}, reason, code, site.environment)
    assert failure["step"] == "resolve"
    assert "spec.source.uri" in failure["message"]
    assert "hunter2" not in failure["message"]


def test_download_of_a_dataset_that_fails_names_the_dataset(refused, site):
    failure = refused({"datasets": {"calibration": {"uri": site.uri("404/data.npz")}}}, "SourceNotFound", env=site.environment)
    assert "spec.datasets.calibration.uri" in failure["message"]


def test_download_with_a_foreign_certificate_says_how_to_trust_it(refused, site):
    failure = refused({"source": {"uri": site.uri("ok/model.onnx")}}, "SourceUnavailable", 5, {"NO_PROXY": "localhost"})
    assert "SSL_CERT_FILE" in failure["message"]


def test_download_with_another_digest_is_refused(refused, site):
    site.content = b"something else"
    failure = refused({"source": {"uri": site.uri("ok/model.onnx"), "digest": NO_DIGEST}}, "DigestMismatch", env=site.environment)
    assert NO_DIGEST in failure["message"]


@pytest.mark.parametrize(
    ("source", "reason", "said"),
    [
        ({"uri": "file:absent.onnx"}, "SourceNotFound", "absent.onnx"),
        ({"uri": "model.onnx"}, "InvalidManifest", "file:model.onnx"),
        ({"uri": "http://localhost/model.onnx"}, "InvalidManifest", "https:"),
        ({"uri": "ftp://host/model.onnx"}, "InvalidManifest", "ftp:"),
        ({"uri": "file:model.onnx", "digest": NO_DIGEST}, "DigestMismatch", NO_DIGEST),
    ],
)
def test_source_that_is_not_there_is_refused_for_every_target(refused, source, reason, said):
    failure = refused({"source": source, "targets": TWO_TARGETS}, reason)
    assert said in failure["message"]
    assert "spec.source.uri" in failure["message"]


# --- the model ------------------------------------------------------------------------------------------------------------------------


def not_onnx(path: Path, good: onnx.ModelProto) -> None:
    path.write_text("this is the README")


def empty(path: Path, good: onnx.ModelProto) -> None:
    path.write_bytes(b"")


def truncated(path: Path, good: onnx.ModelProto) -> None:
    data = good.SerializeToString()
    path.write_bytes(data[: len(data) // 2])


def fails_the_checker(path: Path, good: onnx.ModelProto) -> None:
    good.graph.node[2].input[0] = "nobody"
    onnx.save(good, path)


def too_old(path: Path, good: onnx.ModelProto) -> None:
    good.opset_import[0].version = 5
    onnx.save(good, path)


def too_new(path: Path, good: onnx.ModelProto) -> None:
    good.opset_import[0].version = 99
    onnx.save(good, path)


def too_new_ir(path: Path, good: onnx.ModelProto) -> None:
    good.ir_version = 99
    onnx.save(good, path)


def unknown_operator(path: Path, good: onnx.ModelProto) -> None:
    good.graph.node[1].op_type = "Frobnicate"
    onnx.save(good, path)


def unknown_domain(path: Path, good: onnx.ModelProto) -> None:
    good.graph.node[1].domain = "acme.example"
    good.opset_import.append(helper.make_opsetid("acme.example", 1))
    onnx.save(good, path)


def nan_weights(path: Path, good: onnx.ModelProto) -> None:
    weights = numpy_helper.to_array(good.graph.initializer[1]).copy()
    weights[3, 3] = np.nan
    good.graph.initializer[1].CopyFrom(numpy_helper.from_array(weights, "w1"))
    onnx.save(good, path)


def sequence_output(path: Path, good: onnx.ModelProto) -> None:
    good.graph.node.append(helper.make_node("SequenceConstruct", ["y"], ["s"]))
    good.graph.output[0].CopyFrom(helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None))
    onnx.save(good, path)


@pytest.mark.parametrize(
    ("spoil", "reason", "said"),
    [
        (not_onnx, "UnsupportedFormat", "model.onnx is of no known format"),
        (empty, "UnsupportedFormat", "model.onnx is of no known format"),
        (truncated, "InvalidModel", "truncated"),
        (fails_the_checker, "InvalidModel", "nobody"),
        (too_old, "UnsupportedOpset", "opset 5"),
        (too_new, "UnsupportedOpset", "opset 99"),
        (too_new_ir, "UnsupportedOpset", "IR version 99"),
        (unknown_operator, "UnsupportedOperator", "Frobnicate"),
        (unknown_domain, "UnsupportedOperator", "acme.example::Relu"),
        (nan_weights, "NonFiniteWeights", "w1"),
        (sequence_output, "UnsupportedOperator", "'s'"),
    ],
)
def test_model_that_cannot_be_used_is_refused(refused, project, make_mlp, spoil, reason, said):
    spoil(project.path / "model.onnx", make_mlp())
    failure = refused({}, reason)
    seen_at_once = reason == "UnsupportedFormat" or spoil in (too_new, too_new_ir)
    where = ("resolve", None) if seen_at_once else ("export", "cpu")
    assert (failure["step"], failure.get("target")) == where
    assert said in failure["message"]


def test_model_of_another_format_than_declared_is_refused(refused, project):
    (project.path / "model.onnx").write_text("this is the README")
    failure = refused({"source": {"uri": "file:model.onnx", "format": "ONNX"}}, "UnsupportedFormat")
    assert "spec.source.format" in failure["message"]


def external(project, model: onnx.ModelProto, location: str) -> Path:
    """A directory with a model whose weights are said to be at `location`."""
    directory = project.path / "model"
    directory.mkdir()
    (project.path / "outside.bin").write_bytes(bytes(16 * 32 * 4))
    for tensor in model.graph.initializer[:1]:
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", location
    (directory / "model.onnx").write_bytes(model.SerializeToString())
    return directory


@pytest.mark.parametrize("location", ["../outside.bin", "/etc/hostname", "sub/../../outside.bin"])
def test_external_data_outside_the_model_is_refused(refused, project, make_mlp, location):
    external(project, make_mlp(), location)
    failure = refused({"source": {"uri": "file:model"}}, "UnsafeExternalData")
    assert "w0" in failure["message"]


def test_external_data_behind_a_link_is_refused(refused, project, make_mlp):
    directory = external(project, make_mlp(), "weights.bin")
    (directory / "weights.bin").symlink_to(project.path / "outside.bin")
    failure = refused({"source": {"uri": "file:model"}}, "UnsafeSource")
    assert "weights.bin" in failure["message"]


def test_external_data_of_a_single_file_is_missed_by_name(refused, project, make_mlp):
    directory = external(project, make_mlp(), "weights.bin")
    (directory / "weights.bin").write_bytes(bytes(16 * 32 * 4))
    failure = refused({"source": {"uri": "file:model/model.onnx"}}, "UnsafeExternalData")
    assert "weights.bin" in failure["message"]
    assert "missing" in failure["message"]


def test_directory_with_two_models_is_refused(refused, project, make_mlp):
    directory = project.path / "model"
    directory.mkdir()
    for name in ("a.onnx", "b.onnx"):
        onnx.save(make_mlp(), directory / name)
    assert "model" in refused({"source": {"uri": "file:model"}}, "UnsupportedFormat")["message"]


# --- inputs and data --------------------------------------------------------------------------------------------------------------------


def gather(*, kind: int = TensorProto.INT64, shape: tuple[object, ...] = ("n", 4)) -> onnx.ModelProto:
    """An embedding: ids -> vectors."""
    nodes = [helper.make_node("Cast", ["ids"], ["i"], to=TensorProto.INT64), helper.make_node("Gather", ["table", "i"], ["y"])]
    if kind == TensorProto.STRING:
        nodes = [helper.make_node("StringNormalizer", ["ids"], ["y"])]
    outputs = [helper.make_tensor_value_info("y", kind if kind == TensorProto.STRING else TensorProto.FLOAT, None)]
    table = numpy_helper.from_array(np.ones((10, 2), np.float32), "table")
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("ids", kind, shape)], outputs, [table])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        pytest.param(gather(), "range", id="integers without range"),
        pytest.param(gather(shape=("n", "length")), "axis 1", id="size that varies"),
        pytest.param(gather(kind=TensorProto.STRING, shape=(1,)), "strings", id="strings"),
    ],
)
def test_input_that_cannot_be_made_up_is_asked_for(refused, project, model, said):
    onnx.save(model, project.path / "model.onnx")
    failure = refused({}, "InputsNotGeneratable")
    assert said in failure["message"]
    assert "spec.inputs" in failure["message"]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"name": "X"}, "its inputs are x"),
        ({"name": "x", "shape": [-1, 17]}, "16"),
    ],
)
def test_inputs_that_contradict_the_model_are_refused(refused, entry, said):
    failure = refused({"inputs": [entry]}, "InputsMismatch")
    assert "spec.inputs[0]" in failure["message"]
    assert said in failure["message"]


def test_load_that_the_model_cannot_take_is_refused(refused, project, make_mlp):
    model = make_mlp()
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, project.path / "model.onnx")
    failure = refused({"measurement": {"loads": [{"name": "batch", "batchSize": 4}]}}, "InputsMismatch")
    assert "batchSize: 1" in failure["message"]
    assert failure["step"] == "export"


X = np.zeros((4, 16), np.float32)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        pytest.param({"image": X}, "missing: x", id="wrong name"),
        pytest.param({"x": np.zeros((4, 17), np.float32)}, "[4, 17]", id="wrong shape"),
        pytest.param({"x": np.zeros((4, 16), np.int64)}, "int64", id="wrong dtype"),
        pytest.param({"x": X[:0]}, "no samples", id="no samples"),
        pytest.param({"x": np.array([[None] * 16] * 4)}, "Python objects", id="object array"),
        pytest.param({"x": X, "label": np.zeros(4, np.float32)}, "labels are integers", id="labels that are no integers"),
    ],
)
def test_dataset_that_does_not_fit_is_refused(refused, project, arrays, said):
    save(project, **arrays)
    metric = "Accuracy" if "label" in arrays else "Agreement"
    failure = refused({"datasets": {"evaluation": {"uri": "file:data.npz", "metric": metric}}}, "InvalidDataset")
    assert said in failure["message"]
    assert "spec.datasets.evaluation" in failure["message"]


def no_zip(path: Path) -> None:
    path.write_bytes(b"PK but not really")


def bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w", force_zip64=True) as member:
        np.lib.format.write_array_header_1_0(member, {"descr": "<f4", "fortran_order": False, "shape": (2**40, 16)})
        member.write(bytes(1000))


@pytest.mark.parametrize("spoil", [no_zip, bomb])
def test_calibration_that_is_no_npz_is_refused(refused, project, spoil):
    spoil(project.path / "data.npz")
    failure = refused({"datasets": {"calibration": {"uri": "file:data.npz"}}}, "InvalidDataset")
    assert "spec.datasets.calibration" in failure["message"]


def test_accuracy_without_labels_asks_for_them(refused):
    failure = refused({"datasets": {"evaluation": {"uri": "file:data.npz", "metric": "Accuracy"}}}, "LabelsMissing")
    assert "label" in failure["message"]
    assert "Agreement" in failure["message"]


def test_labels_that_name_no_class_are_refused(refused, project):
    save(project, x=X, label=np.array([0, 1, 2, 4]))
    failure = refused({"datasets": {"evaluation": {"uri": "file:data.npz", "metric": "Accuracy"}}}, "InvalidDataset")
    assert "label" in failure["message"]


def test_output_that_the_model_does_not_have_is_refused(refused):
    failure = refused({"datasets": {"evaluation": {"uri": "file:data.npz", "metric": "Agreement", "output": "logits"}}}, "InputsMismatch")
    assert "spec.datasets.evaluation.output" in failure["message"]


# --- passes and resources ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entries", "reason", "said"),
    [
        ([{"mode": "Static"}], "CalibrationMissing", "spec.datasets.calibration"),
        ([{"mode": "Dynamic"}, {"precision": "FP16"}], "PassNotApplicable", "spec.passes[1]"),
        ([{"mode": "Dynamic", "precision": "FP16"}], "InvalidManifest", "spec.passes[0].quantize.mode"),
        ([{"excludedNodes": ["layer0", "layer0"]}], "InvalidManifest", "spec.passes[0].quantize.excludedNodes"),
    ],
)
def test_passes_that_no_model_could_meet_are_refused_when_the_manifest_is_read(project, make_spec, entries, reason, said):
    ran = project.try_out(project.write(make_spec(passes=[{"type": "Quantize", "quantize": options} for options in entries])))
    assert (ran.code, ran.steps, ran.failure["reason"]) == (2, [], reason)
    assert said in ran.failure["message"]


def test_excluded_node_that_the_graph_does_not_have_is_refused(refused):
    failure = refused(NO_NODE, "PassNotApplicable")
    assert (failure["step"], "layer0" in failure["message"]) == ("export", True), "before anything is built"


def test_resources_that_the_machine_does_not_have_are_refused(refused):
    target = {"name": "cpu", "runtime": "ONNXRuntime", "resources": {"cpu": "1000", "memory": "1Gi"}}
    failure = refused({"targets": [target]}, "ResourcesNotEnforceable")
    assert "1000 CPUs" in failure["message"]
    assert "spec.targets[].resources.cpu" in failure["message"]
