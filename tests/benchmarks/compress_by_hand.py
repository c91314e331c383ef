"""What bench_compression.py needs of PyTorch's own environment: `compress_by_hand.py FOLDER WEIGHTS`.

Leaves in FOLDER `mlp.onnx` (three layers of 256, trained on the digits), `cnn.pt2` (the network of examples/digits as a program of PyTorch), `resnet-training.npz` (the half of the digits that examples/resnet trains on), and
`resnet-by-hand.onnx`: ResNet-18 with the weights in the file WEIGHTS, pruned by half with Torch-Pruning as its own README does it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import safetensors.torch
import torch
import torch_pruning
import torchvision
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.nn import functional

RESNET_SEED, RESNET_SIDE = 18, 64
DIGITS = Path(__file__).parents[2] / "examples" / "digits"


def mlp() -> torch.nn.Module:
    """(N, 1, 32, 32) -> (N, 10), trained for ten epochs."""
    torch.manual_seed(0)
    layers = [torch.nn.Linear(1024, 256), torch.nn.ReLU(), torch.nn.Linear(256, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10)]
    network = torch.nn.Sequential(torch.nn.Flatten(), *layers)
    with np.load(DIGITS / "training.npz") as data:
        images, labels = torch.from_numpy(data["image"].astype(np.float32)), torch.from_numpy(data["label"])
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    for _ in range(10):
        for chosen in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            functional.cross_entropy(network(images[chosen]), labels[chosen]).backward()
            optimizer.step()
    return network.eval()


class Cnn(torch.nn.Module):
    """The network of examples/digits/make.py with the weights of its ONNX, batch normalization folded: (N, 1, 32, 32) -> (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        nn, pool = torch.nn, torch.nn.MaxPool2d(2)
        first, second, third, fourth = (nn.Conv2d(i, o, 3, padding=1) for i, o in ((1, 32), (32, 64), (64, 128), (128, 128)))
        convolutions = [first, nn.ReLU(), second, nn.ReLU(), pool, third, nn.ReLU(), pool, fourth, nn.ReLU(), pool]
        self.layers = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(2048, 256), nn.ReLU(), nn.Linear(256, 10))
        stored = onnx.load(DIGITS / "model.onnx").graph.initializer
        weights = {t.name: torch.from_numpy(onnx.numpy_helper.to_array(t).copy()) for t in stored}
        names = [name for name in weights if name.endswith(".weight")]
        with torch.no_grad():
            for name, layer in zip(names, (first, second, third, fourth, self.layers[12], self.layers[14]), strict=True):
                layer.weight.copy_(weights[name])
                layer.bias.copy_(weights[f"{name}_bias"] if f"{name}_bias" in weights else weights[name.replace("weight", "bias")])

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.layers(image)
        return found


def resnet_training() -> tuple[np.ndarray, np.ndarray]:
    """As examples/resnet/make.py cuts the data."""
    digits = load_digits()
    small = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    large = functional.interpolate(small, size=(RESNET_SIDE, RESNET_SIDE), mode="bilinear", align_corners=False)
    images = (large * 256).round().div(256).expand(-1, 3, -1, -1).numpy()
    images, _, labels, _ = train_test_split(images, digits.target.astype(np.int64), test_size=0.5, random_state=RESNET_SEED, stratify=digits.target)
    return images, labels


def resnet_by_hand(weights: Path) -> torch.nn.Module:
    """ResNet-18 without half of its channels, not trained afterwards: speed does not depend on that."""
    network = torchvision.models.resnet18(num_classes=10)
    network.load_state_dict(safetensors.torch.load_file(weights))
    network.eval()
    importance = torch_pruning.importance.MagnitudeImportance(p=2)
    example = torch.zeros(1, 3, RESNET_SIDE, RESNET_SIDE)
    pruner = torch_pruning.pruner.BasePruner(network, example, importance=importance, pruning_ratio=0.5, ignored_layers=[network.fc], round_to=8)
    pruner.step()
    return network


def export(network: torch.nn.Module, path: Path, *shape: int) -> None:
    """With a batch that varies."""
    batch: Any = torch.export.Dim("batch", min=1, max=1024)
    program = torch.onnx.export(
        network,
        (torch.zeros(2, *shape),),
        dynamo=True,
        dynamic_shapes=({0: batch},),
        input_names=["image"],
        output_names=["logits"],
        opset_version=20,
        verbose=False,
    )
    assert program is not None  # None only without dynamo
    program.save(path, external_data=False)


def main(folder: Path, weights: Path) -> None:
    """Write the files."""
    export(mlp(), folder / "mlp.onnx", 1, 32, 32)
    batch: Any = torch.export.Dim("batch", min=1, max=1024)
    torch.export.save(torch.export.export(Cnn().eval(), (torch.zeros(2, 1, 32, 32),), dynamic_shapes=({0: batch},)), folder / "cnn.pt2")
    images, labels = resnet_training()
    np.savez_compressed(folder / "resnet-training.npz", image=images, label=labels)
    export(resnet_by_hand(weights), folder / "resnet-by-hand.onnx", 3, RESNET_SIDE, RESNET_SIDE)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
