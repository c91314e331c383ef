"""Cut scikit-learn's digits into the folders of images that `examples/images.yaml` refers to.

The results are committed; run it with what `make dev` installs: `.venv/bin/python examples/images/make.py`. The split is that of
`examples/digits/make.py`, whose model this is: nothing that it was trained on is in the evaluation data.
"""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

SEED = 20
CALIBRATION, EVALUATION = 128, 400


def write(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """A tar.gz with one folder per digit; equal images give equal bytes."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            png = io.BytesIO()
            Image.fromarray(np.round(image * (255 / 16)).astype(np.uint8)).save(png, "PNG")
            info = tarfile.TarInfo(f"{path.name.partition('.')[0]}/{label}/{number:03}.png")
            info.size = png.tell()
            png.seek(0)
            archive.addfile(info, png)
    path.write_bytes(gzip.compress(stream.getvalue(), mtime=0))


def main() -> None:
    digits = load_digits()
    train, held, train_labels, held_labels = train_test_split(digits.images, digits.target, test_size=0.5, random_state=SEED, stratify=digits.target)
    folder = Path(__file__).parent
    write(folder / "calibration.tar.gz", train[:CALIBRATION], train_labels[:CALIBRATION])
    write(folder / "evaluation.tar.gz", held[:EVALUATION], held_labels[:EVALUATION])


if __name__ == "__main__":
    main()
