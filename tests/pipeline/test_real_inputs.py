"""The models of `examples/` that take minutes: what a server answers, against the library that users know."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.pipeline.real_inputs import EXAMPLES, example_spec

from burnish.toolchains import environments

pytestmark = pytest.mark.long

SENTENCES = 24
LIBRARY = """
import json, os, sys
os.environ["HF_HUB_OFFLINE"] = "1"
packages, model, sentences = sys.argv[1:]
sys.path.append(packages)  # after the environment's own
from sentence_transformers import SentenceTransformer
print("\\n" + json.dumps(SentenceTransformer(model, device="cpu").encode(json.loads(sentences)).tolist()))
"""
STATIC = [{"type": "Quantize", "quantize": {"precision": "INT8", "mode": "Static"}}]
MINILM = EXAMPLES / ".work" / "minilm"


def beside_the_library(*script: object) -> str:
    """The last line of a script in PyTorch's environment. {packages} stands for where the example's environment has sentence-transformers."""
    environment = environments.find("torch")
    assert environment is not None, "the fixture `toolchains` made it"
    (packages,) = (EXAMPLES.parent / ".tools" / "examples" / "minilm" / "lib").glob("python*/site-packages")
    command = [environment.python, *(packages if part == "{packages}" else part for part in script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def library() -> np.ndarray:
    """What sentence-transformers answers to the first sentences of the evaluation data: (SENTENCES, 384) float32, each at length 1."""
    sentences = json.loads((MINILM / "sentences.json").read_text())["evaluation"][:SENTENCES]
    return np.array(json.loads(beside_the_library("-c", LIBRARY, "{packages}", MINILM / "model", json.dumps(sentences))), np.float32)


def ask(url: str) -> np.ndarray:
    """The served vectors. A client sends no padding, unlike the data that the model was calibrated with."""
    data = np.load(MINILM / "evaluation.npz")
    answers = []
    for row in range(SENTENCES):
        length = int(data["attention_mask"][row].sum())
        inputs = [
            {"name": name, "shape": [1, length], "datatype": "INT64", "data": data[name][row, :length].tolist()}
            for name in ("input_ids", "attention_mask", "token_type_ids")
        ]
        request = urllib.request.Request(f"{url}/v2/models/minilm/infer", json.dumps({"inputs": inputs}).encode())
        with urllib.request.urlopen(request, timeout=60) as answer:
            answers.append(json.load(answer)["outputs"][0]["data"])
    return np.array(answers, np.float32)


@pytest.mark.parametrize(("runtime", "passes", "least"), [("ONNXRuntime", [], 0.999999), ("OpenVINO", STATIC, 0.985)])
def test_minilm_serves_the_vectors_of_sentence_transformers(project, port, library, runtime: str, passes: list[Any], least: float):
    spec = example_spec("minilm", calibration=64, evaluation=16)
    spec |= {"passes": passes, "measurement": {"timeout": "10s"}, "constraints": {"onUndecided": "Accept", "maxSlowdownPercent": 1000}}
    spec["targets"] = [target for target in spec["targets"] if target["runtime"] == runtime]
    running = project.start(project.write(spec, name="minilm"), "--keep-serving", "--port", port)
    try:
        assert ("static" if passes else "the baseline") in running.wait_for("; Ctrl-C ends it", timeout=400)
        served = ask(f"http://127.0.0.1:{port}")
    finally:
        running.press_ctrl_c()
        running.wait()
    cosines = (served * library).sum(axis=1)
    assert cosines.min() >= least, cosines
    others = (served * np.roll(library, 1, axis=0)).sum(axis=1)
    assert others.max() < 0.9, "other sentences have other vectors"
    np.testing.assert_allclose(np.linalg.norm(served, axis=1), 1, rtol=1e-3)
    if not passes:
        np.testing.assert_allclose(served, library, atol=1e-5)


def test_a_dense_layer_as_the_library_saves_it_answers_as_the_library_does(tmp_path):
    script = Path(__file__).with_name("dense_by_library.py")
    same, shuffled = map(float, beside_the_library(script, "{packages}", MINILM / "model", tmp_path).split())
    assert same < 1e-5 < 0.1 < shuffled


@pytest.mark.alone
def test_resnet_example_gets_faster_and_stays_accurate_on_both_runtimes(project):
    ran = project.run(EXAMPLES / "resnet.yaml", timeout=550)
    assert ran.code == 0, ran.stderr
    assert ran.status["source"]["format"] == "StateDict"
    for target in ran.status["targets"]:
        assert (target["state"], target["artifact"]["served"]) == ("Published", "Candidate"), target
        assert float(target["export"]["maxAbsoluteError"]) < 1e-3
        assert float(target["score"]["value"]) > 0.9
        assert float(target["measurements"][0]["speedup"]["low"]) >= 1.2
