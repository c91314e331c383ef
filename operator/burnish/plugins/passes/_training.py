"""Training a torch module for a few epochs: the options that passes share, and the loop.

An epoch starts from its seed alone, so a run that goes on from a checkpoint sees the same batches in the same order as one that was never interrupted.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, field_validator

from burnish import names
from burnish.errors import BurnishError, Reason
from burnish.plugins import base
from burnish.plugins.passes import _devices

if TYPE_CHECKING:
    import numpy as np

Decimal = Annotated[str, Field(pattern=names.DECIMAL_PATTERN, max_length=32)]


class Optimizer(StrEnum):
    """What turns gradients into steps; torch.optim's classes."""

    AdamW = "AdamW"
    Adam = "Adam"
    SGD = "SGD"


class FromOriginal(base.PluginModel):
    """Learning from the original model's own answers, beside the labels (Hinton, Vinyals and Dean 2015, arXiv:1503.02531)."""

    alpha: Decimal = Field(
        default="0.1",
        description="Weight of the labels; the rest is the original's answers. Loss: alpha x hard + (1 - alpha) x temperature^2 x soft. 0 needs no labels.",
    )
    temperature: Decimal = Field(default="4", description="How much the original's answers are softened; classes only.")

    @field_validator("alpha")
    @classmethod
    def _share(cls, value: str) -> str:
        if float(value) > 1:
            raise ValueError(f'{value} is more than the whole; write a decimal between 0 and 1, such as alpha: "0.1"')
        return value

    @field_validator("temperature")
    @classmethod
    def _positive(cls, value: str) -> str:
        if not 0 < float(value) <= 1000:
            raise ValueError(f'{value} is no temperature; write a decimal above 0, such as temperature: "4"')
        return value


class Schedule(base.PluginModel):
    """How long and how fast a model is trained on spec.datasets.training."""

    epochs: Annotated[int, Field(ge=0, le=10_000)] = Field(default=3, description="Times that the training data is gone through; 0 trains nothing.")
    learning_rate: Decimal = Field(default="0.001", examples=["0.001"], description="At the first step; it falls to 0 along a cosine.")
    optimizer: Optimizer = Field(default=Optimizer.AdamW, description="AdamW and Adam as PyTorch has them; SGD with momentum 0.9.")
    batch_size: Annotated[int, Field(ge=2, le=65_536)] = Field(default=64, description="Samples per step, of all devices together.")
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = Field(default=0, description="Of the order of samples, and of everything random in the model.")

    @field_validator("learning_rate")
    @classmethod
    def _some_step(cls, value: str) -> str:
        if not 0 < float(value) <= 1000:
            raise ValueError(f'{value} is no learning rate; write a decimal above 0, such as learningRate: "0.001"')
        return value


class TrainingOptions(Schedule):
    """How a model is trained on spec.datasets.training, and from what."""

    distill: FromOriginal | None = Field(default=None, description="Learn from the original's answers too; without it from the labels alone.")

    @property
    def needs_labels(self) -> bool:
        """It has a hard loss."""
        return self.epochs > 0 and (self.distill is None or float(self.distill.alpha) > 0)

    @property
    def learns_from_original(self) -> bool:
        """It has a soft loss."""
        return self.epochs > 0 and self.distill is not None


class ByOptions(base.TrainingPass):
    """A pass whose need for data follows from how it trains."""

    @abc.abstractmethod
    def training(self, config: base.PassConfig) -> TrainingOptions:
        """How it trains, out of its own options."""

    def trains(self, config: base.PassConfig) -> bool:
        """Where there is an epoch."""
        return self.training(config).epochs > 0

    def needs_labels(self, config: base.PassConfig) -> bool:
        """For a hard loss."""
        return self.training(config).needs_labels

    def learns_from_original(self, config: base.PassConfig) -> bool:
        """For a soft loss."""
        return self.training(config).learns_from_original


@dataclasses.dataclass
class Mode:
    """How a module is switched between training and evaluation; an exported graph has its own way."""

    train: Callable[[Any], None] = lambda module: module.train()
    evaluate: Callable[[Any], None] = lambda module: module.eval()


@dataclasses.dataclass(frozen=True)
class Part:
    """A stretch of a pass's training."""

    options: TrainingOptions
    first: int = 0
    """Epochs of the pass before it, for seeds and checkpoints."""
    mode: Mode = dataclasses.field(default_factory=Mode)


