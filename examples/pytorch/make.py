"""Train a network of the timm library on the digits and save its weights alone: the source of `examples/pytorch.yaml`.

`model.safetensors` is committed beside this script, which shows where it comes from. The data is that of `examples/digits`, whose calibration and
evaluation files the manifest uses too. It runs in Burnish's own environment for PyTorch (CPU, about a minute on two cores):

    burnish toolchain install torch           # prints where it is
    <that directory>/bin/python examples/pytorch/make.py
"""

from __future__ import annotations

import argparse
import runpy
from pathlib import Path

import safetensors.torch
import timm
import torch
from sklearn.model_selection import train_test_split
from torch.nn import functional

DIGITS = runpy.run_path(str(Path(__file__).parents[1] / "digits" / "make.py"))
ARCHITECTURE, ARGUMENTS = "test_resnet", {"num_classes": 10, "in_chans": 1}
EPOCHS = 25
BATCH = 32


def train(images: torch.Tensor, labels: torch.Tensor) -> torch.nn.Module:
    """The trained network, in evaluation mode."""
    torch.manual_seed(DIGITS["SEED"])
    generator = torch.Generator().manual_seed(DIGITS["SEED"])
    network = timm.create_model(ARCHITECTURE, **ARGUMENTS)
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3, weight_decay=1e-2)
    steps = EPOCHS * -(-len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps)
    for epoch in range(EPOCHS):
        total = 0.0
        for chosen in torch.randperm(len(images), generator=generator).split(BATCH):
            answers = network(DIGITS["augment"](images[chosen], generator))
            loss = functional.cross_entropy(answers, labels[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(chosen)
        print(f"epoch {epoch + 1:2d}/{EPOCHS}  loss {total / len(images):.4f}", flush=True)
    return network.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a small residual network; write model.safetensors.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write to (default: beside this script)")
    arguments = parser.parse_args()
    images, labels = DIGITS["load_images"]()
    seed = DIGITS["SEED"]
    train_images, held_images, train_labels, held_labels = train_test_split(images, labels, test_size=0.5, random_state=seed, stratify=labels)
    network = train(torch.from_numpy(train_images), torch.from_numpy(train_labels))
    print(f"held-out accuracy {DIGITS['accuracy'](network, held_images, held_labels):.4f} on {len(held_labels)} samples")
    safetensors.torch.save_file(network.state_dict(), arguments.out / "model.safetensors")


if __name__ == "__main__":
    main()
