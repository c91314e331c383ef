"""Smaller models out of a larger one: fewer channels, fewer of its repeated blocks, or another architecture altogether."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from burnish.errors import BurnishError, Reason
from burnish.plugins import base
from burnish.plugins.formats import _torch_architectures, _torch_module
from burnish.plugins.passes import _channels

_LINE = r"^[^\x00-\x1f\x7f]+$"
_KEYWORD = r"^[A-Za-z_][A-Za-z0-9_]*$"
_PERCENT = Annotated[int, Field(ge=1, le=99)]


class StudentArg(base.PluginModel):
    """One argument with which the architecture is built."""

    name: Annotated[str, Field(pattern=_KEYWORD, max_length=64)] = Field(
        examples=["num_classes"], description="The keyword of the library's function; of a transformers class, the configuration's."
    )
    value: Annotated[str, Field(pattern=_LINE, max_length=256)] = Field(
        examples=["10"], description="A number, true, false or text, written as text."
    )

    @property
    def scalar(self) -> base.Scalar:
        """The value with its type."""
        try:
            found = json.loads(self.value)
        except ValueError:
            return self.value
        return found if isinstance(found, bool | int | float) and math.isfinite(found) else self.value


class Student(base.PluginModel):
    """What is smaller than the original."""

    width_percent: _PERCENT | None = Field(
        default=None, description="How many percent of each layer's channels it has; those of the original with the largest L2 norm, weights and all."
    )
    depth_percent: _PERCENT | None = Field(
        default=None, description="How many percent of the blocks that the original repeats it has, evenly spaced, weights and all; at least one."
    )
    architecture: Annotated[str, Field(pattern=_LINE, max_length=256)] | None = Field(
        default=None,
        examples=["torchvision.models.resnet18"],
        description="A network of torchvision.models, timm or transformers with the original's inputs and outputs; it starts without knowing anything.",
    )
    architecture_args: Annotated[list[StudentArg], Field(max_length=32)] = Field(
        default_factory=list, description="What the architecture is built with, where that is not the library's default."
    )

    @field_validator("architecture")
    @classmethod
    def _is_listed(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(_torch_architectures.PREFIXES):
            listed = ", ".join(prefix.removesuffix(".") for prefix in _torch_architectures.PREFIXES)
            raise ValueError(f"{value!r} is not in {listed}, and no other code is run; make the student by widthPercent or depthPercent")
        return value

    @field_validator("architecture_args")
    @classmethod
    def _each_once(cls, value: list[StudentArg]) -> list[StudentArg]:
        given = [entry.name for entry in value]
        twice = next((name for position, name in enumerate(given) if name in given[:position]), None)
        if twice is not None:
            raise ValueError(f"names {twice!r} twice; keep one")
        return value

    @model_validator(mode="after")
    def _is_one_thing(self) -> Student:
        is_cut = self.width_percent is not None or self.depth_percent is not None
        if self.architecture is None and not is_cut:
            raise ValueError("says nothing of the student; write widthPercent, depthPercent or architecture, or leave student out")
        if self.architecture is not None and is_cut:
            raise ValueError("has an architecture of its own, and a cut of the original; keep one of them")
        if self.architecture is None and self.architecture_args:
            raise ValueError("has architectureArgs and no architecture; add it, or remove them")
        return self


def make(student: Student, original: _torch_module.NamedModule, seed: int) -> _torch_module.NamedModule:
    """The student, with the original's inputs and outputs.

    Args:
        student: what is asked for.
        original: it stays as it is.
        seed: of the weights, where they start from nothing.

    Raises:
        BurnishError: PassNotApplicable; ArchitectureMismatch.
    """
    if student.architecture is not None:
        return _of_architecture(student, original, seed)
    made: _torch_module.NamedModule = _channels.copied(original)
    if student.depth_percent is not None:
        _shorten(made.module, student.depth_percent)
    if student.width_percent is not None:
        import torch_pruning

        share, importance = 1 - student.width_percent / 100, torch_pruning.importance.MagnitudeImportance(p=2)
        _channels.cut(made, share, importance, overall=False, instead="make the student by depthPercent or architecture", more="lower widthPercent")
    _check(made, original, "the original with fewer blocks or channels")
    return made


def told(student: Student | None) -> str:
    """What the student is, in words."""
    if student is None:
        return "the model that the passes before left"
    if student.architecture is not None:
        return student.architecture
    cuts = ((student.depth_percent, "blocks"), (student.width_percent, "channels"))
    return " and ".join(f"{percent} % of the {what}" for percent, what in cuts if percent is not None)


# --- another architecture ----------------------------------------------------------------------------------------------------------------


def _of_architecture(student: Student, original: _torch_module.NamedModule, seed: int) -> _torch_module.NamedModule:
    import torch

    arguments = {entry.name: entry.scalar for entry in student.architecture_args}
    torch.manual_seed(seed)
    try:
        module = _torch_architectures.build(base.SourceOptions(architecture=student.architecture, architecture_args=arguments))
    except BurnishError as error:
        raise BurnishError(error.reason, f"the student: {error.message}") from error
    by_keyword = (student.architecture or "").startswith("transformers.")
    made = _torch_module.NamedModule(module, original.inputs, by_keyword)
    wanted = list(_answers(original))
    if len(wanted) == 1:
        made = _torch_module.NamedModule(_with_name(made, wanted[0]), original.inputs)
    _check(made, original, student.architecture or "")
    return made


def _with_name(named: _torch_module.NamedModule, name: str) -> Any:
    """The module with its only output under the original's name."""
    import torch

    class Renamed(torch.nn.Module):  # type: ignore[misc]  # torch has no types here
        def __init__(self) -> None:
            super().__init__()
            self.inner = named.module

        def forward(self, *arguments: Any) -> dict[str, Any]:
            found = named.outputs(list(arguments))
            return {name: next(iter(found.values()))} if len(found) == 1 else found

    return Renamed().eval()


