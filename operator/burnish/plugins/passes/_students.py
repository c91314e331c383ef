"""Smaller models to teach: the original with fewer channels or fewer of its repeated blocks, another architecture, or a model with a source of its own."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from burnish import names
from burnish.errors import BurnishError, Reason
from burnish.plugins import base, registry
from burnish.plugins.formats import _torch_architectures, _torch_module
from burnish.plugins.passes import _channels

_LINE = r"^[^\x00-\x1f\x7f]+$"
_KEYWORD = r"^[A-Za-z_][A-Za-z0-9_]*$"
_URI_LENGTH = 2048
_PERCENT = Annotated[int, Field(ge=1, le=99)]


StudentFormat = StrEnum("StudentFormat", {name: name for name, found in registry.formats().items() if found.is_trainable})  # type: ignore[misc]


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


class StudentSource(base.PluginModel):
    """Where a model is that is smaller than the original."""

    uri: Annotated[str, Field(min_length=1, pattern=_LINE, max_length=_URI_LENGTH)] = Field(
        examples=["file:small.onnx", "https://example.com/small.onnx"],
        description="As of spec.source; read with the same credentials, and again where spec.source.refresh changes.",
    )
    format: StudentFormat | None = Field(default=None, description="Only needed where it can't be detected from the content; a mismatch is an error.")
    task: base.Task | None = Field(default=None, description="HuggingFace: which head the model is loaded with; default the one that its files name.")
    digest: Annotated[str, Field(pattern=names.DIGEST_PATTERN, max_length=71)] | None = Field(
        default=None, description="Pin: sha256 of the file as sha256sum prints it; of a directory as Burnish reports it."
    )

    @model_validator(mode="after")
    def _task_has_a_format(self) -> StudentSource:
        if self.task is not None and self.format is not None and self.format.value not in _takers("task"):
            raise ValueError(f"has a task, which belongs to format {' or '.join(_takers('task'))}; remove it or change format")
        return self


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
        description="A network of torchvision.models, timm or transformers with the original's inputs and outputs. It starts without knowing anything; beside source it is what the weights there belong to.",
    )
    architecture_args: Annotated[list[StudentArg], Field(max_length=32)] = Field(
        default_factory=list, description="What the architecture is built with, where that is not the library's default."
    )
    source: StudentSource | None = Field(
        default=None,
        description="A smaller model that is there already (StateDict, HuggingFace or ONNX), with the original's inputs and outputs; it starts from its own weights.",
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
        own = "source" if self.source is not None else "architecture" if self.architecture is not None else ""
        if not own and not is_cut:
            raise ValueError("says nothing of the student; write widthPercent, depthPercent, architecture or source, or leave student out")
        if own and is_cut:
            raise ValueError(f"has {'a source' if own == 'source' else 'an architecture'} of its own, and a cut of the original; keep one of them")
        if self.architecture is None and self.architecture_args:
            raise ValueError("has architectureArgs and no architecture; add it, or remove them")
        return self

    @model_validator(mode="after")
    def _weights_have_an_architecture(self) -> Student:
        declared = self.source.format.value if self.source is not None and self.source.format is not None else None
        if declared is None:
            return self
        takers = _takers("architecture")
        if declared in takers and self.architecture is None:
            raise ValueError("has a source that holds weights only; name what they belong to, such as architecture: torchvision.models.resnet18")
        if declared not in takers and self.architecture is not None:
            raise ValueError(f"has an architecture, which belongs to a source of format {' or '.join(takers)}; remove it or change format")
        return self

    @property
    def is_of_its_own(self) -> bool:
        """Nothing of the original is in it."""
        return self.source is not None or self.architecture is not None

    @property
    def options(self) -> base.SourceOptions:
        """What the format of its source needs to know; only what is written is set."""
        given: dict[str, Any] = {
            "architecture": self.architecture,
            "architecture_args": {entry.name: entry.scalar for entry in self.architecture_args},
            "task": self.source.task if self.source is not None else None,
        }
        return base.SourceOptions(**{name: value for name, value in given.items() if value})


def _takers(option: str) -> list[str]:
    return [name for name in StudentFormat.__members__ if option in registry.formats()[name].options]


def make(student: Student, original: _torch_module.NamedModule, bench: base.Bench, seed: int) -> _torch_module.NamedModule:
    """The student, with the original's inputs and outputs.

    Args:
        student: what is asked for.
        original: it stays as it is.
        bench: has the student's own source.
        seed: of the weights, where they start from nothing.

    Raises:
        BurnishError: PassNotApplicable; ArchitectureMismatch; what opening a source raises.
    """
    if student.source is not None:
        own = _with_names_of(bench.student(), original)
        _check(own, original, told(student))
        return own
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
    if student.source is not None:
        pinned = f" ({student.source.digest[:19]})" if student.source.digest else ""
        return f"{student.source.uri}{pinned}{f' in {student.architecture}' if student.architecture else ''}"
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
    made = _with_names_of(_torch_module.NamedModule(module, original.inputs, by_keyword), original)
    _check(made, original, student.architecture or "")
    return made


# --- the original's names ----------------------------------------------------------------------------------------------------------------


def matched(own: Sequence[str], wanted: Sequence[str]) -> Mapping[str, str]:
    """The student's own name of each of the original's inputs: the same one, in any order; an only input may be called otherwise.

    Raises:
        BurnishError: PassNotApplicable.
    """
    if len(own) == len(wanted) == 1:
        return {wanted[0]: own[0]}
    if sorted(own) != sorted(wanted):
        text = f"the student takes the inputs {', '.join(own)}, and the original {', '.join(wanted)}; give it those, by their names"
        raise BurnishError(Reason.PassNotApplicable, text)
    return {name: name for name in wanted}


def check_inputs(own: Sequence[base.Tensor], wanted: Sequence[base.Tensor]) -> None:
    """Refuse a student whose graph does not take what the original takes.

    Raises:
        BurnishError: PassNotApplicable.
    """
    by_name = {tensor.name: tensor for tensor in own}
    for ours, theirs in matched(list(by_name), [t.name for t in wanted]).items():
        found, asked = by_name[theirs], next(t for t in wanted if t.name == ours)
        sizes = zip(found.shape, asked.shape, strict=False)
        if found.data_type is not asked.data_type or len(found.shape) != len(asked.shape) or any(size not in (-1, given) for size, given in sizes):
            text = (
                f"the student takes {found.name} {found.data_type} {list(found.shape)}, and the original {ours} {asked.data_type} {list(asked.shape)}"
            )
            raise BurnishError(Reason.PassNotApplicable, f"{text}; whoever asks the served model must find what it knows")


def _with_names_of(named: _torch_module.NamedModule, original: _torch_module.NamedModule) -> _torch_module.NamedModule:
    """The module with the original's inputs in the original's order, and an only output under the original's name."""
    import torch

    inputs = [i.tensor.name for i in original.inputs]
    theirs = matched([i.tensor.name for i in named.inputs], inputs)
    order = [inputs.index(name) for own in named.inputs for name in inputs if theirs[name] == own.tensor.name]
    outputs = list(_answers(original))

    class Renamed(torch.nn.Module):  # type: ignore[misc]  # torch has no types here
        def __init__(self) -> None:
            super().__init__()
            self.inner = named.module

        def forward(self, *arguments: Any) -> dict[str, Any]:
            inner = dataclasses.replace(named, module=self.inner)  # a copy of this module has an inner one of its own
            found = inner.outputs([arguments[position] for position in order])
            return {outputs[0]: next(iter(found.values()))} if len(found) == len(outputs) == 1 else found

    return _torch_module.NamedModule(Renamed().eval(), original.inputs)


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