def train(named: Any, part: Part, bench: base.Bench, losses: list[float], extra: Mapping[str, object] | None = None) -> None:
    """Train a module in place, on the team's device; `losses` gets the mean loss of each epoch.

    Args:
        named: a `NamedModule`.
        part: options, and what belongs to them.
        bench: with the lesson.
        losses: of the epochs so far; one that goes on from a checkpoint has more of them than `part.first`.
        extra: what belongs into the checkpoint beside weights and optimizer.

    Raises:
        BurnishError: TrainingDiverged; as `_devices.lent`.
    """
    if part.options.epochs:
        with _devices.lent(named.module, bench.team.device):
            _train(named, part, bench, losses, extra or {})


def _train(named: Any, part: Part, bench: base.Bench, losses: list[float], extra: Mapping[str, object]) -> None:
    import torch

    options = part.options
    assert bench.lesson is not None  # noqa: S101  # whoever trains said that it needs one
    parameters = [p for p in named.module.parameters() if p.requires_grad]
    optimizer = _optimizer(options, parameters)
    done = len(losses) - part.first
    if done > 0 and (known := bench.load()) is not None and "optimizer" in known:
        optimizer.load_state_dict(known["optimizer"])
    steps = _steps(len(bench.lesson), options.batch_size)
    bench.team.follow(_tensors(named.module))
    for epoch in range(max(0, done), options.epochs):
        torch.manual_seed(_seed(options.seed, part.first + epoch) + bench.team.rank)
        part.mode.train(named.module)
        losses.append(_epoch(named, part, bench, optimizer, epoch, steps))
        bench.team.follow(_tensors(named.module))
        part.mode.evaluate(named.module)
        if not all(bool(torch.isfinite(p).all()) for p in parameters):  # the last step's work, which no loss has seen
            raise _diverged("weights became infinite", options, epoch, f"after epoch {epoch + 1}")
        bench.save({**extra, "losses": list(losses), "model": named.module.state_dict(), "optimizer": optimizer.state_dict()})
        bench.say(f"epoch {epoch + 1} of {options.epochs}: loss {losses[-1]:.4g}", done=(epoch + 1) / options.epochs)


def count(epochs: int) -> str:
    """In words."""
    return "1 epoch" if epochs == 1 else f"{epochs} epochs"


def _tensors(module: Any) -> list[Any]:
    """Weights and statistics."""
    return [value.data for value in (*module.parameters(), *module.buffers())]


def _epoch(named: Any, part: Part, bench: base.Bench, optimizer: Any, epoch: int, steps: int) -> float:
    """One time through the data; the mean loss."""
    options, lesson = part.options, bench.lesson
    assert lesson is not None  # noqa: S101  # `train` asked
    loss_of, keep_zeros = objective(lesson, options.distill), _zeros(named.module)
    total = 0.0
    for step, indices in enumerate(batches(len(lesson), options.batch_size, _seed(options.seed, part.first + epoch))):
        for group in optimizer.param_groups:
            group["lr"] = _rate(float(options.learning_rate), epoch * steps + step, options.epochs * steps)
        optimizer.zero_grad(set_to_none=True)
        value = float(_backward(named, lesson, loss_of, indices, optimizer, bench.team))
        if not math.isfinite(value):
            raise _diverged(f"the loss became {value}", options, epoch, f"in epoch {epoch + 1} of {options.epochs}, step {step + 1} of {steps}")
        optimizer.step()
        keep_zeros()
        total += value * len(indices)
    return total / len(lesson)


def _diverged(what: str, options: TrainingOptions, ended: int, when: str) -> BurnishError:
    kept = f"the checkpoint after epoch {ended} is kept" if ended else "no epoch ended, so nothing of it is kept"
    return BurnishError(Reason.TrainingDiverged, f"{what} {when}; lower learningRate ({options.learning_rate}); {kept}")


def _backward(
    named: Any, lesson: base.Lesson, loss_of: Callable[[Any, np.ndarray], Any], indices: np.ndarray, optimizer: Any, team: base.Team
) -> Any:
    """Leave the gradients of the batch's mean loss in the weights; returns that loss, a tensor of one element. Each process of a team works on its part of the batch."""
    import torch

    mine = share(indices, team)
    total = torch.zeros(1, device=team.device)
    if len(mine):
        answer = named.outputs([torch.from_numpy(lesson.inputs[i.tensor.name][mine]).to(team.device) for i in named.inputs])
        loss = loss_of(answer[lesson.output], mine) * (len(mine) / len(indices))
        loss.backward()
        total += loss.detach()
    if team.size > 1:
        weights = [p for group in optimizer.param_groups for p in group["params"]]
        for weight in weights:
            weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
        team.add([total, *(weight.grad for weight in weights)])
    return total


