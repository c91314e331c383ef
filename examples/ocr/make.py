"""Fetch the models of rapidocr and render the data that `examples/ocr.yaml`, `ocr-detection.yaml` and `ocr-direction.yaml` refer to.

The models (PP-OCRv6 small, ONNX) come out of the installed PyPI package `rapidocr`; the lines are drawn here, so their texts are known and the
script can prove that the models read, find and turn them before it writes anything. Neither is committed. It is run with the packages pinned in
`requirements.txt` (Python 3.11 or 3.12, some ten seconds):

    uv venv .venv-ocr && uv pip install -p .venv-ocr/bin/python --no-deps --require-hashes -r examples/ocr/requirements.txt
    .venv-ocr/bin/python examples/ocr/make.py --out examples/.work/ocr

Everything is seeded, and a second run over a complete folder does nothing.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import importlib.util
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pages
from lines import make_text, render
from numpy.typing import NDArray
from PIL import Image

SEED = 48
HEIGHT, WIDTH = 48, 320  # rapidocr's rec_img_shape
CALIBRATION_LINES = 64
EVALUATION_LINES = 160
MODEL = "models/PP-OCRv6_rec_small.onnx"
DETECTION = "models/PP-OCRv6_det_small.onnx"
DIRECTION = "models/ch_ppocr_mobile_v2.0_cls_mobile.onnx"
CALIBRATION_PAGES, EVALUATION_PAGES = 16, 32
CALIBRATION_DIRECTIONS, EVALUATION_DIRECTIONS = 64, 400
FOUND = 0.9  # share of what the model marks that is text (it marks the middle of lines); below it the preprocessing is wrong
TURNED = 0.8  # share of lines whose direction is told; half of them would be chance
LEGIBLE = 0.95  # similarity of what is read and what was written; below it the preprocessing is wrong, or the lines are no text

Lines = NDArray[np.float32]


def preprocess(picture: Image.Image) -> Lines:
    """What rapidocr's recognizer feeds to the model: (3, 48, 320) float32, BGR.

    As in `TextRecognizer.resize_norm_img` of rapidocr 3.10: resized to height 48, (x / 255 - 0.5) / 0.5, zeros to the right. Lines longer than the
    width are squeezed into it.
    """
    width = min(WIDTH, -(-HEIGHT * picture.width // picture.height))
    resized = np.asarray(picture.resize((width, HEIGHT), Image.Resampling.BILINEAR), np.float32)
    line = np.zeros((3, HEIGHT, WIDTH), np.float32)
    line[:, :, :width] = (resized[:, :, ::-1].transpose(2, 0, 1) / 255 - 0.5) / 0.5
    return line


def make_lines(count: int, fonts: Path) -> tuple[list[str], Lines]:
    """Different texts and their pictures, (count, 3, 48, 320) float32; no line is longer than fits without being squeezed by more than a quarter."""
    rng = np.random.default_rng(SEED)
    lines: dict[str, Lines] = {}
    while len(lines) < count:
        text = make_text(rng)
        picture = render(text, fonts, rng)
        if text not in lines and HEIGHT * picture.width / picture.height <= WIDTH * 1.25:
            lines[text] = preprocess(picture)
    return list(lines), np.stack(list(lines.values()))


def read_lines(model: Path, lines: Lines) -> list[str]:
    """What the model reads: best path of CTC with blank 0, in the characters that the model's metadata lists."""
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    characters = ["", *session.get_modelmeta().custom_metadata_map["character"].splitlines(), " "]
    texts = []
    for line in lines:
        (scores,) = session.run(None, {"x": line[None]})
        path = scores[0].argmax(axis=-1)
        kept = path[np.concatenate([[True], path[1:] != path[:-1]])]
        texts.append("".join(characters[index] for index in kept))
    return texts


