"""Training a model for 8-bit integers: its weights and activations are rounded while it learns, so that it learns to live with that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field

from burnish.errors import BurnishError, Reason
from burnish.plugins import base, registry
from burnish.plugins.passes import _rounding, _training


class QuantizeAwareTrainConfig(base.PassConfig, _training.TrainingOptions):
    """Options of the QuantizeAwareTrain pass."""

    epochs: Annotated[int, Field(ge=1, le=10_000)] = Field(default=2, description="Times that the training data is gone through.")
    learning_rate: _training.Decimal = Field(
        default="0.0001", examples=["0.0001"], description="At the first step; it falls to 0 along a cosine. Small: the model is trained already."
    )


class QuantizeAwareTrain(_training.ByOptions):
    """Train with rounded weights and activations; what comes out runs on integers."""

    name: ClassVar[str] = "QuantizeAwareTrain"
    short: ClassVar[str] = "qat"
    is_exact: ClassVar[bool] = False
    config: ClassVar[type[base.PassConfig]] = QuantizeAwareTrainConfig

    def training(self, config: base.PassConfig) -> _training.TrainingOptions:
        """As it says itself."""
        assert isinstance(config, QuantizeAwareTrainConfig)  # noqa: S101  # the registry pairs pass and config
        return config

    def reads_calibration(self, config: base.PassConfig) -> bool:
        """For the quantization after training that it is compared with."""
        return True

    def misplaced(self, config: base.PassConfig, before: Sequence[base.PassRequest], after: Sequence[base.PassRequest]) -> str:
        """It is the last: what comes out is quantized."""
        if not after:
            return ""
        following = after[0].name
        if following == self.name:
            return "is there twice, and a quantized model is not quantized again; keep one"
        if not isinstance(registry.passes()[following], base.TrainingPass):
            instead = ": plain static INT8 is measured beside it" if following == "Quantize" else ""
            return f"leaves a quantized model, whose integers {following} after it would change; remove {following}{instead}"
        return f"leaves a quantized model, whose weights {following} after it can't change; put {following} before {self.name}"

    def apply(self, config: base.PassConfig, model: Any, bench: base.Bench) -> base.TrainedModel:
        """Round, train, and make integers of it.

        Raises:
            BurnishError: PassNotApplicable where no layer can be rounded; TrainingDiverged.
        """
        assert isinstance(config, QuantizeAwareTrainConfig)  # noqa: S101  # the registry pairs pass and config
        rounded = _rounding.prepare(model, seven_bits=bench.hardware.saturates)
        if not rounded.layers:
            raise BurnishError(
                Reason.PassNotApplicable, "the model has no Conv2d or Linear layer that could compute on integers; remove the pass, or use Quantize"
            )
        losses: list[float] = []
        known = bench.load()
        if known is not None:
            rounded.named.module.load_state_dict(known["model"])
            losses += known["losses"]
        _training.train(rounded.named, _training.Part(config), bench, losses)
        narrow = "; 7-bit weights, as this CPU has no VNNI and its 16-bit sums saturate" if bench.hardware.saturates else ""
        summary = f"INT8, trained for it: {rounded.layers} of {rounded.weighted} layers, {_training.count(config.epochs)}, loss {losses[0]:.3g} to {losses[-1]:.3g}{narrow}"
        return base.TrainedModel(_rounding.convert(rounded), summary, tuple(losses))
