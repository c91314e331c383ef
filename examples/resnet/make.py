"""Train torchvision's ResNet-18 on the digits, enlarged, and save its weights alone: the source of `examples/resnet.yaml`.

The weights take 45 MB and are not committed. It runs in Burnish's own environment for PyTorch (CPU, about a minute on two cores):

    burnish toolchain install torch           # prints where it is
    <that directory>/bin/python examples/resnet/make.py --out examples/.work/resnet

Everything is seeded, and a second run over a complete folder does nothing.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import torchvision
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.nn import functional

SEED = 18
SIDE = 64
EPOCHS = 1
BATCH = 16
CALIBRATION_SAMPLES = 128
ACCURATE = 0.9  # an untrained network answers one class for everything: no fixture for accuracy

Images = NDArray[np.float32]


def load_images() -> tuple[Images, NDArray[np.int64]]:
    """scikit-learn's 1797 digits, enlarged from 8x8 and grey in all colours: (N, 3, 64, 64) float32 in [0, 1], and their labels (N,) int64."""
    digits = load_digits()
    small = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    large = functional.interpolate(small, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    return (large * 256).round().div(256).expand(-1, 3, -1, -1).numpy(), digits.target.astype(np.int64)


def train(images: torch.Tensor, labels: torch.Tensor) -> torch.nn.Module:
    """The trained network, in evaluation mode: (N, 3, 64, 64) float32 -> (N, 10) float32 logits."""
    torch.manual_seed(SEED)
    network = torchvision.models.resnet18(num_classes=10)
    steps = EPOCHS * (len(images) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=steps)
    for epoch in range(EPOCHS):
        total = 0.0
        for chosen in torch.randperm(len(images)).split(BATCH)[: len(images) // BATCH]:  # a last batch of one has no variance
            loss = functional.cross_entropy(network(images[chosen]), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(chosen)
        print(f"epoch {epoch + 1}/{EPOCHS}  loss {total / len(images):.4f}", flush=True)
    return network.eval()


def accuracy(network: torch.nn.Module, images: Images, labels: NDArray[np.int64]) -> float:
    """Share of images whose largest logit is the label's."""
    with torch.inference_mode():
        answers = torch.cat([network(batch) for batch in torch.from_numpy(images).split(64)]).argmax(1).numpy()
    return float((answers == labels).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description="Train ResNet-18 on the digits; write model.safetensors, calibration.npz and evaluation.npz.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--force", action="store_true", help="train again although the files are there")
    arguments = parser.parse_args()
    out: Path = arguments.out
    model, calibration, evaluation = written = [out / name for name in ("model.safetensors", "calibration.npz", "evaluation.npz")]
    stamp, recipe = out / "recipe.sha256", hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == recipe and all(path.exists() for path in written) and not arguments.force:
        print(f"{out} is complete; --force trains again")
        return
    out.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    images, labels = load_images()
    train_images, held_images, train_labels, held_labels = train_test_split(images, labels, test_size=0.5, random_state=SEED, stratify=labels)
    network = train(torch.from_numpy(train_images), torch.from_numpy(train_labels))
    found = accuracy(network, held_images, held_labels)
    print(f"held-out accuracy {found:.4f} on {len(held_labels)} samples")
    if found < ACCURATE:
        raise SystemExit(f"accuracy below {ACCURATE}: nothing written")
    safetensors.torch.save_file(network.state_dict(), model)
    np.savez_compressed(calibration, image=train_images[:CALIBRATION_SAMPLES])
    np.savez_compressed(evaluation, image=held_images, label=held_labels)
    stamp.write_text(recipe)
    print("\n".join(f"{path}  {path.stat().st_size / 1e6:.2f} MB" for path in written))


if __name__ == "__main__":
    main()
