"""Teaching a smaller model what the original answers (Hinton, Vinyals and Dean 2015, arXiv:1503.02531), and asking whether that helped it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field, field_validator

from burnish.errors import BurnishError, Reason
from burnish.plugins import base, registry
from burnish.plugins.passes import _channels, _students, _training


class DistillConfig(base.PassConfig, _training.FromOriginal, _training.Schedule):
    """Options of the Distill pass."""

    student: _students.Student | None = Field(
        default=None, description="The smaller model; without it the one that the passes before left (Prune, Factorize)."
    )
    alpha: _training.Decimal = Field(
        default="0.1",
        description="Weight of the labels; the rest is the original's answers. Loss: alpha x hard + (1 - alpha) x temperature^2 x soft. 0 needs no labels.",
    )
    epochs: Annotated[int, Field(ge=1, le=10_000)] = Field(default=10, description="Times that the training data is gone through.")
    compare_seeds: Annotated[int, Field(ge=0, le=5)] = Field(
        default=2,
        description="With so many seeds the same student is trained with the original and without it, and the report says whether it helped, by the evaluation data; the first one is kept. 0 trains one, and compares nothing.",
    )

    @field_validator("alpha")
    @classmethod
    def _learns_from_original(cls, value: str) -> str:
        if float(value) == 1:
            raise ValueError('learns nothing from the original; write a decimal below 1, such as alpha: "0.1", or use type: Finetune')
        return value

    @property
    def options(self) -> _training.TrainingOptions:
        """How the student is trained."""
        given = {name: getattr(self, name) for name in _training.Schedule.model_fields}
        return _training.TrainingOptions(**given, distill=_training.FromOriginal(alpha=self.alpha, temperature=self.temperature))


class Distill(_training.ByOptions):
    """Train a student on the original's answers."""

    name: ClassVar[str] = "Distill"
    short: ClassVar[str] = "distill"
    config: ClassVar[type[base.PassConfig]] = DistillConfig

    def training(self, config: base.PassConfig) -> _training.TrainingOptions:
        """With the original, always."""
        assert isinstance(config, DistillConfig)  # noqa: S101  # the registry pairs pass and config
        return config.options

    def only_asks(self, config: base.PassConfig) -> bool:
        """Where nothing of the original is in the student."""
        assert isinstance(config, DistillConfig)  # noqa: S101  # the registry pairs pass and config
        return config.student is not None and config.student.is_of_its_own

    def source(self, config: base.PassConfig) -> base.PassSource | None:
        """The student's, where it has one of its own."""
        assert isinstance(config, DistillConfig)  # noqa: S101  # the registry pairs pass and config
        student = config.student
        if student is None or student.source is None:
            return None
        given = student.source
        fields = {name: f"distill.student.source.{name}" for name in ("uri", "format", "task", "digest")}
        fields |= {name: f"distill.student.{name}" for name in ("architecture", "architectureArgs")}
        return base.PassSource(given.uri, given.digest, given.format.value if given.format else None, student.options, fields)

    def relocated(self, config: base.PassConfig, uri: str, digest: str | None) -> base.PassConfig:
        """With another place of the student's source."""
        assert isinstance(config, DistillConfig)  # noqa: S101  # the registry pairs pass and config
        assert config.student is not None and config.student.source is not None  # noqa: S101  # `source` said so
        source = config.student.source.model_copy(update={"uri": uri, "digest": digest})
        return config.model_copy(update={"student": config.student.model_copy(update={"source": source})})

    def misplaced(self, config: base.PassConfig, before: Sequence[base.PassRequest], after: Sequence[base.PassRequest]) -> str:
        """There is one student: its own, or what a pass before left."""
        assert isinstance(config, DistillConfig)  # noqa: S101  # the registry pairs pass and config
        smaller = next((entry.name for entry in reversed(before) if _shrinks(entry)), "")
        if config.student is None and not smaller:
            return "has no student to teach; write one, such as student: {widthPercent: 50}, or put Prune before it"
        if config.student is not None and smaller:
            return f"has a student of its own, after {smaller} made a smaller model; remove student, so that it teaches that one, or remove {smaller}"
        return ""

    def apply(self, config: base.PassConfig, model: Any, bench: base.Bench) -> base.TrainedModel:
        """Train the student, and the same one without the original.

        Raises:
            BurnishError: PassNotApplicable, ArchitectureMismatch: the student can't be made; TrainingDiverged.
        """
        assert isinstance(config, DistillConfig)  # noqa: S101  # the registry pairs pass and config
        trials = _Trials(config, model, bench)
        why_not = trials.why_not_compared()
        kept = trials.run([_Trial(0, True)] if why_not else _trials(config.compare_seeds))
        sizes = f"{kept.model.weights:,} weights"
        sizes += "" if config.student is None else f" where the original has {model.weights:,}"
        verdict = f"not compared with training without the original: {why_not}" if why_not else trials.verdict()
        summary = f"{_students.told(config.student)}, {sizes}, learned from the original (alpha {config.alpha}, temperature {config.temperature}); {verdict}"
        return base.TrainedModel(kept.model, summary, kept.losses, (verdict,))


