"""Fetch the recognition model of rapidocr and render the text lines that `examples/ocr.yaml` refers to.

The model (PP-OCRv6 small, ONNX) comes out of the installed PyPI package `rapidocr`; the lines are drawn here, so their texts are known and the
script can prove that the model reads them before it writes anything. Neither is committed. It is run with the packages pinned in
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
import io
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

SEED = 48
HEIGHT, WIDTH = 48, 320  # rapidocr's rec_img_shape
CALIBRATION_LINES = 64
EVALUATION_LINES = 160
MODEL = "models/PP-OCRv6_rec_small.onnx"
FONTS = ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSans-Oblique.ttf", "DejaVuSerif.ttf", "DejaVuSerif-Italic.ttf", "DejaVuSansMono.ttf")
LEGIBLE = 0.95  # similarity of what is read and what was written; below it the preprocessing is wrong, or the lines are no text

# Split from text because a page of words reads better than a page of quotes.
WORDS = """
account amber anchor annual answer apple arrival autumn balance basket battery bicycle blanket border bottle bridge bronze budget button cabinet
camera candle captain carbon castle ceiling central century channel chapter circle climate cloud coffee column compass concert copper corner
cotton council cousin credit crystal curtain customs daily danger decimal delivery deposit desert diamond dinner distance doctor dollar double
dozen dragon eagle eastern editor eleven engine entrance evening export fabric factory family feather figure finger flower forest forward
freight frozen future garden general gentle glacier golden granite gravity guitar hammer harbor harvest height history holiday hundred iceberg
import insect invoice island jacket journal jungle kettle kitchen ladder lantern leather lemon letter library liquid magnet manager marble
market meadow member message meter midnight million mineral minute mirror monday morning motion mountain museum native needle network nickel
northern notice number object ocean office orange orchard oxygen package palace paper parcel passage pencil pepper percent picture pilot planet
pocket portrait powder printer profit public purple quality quarter rabbit railway receipt record region return ribbon rocket saddle saturday
season second sector seven shadow shelter signal silver simple sister sketch spring square station steel storage street summer sunday supply
symbol system table target temple thunder ticket timber total tower traffic travel trumpet tunnel twelve ulster united valley velvet victory
village violin voyage wagon warning water weather western whisper window winter wonder yellow zebra café crème façade Größe Straße señor Zürich
""".split()  # noqa: SIM905

Lines = NDArray[np.float32]


def make_text(rng: np.random.Generator) -> str:
    """One line as it may stand on a form, a label or a sign: words, amounts, dates, codes."""

    def word() -> str:
        text = str(rng.choice(WORDS))
        return (text, text.capitalize(), text.upper())[rng.choice(3, p=[0.5, 0.35, 0.15])]

    def digits(count: int) -> str:
        return "".join(str(d) for d in rng.integers(0, 10, count))

    match rng.integers(7):
        case 0:
            return f"{word()} {word()}"
        case 1:
            return f"{word()} {word()} {word()}"
        case 2:
            return f"{word()}: {rng.integers(1, 2000)}.{digits(2)} {rng.choice(['EUR', 'USD', '$', '€', '%'])}"
        case 3:
            return f"{rng.integers(1, 29):02d}.{rng.integers(1, 13):02d}.{rng.integers(1950, 2030)} {word()}"
        case 4:
            return f"{''.join(rng.choice(list('ABCDEFGHJKLMNPRSTUVWXYZ'), 3))}-{digits(4)}/{digits(2)}"
        case 5:
            return f"No. {digits(5)} ({word()})"
        case _:
            return f"{rng.integers(1, 400)} {word().capitalize()} {rng.choice(['Street', 'Road', 'Ave.', 'Lane'])}"


def render(text: str, fonts: Path, rng: np.random.Generator) -> Image.Image:
    """The text as an RGB picture of its own size, as a cheap scan shows it: small, of low contrast, tilted, blurred, noisy, JPEG.

    On large clean print any precision reads every line; the lines near the edge of the legible are those that quantization loses.
    """
    font = ImageFont.truetype(str(fonts / str(rng.choice(FONTS))), int(rng.integers(10, 18)))
    left, top, right, bottom = font.getbbox(text)
    margin = int(rng.integers(2, 5))
    paper = np.clip(rng.integers(170, 250) + rng.integers(-12, 13, 3), 0, 255)
    ink = np.clip(paper - rng.integers(50, 130) - rng.integers(0, 20, 3), 0, 255)
    background: tuple[int, ...] = tuple(paper.tolist())
    picture = Image.new("RGB", (int(right - left) + 2 * margin, int(bottom - top) + 2 * margin), background)
    ImageDraw.Draw(picture).text((margin - left, margin - top), text, font=font, fill=tuple(ink.tolist()))
    picture = picture.rotate(float(rng.uniform(-1.2, 1.2)), resample=Image.Resampling.BICUBIC, fillcolor=background)
    picture = picture.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.2, 0.7))))
    noisy = np.asarray(picture, np.float32) + rng.normal(0, rng.uniform(5, 20), (picture.height, picture.width, 3))
    file = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=int(rng.integers(30, 60)))
    return Image.open(file).convert("RGB")


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


def package_folder(name: str) -> Path:
    """Where an installed package lies; it is not imported, because its own dependencies are not installed."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"the package {name} is not installed; install examples/ocr/requirements.txt")
    return Path(spec.submodule_search_locations[0])


def recipe_digest() -> str:
    """What decides the output, as SHA-256: this script and the pinned packages. It is written last, so a folder that has it is whole."""
    files = (Path(__file__), Path(__file__).with_name("requirements.txt"))
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
    texts, lines = make_lines(CALIBRATION_LINES + EVALUATION_LINES, package_folder("matplotlib") / "mpl-data" / "fonts" / "ttf")
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
    stamp.write_text(recipe)
    print("\n".join(f"{path}  {path.stat().st_size / 1e6:.2f} MB" for path in written))


if __name__ == "__main__":
    main()
