"""Keras' and TensorFlow's formats: made by the libraries themselves, held to the libraries' own answers, and every bad one refused.

tensorflow_formats.py does the work in the toolchain's environment, once; here its outcome is read. A few models then go the whole way, to a real server.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.pipeline.format_outcomes import case_names, run_script

SCRIPT = Path(__file__).with_name("tensorflow_formats.py")
CASES = case_names(SCRIPT)
FIXED = {"fixed batch"}

REFUSED = {
    "lambda": ("UnsafeSource", "a Lambda layer (lambda)"),
    "lambda in hdf5": ("UnsafeSource", "a Lambda layer (lambda)"),
    "layer that loads a program": ("UnsafeSource", "a layer that loads a SavedModel"),
    "custom layer": ("ArchitectureMismatch", "needs Frobnicate, which Keras does not have"),
    "custom layer in hdf5": ("ArchitectureMismatch", "needs Frobnicate, which Keras does not have"),
    "layer that only its author has, in hdf5": ("ArchitectureMismatch", "needs Plain, which Keras does not have"),
    "class of another module": ("ArchitectureMismatch", "needs system"),
    "layer that prepares text": (
        "UnsupportedOperator",
        "with TextVectorization (words), which ONNX has no operators for; the client prepares the text",
    ),
    "layer that looks up ids": ("UnsupportedOperator", "with IntegerLookup (numbers), which ONNX has no operators for"),
    "text, exported by keras": (
        "UnsupportedOperator",
        "with LookupTableFindV2, StaticRegexReplace, StringSplitV2, which ONNX has no operators for; the client",
    ),
    "ids, exported by keras": ("UnsupportedOperator", "with LookupTableFindV2, which ONNX has no operators for; the client prepares the text"),
    "weights alone": ("InvalidModel", "model.save('model.keras')"),
    "hdf5 that is no model": ("InvalidModel", "table.h5 holds no description of a model"),
    "weights from another file": ("UnsafeSource", "takes /layers/dense/vars/0 from other files"),
    "link to another file": ("UnsafeSource", "takes model_weights from other files"),
    "zip bomb": ("UnsafeSource", "it was not unpacked"),
    "entry outside": ("UnsafeSource", "'../canary', which lies outside"),
    "archive without weights": ("InvalidModel", "Expected a model.weights.h5"),
    "truncated hdf5": ("InvalidModel", "cut.h5 is no complete HDF5 file"),
    "description that is no json": ("InvalidModel", "garbled.keras is no JSON"),
    "never built": ("InvalidModel", "has no weights"),
    "writes a file": ("UnsafeSource", "WriteFile (in function __inference_writes"),
    "writes a file when it is loaded": ("UnsafeSource", "WriteFile (in function __inference_writes"),
    "reads a file": ("UnsafeSource", "ReadFile (in function"),
    "calls python": ("UnsafeSource", "PyFunc (in function"),
    "prints": ("UnsafeSource", "PrintV2 (in function"),
    "vocabulary of a file": ("UnsafeSource", "InitializeTableFromTextFileV2"),
    "saver that something else calls": ("UnsafeSource", "SaveV2 (in function __inference__traced_save"),
    "operator that ONNX lacks": ("UnsupportedOperator", "BesselI0"),
    "operator that TensorFlow lacks": ("UnsupportedOperator", "TensorFlow has no operator AcmeFrobnicate"),
    "several signatures, none declared": ("InvalidManifest", "set one of double, half"),
    "signature that is not there": ("InvalidManifest", "no signature 'triple'; it has double, half"),
    "no signature": ("InvalidModel", "no signature to serve"),
    "unknown rank": ("InputsNotGeneratable", "no known number of axes; declare it"),
    "truncated program": ("InvalidModel", "saved_model.pb is no SavedModel, or damaged"),
    "missing variables": ("InvalidModel", "can't load the SavedModel"),
    "two forms": ("InvalidModel", "there is saved_model.pbtxt"),
    "two graphs": ("InvalidModel", "it holds 2 graphs"),
}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the script left its models, and `outcome.json`."""
    return run_script("tensorflow", SCRIPT, tmp_path_factory.mktemp("tensorflow"))