def _zeros(module: Any) -> Callable[[], None]:
    """What puts back the zeros of sparse weights: pruned away is pruned away, whatever is trained after it."""
    import torch

    sparse = [p for p in module.parameters() if p.ndim > 1 and bool((p == 0).any())]
    masks = [p.detach() != 0 for p in sparse]

    def keep() -> None:
        with torch.no_grad():
            for weight, mask in zip(sparse, masks, strict=True):
                weight.mul_(mask)

    return keep


def share(indices: np.ndarray, team: base.Team) -> np.ndarray:
    """What of a batch is this process's; all of it the first one's where somebody else would get a single sample (batch normalization needs two)."""
    import numpy as np

    if len(indices) < 2 * team.size:
        return indices if team.rank == 0 else indices[:0]
    return np.array_split(indices, team.size)[team.rank]


def batches(samples: int, size: int, seed: int) -> Iterator[np.ndarray]:
    """Indices of the samples in the order of this seed; a last batch of one sample goes with the one before (batch normalization needs two)."""
    import numpy as np

    order = np.random.default_rng(seed).permutation(samples)
    cuts = list(range(size, samples, size))
    if cuts and samples - cuts[-1] < 2:
        cuts.pop()
    yield from np.split(order, cuts)


def _steps(samples: int, size: int) -> int:
    return sum(1 for _ in batches(samples, size, 0))


def _seed(seed: int, epoch: int) -> int:
    return (seed * 1_000_003 + epoch) % 2**31


def _rate(first: float, step: int, steps: int) -> float:
    """Loshchilov and Hutter 2017, arXiv:1608.03983, without restarts."""
    return first * 0.5 * (1 + math.cos(math.pi * step / max(1, steps)))


def _optimizer(options: TrainingOptions, parameters: list[Any]) -> Any:
    import torch

    rate = float(options.learning_rate)
    if options.optimizer is Optimizer.SGD:
        return torch.optim.SGD(parameters, lr=rate, momentum=0.9)
    return getattr(torch.optim, options.optimizer.value)(parameters, lr=rate)


def objective(lesson: base.Lesson, distill: FromOriginal | None) -> Callable[[Any, np.ndarray], Any]:
    """The loss of an output, on its device, against the lesson: cross entropy of classes, else the mean squared error; see `FromOriginal` for both together.

    The soft loss of classes is the Kullback-Leibler divergence of the softened answers, times the squared temperature so that its gradients keep their size.
    """
    import torch
    from torch.nn import functional

    alpha, temperature = (1.0, 1.0) if distill is None else (float(distill.alpha), float(distill.temperature))
    labels: Any = None if lesson.labels is None else torch.from_numpy(lesson.labels)
    answers: Any = None if lesson.answers is None else torch.from_numpy(lesson.answers)

    def scores(output: Any) -> Any:
        """Logits: of probabilities their logarithm."""
        flat = output.float().flatten(0, -2)
        return flat.clamp_min(1e-12).log() if lesson.holds_probabilities else flat

    def hard(output: Any, indices: np.ndarray) -> Any:
        wanted = labels[indices].to(output.device)
        if lesson.is_classification:
            return functional.cross_entropy(scores(output), wanted.long().flatten())
        return functional.mse_loss(output.float(), wanted.float().reshape(output.shape))

    def soft(output: Any, indices: np.ndarray) -> Any:
        wanted = answers[indices].to(output.device)
        if not lesson.is_classification:
            return functional.mse_loss(output.float(), wanted.float().reshape(output.shape))
        ours, theirs = scores(output) / temperature, scores(wanted) / temperature
        return temperature**2 * functional.kl_div(
            functional.log_softmax(ours, -1), functional.log_softmax(theirs, -1), reduction="batchmean", log_target=True
        )

    def loss(output: Any, indices: np.ndarray) -> Any:
        if alpha == 1:
            return hard(output, indices)
        return (1 - alpha) * soft(output, indices) if alpha == 0 else alpha * hard(output, indices) + (1 - alpha) * soft(output, indices)

    return loss
