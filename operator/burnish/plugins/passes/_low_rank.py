"""Layers of a torch module as two smaller ones: which can be, where it pays, the factors of their weights, and how many products that saves.

A weight of m x n becomes m x r times r x n. A convolution of k x k counts as a matrix of its output channels by all that one of them sees: it becomes
a convolution of k x k to r channels and one of 1 x 1.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

from burnish.plugins.formats import _torch_module

if TYPE_CHECKING:
    import numpy as np

_NMF_ROUNDS = 400


@dataclasses.dataclass(frozen=True)
class Layer:
    """One that can be split."""

    name: str
    rows: int
    columns: int
    positions: int
    """Times that it is multiplied for one sample."""
    singular: np.ndarray
    """Singular values of its weight, the largest first."""

    @property
    def largest(self) -> int:
        """The largest rank at which two layers are smaller than this one; 0 where none is."""
        return (self.rows * self.columns - 1) // (self.rows + self.columns)

    def rank_for(self, energy: float) -> int:
        """The smallest rank that keeps this share of the squared singular values."""
        import numpy as np

        kept = np.cumsum(self.singular.astype(np.float64) ** 2)
        return min(len(kept), int(np.searchsorted(kept, energy * kept[-1])) + 1)

    def worth(self) -> np.ndarray:
        """Of each singular value, for each multiply-accumulate that it costs: by how much it raises the logarithm of the energy kept; falling.

        Layers follow each other, so what is kept of the whole is more like a product than like a sum: none is given up for the others.
        """
        import numpy as np

        kept = np.cumsum(self.singular.astype(np.float64) ** 2) + np.finfo(np.float64).tiny
        return np.append(np.inf, np.log(kept[1:] / kept[:-1])) / (self.positions * (self.rows + self.columns))

    def products(self, rank: int | None = None) -> int:
        """Multiply-accumulates of one sample, whole or at this rank."""
        return self.positions * (self.rows * self.columns if rank is None else rank * (self.rows + self.columns))


def layers(named: Any) -> tuple[list[Layer], dict[str, str]]:
    """The layers that can be split, and of the others with weights why they can't."""
    import torch

    module, found, others = named.module, [], {}
    positions = _positions(named)
    shared = _shared(module)
    for name, layer in module.named_modules():
        if not isinstance(layer, (torch.nn.Linear, torch.nn.modules.conv._ConvNd)):
            continue
        why = _refusal(module, name, layer, shared) or ("" if name in positions else "the model does not run it")
        if why:
            others[name] = why
            continue
        weight = matrix(layer)
        found.append(Layer(name, weight.shape[0], weight.shape[1], positions[name], torch.linalg.svdvals(weight).numpy()))
    return found, others


def matrix(layer: Any) -> Any:
    """The weight as a matrix of outputs by inputs."""
    return layer.weight.detach().flatten(1)


def _refusal(module: Any, name: str, layer: Any, shared: set[int]) -> str:
    import torch

    parent = module.get_submodule(name.rpartition(".")[0])
    if isinstance(layer, torch.nn.modules.conv._ConvNd) and type(layer) is not torch.nn.Conv2d:
        return f"{type(layer).__name__} is not split"
    if isinstance(layer, torch.nn.Conv2d) and layer.groups > 1:
        return "a convolution in groups"
    if isinstance(parent, torch.nn.MultiheadAttention):
        return "attention reads its weight without it"
    if id(layer.weight) in shared:
        return "another layer has the same weight"
    return ""


def _shared(module: Any) -> set[int]:
    """Weights that stand in several layers."""
    seen: set[int] = set()
    twice: set[int] = set()
    for _, layer in module.named_modules(remove_duplicate=False):
        for weight in layer.parameters(recurse=False):
            (twice if id(weight) in seen else seen).add(id(weight))
    return twice


