"""Factorize on small models, in PyTorch's own environment: `factorize_cases.py DIRECTORY` leaves outcome.json, case -> what was found.

test_factorize.py reads the outcome.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from training_cases import Bench, accuracy, exported, from_onnx_module, lesson, named, network, products, refused, weights

from burnish.plugins import base
from burnish.plugins.passes import _low_rank, factorize

ALONE = {"finetune": {"epochs": 0}}


def factorized(bench: Bench | None = None, module: torch.nn.Module | None = None, **options: Any) -> tuple[Any, Bench, base.TrainedModel]:
    bench = bench or Bench(lesson())
    model = named(module or network())
    config = factorize.FactorizeConfig.model_validate({"finetune": {"epochs": 2, "batchSize": 16}} | options)
    return model, bench, factorize.Factorize().apply(config, model, bench)


def ranks(model: Any) -> dict[str, int]:
    """Name -> rank of every layer that has become two."""
    pairs = {name: m for name, m in model.module.named_modules() if name and isinstance(m, torch.nn.Sequential)}
    return {name: pair[1].weight.shape[1] for name, pair in pairs.items()}


def described(model: Any, bench: Bench, made: base.TrainedModel) -> dict[str, Any]:
    return {
        "ranks": ranks(model),
        "share": weights(model) / weights(named(network())),
        "macs": _low_rank.products(model) / _low_rank.products(named(network())),
        "accuracy": accuracy(model),
        "difference": exported(model),
        "losses": list(made.losses),
        "summary": made.summary,
        "notes": list(made.notes),
    }


def of(**options: Any) -> dict[str, Any]:
    return described(*factorized(**options))


def low_rank(*shape: int) -> torch.Tensor:
    """A weight of rank 3."""
    generator = torch.Generator().manual_seed(0)
    columns = int(np.prod(shape[1:]))
    return (torch.randn(shape[0], 3, generator=generator) @ torch.randn(3, columns, generator=generator)).reshape(shape) / columns**0.5


class Varied(torch.nn.Module):
    """Convolutions with everything that they may have, and layers that have to be left alone."""

    def __init__(self) -> None:
        super().__init__()
        self.strided = torch.nn.Conv2d(1, 16, 5, stride=2, padding=3, dilation=2, padding_mode="reflect")
        self.grouped = torch.nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.turned = torch.nn.ConvTranspose2d(16, 16, 2)
        self.plain = torch.nn.Conv2d(16, 32, 3, padding="same", bias=False)
        self.attention = torch.nn.MultiheadAttention(32, 2, batch_first=True)
        self.first, self.second = torch.nn.Linear(32, 32), torch.nn.Linear(32, 32)
        self.second.weight = self.first.weight
        self.last = torch.nn.Linear(32, 24)
        self.idle = torch.nn.Linear(32, 24)
        with torch.no_grad():
            for layer in (self.strided, self.plain, self.last):
                layer.weight.copy_(low_rank(*layer.weight.shape))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.plain(self.turned(self.grouped(self.strided(image)))).flatten(2).transpose(1, 2)
        x = self.attention(x, x, x, need_weights=False)[0].mean(1)
        return self.last(self.second(self.first(x)))


def exact() -> dict[str, Any]:
    """Weights of rank 3 lose nothing at rank 3, whatever the layer's options are; the other layers stay."""
    torch.manual_seed(0)
    module = Varied().eval()
    image = torch.randn(3, 1, 12, 12)
    with torch.no_grad():
        before = module(image)
    model, _, made = factorized(module=module, rank=3, **ALONE)
    with torch.no_grad():
        after = model.module(image)
    return {"ranks": ranks(model), "difference": float((after - before).abs().max()), "size": float(before.abs().max()), "notes": list(made.notes)}


def energy() -> dict[str, Any]:
    """The ranks by hand."""
    wanted = {}
    for name, layer in network().named_modules():
        if hasattr(layer, "weight") and layer.weight.ndim > 1:
            matrix = layer.weight.detach().flatten(1).numpy()
            values = np.linalg.svd(matrix, compute_uv=False) ** 2
            rank = next(k for k in range(1, len(values) + 1) if values[:k].sum() >= 0.7 * values.sum())
            if rank * sum(matrix.shape) < matrix.size:
                wanted[name] = rank
    return of(energyPercent=70, **ALONE) | {"wanted": wanted}


