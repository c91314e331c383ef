"""Runs in the toolchain environment `torch`, with sentence-transformers beside it: a model with a Dense layer as the library saves it, through our export.

python dense_by_library.py PACKAGES MODEL DIRECTORY      prints the largest difference of the ONNX file's answers from the library's
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.append(sys.argv[1])  # after the environment's own

import numpy as np
import torch
from sentence_transformers import SentenceTransformer, models

from burnish.plugins import base, registry
from burnish.serving import images

SENTENCES = ["A short one.", "This sentence has quite a few more words than the first one has."]


def main() -> None:
    model, directory = Path(sys.argv[2]), Path(sys.argv[3])
    torch.manual_seed(0)
    library = SentenceTransformer(str(model), device="cpu")
    library.append(models.Dense(in_features=384, out_features=64))
    library.append(models.Normalize())
    library.save(str(directory / "saved"))
    expected = library.encode(SENTENCES)
    tokens = library.tokenizer(SENTENCES, padding=True, return_tensors="np")
    source, target = base.SourceModel(directory / "saved"), directory / "model.onnx"
    registry.formats()["HuggingFace"].export(source, target, image=images.LOCAL_CPU)
    feed = {name: array.astype(np.int64) for name, array in tokens.items()}
    (answer,) = registry.formats()["ONNX"].reference(base.SourceModel(target), [feed])
    found = answer["sentence_embedding"]
    assert found.shape == expected.shape == (2, 64)
    sys.stdout.write(f"\n{np.abs(found - expected).max()} {np.abs(found[::-1] - expected).max()}\n")


if __name__ == "__main__":
    main()