def _positions(named: Any) -> dict[str, int]:
    """Layer -> rows that it multiplies for one sample, of those that run."""
    import torch

    found: dict[str, int] = {}

    def remember(name: str, layer: Any, answer: Any) -> None:
        channels = layer.out_features if isinstance(layer, torch.nn.Linear) else layer.out_channels
        found[name] = found.get(name, 0) + answer.numel() // channels

    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    hooks = [
        layer.register_forward_hook(lambda own, _, answer, name=name: remember(name, own, answer))
        for name, layer in named.module.named_modules()
        if isinstance(layer, kinds)
    ]
    try:
        run(named)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: max(1, count // _torch_module.EXAMPLE_BATCH) for name, count in found.items()}


def run(named: Any) -> None:
    """Run the module on made-up inputs."""
    import torch

    with torch.no_grad():
        named.outputs([_torch_module.example(i) for i in named.inputs])


def products(named: Any) -> int:
    """Multiply-accumulates of one sample: PyTorch's own counter counts two operations for each."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        run(named)
    return int(counter.get_total_flops()) // 2 // _torch_module.EXAMPLE_BATCH


def replace(module: Any, name: str, rank: int, factors: tuple[Any, Any] | None = None) -> None:
    """Put two layers in the place of one.

    Args:
        module: what holds it.
        name: of the layer.
        rank: channels between the two.
        factors: (outputs, rank) and (rank, inputs), the weights; without, whatever PyTorch begins with.
    """
    import torch

    layer = module.get_submodule(name)
    has_bias = layer.bias is not None
    if isinstance(layer, torch.nn.Linear):
        pair = [torch.nn.Linear(layer.in_features, rank, bias=False), torch.nn.Linear(rank, layer.out_features, bias=has_bias)]
    else:
        options = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation, "padding_mode": layer.padding_mode}
        pair = [
            torch.nn.Conv2d(layer.in_channels, rank, layer.kernel_size, bias=False, **options),
            torch.nn.Conv2d(rank, layer.out_channels, 1, bias=has_bias),
        ]
    first, second = (made.to(layer.weight.dtype) for made in pair)
    with torch.no_grad():
        if factors is not None:
            second.weight.copy_(factors[0].reshape(second.weight.shape))
            first.weight.copy_(factors[1].reshape(first.weight.shape))
        if has_bias:
            second.bias.copy_(layer.bias)
    module.set_submodule(name, torch.nn.Sequential(first, second).train(layer.training))


def svd(weight: Any, rank: int) -> tuple[Any, Any]:
    """The best two factors by squared error (Eckart and Young 1936), as large as each other."""
    import torch

    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    root = values[:rank].sqrt()
    return left[:, :rank] * root, root[:, None] * right[:rank]


def nmf(weight: Any, rank: int, seed: int) -> tuple[Any, Any]:
    """Factors without negative values; of a weight with both signs each sign has its own, and half of the rank."""
    import torch

    positive, negative = weight.clamp_min(0), (-weight).clamp_min(0)
    parts = [(sign, part) for sign, part in ((1, positive), (-1, negative)) if bool(part.any())][:rank] or [(1, positive)]
    ranks = [rank - rank // 2, rank // 2] if len(parts) > 1 else [rank]
    pairs = [(sign, *_non_negative(part, own, seed)) for (sign, part), own in zip(parts, ranks, strict=True)]
    return torch.cat([sign * left for sign, left, _ in pairs], 1), torch.cat([right for *_, right in pairs], 0)


def _non_negative(weight: Any, rank: int, seed: int) -> tuple[Any, Any]:
    import warnings

    import sklearn.decomposition
    import sklearn.exceptions
    import torch

    solver = sklearn.decomposition.NMF(rank, init="nndsvda", random_state=seed, max_iter=_NMF_ROUNDS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sklearn.exceptions.ConvergenceWarning)  # the error is told, however near the best it is
        left = torch.from_numpy(solver.fit_transform(weight.numpy()))
    right = torch.from_numpy(solver.components_)
    scale = (right.norm(dim=1) / left.norm(dim=0).clamp_min(1e-12)).sqrt().clamp_min(1e-12)  # as large as each other, so that both learn
    return left * scale, right / scale[:, None]


def error(weight: Any, factors: tuple[Any, Any]) -> float:
    """How far the factors' product is from the weight, as a share of it."""
    return float((factors[0] @ factors[1] - weight).norm()) / (float(weight.norm()) or 1.0)


def total_error(parts: list[tuple[float, float]]) -> float:
    """The relative error of several weights together, of (error, norm) of each."""
    return math.sqrt(sum((e * n) ** 2 for e, n in parts) / (sum(n**2 for _, n in parts) or 1.0))
