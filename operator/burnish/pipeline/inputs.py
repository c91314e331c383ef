"""What the model expects, brought together with what the user declared; and made-up requests where no data says what real ones look like.

Latency depends on shapes, and for some models on values (token ids index tables), so nothing is guessed: a size or a range that neither
model, manifest nor data gives is asked for by name.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from burnish.api.job_contract import Bounds, ResolvedInput
from burnish.api.v1alpha1.optimized_model import Input
from burnish.errors import BurnishError, Reason
from burnish.plugins.base import DataType, Signature, Tensor

if TYPE_CHECKING:
    import numpy as np

Shapes = Mapping[str, tuple[int, ...]]
"""Input name -> shape of the feed of one sample, in the model's own rank."""


def resolve_inputs(signature: Signature, declared: Sequence[Input], data: Shapes | None = None) -> tuple[ResolvedInput, ...]:
    """One entry per input of the model, in its order; each varying axis but the batch axis has bounds.

    Args:
        signature: of the exported model.
        declared: `spec.inputs`.
        data: shapes of the user's own samples, which fill in sizes that nobody declared.

    Raises:
        BurnishError: InputsMismatch where `declared` contradicts the model; InputsNotGeneratable for a size that nothing gives.
    """
    check_declared(signature, declared)
    by_name = {entry.name: entry for entry in declared}
    return tuple(_resolve(tensor, by_name.get(tensor.name), (data or {}).get(tensor.name), signature.is_batched) for tensor in signature.inputs)


def check_declared(signature: Signature, declared: Sequence[Input]) -> None:
    """Refuse what contradicts the model: names, types, ranks, fixed sizes, ranges.

    Raises:
        BurnishError: InputsMismatch with the field.
    """
    tensors = {tensor.name: tensor for tensor in signature.inputs}
    for index, entry in enumerate(declared):
        field = f"spec.inputs[{index}]"
        if entry.name not in tensors:
            raise _mismatch(
                f"{field}.name", f"the model has no input {entry.name!r}{_close(entry.name, tensors)}; its inputs are {', '.join(tensors)}"
            )
        tensor = tensors[entry.name]
        if entry.data_type is not None and entry.data_type is not tensor.data_type:
            raise _mismatch(
                f"{field}.dataType", f"input {entry.name!r} is {tensor.data_type} in the model, not {entry.data_type}; correct or remove it"
            )
        _check_shape(tensor, entry, field)
        _check_range(tensor, entry, field)


def concrete_shape(entry: ResolvedInput, batch: int, at: Literal["min", "opt", "max"] = "opt") -> tuple[int, ...]:
    """The shape of a request of `batch` samples, varying sizes at their `min`, `opt` or `max`.

    Raises:
        BurnishError: InputsMismatch where the model can't take that batch size.
    """
    bounds = {b.axis: b for b in entry.bounds}
    shape = [_size(bounds[axis], at) if size == -1 and axis in bounds else size for axis, size in enumerate(entry.shape)]
    if entry.is_batched:
        _check_batch(entry, bounds.get(0), batch)
        shape[0] = batch
    elif batch != 1:
        raise BurnishError(
            Reason.InputsMismatch,
            f"input {entry.name!r} has shape {list(entry.shape)} and no batch axis, so {batch} samples can't be sent at once; set batchSize: 1",
            field="spec.measurement.loads",
        )
    return tuple(shape)


def generate(inputs: Sequence[ResolvedInput], batch: int, count: int, seed: int) -> list[dict[str, np.ndarray]]:
    """`count` made-up requests of `batch` samples: floats standard normal, integers uniform within their range, bools even.

    Raises:
        BurnishError: InputsNotGeneratable for strings, and for integers without a range.
    """
    import numpy as np

    generator = np.random.default_rng(seed)
    shapes = {entry.name: concrete_shape(entry, batch) for entry in inputs}
    return [{entry.name: _values(entry, shapes[entry.name], generator) for entry in inputs} for _ in range(count)]


