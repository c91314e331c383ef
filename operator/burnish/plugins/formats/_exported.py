"""What the exports of all frameworks share: a model's inputs as the library and the manifest tell them, and the way from an exporter's file to the pipeline's."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from burnish.errors import BurnishError, Reason
from burnish.plugins import base
from burnish.plugins.formats import onnx as onnx_format

_SYMBOL = re.compile(r"\b(?:[su]\d+|unk__\d+)\b")
"""A size that varies, as torch's exporter and tf2onnx name it."""


@dataclasses.dataclass(frozen=True)
class Input:
    """One input of a module: what it is in the served model, and how large it is while the model is traced."""

    tensor: base.Tensor
    sizes: Mapping[int, int] = dataclasses.field(default_factory=dict)
    """Varying axis -> size of the example; others are as the tracer likes them."""
    axes: Mapping[int, str] = dataclasses.field(default_factory=dict)
    """Varying axis -> its name in the ONNX file."""

    def axis_name(self, axis: int) -> str:
        """`batch` for axis 0 where nobody named it."""
        return self.axes.get(axis, "batch" if axis == 0 else f"{self.tensor.name}_{axis}")


def undeclared(declared: tuple[base.DeclaredInput, ...], what: str) -> tuple[Input, ...]:
    """The inputs of a model that doesn't tell them: those of the manifest, in its order.

    Raises:
        BurnishError: InputsNotGeneratable.
    """
    if not declared or any(entry.shape is None for entry in declared):
        text = f"{what} does not tell its inputs; declare each with its shape, such as spec.inputs: [{{name: image, shape: [-1, 3, 224, 224]}}]"
        raise BurnishError(Reason.InputsNotGeneratable, text, field="spec.inputs")
    return tuple(Input(base.Tensor(name=e.name, data_type=e.data_type or base.DataType.FP32, shape=e.shape or ()), e.sizes) for e in declared)


def declare(told: tuple[Input, ...], declared: tuple[base.DeclaredInput, ...]) -> tuple[Input, ...]:
    """Inputs that the library tells, with names, sizes and fixed axes as the manifest has them.

    An only input takes the manifest's name; what contradicts the library is refused later, when the exported model is compared with the manifest.
    """
    by_name = {entry.name: entry for entry in declared}
    if len(told) == len(declared) == 1 and told[0].tensor.data_type.is_float:
        by_name = {told[0].tensor.name: declared[0]}
    found = []
    for each in told:
        entry = by_name.get(each.tensor.name)
        if entry is not None:
            shape = each.tensor.shape if entry.shape is None else entry.shape
            tensor = each.tensor.model_copy(update={"name": entry.name, "shape": shape})
            each = Input(tensor, {**each.sizes, **entry.sizes}, each.axes)
        found.append(each)
    return tuple(found)


def finish(raw: Path, inputs: Sequence[Input], target: Path, *, image: base.ServingImage) -> tuple[base.Signature, base.GraphFacts]:
    """From what an exporter wrote to `raw` to the pipeline's `target`; `raw` goes.

    Raises:
        BurnishError: InvalidModel where an axis became a constant; as the ONNX format's `export`.
    """
    _name_axes_of(raw, inputs)
    signature, facts = onnx_format.Onnx().export(base.SourceModel(raw), target, image=image)
    for path in raw.parent.glob(f"{raw.name}*"):
        path.unlink()
    _check_axes(signature, inputs)
    known = {i.tensor.name: i.tensor.range for i in inputs}
    told = (tensor.model_copy(update={"range": known.get(tensor.name)}) for tensor in signature.inputs)
    return base.Signature(inputs=tuple(told), outputs=signature.outputs), facts


def _name_axes_of(raw: Path, inputs: Sequence[Input]) -> None:
    """Apart, so that the weights that come along are let go before they are read once more."""
    import onnx

    model = onnx.load(raw, load_external_data=False)
    name_axes(model, inputs)
    onnx.save(model, raw)


def name_axes(model: Any, inputs: Sequence[Input]) -> None:
    """Replace symbols such as `s77` by names, everywhere in the graph.

    One that only an output has is called after the output; some exporters don't say which input it follows.
    """
    known = {i.tensor.name: i for i in inputs}
    names: dict[str, str] = {}
    for value in (*model.graph.input, *model.graph.output):
        entry = known.get(value.name) or Input(base.Tensor(name=value.name, data_type=base.DataType.FP32, shape=()))
        for axis, size in enumerate(value.type.tensor_type.shape.dim):
            if _SYMBOL.fullmatch(size.dim_param):
                names.setdefault(size.dim_param, entry.axis_name(axis))
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param:
                size.dim_param = _SYMBOL.sub(lambda found: names.get(found[0], found[0]), size.dim_param)


def _check_axes(signature: base.Signature, inputs: Sequence[Input]) -> None:
    wanted = {i.tensor.name: i.tensor.shape for i in inputs}
    for tensor in signature.inputs:
        for axis, (ours, found) in enumerate(zip(wanted.get(tensor.name, ()), tensor.shape, strict=False)):
            if ours == -1 and found != -1:
                raise BurnishError(
                    Reason.InvalidModel,
                    f"axis {axis} of input {tensor.name!r} shall vary, but the model's code fixes it to one size; declare that size in spec.inputs",
                    field="spec.inputs",
                )
