"""Training a model a little further: the recovery step that other passes have of their own, alone."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from burnish.plugins import base
from burnish.plugins.passes import _training


class FinetuneConfig(base.PassConfig, _training.TrainingOptions):
    """Options of the Finetune pass."""

    epochs: Annotated[int, Field(ge=1, le=10_000)] = Field(default=3, description="Times that the training data is gone through.")


class Finetune(_training.ByOptions):
    """Train on."""

    name: ClassVar[str] = "Finetune"
    short: ClassVar[str] = "finetune"
    shrinks: ClassVar[bool] = False
    config: ClassVar[type[base.PassConfig]] = FinetuneConfig

    def training(self, config: base.PassConfig) -> _training.TrainingOptions:
        """As it says itself."""
        assert isinstance(config, FinetuneConfig)  # noqa: S101  # the registry pairs pass and config
        return config

    def apply(self, config: base.PassConfig, model: Any, bench: base.Bench) -> base.TrainedModel:
        """Train all weights.

        Raises:
            BurnishError: TrainingDiverged.
        """
        assert isinstance(config, FinetuneConfig)  # noqa: S101  # the registry pairs pass and config
        losses: list[float] = []
        known = bench.load()
        if known is not None:
            model.module.load_state_dict(known["model"])
            losses += known["losses"]
        _training.train(model, _training.Part(config), bench, losses)
        return base.TrainedModel(model, f"{_training.count(config.epochs)} of training, loss {losses[0]:.3g} to {losses[-1]:.3g}", tuple(losses))
