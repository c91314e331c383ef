"""Lines of text as a cheap scan shows them; what `make.py` and `pages.py` draw from."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Picture = Image.Image
FONTS = ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSans-Oblique.ttf", "DejaVuSerif.ttf", "DejaVuSerif-Italic.ttf", "DejaVuSansMono.ttf")

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


def render(text: str, fonts: Path, rng: np.random.Generator) -> Picture:
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
