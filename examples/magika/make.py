"""Fetch the model of magika and turn installed files into the samples that `examples/magika.yaml` refers to.

The model (standard_v3_3, ONNX, 214 content types) comes out of the installed PyPI package `magika`. The samples are real files: those of Python's
standard library and of the packages in `requirements.txt`. Magika's own prediction for each file is compared with what the model says to our
features, so wrong features can't go unnoticed. It is run with the packages pinned there (Python 3.11 or 3.12, half a minute):

    uv venv .venv-magika && uv pip install -p .venv-magika/bin/python --no-deps --require-hashes -r examples/magika/requirements.txt
    .venv-magika/bin/python examples/magika/make.py --out examples/.work/magika

The choice of files is seeded; with another Python version or platform some files differ. A second run over a complete folder does nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sysconfig
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import magika
import numpy as np
import onnxruntime
from numpy.typing import NDArray

SEED = 2048
MODEL_FOLDER = Path(magika.__file__).parent / "models" / "standard_v3_3"
CALIBRATION_FILES = 128
EVALUATION_FILES = 512
PER_EXTENSION = 64  # else Python sources would be nearly all there is

Features = NDArray[np.int32]


def extract_features(content: bytes, config: dict[str, int]) -> Features | None:
    """The model's input for one file: (2048,) int32, bytes of the start and of the end; None for a file too short for the model.

    As in `Magika._extract_features_from_seekable` of magika 1.0: the first and the last block of 4096 bytes, without leading, respectively trailing,
    white space; of these the first and the last 1024 bytes; where there are fewer, the padding token 256 on the inner side.
    """
    if len(content) < config["min_file_size_for_dl"]:
        return None
    beginning = content[: config["block_size"]].lstrip()[: config["beg_size"]]
    end = content[-config["block_size"] :].rstrip()[-config["end_size"] :]
    if len(beginning) < config["min_file_size_for_dl"]:
        return None
    features = np.full(config["beg_size"] + config["end_size"], config["padding_token"], np.int32)
    features[: len(beginning)] = np.frombuffer(beginning, np.uint8)
    features[len(features) - len(end) :] = np.frombuffer(end, np.uint8)
    return features


def find_files() -> Iterator[Path]:
    """Files of the standard library and of this environment's packages, in a fixed order; compiled Python is left out, it depends on what ran before."""
    standard, packages = Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("purelib"))
    for folder in (standard, packages):
        for path in sorted(folder.rglob("*")):
            foreign = folder == standard and {"site-packages", "dist-packages"} & set(path.relative_to(folder).parts)
            if path.is_file() and not path.is_symlink() and path.suffix != ".pyc" and not foreign:
                yield path


def choose_samples(config: dict[str, int], count: int) -> tuple[list[Path], Features]:
    """Files that differ in content, spread over the extensions, and their features (count, 2048) int32."""
    by_extension: dict[str, list[tuple[Path, Features]]] = defaultdict(list)
    seen: set[str] = set()
    for path in find_files():
        features = extract_features(path.read_bytes(), config)
        if features is None:
            continue
        digest = hashlib.sha256(features.tobytes()).hexdigest()  # of what the model sees: equal samples can't be on both sides
        if digest not in seen:
            seen.add(digest)
            by_extension[path.suffix.lower()].append((path, features))
    rng = np.random.default_rng(SEED)
    chosen: list[tuple[Path, Features]] = []
    for extension in sorted(by_extension):
        files = by_extension[extension]
        chosen += [files[index] for index in rng.permutation(len(files))[:PER_EXTENSION]]
    if len(chosen) < count:
        raise SystemExit(f"only {len(chosen)} different files found, {count} are needed; install examples/magika/requirements.txt")
    chosen = [chosen[index] for index in rng.permutation(len(chosen))[:count]]
    return [path for path, _ in chosen], np.stack([features for _, features in chosen])


def check_against_magika(paths: list[Path], features: Features, labels: list[str]) -> None:
    """Compare the model's top-1 on our features with magika's own model prediction for the files, and stop if any differs."""
    session = onnxruntime.InferenceSession(str(MODEL_FOLDER / "model.onnx"), providers=["CPUExecutionProvider"])
    # In one batch, as magika does: the order of sums depends on the batch, and for some files two types score almost the same.
    answers = [labels[index] for index in session.run(None, {"bytes": features})[0].argmax(axis=1)]
    theirs = [str(result.prediction.dl.label) for result in magika.Magika().identify_paths(paths)]
    equal = sum(a == b for a, b in zip(answers, theirs, strict=True))
    counts = {label: answers.count(label) for label in sorted(set(answers), key=answers.count, reverse=True)}
    print(f"{len(counts)} content types: " + ", ".join(f"{label} {number}" for label, number in list(counts.items())[:16]))
    print(f"top-1 equals magika's own for {equal} of {len(paths)} files")
    if equal != len(paths):
        raise SystemExit("the features differ from magika's own; nothing written")


def recipe_digest() -> str:
    """What decides the output, as SHA-256: this script and the pinned packages. It is written last, so a folder that has it is whole."""
    files = (Path(__file__), Path(__file__).with_name("requirements.txt"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description="Copy magika's model and make its inputs of installed files.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write model.onnx, calibration.npz and evaluation.npz to")
    parser.add_argument("--force", action="store_true", help="make everything again although the files are there")
    arguments = parser.parse_args()
    out: Path = arguments.out
    model, calibration, evaluation = written = [out / name for name in ("model.onnx", "calibration.npz", "evaluation.npz")]
    stamp, recipe = out / "recipe.sha256", recipe_digest()
    if stamp.exists() and stamp.read_text() == recipe and all(path.exists() for path in written) and not arguments.force:
        print(f"{out} is complete; --force makes it again")
        return
    out.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    config = json.loads((MODEL_FOLDER / "config.min.json").read_text())
    paths, features = choose_samples(config, CALIBRATION_FILES + EVALUATION_FILES)
    check_against_magika(paths, features, config["target_labels_space"])
    np.savez_compressed(calibration, bytes=features[:CALIBRATION_FILES])
    np.savez_compressed(evaluation, bytes=features[CALIBRATION_FILES:])
    shutil.copyfile(MODEL_FOLDER / "model.onnx", model)
    stamp.write_text(recipe)
    print("\n".join(f"{path}  {path.stat().st_size / 1e6:.2f} MB" for path in written))


if __name__ == "__main__":
    main()
