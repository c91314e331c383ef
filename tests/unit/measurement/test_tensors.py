"""Arrays on the wire and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.measurement import tensors
from burnish.plugins.base import DataType, Signature, Tensor


@pytest.mark.parametrize("kind", [k for k in DataType if k is not DataType.BYTES])
def test_numbers_come_back_as_they_were(kind: DataType) -> None:
    array = np.array([[0, 1, 1], [1, 0, 100]]).astype(kind.numpy_name)
    assert tensors.data_type(array) is kind
    back = tensors.from_bytes(memoryview(tensors.to_bytes(array)), kind, array.shape)
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


def test_big_endian_and_non_contiguous_arrays_are_sent_little_endian_in_c_order() -> None:
    array = np.arange(6, dtype=">f4").reshape(2, 3).T
    assert tensors.data_type(array) is DataType.FP32
    assert tensors.to_bytes(array) == np.ascontiguousarray(array).astype("<f4").tobytes()


@given(st.lists(st.one_of(st.text(), st.binary()), max_size=6))
def test_strings_come_back_as_bytes(texts: list[str | bytes]) -> None:
    array = np.empty(len(texts), dtype=object)
    array[:] = texts
    back = tensors.from_bytes(memoryview(tensors.to_bytes(array)), DataType.BYTES, array.shape)
    assert back.tolist() == [t if isinstance(t, bytes) else t.encode() for t in texts]


@pytest.mark.parametrize("data", [b"\x05", b"\x05\x00\x00\x00ab"])
def test_cut_off_strings_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="cut off"):
        tensors.from_bytes(memoryview(data), DataType.BYTES, (1,))


def test_dtype_that_the_protocol_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="complex64"):
        tensors.to_bytes(np.zeros(2, dtype=np.complex64))


@pytest.mark.parametrize(
    ("declared", "array", "served"),
    [
        ((-1,), (3,), (3, 1)),
        ((-1, 1), (3, 1), (3, 1)),
        ((-1, 4), (3, 4), (3, 4)),
        ((), (), (1,)),
        ((1,), (1,), (1,)),
        ((4,), (4,), (4,)),
    ],
)
def test_tensor_without_a_dimension_besides_the_batch_gets_one_for_triton_and_loses_it_again(
    declared: tuple[int, ...], array: tuple[int, ...], served: tuple[int, ...]
) -> None:
    tensor = Tensor(name="t", data_type=DataType.FP32, shape=declared)
    signature = Signature(inputs=(tensor,), outputs=(tensor,))
    sent = tensors.to_served({"t": np.zeros(array)}, signature)
    assert sent["t"].shape == served
    assert tensors.from_served(sent, signature)["t"].shape == array
