"""Pages for rapidocr's detection model and lines for its direction classifier, out of the lines that `make.py` renders.

`make_pages` puts lines onto paper where they don't overlap, so that it is known where text is; `make_directions` turns every other line upside down.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from lines import Picture, make_text, render
from numpy.typing import NDArray
from PIL import Image

SIDE = 320  # the model takes multiples of 32
MOST_LINES = 8
THRESHOLD = 0.3  # rapidocr's own: text is where the model's map is at or above it
DIRECTION_HEIGHT, DIRECTION_WIDTH = 48, 192  # rapidocr's cls_image_shape


def normalize(picture: Image.Image) -> NDArray[np.float32]:
    """(3, height, width) float32, BGR, (x / 255 - 0.5) / 0.5, as rapidocr 3.10 does it for both models."""
    return ((np.asarray(picture, np.float32)[:, :, ::-1].transpose(2, 0, 1) / 255 - 0.5) / 0.5).astype(np.float32)


def make_page(fonts: Path, rng: np.random.Generator) -> tuple[Picture, NDArray[np.bool_]]:
    """A page, and where its lines lie, (height, width)."""
    paper = int(rng.integers(200, 250))
    page, text = Image.new("RGB", (SIDE, SIDE), (paper, paper, paper)), np.zeros((SIDE, SIDE), bool)
    for _ in range(MOST_LINES):
        line = render(make_text(rng), fonts, rng)
        if line.width >= SIDE or line.height >= SIDE:
            continue
        left, top = int(rng.integers(0, SIDE - line.width)), int(rng.integers(0, SIDE - line.height))
        box = np.s_[max(0, top - 6) : top + line.height + 6, max(0, left - 6) : left + line.width + 6]
        if not text[box].any():
            page.paste(line, (left, top))
            text[top : top + line.height, left : left + line.width] = True
    return page, text


def make_pages(count: int, fonts: Path, seed: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Pages (count, 3, SIDE, SIDE) float32, and where text lies, (count, SIDE, SIDE)."""
    rng = np.random.default_rng(seed)
    made = [make_page(fonts, rng) for _ in range(count)]
    return np.stack([normalize(page) for page, _ in made]), np.stack([text for _, text in made])


def make_directions(count: int, fonts: Path, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Lines (count, 3, 48, 192) float32, zeros to the right, and their labels: 0 upright, 1 upside down."""
    rng = np.random.default_rng(seed)
    lines, labels = np.zeros((count, 3, DIRECTION_HEIGHT, DIRECTION_WIDTH), np.float32), np.arange(count) % 2
    for line, label in zip(lines, labels, strict=True):
        picture = render(make_text(rng), fonts, rng)
        turned = picture.transpose(Image.Transpose.ROTATE_180) if label else picture
        width = min(DIRECTION_WIDTH, -(-DIRECTION_HEIGHT * turned.width // turned.height))
        line[:, :, :width] = normalize(turned.resize((width, DIRECTION_HEIGHT), Image.Resampling.BILINEAR))
    return lines, labels
