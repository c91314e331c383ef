"""Low rank: a layer becomes two smaller ones wherever that saves something, and training takes up what it cost."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any, ClassVar

from pydantic import Field, ValidationInfo, field_validator
from pydantic.alias_generators import to_camel

from burnish.errors import BurnishError, Reason
from burnish.plugins import base
from burnish.plugins.passes import _low_rank, _training, prune

ENERGY_PERCENT = 90
_Percent = Annotated[int, Field(ge=1, le=99)]


class Method(StrEnum):
    """How the factors are found."""

    SVD = "SVD"
    NMF = "NMF"


class FactorizeConfig(base.PassConfig):
    """Options of the Factorize pass."""

    method: Method = Field(
        default=Method.SVD,
        description="SVD: the factors that come nearest. NMF: factors without negative values (a weight with both signs is split into two such parts); SVD's error "
        "at the same rank stands beside its own.",
    )
    rank: Annotated[int, Field(ge=1, le=65_536)] | None = Field(
        default=None, description="Of every layer; those that it does not make smaller stay as they are."
    )
    energy_percent: _Percent | None = Field(
        default=None,
        description=f"Of the squared singular values of each weight: the rank keeps so many. Default {ENERGY_PERCENT}, where neither rank nor macsPercent is set.",
    )
    macs_percent: _Percent | None = Field(
        default=None,
        description="Multiply-accumulates that are left, of those of the model that the pass is given: each layer's rank is chosen to meet it.",
    )
    finetune: _training.TrainingOptions = Field(default=_training.TrainingOptions(), description="Training afterwards; epochs: 0 for none.")

    @field_validator("energy_percent", "macs_percent")
    @classmethod
    def _one_aim(cls, value: int | None, info: ValidationInfo) -> int | None:
        other = next((name for name in ("rank", "energy_percent") if name != info.field_name and info.data.get(name) is not None), None)
        if value is not None and other is not None:
            raise ValueError(f"stands beside {to_camel(other)}, and each decides the ranks; keep one of rank, energyPercent and macsPercent")
        return value


class Factorize(_training.ByOptions):
    """Split layers."""

    name: ClassVar[str] = "Factorize"
    short: ClassVar[str] = "factorize"
    config: ClassVar[type[base.PassConfig]] = FactorizeConfig

    def training(self, config: base.PassConfig) -> _training.TrainingOptions:
        """Afterwards."""
        assert isinstance(config, FactorizeConfig)  # noqa: S101  # the registry pairs pass and config
        return config.finetune

    def misplaced(self, config: base.PassConfig, before: Sequence[base.PassRequest], after: Sequence[base.PassRequest]) -> str:
        """After single weights were set to zero, and a second time."""
        if any(isinstance(p.config, prune.PruneConfig) and p.config.method is prune.Method.Magnitude for p in before):
            return (
                "multiplies every weight out into factors, in which the zeros of Prune (method: Magnitude) before it are gone; put Prune after Factorize, "
                "or use method: Structured"
            )
        if any(p.name == self.name for p in before):
            return "is a second Factorize, and factors of factors save nothing that one lower rank would not; keep one entry"
        return ""

    def apply(self, config: base.PassConfig, model: Any, bench: base.Bench) -> base.TrainedModel:
        """Split, train.

        Raises:
            BurnishError: PassNotApplicable where no layer gets smaller; TrainingDiverged.
        """
        assert isinstance(config, FactorizeConfig)  # noqa: S101  # the registry pairs pass and config
        known = bench.load()
        if known is None:
            state = _split(config, model, bench)
            bench.save({**state, "losses": [], "model": model.module.state_dict()})
        else:
            state = {name: known[name] for name in ("ranks", "summary", "notes")}
            for name, rank in state["ranks"].items():
                _low_rank.replace(model.module, name, rank)
            model.module.load_state_dict(known["model"])
        losses = list(known["losses"]) if known else []
        _training.train(model, _training.Part(config.finetune), bench, losses, state)
        return base.TrainedModel(model, state["summary"], tuple(losses), tuple(state["notes"]))


def _split(config: FactorizeConfig, named: Any, bench: base.Bench) -> dict[str, Any]:
    """Put factors in place; what a later process has to know of it."""
    layers, others = _low_rank.layers(named)
    before = _low_rank.products(named)
    wanted = _ranks(config, layers, before)
    ranks = {layer.name: wanted[layer.name] for layer in layers if wanted[layer.name] <= layer.largest}
    if not ranks:
        raise _nothing(config, layers, wanted)
    left = {layer.name: _too_high(layer, wanted[layer.name]) for layer in layers if layer.name not in ranks}
    weights = sum(p.numel() for p in named.module.parameters())
    errors = _Errors()
    for number, (name, rank) in enumerate(ranks.items()):
        weight = _low_rank.matrix(named.module.get_submodule(name))
        factors = _low_rank.svd(weight, rank) if config.method is Method.SVD else _low_rank.nmf(weight, rank, config.finetune.seed)
        errors.add(config.method, name, weight, rank, factors)
        _low_rank.replace(named.module, name, rank, factors)
        bench.say(f"{number + 1} of {len(ranks)} layers: {_plain(name)} at rank {rank}")
    _check(named)
    share = _low_rank.products(named) / before if before else 1.0
    now = sum(p.numel() for p in named.module.parameters())
    left_alone = {**left, **others}
    summary = (
        f"{len(ranks)} of {len(ranks) + len(left_alone)} layers as two by {config.method.value}: {now:,} of {weights:,} weights and {share:.0%} of the "
        f"multiply-accumulates are left, relative error of those weights {errors}"
    )
    notes = [f"ranks: {', '.join(f'{_plain(name)} {rank}' for name, rank in ranks.items())}", *errors.notes]
    notes += [f"left alone: {'; '.join(f'{_plain(name)} ({why})' for name, why in left_alone.items())}"] if left_alone else []
    return {"ranks": ranks, "summary": summary, "notes": notes}


@dataclasses.dataclass
class _Errors:
    """How far factors are from weights; for NMF with SVD's beside it."""

    own: list[tuple[float, float]] = dataclasses.field(default_factory=list)
    best: list[tuple[float, float]] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    def add(self, method: Method, name: str, weight: Any, rank: int, factors: tuple[Any, Any]) -> None:
        norm, own = float(weight.norm()), _low_rank.error(weight, factors)
        self.own.append((own, norm))
        if method is Method.NMF:
            best = _low_rank.error(weight, _low_rank.svd(weight, rank))
            self.best.append((best, norm))
            self.notes.append(f"{_plain(name)}: relative error {own:.3f} by NMF, {best:.3f} by SVD at the same rank {rank}")

    def __str__(self) -> str:
        told = f"{_low_rank.total_error(self.own):.3f}"
        return f"{told} (SVD at the same ranks: {_low_rank.total_error(self.best):.3f})" if self.best else told


