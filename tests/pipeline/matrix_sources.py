"""Runs in the toolchain environment `torch`: the digits network of examples/pytorch as a program and as a script.

python matrix_sources.py WEIGHTS DIRECTORY      leaves digits.pt2 and digits.script.pt there
"""

from __future__ import annotations

import sys
from pathlib import Path

import safetensors.torch
import timm
import torch


def main() -> None:
    weights, directory = map(Path, sys.argv[1:])
    network = timm.create_model("test_resnet", num_classes=10, in_chans=1)
    network.load_state_dict(safetensors.torch.load_file(weights))
    example = torch.zeros(2, 1, 32, 32)
    program = torch.export.export(network.eval(), (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, directory / "digits.pt2")
    torch.jit.save(torch.jit.trace(network, example), directory / "digits.script.pt")


if __name__ == "__main__":
    main()