# --- fewer blocks ------------------------------------------------------------------------------------------------------------------------


def _shorten(module: Any, percent: int) -> None:
    """Keep some of the blocks that stand in a row and have the same type and the same weights' sizes."""
    import torch

    containers = [m for m in module.modules() if isinstance(m, (torch.nn.Sequential, torch.nn.ModuleList))]
    found = False
    for container in containers:
        for start, length in reversed(list(_repeated(list(container)))):
            found = True
            kept = max(1, round(length * percent / 100))
            wanted = {number * length // kept for number in range(kept)}
            for offset in reversed(range(length)):
                if offset not in wanted:
                    del container[start + offset]
    if not found:
        raise BurnishError(
            Reason.PassNotApplicable,
            "the model has no blocks of the same kind in a row that a student could have fewer of (a graph that came as ONNX has none); "
            "use student: {widthPercent: 50}",
        )


def _repeated(blocks: list[Any]) -> Iterator[tuple[int, int]]:
    """(first, length) of each stretch of blocks that could stand for each other."""
    start = 0
    for position in range(1, len(blocks) + 1):
        if position == len(blocks) or _form(blocks[position]) != _form(blocks[start]) or _form(blocks[start]) is None:
            if position - start > 1:
                yield start, position - start
            start = position


def _form(block: Any) -> tuple[object, ...] | None:
    """What has to be equal; None for what is no block: a single layer."""
    sizes = tuple((name, tuple(p.shape)) for name, p in block.named_parameters())
    return (type(block), sizes) if sizes and any(True for _ in block.children()) else None


# --- the same inputs and outputs ---------------------------------------------------------------------------------------------------------


def _check(made: _torch_module.NamedModule, original: _torch_module.NamedModule, what: str) -> None:
    """Refuse a student that takes or answers something else than the original, before an hour's training."""
    inputs = ", ".join(f"{i.tensor.name} {list(i.tensor.shape)}" for i in original.inputs)
    try:
        found = _answers(made)
    except Exception as error:  # of the model's own code
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise BurnishError(Reason.PassNotApplicable, f"the student ({what}) does not take the original's inputs ({inputs}): {said}") from error
    wanted = _answers(original)
    if found != wanted:
        text = f"the student ({what}) answers {_list(found)}, and the original {_list(wanted)}; whoever asks the served model must find what it knows"
        raise BurnishError(Reason.PassNotApplicable, text)


def _answers(named: _torch_module.NamedModule) -> dict[str, tuple[object, ...]]:
    """Output -> its shape and type for the example."""
    import torch

    named.module.eval()
    with torch.no_grad():
        found = named.outputs([_torch_module.example(i) for i in named.inputs])
    return {name: (tuple(value.shape), str(value.dtype).removeprefix("torch.")) for name, value in found.items()}


def _list(answers: dict[str, tuple[object, ...]]) -> str:
    return ", ".join(f"{name} {list(shape[1:])} {kind}" for name, (shape, kind) in answers.items())  # type: ignore[index]  # a shape
