"""The networks of examples/pytorch and examples/keras in the other forms that their frameworks leave them in."""

from __future__ import annotations

import subprocess
from pathlib import Path

from burnish.toolchains import environments

EXAMPLES = Path(__file__).parents[2] / "examples"


def programs(folder: Path) -> None:
    """digits.pt2 (ExportedProgram) and digits.script.pt (TorchScript), as matrix_sources.py writes them."""
    _run("torch", Path(__file__).with_name("matrix_sources.py"), EXAMPLES / "pytorch/model.safetensors", folder)


def keras(code: str, target: Path) -> None:
    """What Keras leaves at `target`: `code` has the network as `model`, and where to put it as `file`."""
    whole = f"import sys, keras; model = keras.models.load_model(sys.argv[1], compile=False); file = sys.argv[2]; {code}"
    _run("tensorflow", "-c", whole, EXAMPLES / "keras/model.keras", target)


def _run(toolchain: str, *arguments: object) -> None:
    command = [str(part) for part in (environments.ensure(toolchain, print).python, *arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