@pytest.fixture(scope="session")
def outcomes(models: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((models / "outcome.json").read_text())
    return found


@pytest.mark.parametrize("case", CASES["GOOD"])
def test_a_source_is_detected_and_exported_as_its_framework_answers(outcomes, case):
    found = outcomes[case]
    assert found.get("message") is None
    assert found["detected"] == [found["format"]]
    assert found["same"] is None


@pytest.mark.parametrize("case", CASES["GOOD"])
def test_the_comparison_can_fail(outcomes, case):
    assert outcomes[case]["shuffled"], "the same requests in another order"
    assert outcomes[case]["perturbed"], "weights that are off by a hundredth"


@pytest.mark.parametrize("case", [case for case in CASES["GOOD"] if case not in FIXED])
def test_tensors_and_axes_have_readable_names_and_the_batch_varies(outcomes, case):
    found = outcomes[case]
    assert set(found["axes"]) <= {"batch", "ids_1"}
    assert all(shape[1] == -1 for shape in (*found["inputs"].values(), *found["outputs"].values()))
    assert {*found["inputs"], *found["outputs"]} <= {"image", "features", "x", "y", "ids", "logits", "output_0"}
    assert found["left"] == ["model.onnx"]


def test_a_batch_that_the_signature_fixes_stays_so(outcomes):
    assert outcomes["fixed batch"]["inputs"] == {"x": ["FP32", 3, 8]}
    assert outcomes["fixed batch"]["axes"] == []


def test_an_only_input_takes_the_manifests_name_and_contradictions_are_left_to_the_comparison(outcomes):
    assert list(outcomes["keras, its input renamed"]["inputs"]) == ["features"]
    assert outcomes["shape that contradicts the model, which others compare"]["inputs"]["x"] == ["FP32", -1, 16]


def test_every_bad_case_is_judged_here():
    assert set(CASES["BAD"]) == set(REFUSED)


@pytest.mark.parametrize("case", CASES["BAD"])
def test_a_bad_source_is_refused_with_reason_and_cure(outcomes, case):
    reason, words = REFUSED[case]
    assert outcomes[case].get("reason") == reason, outcomes[case]
    assert words in outcomes[case]["message"]


def test_nothing_of_any_source_ran(outcomes):
    assert [case for case, found in outcomes.items() if found["canary"]] == []


# --- the whole way --------------------------------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.alone
def test_the_keras_example_is_served(project, examples):
    ran = project.run(examples / "keras.yaml")
    assert ran.code == 0, ran.stderr
    assert ran.status["source"]["format"] == "Keras"
    assert float(ran.target["export"]["maxAbsoluteError"]) < 1e-4
    assert float(ran.target["score"]["value"]) > 0.97
    assert project.run(examples / "keras.yaml").steps == ["resolve"], "all is known"


def test_a_signature_of_a_saved_model_is_served_and_another_one_is_another_artifact(project, models, make_spec):
    def manifest(signature: str) -> Path:
        return project.write(make_spec(source={"uri": f"file:{models / 'several'}", "signature": signature}), signature)

    ran = project.run(manifest("double"))
    assert ran.code == 0, ran.stderr
    assert ran.status["source"]["format"] == "SavedModel"
    assert ran.target["artifact"]["served"] == "Baseline"
    plans = {name: project.burnish("plan", manifest(name), "--store", project.store, "-o", "json") for name in ("double", "half")}
    assert {name: plan.object["targets"][0]["plan"] for name, plan in plans.items()} == {"double": "Nothing", "half": "Build"}


def test_a_saved_model_that_writes_is_refused_in_the_export_step(project, models, make_spec):
    ran = project.run(project.write(make_spec(source={"uri": f"file:{models / 'writer'}"})))
    assert (ran.code, ran.failure["reason"], ran.steps) == (2, "UnsafeSource", ["resolve", "stage", "export"])
    assert not (models / "canary").exists()


def test_a_zip_file_that_is_only_called_keras_is_of_no_known_format(project, models, make_spec):
    (project.path / "model.keras").write_bytes(b"PK\x05\x06" + bytes(18))
    ran = project.run(project.write(make_spec(source={"uri": "file:model.keras"})))
    assert (ran.code, ran.failure["reason"], ran.steps) == (2, "UnsupportedFormat", ["resolve"])


def test_a_declared_format_that_the_content_belies_is_refused_naming_both(project, models, make_spec):
    ran = project.run(project.write(make_spec(source={"uri": f"file:{models / 'net.h5'}", "format": "SavedModel"})))
    assert (ran.code, ran.failure["reason"], ran.steps) == (2, "UnsupportedFormat", ["resolve"])
    assert "net.h5 is Keras, not SavedModel" in ran.failure["message"]