def _values(entry: ResolvedInput, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    dtype = entry.data_type.numpy_name
    if entry.data_type.is_float:
        return generator.standard_normal(shape).astype(dtype)
    if entry.data_type is DataType.BOOL:
        return generator.integers(0, 2, shape).astype(dtype)
    if entry.data_type.is_integer and entry.range is not None:
        return generator.integers(entry.range[0], entry.range[1], shape, dtype=dtype, endpoint=True)
    what = (
        "strings can't be made up"
        if entry.data_type is DataType.BYTES
        else f"its integers have no range (spec.inputs: {{name: {entry.name}, range: ...}})"
    )
    raise BurnishError(
        Reason.InputsNotGeneratable,
        f"input {entry.name!r}: there is no data and {what}; declare range, or give spec.datasets.evaluation or calibration",
        field="spec.inputs",
    )


def _resolve(tensor: Tensor, entry: Input | None, sample: tuple[int, ...] | None, batched: bool) -> ResolvedInput:
    shape = tensor.shape
    if entry is not None and entry.shape is not None:
        shape = tuple(mine if theirs == -1 else theirs for mine, theirs in zip(entry.shape, shape, strict=True))
    declared = {d.axis: Bounds(axis=d.axis, min=d.min, opt=d.opt, max=d.max, multiple_of=d.multiple_of) for d in (entry.dynamic if entry else ())}
    is_batched = batched and shape[0] == -1
    bounds = []
    for axis in (a for a, size in enumerate(shape) if size == -1):
        if axis in declared:
            bounds.append(declared[axis])
        elif axis == 0 and is_batched:
            continue
        elif sample is not None:
            bounds.append(Bounds(axis=axis, min=sample[axis], opt=sample[axis], max=sample[axis]))
        else:
            raise _size_unknown(tensor, axis)
    span = (entry.range.min, entry.range.max) if entry and entry.range else tensor.range
    return ResolvedInput(name=tensor.name, data_type=tensor.data_type, shape=shape, bounds=tuple(bounds), range=span, is_batched=is_batched)


def _check_shape(tensor: Tensor, entry: Input, field: str) -> None:
    rank = len(tensor.shape)
    if entry.shape is not None:
        if len(entry.shape) != rank:
            raise _mismatch(
                f"{field}.shape", f"input {entry.name!r} has {rank} dimensions in the model ({list(tensor.shape)}), not {len(entry.shape)}"
            )
        for axis, (mine, theirs) in enumerate(zip(entry.shape, tensor.shape, strict=True)):
            if theirs != -1 and mine != theirs:
                raise _mismatch(
                    f"{field}.shape", f"axis {axis} of input {entry.name!r} has the fixed size {theirs} in the model, not {mine}; write {theirs}"
                )
    for number, dynamic in enumerate(entry.dynamic):
        if dynamic.axis >= rank:
            raise _mismatch(
                f"{field}.dynamic[{number}]", f"input {entry.name!r} has {rank} dimensions, so there is no axis {dynamic.axis}; axes count from 0"
            )
        if tensor.shape[dynamic.axis] != -1:
            size = tensor.shape[dynamic.axis]
            raise _mismatch(
                f"{field}.dynamic[{number}]", f"axis {dynamic.axis} of input {entry.name!r} has the fixed size {size} in the model; remove the entry"
            )


def _check_range(tensor: Tensor, entry: Input, field: str) -> None:
    import numpy as np

    if entry.range is None:
        return
    if not tensor.data_type.is_integer:
        raise _mismatch(f"{field}.range", f"input {entry.name!r} is {tensor.data_type}; range is for integers, remove it")
    limits = np.iinfo(tensor.data_type.numpy_name)
    if entry.range.min < limits.min or entry.range.max > limits.max:
        raise _mismatch(f"{field}.range", f"input {entry.name!r} is {tensor.data_type}, which holds {limits.min} to {limits.max}; narrow the range")


def _size(bounds: Bounds, at: Literal["min", "opt", "max"]) -> int:
    size: int = getattr(bounds, at)
    return -(-size // bounds.multiple_of) * bounds.multiple_of


def _check_batch(entry: ResolvedInput, bounds: Bounds | None, batch: int) -> None:
    if bounds is not None and not (bounds.min <= batch <= bounds.max and batch % bounds.multiple_of == 0):
        allowed = f"{bounds.min} to {bounds.max}" + (f" in multiples of {bounds.multiple_of}" if bounds.multiple_of > 1 else "")
        raise BurnishError(
            Reason.InputsMismatch,
            f"batch size {batch} is outside what spec.inputs declares for axis 0 of {entry.name!r} ({allowed}); change one of them",
            field="spec.measurement.loads",
        )


def _size_unknown(tensor: Tensor, axis: int) -> BurnishError:
    return BurnishError(
        Reason.InputsNotGeneratable,
        f"axis {axis} of input {tensor.name!r} (shape {list(tensor.shape)}) varies and nothing says which size to measure; "
        f"declare spec.inputs: [{{name: {tensor.name}, dynamic: [{{axis: {axis}, opt: ..., max: ...}}]}}], or give a dataset",
        field="spec.inputs",
    )


def _mismatch(field: str, message: str) -> BurnishError:
    return BurnishError(Reason.InputsMismatch, message, field=field)


def _close(name: str, known: Mapping[str, object]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
