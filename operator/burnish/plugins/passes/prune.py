"""Removing what a model can do without: whole channels, which makes it faster, or single weights, which makes only its file compress better."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, ClassVar

from pydantic import Field, ValidationInfo, field_validator

from burnish.errors import BurnishError, Reason
from burnish.plugins import base
from burnish.plugins.passes import _channels, _training


class Method(StrEnum):
    """What is removed, and how it is chosen."""

    Structured = "Structured"
    Neuron = "Neuron"
    Magnitude = "Magnitude"


class Importance(StrEnum):
    """Which channels matter to Structured."""

    L2 = "L2"
    Taylor = "Taylor"


class Scope(StrEnum):
    """Where the share holds."""

    PerLayer = "PerLayer"
    Global = "Global"


TAYLOR_SAMPLES = 512
"""Training samples whose gradients tell the importance of channels."""
ACTIVATION_SAMPLES = 256


class PruneConfig(base.PassConfig):
    """Options of the Prune pass."""

    method: Method = Field(
        default=Method.Structured,
        description="Structured removes the channels that matter least, with everything that depends on them: fewer operations, a smaller file. Neuron does so by "
        "mean activation on the calibration data. Magnitude sets single weights to zero: the stored artifact compresses better, nothing gets faster.",
    )
    importance: Importance = Field(
        default=Importance.L2, description="Structured only: L2 norm of a channel's weights, or Taylor: what the loss would change without it."
    )
    sparsity_percent: Annotated[int, Field(ge=1, le=99)] = Field(
        default=50, description="How many percent go: of the channels of each layer, or of the weights."
    )
    scope: Scope = Field(
        default=Scope.PerLayer, description="PerLayer: so many of every layer. Global: layers are weighed against each other, some lose more."
    )
    steps: Annotated[int, Field(ge=1, le=100)] = Field(
        default=1, description="In how many portions, with an epoch of fine-tuning after each but the last, which all of `finetune` follows."
    )
    finetune: _training.TrainingOptions = Field(default=_training.TrainingOptions(), description="Training afterwards; epochs: 0 for none.")

    @field_validator("importance")
    @classmethod
    def _importance_belongs_to_structured(cls, value: Importance, info: ValidationInfo) -> Importance:
        method = info.data.get("method")
        if value is not Importance.L2 and method is not Method.Structured:
            raise ValueError(f"{value} belongs to method: Structured, but method is {method}; remove it or change method")
        return value

    @field_validator("finetune")
    @classmethod
    def _steps_are_trained(cls, value: _training.TrainingOptions, info: ValidationInfo) -> _training.TrainingOptions:
        if not value.epochs and info.data.get("steps", 1) > 1:
            raise ValueError("trains nothing (epochs: 0), so there is nothing between the steps; write steps: 1, or some epochs")
        return value


class Prune(_training.ByOptions):
    """Remove channels or weights."""

    name: ClassVar[str] = "Prune"
    short: ClassVar[str] = "prune"
    config: ClassVar[type[base.PassConfig]] = PruneConfig

    def training(self, config: base.PassConfig) -> _training.TrainingOptions:
        """Afterwards; gradients are of the same loss, also where nothing is trained with it."""
        assert isinstance(config, PruneConfig)  # noqa: S101  # the registry pairs pass and config
        options = config.finetune
        return options.model_copy(update={"epochs": max(1, options.epochs)}) if config.importance is Importance.Taylor else options

    def reads_calibration(self, config: base.PassConfig) -> bool:
        """For activations."""
        assert isinstance(config, PruneConfig)  # noqa: S101  # the registry pairs pass and config
        return config.method is Method.Neuron

    def apply(self, config: base.PassConfig, model: Any, bench: base.Bench) -> base.TrainedModel:
        """Prune in portions, train after each.

        Raises:
            BurnishError: PassNotApplicable, CalibrationMissing, TrainingDiverged.
        """
        assert isinstance(config, PruneConfig)  # noqa: S101  # the registry pairs pass and config
        before, losses, first = _sizes(model.module), [], 0
        known = bench.load()
        if known is not None:
            _channels.fit(model.module, known["model"])
            losses, first = list(known["losses"]), int(known["step"])
        for step in range(first, config.steps):
            if known is None or step > first:
                _prune(config, model, bench, step)
                bench.say(f"step {step + 1} of {config.steps}: {_sizes(model.module)[0]:,} of {before[0]:,} weights are left")
            epochs = config.finetune.epochs if step == config.steps - 1 else 1
            part = _training.Part(config.finetune.model_copy(update={"epochs": epochs}), first=step)
            _training.train(model, part, bench, losses, {"step": step})
        after = _sizes(model.module)
        return base.TrainedModel(model, _summary(config, before, after), tuple(losses))


def _prune(config: PruneConfig, model: Any, bench: base.Bench, step: int) -> None:
    import torch_pruning

    if config.method is Method.Magnitude:
        return _zero(config, model.module, step)
    kept, wanted = (1 - config.sparsity_percent / 100 * done / config.steps for done in (step, step + 1))
    share, overall = 1 - wanted / kept, config.scope is Scope.Global
    if config.method is Method.Neuron:
        seen: dict[Any, Any] = {}
        return _channels.cut(
            model, share, _channels.by_activation(seen), overall=overall, before=lambda whole: seen.update(_activations(whole, bench, model))
        )
    if config.importance is Importance.Taylor:
        importance = torch_pruning.importance.TaylorImportance()
        return _channels.cut(model, share, importance, overall=overall, before=lambda whole: _backward(model, config, bench))
    return _channels.cut(model, share, torch_pruning.importance.MagnitudeImportance(p=2), overall=overall)


def _activations(whole: Any, bench: base.Bench, model: Any) -> dict[Any, Any]:
    """Layer -> mean magnitude of each channel that it is given, over the calibration data."""
    import numpy as np
    import torch

    if not bench.calibration:
        raise BurnishError(
            Reason.CalibrationMissing, "method: Neuron looks at activations and there is no data; set spec.datasets.calibration", field="spec.passes"
        )
    some = bench.calibration[:ACTIVATION_SAMPLES]
    feed = [torch.from_numpy(np.concatenate([np.atleast_1d(f[i.tensor.name]) for f in some])) for i in model.inputs]
    return _channels.record(whole, feed)


def _backward(model: Any, config: PruneConfig, bench: base.Bench) -> None:
    """Leave the gradients of the loss in the weights."""
    import torch

    lesson = bench.lesson
    assert lesson is not None  # noqa: S101  # `trains` says so
    loss_of = _training.objective(lesson, config.finetune.distill)
    model.module.eval()
    for indices in _training.batches(min(len(lesson), TAYLOR_SAMPLES), config.finetune.batch_size, config.finetune.seed):
        answer = model.outputs([torch.from_numpy(lesson.inputs[i.tensor.name][indices]) for i in model.inputs])
        loss_of(answer[lesson.output], indices).backward()


def _zero(config: PruneConfig, module: Any, step: int) -> None:
    """Set the smallest weights to zero; the share grows along a cubic curve (Zhu and Gupta 2017, arXiv:1710.01878)."""
    import torch
    from torch.nn.utils import prune

    share = config.sparsity_percent / 100 * (1 - (1 - (step + 1) / config.steps) ** 3)
    kinds = (torch.nn.Linear, torch.nn.modules.conv._ConvNd, torch.nn.Embedding)
    layers = [(layer, "weight") for layer in module.modules() if isinstance(layer, kinds)]
    if not layers:
        raise BurnishError(Reason.PassNotApplicable, "the model has no Linear, Conv or Embedding layer whose weights could go; remove the pass")
    if config.scope is Scope.Global:
        prune.global_unstructured(layers, pruning_method=prune.L1Unstructured, amount=share)
    for layer, name in layers:
        if config.scope is Scope.PerLayer:
            prune.l1_unstructured(layer, name, amount=share)
        prune.remove(layer, name)


def _sizes(module: Any) -> tuple[int, int]:
    """Weights that aren't zero, and all."""
    counts = [(int((p != 0).sum()), p.numel()) for p in module.parameters()]
    return sum(c[0] for c in counts), sum(c[1] for c in counts)


def _summary(config: PruneConfig, before: tuple[int, int], after: tuple[int, int]) -> str:
    if config.method is Method.Magnitude:
        share = 1 - after[0] / after[1]
        return f"{share:.0%} of the weights are zero: the stored artifact compresses better, and nothing gets faster"
    how = {Method.Neuron: "mean activation", Method.Structured: config.importance.value}[config.method]
    return f"channels removed by {how}: {after[1]:,} of {before[1]:,} weights are left"