def _ranks(config: FactorizeConfig, layers: Sequence[_low_rank.Layer], products: int) -> Mapping[str, int]:
    """Layer -> the rank that the options ask for, whether it pays or not."""
    if config.rank is not None:
        return {layer.name: config.rank for layer in layers}
    if config.macs_percent is None:
        return {layer.name: layer.rank_for((config.energy_percent or ENERGY_PERCENT) / 100) for layer in layers}
    return _at_products(config.macs_percent, layers, products)


def _at_products(percent: int, layers: Sequence[_low_rank.Layer], products: int) -> dict[str, int]:
    """As many ranks as so few products allow, the ones that keep the most energy for what they cost first."""
    worths = {layer.name: layer.worth() for layer in layers}
    bounds = sorted({value for values in worths.values() for value in values.tolist()})
    low, high = 0, len(bounds)

    def ranks(position: int) -> dict[str, int]:
        """Every layer keeps what is worth at least the bound at this position, and one rank at least."""
        bound = bounds[position] if position < len(bounds) else math.inf
        return {name: int((values >= bound).sum()) for name, values in worths.items()}

    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _left(ranks(middle), layers, products) <= products * percent / 100 else (middle + 1, high)
    found = ranks(low)
    least = _left(found, layers, products) / products if products else 1.0
    if layers and least > percent / 100:
        raise BurnishError(
            Reason.PassNotApplicable,
            f"macsPercent: {percent} is out of reach: at rank 1 of every layer {math.ceil(100 * least)} % are left; raise it",
        )
    return found


def _left(ranks: Mapping[str, int], layers: Sequence[_low_rank.Layer], products: int) -> int:
    """Multiply-accumulates of the model with these ranks, where they pay."""
    return products - sum(layer.products() - layer.products(ranks[layer.name]) for layer in layers if ranks[layer.name] <= layer.largest)


def _too_high(layer: _low_rank.Layer, rank: int) -> str:
    smaller = f"only up to rank {layer.largest} it gets smaller" if layer.largest else "no rank makes it smaller"
    return f"{layer.rows} x {layer.columns}, rank {rank}: {smaller}"


def _nothing(config: FactorizeConfig, layers: Sequence[_low_rank.Layer], wanted: Mapping[str, int]) -> BurnishError:
    if not layers:
        return BurnishError(Reason.PassNotApplicable, "the model has no Linear or Conv2d layer that can be split; remove the pass")
    best = max(layers, key=lambda layer: layer.largest)
    told = f"the largest possible rank is {best.largest}, of {_plain(best.name)} ({best.rows} x {best.columns})"
    if config.rank is not None:
        return BurnishError(Reason.PassNotApplicable, f"rank: {config.rank} makes no layer smaller: {told}; lower it, or remove the pass")
    near = min((layer for layer in layers if layer.largest), key=lambda layer: wanted[layer.name] / layer.largest, default=best)
    aim = f"macsPercent: {config.macs_percent}" if config.macs_percent else f"energyPercent: {config.energy_percent or ENERGY_PERCENT}"
    return BurnishError(
        Reason.PassNotApplicable,
        f"{aim} makes no layer smaller: {_plain(near.name)}, the nearest, would need rank {wanted[near.name]} and gets smaller up to {near.largest}; lower it, "
        "or remove the pass",
    )


def _check(named: Any) -> None:
    """A module whose own code reaches into a layer does not run without it."""
    try:
        _low_rank.run(named)
    except Exception as error:  # the model's own code
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise BurnishError(Reason.PassNotApplicable, f"the model does not run with layers as two ({said}); remove the pass") from error


def _plain(name: str) -> str:
    """A layer's name without the wrapper that gives outputs their names."""
    return name.removeprefix("inner.")