def write_pages(out: Path, models: Path, fonts: Path) -> list[Path]:
    """Detection model and pages; proves that it finds the lines."""
    images, text = pages.make_pages(CALIBRATION_PAGES + EVALUATION_PAGES, fonts, SEED)
    session = onnxruntime.InferenceSession(str(models / DETECTION), providers=["CPUExecutionProvider"])
    marked = np.concatenate([session.run(None, {"x": image[None]})[0][:, 0] for image in images]) >= pages.THRESHOLD
    share = float((marked & text).sum() / max(1, marked.sum()))
    print(f"the model marks something on {marked.any((1, 2)).sum()} of {len(images)} pages; {share:.1%} of it is text")
    if share < FOUND or not marked.any((1, 2)).all():
        raise SystemExit("the model marks what is no text, or misses it: the preprocessing does not fit the model")
    np.savez_compressed(out / "detection-calibration.npz", x=images[:CALIBRATION_PAGES])
    np.savez_compressed(out / "detection-evaluation.npz", x=images[CALIBRATION_PAGES:])
    shutil.copyfile(models / DETECTION, out / "detection.onnx")
    return [out / name for name in ("detection.onnx", "detection-calibration.npz", "detection-evaluation.npz")]


def write_directions(out: Path, models: Path, fonts: Path) -> list[Path]:
    """Direction classifier and lines; proves that it tells which are upside down."""
    lines, labels = pages.make_directions(CALIBRATION_DIRECTIONS + EVALUATION_DIRECTIONS, fonts, SEED)
    session = onnxruntime.InferenceSession(str(models / DIRECTION), providers=["CPUExecutionProvider"])
    share = float(np.mean(session.run(None, {"x": lines})[0].argmax(-1) == labels))
    print(f"the model tells the direction of {share:.1%} of {len(lines)} lines")
    if share < TURNED:
        raise SystemExit(f"share below {TURNED}: the preprocessing does not fit the model")
    np.savez_compressed(out / "direction-calibration.npz", x=lines[:CALIBRATION_DIRECTIONS])
    np.savez_compressed(out / "direction-evaluation.npz", x=lines[CALIBRATION_DIRECTIONS:], label=labels[CALIBRATION_DIRECTIONS:])
    shutil.copyfile(models / DIRECTION, out / "direction.onnx")
    return [out / name for name in ("direction.onnx", "direction-calibration.npz", "direction-evaluation.npz")]


def package_folder(name: str) -> Path:
    """Where an installed package lies; it is not imported, because its own dependencies are not installed."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"the package {name} is not installed; install examples/ocr/requirements.txt")
    return Path(spec.submodule_search_locations[0])


def recipe_digest() -> str:
    """What decides the output, as SHA-256: this script and the pinned packages. It is written last, so a folder that has it is whole."""
    files = [Path(__file__).with_name(name) for name in ("make.py", "lines.py", "pages.py", "requirements.txt")]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description="Copy rapidocr's recognition model and render text lines for it.")
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
    source = package_folder("rapidocr") / MODEL
    fonts = package_folder("matplotlib") / "mpl-data" / "fonts" / "ttf"
    texts, lines = make_lines(CALIBRATION_LINES + EVALUATION_LINES, fonts)
    answers = read_lines(source, lines)
    for text, answer in zip(texts[:12], answers, strict=False):
        print(f"  {text!r:36} read as {answer!r}")
    exact = sum(answer == text for text, answer in zip(texts, answers, strict=True))
    similarity = float(np.mean([difflib.SequenceMatcher(None, answer, text).ratio() for text, answer in zip(texts, answers, strict=True)]))
    print(f"the model reads {exact} of {len(texts)} lines exactly as written; similarity {similarity:.3f}")
    if similarity < LEGIBLE:
        raise SystemExit(f"similarity below {LEGIBLE}: the preprocessing does not fit the model; nothing written")
    np.savez_compressed(calibration, x=lines[:CALIBRATION_LINES])
    np.savez_compressed(evaluation, x=lines[CALIBRATION_LINES:])
    shutil.copyfile(source, model)
    written += write_pages(out, package_folder("rapidocr"), fonts) + write_directions(out, package_folder("rapidocr"), fonts)
    stamp.write_text(recipe)
    print("\n".join(f"{path}  {path.stat().st_size / 1e6:.2f} MB" for path in written))


if __name__ == "__main__":
    main()
