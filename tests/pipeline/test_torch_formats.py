"""PyTorch's formats: made by the libraries themselves, held to the libraries' own answers, and every bad one refused.

torch_formats.py does the work in the toolchain's environment, once; here its outcome is read. A few models then go the whole way, to a real server.
"""

from __future__ import annotations

import json
import os
import re
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.pipeline.format_outcomes import case_names, run_script
from tests.pipeline.torch_archives import infected

from burnish.plugins.formats import huggingface

SCRIPT = Path(__file__).with_name("torch_formats.py")
CASES = case_names(SCRIPT)

REFUSED = {
    "pickle with code": ("UnsafeSource", "it names exec"),
    "old pickle with code": ("UnsafeSource", "it names exec"),
    "whole module": ("UnsafeSource", "save the weights alone"),
    "no state dict": ("InvalidModel", "it is list"),
    "truncated safetensors": ("InvalidModel", "no complete safetensors file"),
    "truncated archive": ("InvalidModel", "PyTorch can't read cut.pt"),
    "misspelt architecture": ("ArchitectureMismatch", "Did you mean torchvision.models.squeezenet1_1?"),
    "function that is no architecture": ("ArchitectureMismatch", "torch.onnx.export(model.eval()"),
    "class that is no model": ("ArchitectureMismatch", "the library has no transformers.Trainer"),
    "other architecture": ("ArchitectureMismatch", "correct spec.source.architecture"),
    "surplus and missing weights": ("ArchitectureMismatch", "missing: classifier.1.weight, classifier.1.bias; not in the architecture: head.1."),
    "segmentation by its short name": ("ArchitectureMismatch", "missing: backbone.0.0.weight"),
    "weights of a module around it": (
        "ArchitectureMismatch",
        "all names begin with 'net.', likely of a module around the model: save module.net.state_dict()",
    ),
    "other number of classes": ("ArchitectureMismatch", "classifier.1.bias is [4], not [1000]"),
    "unknown argument": ("ArchitectureMismatch", "unexpected keyword argument 'colour'"),
    "argument that fetches": ("ArchitectureMismatch", "would load weights from elsewhere"),
    "no inputs": ("InputsNotGeneratable", "spec.inputs: [{name: image"),
    "inputs that don't fit": ("InvalidModel", "to have 3 channels, but got 1"),
    "code of its own": ("ArchitectureMismatch", "code of its own, which is never run"),
    "weights as a pickle": ("InvalidModel", "model.save_pretrained"),
    "truncated weights": ("InvalidModel", "no complete safetensors file"),
    "task of another head": ("ArchitectureMismatch", "trained for TextClassification"),
    "head without weights": ("ArchitectureMismatch", "classifier.bias is missing"),
    "sentence task without modules": ("ArchitectureMismatch", "no modules.json"),
    "unknown pooling module": ("ArchitectureMismatch", "Transformer, Pooling, LSTM"),
    "dense layer of another size": ("ArchitectureMismatch", "no layer of out, in = [16, 32]"),
    "dense layer with code as its activation": ("ArchitectureMismatch", "2_Dense asks for os.system"),
    "transformer outside the source": ("UnsafeSource", "modules.json names the folder '../body', which leads out of the source"),
    "transformer at an absolute path": ("UnsafeSource", "/body', which leads out of the source"),
    "transformer behind a link": ("InvalidModel", "modules.json names the folder 'body', which the source does not hold"),
    "pooling outside the source": ("UnsafeSource", "modules.json names the folder '../dense/1_Pooling', which leads out of the source"),
    "dense layer outside the source": ("UnsafeSource", "modules.json names the folder '../dense/2_Dense', which leads out of the source"),
    "weights outside the source": ("UnsafeSource", "model.safetensors.index.json names '../body/model.safetensors', which leads out of the source"),
    "generative model": ("ArchitectureMismatch", "GPT2LMHeadModel, which generates text; only encoders are served. Write task: FeatureExtraction"),
    "generative model of older make": ("ArchitectureMismatch", "OpenAIGPTLMHeadModel, which generates text"),
    "generative model with two heads": ("ArchitectureMismatch", "GPT2DoubleHeadsModel, which generates text"),
    "language head that may generate": ("ArchitectureMismatch", "XLMWithLMHeadModel, which generates text; only encoders are served"),
    "generative model as a classifier": ("ArchitectureMismatch", "GPT2LMHeadModel, which generates text"),
    "generative encoder-decoder": ("ArchitectureMismatch", "T5ForConditionalGeneration, which generates text"),
    "encoder-decoder, body only": ("ArchitectureMismatch", "T5Model has a decoder (its encoder may be a class of its own, as T5EncoderModel)"),
    "other number of labels": (
        "ArchitectureMismatch",
        "classifier.bias is [3], not [5], classifier.weight is [3, 32], not [5, 32]; config.json and weights are",
    ),
    "program that is not trusted": ("SourceNotTrusted", "trusted: true"),
    "script that is not trusted": ("SourceNotTrusted", "trusted: true"),
    "script without inputs": ("InputsNotGeneratable", "spec.inputs"),
    "truncated program": ("InvalidModel", "can't load cut.pt2"),
    "operator that ONNX lacks": ("UnsupportedOperator", "aten.special_airy_ai"),
    "operator of a library of its own": (
        "UnsupportedOperator",
        "own.pt2 has operators that PyTorch doesn't have, of a library of its author's: mine::double",
    ),
    "script with an operator of its own": ("UnsupportedOperator", "of a library of its author's: mine::double"),
}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the script left its models, and `outcome.json`."""
    return run_script("torch", SCRIPT, tmp_path_factory.mktemp("torch"))


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


@pytest.mark.parametrize("case", CASES["GOOD"])
def test_tensors_and_axes_have_readable_names_and_the_batch_varies(outcomes, case):
    found = outcomes[case]
    assert set(found["axes"]) <= {"batch", "sequence"}
    assert all(shape[1] == -1 for shape in (*found["inputs"].values(), *found["outputs"].values()))
    assert found["left"] == ["model.onnx"]
    names = {*found["inputs"], *found["outputs"]} if found["format"] != "ONNX" else set()  # which has the names of its own exporter
    assert names <= {*("image", "pixel_values", "input_ids", "attention_mask", "token_type_ids"),
                     *("output", "logits", "features", "last_hidden_state", "pooler_output", "sentence_embedding")}  # fmt: skip


def test_the_recipe_for_models_of_ones_own_leaves_one_file_that_takes_a_batch(outcomes):
    found = outcomes["file that the recipe for models of one's own leaves"]
    assert found["beside"] == ["model.onnx"], "the source is that file alone"
    assert found["inputs"] == {"image": ["FP32", -1, 1, 32, 32]}


def test_what_was_done_to_a_checkpoint_is_said(outcomes):
    said = "; ".join(outcomes["checkpoint of a parallel module"]["said"])
    assert "took the weights from 'model'; left out: epoch" in said
    assert "removed 'module.'" in said


def test_prefixes_of_training_scripts_are_removed_in_any_order(outcomes):
    assert "removed 'model.'" in "; ".join(outcomes["checkpoint of Lightning"]["said"])
    assert "removed '_orig_mod.module.'" in "; ".join(outcomes["checkpoint of a compiled parallel module"]["said"])
    assert "removed 'module._orig_mod.module.'" in "; ".join(outcomes["checkpoint of a parallel compiled module"]["said"])


def test_torchvisions_detection_models_and_no_others_are_refused_by_name(outcomes):
    found = outcomes["safetensors of torchvision"]
    assert found["refused"] == sorted(found["detecting"]) != []


def test_weights_are_found_in_a_trainers_checkpoint(outcomes):
    assert "took the weights from 'state_dict'; left out: optimizer, epoch" in "; ".join(outcomes["weights within a trainer's checkpoint"]["said"])


def test_of_many_differences_five_are_shown_and_the_others_counted(outcomes):
    found = outcomes["other architecture"]["message"]
    assert re.search(r"missing: (features\.[\w.]+, ){4}features\.[\w.]+ and \d+ more", found), found


def test_token_ids_have_the_range_of_the_vocabulary(outcomes):
    assert outcomes["classifier of text"]["ranges"] == {"input_ids": [0, 99], "attention_mask": [1, 1], "token_type_ids": [0, 1]}


def test_sentence_vectors_are_the_mean_without_padding_at_length_one(outcomes):
    assert outcomes["sentence model"]["pooled"] < 1e-6
    assert outcomes["sentence model"]["companions"] == ["tokenizer.json", "config.json"]


def test_the_tokenizer_of_the_older_layout_lies_with_the_transformer(outcomes):
    found = outcomes["sentence model of the older layout"]
    assert found["pooled"] < 1e-6
    assert found["companions"] == ["tokenizer.json", "tokenizer_config.json", "vocab.txt", "config_sentence_transformers.json", "config.json"]
    assert list(found["inputs"]) == ["input_ids", "attention_mask"], "as its tokenizer_config.json says"
    assert f"companions/ holds {', '.join(found['companions'])}" in "; ".join(found["said"])


def test_a_source_without_a_tokenizer_says_so(outcomes):
    assert "the source holds no tokenizer's files" in "; ".join(outcomes["classifier of text"]["said"])
    assert "the source holds no tokenizer's files" not in "; ".join(outcomes["sentence model"]["said"])


def test_the_files_of_transformers_own_tokenizers_travel(outcomes):
    found = outcomes["tokenizer that makes no token types"]["vocabularies"]
    assert len(found) > 10 and set(found) <= set(huggingface.TOKENIZERS)


def test_a_tokenizer_tells_which_inputs_are_made(outcomes):
    assert list(outcomes["tokenizer that makes no token types"]["inputs"]) == ["input_ids", "attention_mask"]


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("tokenizer's configuration that is a list", "tokenizer_config.json holds no JSON object"),
        ("tokenizer's inputs as a string", 'tokenizer_config.json holds model_input_names: "input_ids"'),
        ("tokenizer of other inputs", 'tokenizer_config.json holds model_input_names: ["input_features"]'),
    ],
)
def test_where_a_tokenizer_names_no_inputs_the_models_own_are_served_and_it_is_said(outcomes, case, words):
    assert list(outcomes[case]["inputs"]) == ["input_ids", "attention_mask", "token_type_ids"]
    assert words in "; ".join(outcomes[case]["said"])


def test_a_dense_layer_follows_the_pooling(outcomes):
    assert outcomes["sentence model with a dense layer"]["pooled"] < 1e-6
    assert outcomes["sentence model with a dense layer"]["outputs"] == {"sentence_embedding": ["FP32", -1, 16]}


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


@pytest.mark.alone
def test_the_pytorch_example_is_served(project, examples):
    ran = project.run(examples / "pytorch.yaml")
    assert ran.code == 0, ran.stderr
    assert ran.status["source"]["format"] == "StateDict"
    assert ran.target["artifact"]["served"] == "Candidate"
    assert float(ran.target["export"]["maxAbsoluteError"]) < 1e-4
    assert float(ran.target["score"]["value"]) > 0.97
    assert project.run(examples / "pytorch.yaml").steps == ["resolve"], "all is known"


@pytest.mark.long
def test_a_sentence_model_is_served_with_its_tokenizer(project, models, make_spec):
    lengths = [{"name": name, "dynamic": [{"axis": 1, "min": 1, "opt": 16, "max": 32}]} for name in ("input_ids", "attention_mask", "token_type_ids")]
    ran = project.run(project.write(make_spec(source={"uri": f"file:{models / 'sentence'}"}, inputs=lengths)))
    assert ran.code == 0, ran.stderr
    assert ran.status["source"]["format"] == "HuggingFace"
    assert "takes token ids" in ran.stderr
    pulled = project.path / "pulled"
    assert project.burnish("pull", ran.target["artifact"]["digest"], "--store", project.store, "--out", pulled).code == 0
    assert sorted(p.name for p in (pulled / "companions").iterdir()) == ["config.json", "tokenizer.json"]
    (answer,) = (np.load(pulled / "golden.npz")[name] for name in np.load(pulled / "golden.npz") if name.startswith("output:"))
    np.testing.assert_allclose(np.linalg.norm(answer, axis=1), 1, rtol=1e-5)


def test_text_is_made_token_ids_by_the_tokenizer_of_the_older_layout(project, models, make_spec):
    (project.path / "held-out.jsonl").write_text('{"text": "good"}\n{"text": "bad"}\n' * 8)
    lengths = [{"name": name, "dynamic": [{"axis": 1, "min": 1, "opt": 4, "max": 8}]} for name in ("input_ids", "attention_mask")]
    data = {"evaluation": {"uri": "file:held-out.jsonl", "metric": "Agreement", "decode": "Cosine"}}
    spec = make_spec(source={"uri": f"file:{models / 'legacy'}"}, inputs=lengths, datasets=data)
    ran = project.run(project.write(spec), "--work", project.path / "work")
    assert ran.code == 0, ran.stderr
    (made,) = (project.path / "work").rglob("*-export/datasets/evaluation.npz")
    with np.load(made) as archive:
        np.testing.assert_array_equal(archive["input_ids"][:2], [[2, 0, 0, 0], [1, 0, 0, 0]])


@pytest.mark.parametrize("name", ["evil.pt2", "evil.script.pt"])
def test_a_program_is_refused_unread_where_it_is_not_trusted(project, models, make_spec, name):
    ran = project.run(project.write(make_spec(source={"uri": f"file:{models / name}"}, inputs=[{"name": "image", "shape": [-1, 1, 32, 32]}])))
    assert (ran.code, ran.failure["reason"], ran.steps) == (2, "SourceNotTrusted", ["resolve"])
    assert not (models / "canary").exists()


def test_a_declared_format_that_the_content_belies_is_refused_naming_both(project, models, make_spec):
    ran = project.run(project.write(make_spec(source={"uri": f"file:{models / 'squeezenet.safetensors'}", "format": "ONNX"})))
    assert (ran.code, ran.failure["reason"], ran.steps) == (2, "UnsupportedFormat", ["resolve"])
    assert "squeezenet.safetensors is StateDict, not ONNX" in ran.failure["message"]


def test_code_of_a_trusted_program_finds_no_network_and_no_credentials(project, models, make_spec):
    said = project.path / "said"
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = "\n".join([
            "import os, pathlib, socket",
            f"try: socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 5); met = 'the server'",
            "except OSError as error: met = type(error).__name__",
            f"pathlib.Path({str(said)!r}).write_text(' '.join([met, *os.environ]))",
                "raise RuntimeError('seen enough')",
        ])  # fmt: skip
        (project.path / "spy.pt2").write_bytes(infected((models / "net.pt2").read_bytes(), code))
        manifest = project.write(make_spec(source={"uri": "file:spy.pt2", "trusted": True}))
        ran = project.run(manifest, env={"AWS_SECRET_ACCESS_KEY": "hush", "HF_TOKEN": "hush"})
        assert (ran.steps, ran.failure["reason"]) == (["resolve", "stage", "export"], "InvalidModel")
        met, *variables = said.read_text().split()
    assert met == "PermissionError"
    assert not {name for name in variables if name.startswith(("AWS_", "HF_TOKEN"))}
    assert "PATH" in os.environ


def test_a_trusted_script_runs_where_no_network_and_no_credentials_are(project, models, make_spec, monkeypatch):
    """A script can't tell what it meets, so it is looked at from outside while it runs."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    monkeypatch.setenv("HF_TOKEN", "hush")
    inputs = [{"name": "image", "shape": [-1, 1, 32, 32]}]
    running = project.start(
        project.write(make_spec(source={"uri": f"file:{models / 'spinner.script.pt'}", "trusted": True}, inputs=inputs)),
        "--work",
        project.path / "work",
    )
    try:
        running.wait_for("export: started")
        end = time.monotonic() + 120
        while not list((project.path / "work").rglob("spinning")):
            assert time.monotonic() < end, "the script never ran"
            time.sleep(0.1)
        processes = [Path("/proc") / str(pid) for pid, _ in project.processes()]
        (script,) = (p for p in processes if "libtorch_cpu" in (p / "maps").read_text())
        assert "Seccomp:\t2\n" in (script / "status").read_text()
        variables = {entry.partition(b"=")[0].decode() for entry in (script / "environ").read_bytes().split(b"\0")}
    finally:
        running.press_ctrl_c()
        ended = running.wait()
    assert ended.code != 0
    assert "PATH" in variables and not {name for name in variables if name.startswith(("AWS_", "HF_TOKEN"))}