def positive() -> dict[str, Any]:
    """A weight without negative values has factors without, and SVD stands beside."""
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(144, 48), torch.nn.ReLU(), torch.nn.Linear(48, 4)).eval()
    with torch.no_grad():
        module[1].weight.abs_()
    weight = module[1].weight.detach().clone()
    model, _, made = factorized(module=module, method="NMF", rank=6, **ALONE)
    pair = model.module[1]
    found = pair[1].weight.detach() @ pair[0].weight.detach()
    left, values, right = np.linalg.svd(weight.numpy(), full_matrices=False)
    best = (left[:, :6] * values[:6]) @ right[:6]
    return {
        "smallest": min(float(layer.weight.min()) for layer in pair),
        "error": float((found - weight).norm() / weight.norm()),
        "best": float(np.linalg.norm(best - weight.numpy()) / np.linalg.norm(weight.numpy())),
        "notes": list(made.notes),
    }


def resumed() -> dict[str, Any]:
    """One that goes on ends as one that was never interrupted, and computes no factors again."""
    options = {"rank": 5, "finetune": {"epochs": 3, "batchSize": 16}}
    whole, bench, made = factorized(**options)
    found = {}
    known, _low_rank.svd = _low_rank.svd, lambda *_: 1 / 0
    try:
        for kept, state in enumerate(bench.kept):
            again = Bench(lesson())
            again.earlier = state
            rest, _, end = factorized(again, **options)
            pairs = zip(whole.module.state_dict().values(), rest.module.state_dict().values(), strict=True)
            found[f"after {kept} epochs"] = all(torch.equal(a, b) for a, b in pairs) and end == base.TrainedModel(rest, *_rest(made))
    finally:
        _low_rank.svd = known
    return {"equal": found}


def _rest(made: base.TrainedModel) -> tuple[Any, ...]:
    return made.summary, made.losses, made.notes


def same_again() -> dict[str, Any]:
    runs = [factorized(method="NMF", rank=6, **ALONE)[0] for _ in range(2)]
    return {"equal": all(torch.equal(a, b) for a, b in zip(*(m.module.state_dict().values() for m in runs), strict=True))}


class Reaching(torch.nn.Module):
    """Code of its own that reads a layer's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(144, 40)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(image.flatten(1), self.layer.weight) + self.layer(image.flatten(1))


def from_graph() -> dict[str, Any]:
    """Layers made of ONNX's MatMul."""
    model = from_onnx_module(products())
    feed = {"x": np.random.default_rng(0).normal(size=[3, 3, 2, 2]).astype(np.float32)}
    before = model.run(feed)["y"]
    config = factorize.FactorizeConfig.model_validate({"rank": 3, **ALONE})
    made = factorize.Factorize().apply(config, model, Bench(None))
    return {"summary": made.summary, "notes": list(made.notes), "shape": list(model.run(feed)["y"].shape) == list(before.shape)}


CASES: dict[str, Callable[[], dict[str, Any]]] = {
    "rank": lambda: of(rank=5, finetune={"epochs": 10, "batchSize": 16}),
    "rank without training": lambda: of(bench=Bench(None), rank=5, **ALONE),
    "energy": energy,
    "macs 60": lambda: of(macsPercent=60, **ALONE),
    "macs 30": lambda: of(macsPercent=30, **ALONE),
    "nmf": lambda: of(method="NMF", rank=6),
    "positive": positive,
    "exact": exact,
    "resumed": resumed,
    "same again": same_again,
    "from a graph": from_graph,
    "rank above the layer's": lambda: refused(lambda: factorized(rank=500)),
    "energy of everything": lambda: refused(lambda: factorized(energyPercent=99, module=_orthogonal())),
    "macs out of reach": lambda: refused(lambda: factorized(macsPercent=1)),
    "nothing to split": lambda: refused(lambda: factorized(module=torch.nn.Sequential(torch.nn.Flatten(), torch.nn.BatchNorm1d(144)).eval())),
    "code that reads the weight": lambda: refused(lambda: factorized(module=Reaching().eval(), rank=4)),
}


def _orthogonal() -> torch.nn.Module:
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(144, 64)).eval()
    torch.nn.init.orthogonal_(module[1].weight)
    return module


if __name__ == "__main__":
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_num_threads(1)
    outcome = {name: case() for name, case in CASES.items()}
    (Path(sys.argv[1]) / "outcome.json").write_text(json.dumps(outcome, indent=1, default=float))
