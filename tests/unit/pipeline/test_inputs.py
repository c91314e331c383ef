"""Model, manifest and data brought together; and made-up requests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from burnish.api.job_contract import Bounds, ResolvedInput
from burnish.api.v1alpha1.optimized_model import Input
from burnish.errors import BurnishError, Reason
from burnish.pipeline.inputs import concrete_shape, generate, resolve_inputs
from burnish.plugins.base import DataType, Signature, Tensor


def _signature(shape: tuple[int, ...] = (-1, 3, -1), kind: DataType = DataType.FP32, output: tuple[int, ...] = (-1, 5)) -> Signature:
    return Signature(inputs=(Tensor(name="x", data_type=kind, shape=shape),), outputs=(Tensor(name="y", data_type=DataType.FP32, shape=output),))


def _declared(**fields: Any) -> Input:
    return Input.model_validate({"name": "x"} | fields)


def _width(**fields: Any) -> Input:
    return _declared(dynamic=[{"axis": 2, "opt": 32, "max": 64} | fields])


# --- resolve_inputs -------------------------------------------------------------------------------------------------------------------


def test_resolve_takes_bounds_from_the_manifest() -> None:
    (entry,) = resolve_inputs(_signature(), [_width(min=8, multipleOf=8)])
    assert entry == ResolvedInput(
        name="x", data_type=DataType.FP32, shape=(-1, 3, -1), bounds=(Bounds(axis=2, min=8, opt=32, max=64, multiple_of=8),), is_batched=True
    )


def test_resolve_takes_sizes_from_data_where_nothing_is_declared() -> None:
    (entry,) = resolve_inputs(_signature(), [], {"x": (1, 3, 40)})
    assert entry.bounds == (Bounds(axis=2, min=40, opt=40, max=40),)


def test_resolve_prefers_the_manifest_to_data() -> None:
    (entry,) = resolve_inputs(_signature(), [_width()], {"x": (1, 3, 40)})
    assert entry.bounds[0].opt == 32


def test_resolve_takes_a_fixed_size_from_the_declared_shape() -> None:
    (entry,) = resolve_inputs(_signature(), [_declared(shape=[-1, 3, 48])])
    assert entry.shape == (-1, 3, 48) and entry.bounds == ()


def test_resolve_asks_for_a_size_that_nothing_gives() -> None:
    with pytest.raises(BurnishError) as caught:
        resolve_inputs(_signature(), [])
    assert caught.value.reason is Reason.InputsNotGeneratable
    assert "axis 2 of input 'x'" in caught.value.message and "dynamic" in caught.value.message


def test_resolve_leaves_the_batch_axis_to_the_batch_size() -> None:
    (entry,) = resolve_inputs(_signature((-1, 3)), [])
    assert entry.is_batched and entry.bounds == ()


def test_resolve_asks_for_axis_zero_where_it_is_no_batch_axis() -> None:
    with pytest.raises(BurnishError) as caught:
        resolve_inputs(_signature((-1, 3), output=(5,)), [])
    assert "axis 0" in caught.value.message


def test_resolve_keeps_the_models_order() -> None:
    signature = Signature(
        inputs=tuple(Tensor(name=n, data_type=DataType.INT64, shape=(-1, 8)) for n in ("ids", "mask")),
        outputs=(Tensor(name="y", data_type=DataType.FP32, shape=(-1, 2)),),
    )
    entries = resolve_inputs(signature, [Input.model_validate({"name": "mask", "range": {"min": 0, "max": 1}})])
    assert [(e.name, e.range) for e in entries] == [("ids", None), ("mask", (0, 1))]


@pytest.mark.parametrize(
    ("fields", "field", "word"),
    [
        ({"name": "X"}, "spec.inputs[0].name", "inputs are x"),
        ({"dataType": "INT32"}, "spec.inputs[0].dataType", "FP32"),
        ({"shape": [-1, 3]}, "spec.inputs[0].shape", "3 dimensions"),
        ({"shape": [-1, 4, -1]}, "spec.inputs[0].shape", "fixed size 3"),
        ({"shape": [-1, -1, -1]}, "spec.inputs[0].shape", "axis 1"),
        ({"dynamic": [{"axis": 1, "opt": 3, "max": 3}]}, "spec.inputs[0].dynamic[0]", "fixed size 3"),
        ({"dynamic": [{"axis": 5, "opt": 3, "max": 3}]}, "spec.inputs[0].dynamic[0]", "axis 5"),
        ({"range": {"min": 0, "max": 1}}, "spec.inputs[0].range", "for integers"),
    ],
    ids=["name", "dtype", "rank", "size", "fixed-as-varying", "dynamic-fixed", "dynamic-outside", "range-of-floats"],
)
def test_resolve_refuses_what_contradicts_the_model(fields: dict[str, Any], field: str, word: str) -> None:
    with pytest.raises(BurnishError) as caught:
        resolve_inputs(_signature(), [_declared(**fields)], {"x": (1, 3, 8)})
    assert caught.value.reason is Reason.InputsMismatch
    assert caught.value.field == field
    assert word in caught.value.message


def test_resolve_refuses_a_range_that_the_type_cannot_hold() -> None:
    with pytest.raises(BurnishError) as caught:
        resolve_inputs(_signature((-1, 3), DataType.UINT8), [_declared(range={"min": 0, "max": 256})])
    assert caught.value.reason is Reason.InputsMismatch
    assert "0 to 255" in caught.value.message


# --- concrete_shape -------------------------------------------------------------------------------------------------------------------


def test_concrete_shape_follows_bounds_and_batch() -> None:
    (entry,) = resolve_inputs(_signature(), [_width(min=5, multipleOf=8)])
    assert concrete_shape(entry, 4) == (4, 3, 32)
    assert concrete_shape(entry, 1, at="min") == (1, 3, 8)  # the smallest multiple of 8 that is not below 5
    assert concrete_shape(entry, 1, at="max") == (1, 3, 64)


def test_concrete_shape_refuses_a_batch_outside_the_declared_bounds() -> None:
    (entry,) = resolve_inputs(_signature((-1, 3)), [_declared(dynamic=[{"axis": 0, "opt": 8, "max": 16}])])
    assert concrete_shape(entry, 1) == (1, 3)
    with pytest.raises(BurnishError) as caught:
        concrete_shape(entry, 32)
    assert caught.value.reason is Reason.InputsMismatch
    assert "1 to 16" in caught.value.message


def test_concrete_shape_refuses_batches_where_there_is_no_batch_axis() -> None:
    (entry,) = resolve_inputs(_signature((1, 3), output=(1, 5)), [])
    assert concrete_shape(entry, 1) == (1, 3)
    with pytest.raises(BurnishError) as caught:
        concrete_shape(entry, 2)
    assert caught.value.field == "spec.measurement.loads"


# --- generate -------------------------------------------------------------------------------------------------------------------------


def _entry(kind: DataType, span: tuple[int, int] | None = None) -> ResolvedInput:
    return ResolvedInput(name="x", data_type=kind, shape=(-1, 200), range=span, is_batched=True)


@pytest.mark.parametrize("kind", [DataType.FP16, DataType.FP32, DataType.FP64])
def test_generate_makes_standard_normal_floats(kind: DataType) -> None:
    feeds = generate([_entry(kind)], batch=20, count=2, seed=0)
    values = feeds[0]["x"]
    assert values.dtype == kind.numpy_name and values.shape == (20, 200)
    assert abs(values.mean()) < 0.1 and abs(values.std() - 1) < 0.1
    assert not np.array_equal(values, feeds[1]["x"])


@pytest.mark.parametrize(
    ("kind", "span"),
    [
        (DataType.INT32, (3, 5)),
        (DataType.INT64, (-2, 2)),
        (DataType.UINT8, (0, 255)),
        (DataType.UINT64, (2**64 - 3, 2**64 - 1)),
        (DataType.INT8, (7, 7)),
    ],
)
def test_generate_makes_integers_that_reach_both_ends_of_their_range(kind: DataType, span: tuple[int, int]) -> None:
    values = generate([_entry(kind, span)], batch=50, count=1, seed=0)[0]["x"]
    assert values.dtype == kind.numpy_name
    assert (int(values.min()), int(values.max())) == span


def test_generate_makes_both_bools() -> None:
    values = generate([_entry(DataType.BOOL)], batch=1, count=1, seed=0)[0]["x"]
    assert values.dtype == bool and set(values.ravel().tolist()) == {False, True}


def test_generate_repeats_itself_for_a_seed() -> None:
    first, again, other = (generate([_entry(DataType.FP32)], 1, 1, seed)[0]["x"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(("kind", "word"), [(DataType.INT64, "range"), (DataType.BYTES, "strings")])
def test_generate_refuses_what_cannot_be_made_up(kind: DataType, word: str) -> None:
    with pytest.raises(BurnishError) as caught:
        generate([_entry(kind)], 1, 1, 0)
    assert caught.value.reason is Reason.InputsNotGeneratable
    assert "'x'" in caught.value.message and word in caught.value.message