def _shrinks(entry: base.PassRequest) -> bool:
    plugin = registry.passes()[entry.name]
    return isinstance(plugin, base.TrainingPass) and plugin.shrinks


@dataclasses.dataclass(frozen=True)
class _Trial:
    """One training of the student."""

    seed: int
    """Beside the configured one."""
    is_taught: bool
    """By the original."""


def _trials(seeds: int) -> list[_Trial]:
    return [_Trial(seed, taught) for seed in range(seeds) for taught in (True, False)]


@dataclasses.dataclass(frozen=True)
class _Kept:
    """The student that is kept: the first one, whatever the others score, as what judges may not choose."""

    model: Any
    losses: tuple[float, ...]


class _Trials:
    """The trainings of one pass, one after the other; a killed one goes on within the one that it had reached."""

    def __init__(self, config: DistillConfig, model: Any, bench: base.Bench) -> None:
        self._config, self._model, self._bench = config, model, bench
        self._scores: dict[_Trial, float | None] = {}

    def why_not_compared(self) -> str:
        """Empty where the trainings can be compared."""
        assert self._bench.lesson is not None  # noqa: S101  # `trains` says so
        if not self._config.compare_seeds:
            return "compareSeeds is 0"
        if self._bench.lesson.labels is None:
            return "there are no labels to learn from alone"
        if self._bench.score(self._student(0)) is None:
            return "there is no evaluation data"
        return ""

    def run(self, trials: list[_Trial]) -> _Kept:
        """Train all; the first is kept."""
        known = self._bench.load() or {}
        reached = int(known.get("trial", 0))
        self._scores = dict(zip(trials, known.get("scores", ()), strict=False))
        kept = self._restored(known.get("kept"))
        for number, trial in enumerate(trials):
            if number < reached:
                continue
            student, losses = self._student(trial.seed), []
            if number == reached and known:
                student.module.load_state_dict(known["model"])
                losses = list(known["losses"])
            try:
                self._train(student, trial, losses, _Step(self._bench, trial, number, len(trials)), self._state(number, kept))
                self._scores[trial] = self._bench.score(student)
            except BurnishError as error:
                if error.reason is not Reason.TrainingDiverged or kept is None:
                    raise
                self._scores[trial] = None  # a comparison that came to nothing takes nothing from what is kept
            kept = kept or _Kept(student, tuple(losses))
        assert kept is not None  # noqa: S101  # there is a first one
        return kept

    def verdict(self) -> str:
        """Whether the original helped, by the mean over seeds."""
        taught, alone = ([score for trial, score in self._scores.items() if trial.is_taught is side] for side in (True, False))
        if None in (*taught, *alone):
            return "the original's help is not known: a training diverged"
        ours, theirs = (sum(score or 0.0 for score in side) / len(side) for side in (taught, alone))
        better = ours < theirs if self._bench.scores_errors else ours > theirs
        count = f"mean of {len(taught)} seeds" if len(taught) > 1 else "of one seed"
        return f"the original {'helped' if better else 'did not help'}: score {ours:.4g} with it, {theirs:.4g} without, {count}"

    def _student(self, seed: int) -> Any:
        """The same for the same seed."""
        if self._config.student is None:
            return _channels.copied(self._model)
        return _students.make(self._config.student, self._model, self._bench, self._config.seed + seed)

    def _train(self, student: Any, trial: _Trial, losses: list[float], bench: base.Bench, state: Mapping[str, object]) -> None:
        options = self._config.options
        change: dict[str, object] = {"seed": (options.seed + trial.seed) % 2**31}
        if not trial.is_taught:
            change["distill"] = None
        _training.train(student, _training.Part(options.model_copy(update=change)), bench, losses, state)

    def _state(self, number: int, kept: _Kept | None) -> dict[str, object]:
        """What a checkpoint needs beside the training that goes on."""
        state = {"model": kept.model.module.state_dict(), "losses": list(kept.losses)} if kept else None
        return {"trial": number, "scores": list(self._scores.values()), "kept": state}

    def _restored(self, state: Mapping[str, Any] | None) -> _Kept | None:
        if state is None:
            return None
        student = self._student(0)
        student.module.load_state_dict(state["model"])
        return _Kept(student, tuple(state["losses"]))


class _Step(base.Bench):
    """The bench of one training among several: it says which one it is."""

    def __init__(self, bench: base.Bench, trial: _Trial, number: int, count: int) -> None:
        self.lesson, self.calibration, self.team, self.hardware = bench.lesson, bench.calibration, bench.team, bench.hardware
        self.scores_errors = bench.scores_errors
        self._bench, self._number, self._count = bench, number, count
        what = "with the original" if trial.is_taught else "without it, to compare"
        self._prefix = f"training {number + 1} of {count} ({what}): " if count > 1 else ""

    def say(self, text: str, *, done: float | None = None) -> None:
        self._bench.say(f"{self._prefix}{text}", done=None if done is None else (self._number + done) / self._count)

    def save(self, state: Mapping[str, object]) -> None:
        self._bench.save(state)

    def load(self) -> Mapping[str, Any] | None:
        return self._bench.load()

    def student(self) -> Any:
        return self._bench.student()

    def score(self, model: Any) -> float | None:
        return self._bench.score(model)
