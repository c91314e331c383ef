"""Bringing a torch module to the device that trains it, and back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from burnish.errors import BurnishError, Reason

_SEVERAL = ("on the same device", "on the expected device", "two different devices")
"""How PyTorch says that an operator was given tensors of several devices."""


@contextlib.contextmanager
def lent(module: Any, device: str) -> Iterator[None]:
    """The module on `device` meanwhile, on the CPU again afterwards: whoever exports, scores or prunes it knows of no other place.

    Raises:
        BurnishError: OutOfMemory where the device has too little; PassNotApplicable where the model's own code stays on the CPU.
    """
    import torch

    if device == "cpu":
        yield
        return
    try:
        move(module, device)
        yield
    except torch.OutOfMemoryError as error:
        raise BurnishError(
            Reason.OutOfMemory,
            "training needs more memory than the GPU has; lower batchSize, or ask for a larger GPU with targets[].accelerator.product",
        ) from error
    except RuntimeError as error:
        if not any(words in str(error) for words in _SEVERAL):
            raise
        raise BurnishError(
            Reason.PassNotApplicable,
            f"the model makes tensors on the CPU in its own code, so a GPU can't train it: {str(error).splitlines()[0]}; "
            "make them on the device of an input (torch.zeros(..., device=x.device)), or train for a target of accelerator type: CPU",
        ) from error
    finally:
        move(module, "cpu")


def move(module: Any, device: str) -> None:
    """Weights, statistics, and the constants that a captured graph makes itself: it noted the device it was captured on."""
    import torch

    module.to(device)
    place = torch.device(device)
    for part in module.modules():
        if isinstance(part, torch.fx.GraphModule):
            for node in part.graph.nodes:
                node.args, node.kwargs = torch.fx.node.map_aggregate(
                    (node.args, node.kwargs), lambda value: place if isinstance(value, torch.device) else value
                )
            part.recompile()
