"""Train the digits CNN and cut the data that `examples/digits.yaml` refers to.

The results (`model.onnx`, `calibration.npz`, `evaluation.npz`, `training.npz`) are committed beside this script, so that the example runs without a training
framework; the script is here so that nobody has to believe in files of unknown origin. It is run with the packages pinned in
`requirements.txt` (Python 3.11 or 3.12, CPU, about three minutes on two cores):

    uv venv .venv-digits && uv pip install -p .venv-digits/bin/python --require-hashes -r examples/digits/requirements.txt
    .venv-digits/bin/python examples/digits/make.py

Everything is seeded: the data files are the same on every machine, the weights where the CPU computes the sums in the same order.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional

SEED = 20
SIDE = 32
EPOCHS = 30
BATCH = 64
CALIBRATION_SAMPLES = 128
COPIES = 3
"""Of each training image, turned and shifted, in training.npz."""
OPSET = 20

Images = NDArray[np.float32]
Labels = NDArray[np.int64]


def build_network() -> nn.Sequential:
    """A plain CNN of 0.77 M parameters: (N, 1, 32, 32) float32 in, (N, 10) float32 logits out."""

    def block(channels_in: int, channels_out: int) -> list[nn.Module]:
        return [nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False), nn.BatchNorm2d(channels_out), nn.ReLU()]

    return nn.Sequential(
        *block(1, 32),
        *block(32, 64),
        nn.MaxPool2d(2),
        *block(64, 128),
        nn.MaxPool2d(2),
        *block(128, 128),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(128 * (SIDE // 8) ** 2, 256),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(256, 10),
    )


def load_images() -> tuple[Images, Labels]:
    """scikit-learn's 1797 digits, enlarged from 8x8: (N, 1, 32, 32) float32 in [0, 1], and their labels (N,) int64.

    Values are rounded to 1/256, which no digit notices and which halves the size of the compressed files.
    """
    digits = load_digits()
    small = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    large = functional.interpolate(small, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    return (large * 256).round().div(256).numpy(), digits.target.astype(np.int64)


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Turn by up to 10 degrees, scale by up to 10 % and shift by up to 2 pixels, each image on its own; same shape."""
    count = len(images)

    def uniform(limit: float) -> Tensor:
        return (torch.rand(count, generator=generator) * 2 - 1) * limit

    angle, scale = uniform(np.pi / 18), 1 + uniform(0.1)
    shift_x, shift_y = uniform(2 * 2 / SIDE), uniform(2 * 2 / SIDE)  # affine_grid counts the whole width as 2
    cosine, sine = torch.cos(angle) * scale, torch.sin(angle) * scale
    matrix = torch.stack([torch.stack([cosine, -sine, shift_x], 1), torch.stack([sine, cosine, shift_y], 1)], 1)
    grid = functional.affine_grid(matrix, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def training_data(images: Images, labels: Labels) -> tuple[Images, Labels]:
    """The images as they are and `COPIES` of each, turned and shifted, for passes that train (they augment nothing themselves); rounded as the images."""
    generator = torch.Generator().manual_seed(SEED)
    copies = [augment(torch.from_numpy(images), generator) for _ in range(COPIES)]
    rounded = [(copy.clamp(0, 1) * 256).round().div(256).numpy() for copy in copies]
    return np.concatenate([images, *rounded]).astype(np.float16), np.tile(labels, COPIES + 1)


def train(images: Images, labels: Labels) -> nn.Sequential:
    """A network trained on the given half of the data, in evaluation mode."""
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    network = build_network()
    inputs, targets = torch.from_numpy(images), torch.from_numpy(labels)
    steps = EPOCHS * -(-len(inputs) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)
    for epoch in range(EPOCHS):
        total = 0.0
        for chosen in torch.randperm(len(inputs), generator=generator).split(BATCH):
            loss = functional.cross_entropy(network(augment(inputs[chosen], generator)), targets[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(chosen)
        print(f"epoch {epoch + 1:2d}/{EPOCHS}  loss {total / len(inputs):.4f}", flush=True)
    return network.eval()


def accuracy(network: nn.Module, images: Images, labels: Labels) -> float:
    """Share of images whose largest logit is the label's."""
    with torch.inference_mode():
        answers = network(torch.from_numpy(images)).argmax(1).numpy()
    return float((answers == labels).mean())


def export(network: nn.Module, path: Path) -> None:
    """Write the network as one ONNX file with a dynamic batch, input `image` and output `logits`."""
    batch = torch.export.Dim("batch", min=1, max=1024)
    example = torch.zeros(2, 1, SIDE, SIDE)  # torch.export takes an example batch of 1 for a constant
    program = torch.onnx.export(
        network,
        (example,),
        dynamo=True,
        dynamic_shapes=({0: batch},),
        input_names=["image"],
        output_names=["logits"],
        opset_version=OPSET,
        external_data=False,
        verbose=False,
    )
    assert program is not None  # None only without dynamo
    for node in program.model.graph:
        node.metadata_props.clear()  # stack traces with the paths of the machine that exported
        node.doc_string = None
    program.save(path, external_data=False)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the digits CNN; write model.onnx, calibration.npz, evaluation.npz and training.npz.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write to (default: beside this script)")
    parser.add_argument("--force", action="store_true", help="train again although the files are there")
    arguments = parser.parse_args()
    out: Path = arguments.out
    written = [out / name for name in ("model.onnx", "calibration.npz", "evaluation.npz", "training.npz")]
    trained = all(path.exists() for path in written[:3]) and not arguments.force
    if trained and written[3].exists():
        print(f"{out} is complete; --force trains again")
        return
    out.mkdir(parents=True, exist_ok=True)
    images, labels = load_images()
    train_images, held_images, train_labels, held_labels = train_test_split(images, labels, test_size=0.5, random_state=SEED, stratify=labels)
    more_images, more_labels = training_data(train_images, train_labels)
    np.savez_compressed(written[3], image=more_images, label=more_labels)
    if trained:
        print(f"wrote {written[3]}; the rest is there, --force trains again")
        return
    network = train(train_images, train_labels)
    print(f"held-out accuracy {accuracy(network, held_images, held_labels):.4f} on {len(held_labels)} samples")
    export(network, written[0])
    np.savez_compressed(written[1], image=train_images[:CALIBRATION_SAMPLES])
    np.savez_compressed(written[2], image=held_images, label=held_labels)
    print("\n".join(f"{path}  {path.stat().st_size / 1e6:.2f} MB" for path in written))


if __name__ == "__main__":
    main()
