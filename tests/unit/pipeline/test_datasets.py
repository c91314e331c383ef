"""Datasets from .npz: what fits is read, what does not is refused by name."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from burnish.api.v1alpha1.optimized_model import Input, Metric
from burnish.errors import BurnishError, Reason
from burnish.pipeline.datasets import Dataset, load_dataset, overlap
from burnish.plugins.base import DataType, Signature, Tensor

FIELD = "spec.datasets.evaluation"
IMAGES = np.random.default_rng(0).standard_normal((10, 3, 8)).astype(np.float32)
LABELS = np.arange(10)


def _signature(shape: tuple[int, ...] = (-1, 3, -1), kind: DataType = DataType.FP32, output: tuple[int, ...] = (-1, 5)) -> Signature:
    return Signature(inputs=(Tensor(name="x", data_type=kind, shape=shape),), outputs=(Tensor(name="y", data_type=DataType.FP32, shape=output),))


def _load(path: Path, signature: Signature | None = None, *declared: Input, **options: Any) -> Dataset:
    return load_dataset(path, declared, signature or _signature(), **{"samples": None, "field": FIELD} | options)


def _write(folder: Path, **arrays: Any) -> Path:
    np.savez_compressed(folder / "data.npz", **arrays)
    return folder / "data.npz"


def _refusal(path: Path, signature: Signature | None = None, *declared: Input, **options: Any) -> str:
    with pytest.raises(BurnishError) as caught:
        _load(path, signature, *declared, **options)
    assert caught.value.reason is Reason.InvalidDataset
    assert caught.value.field == FIELD
    return caught.value.message


# --- what is read ---------------------------------------------------------------------------------------------------------------------


def test_load_reads_arrays_and_labels(tmp_path: Path) -> None:
    data = _load(_write(tmp_path, x=IMAGES, label=LABELS), metric=Metric.Accuracy)
    assert len(data) == 10 and data.notes == ()
    np.testing.assert_array_equal(data.arrays["x"], IMAGES)
    assert data.labels is not None
    np.testing.assert_array_equal(data.labels, LABELS)
    assert data.shapes == {"x": (1, 3, 8)}


def test_load_keeps_the_first_samples(tmp_path: Path) -> None:
    data = _load(_write(tmp_path, x=IMAGES, label=LABELS), samples=4)
    assert len(data) == 4 and data.labels is not None and len(data.labels) == 4
    assert len(_load(tmp_path / "data.npz", samples=99)) == 10


def test_feeds_batch_in_order_and_the_last_is_shorter(tmp_path: Path) -> None:
    feeds = _load(_write(tmp_path, x=IMAGES)).feeds(4)
    assert [f["x"].shape[0] for f in feeds] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate([f["x"] for f in feeds]), IMAGES)


def test_feeds_fill_the_last_batch_from_the_start(tmp_path: Path) -> None:
    feeds = _load(_write(tmp_path, x=IMAGES)).feeds(4, fill=True)
    assert [f["x"].shape[0] for f in feeds] == [4, 4, 4]
    np.testing.assert_array_equal(feeds[2]["x"][2:], IMAGES[:2])
    assert _load(tmp_path / "data.npz").feeds(16, fill=True)[0]["x"].shape == (16, 3, 8)


def test_a_leading_axis_of_one_is_the_samples_axis(tmp_path: Path) -> None:
    data = _load(_write(tmp_path, x=IMAGES), _signature((1, 3, 8), output=(1, 5)))
    assert data.shapes == {"x": (1, 3, 8)} and [f["x"].shape for f in data.feeds(1)] == [(1, 3, 8)] * 10
    with pytest.raises(BurnishError) as caught:
        data.feeds(2)
    assert caught.value.reason is Reason.InputsMismatch


def test_a_model_without_batch_axis_gets_whole_samples(tmp_path: Path) -> None:
    data = _load(_write(tmp_path, x=IMAGES), _signature((3, 8), output=()))
    assert data.shapes == {"x": (3, 8)} and [f["x"].shape for f in data.feeds(1)] == [(3, 8)] * 10


@pytest.mark.parametrize(
    ("kind", "found"), [(DataType.FP32, np.float64), (DataType.FP32, np.float16), (DataType.INT64, np.int32), (DataType.INT32, np.uint8)]
)
def test_load_converts_what_is_safe_and_notes_it(kind: DataType, found: type, tmp_path: Path) -> None:
    data = _load(_write(tmp_path, x=np.ones((2, 3, 8), found)), _signature(kind=kind))
    assert data.arrays["x"].dtype == kind.numpy_name
    assert len(data.notes) == 1 and np.dtype(found).name in data.notes[0]


@pytest.mark.parametrize("dtype", ["S5", "U5"])
def test_load_reads_strings(dtype: str, tmp_path: Path) -> None:
    data = _load(
        _write(tmp_path, x=np.array([["añb"], ["c"]]).astype("U5") if dtype[0] == "U" else np.array([["añb".encode()], [b"c"]], dtype)),
        _signature((-1, 1), DataType.BYTES),
    )
    assert data.arrays["x"].tolist() == [["añb"], ["c"]]


def test_overlap_counts_shared_samples(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    a = _load(_write(tmp_path, x=IMAGES[:6], label=LABELS[:6]))
    b = _load(_write(tmp_path / "b", x=IMAGES[4:]))
    assert overlap(a, b) == 2
    assert overlap(a, a) == 6


def test_overlap_compares_after_conversion(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    assert overlap(_load(_write(tmp_path, x=IMAGES)), _load(_write(tmp_path / "b", x=IMAGES[3:5].astype(np.float64)))) == 2


# --- what is refused ------------------------------------------------------------------------------------------------------------------


def test_load_refuses_names_that_do_not_fit(tmp_path: Path) -> None:
    message = _refusal(_write(tmp_path, image=IMAGES, extra=IMAGES))
    assert "missing: x" in message and "unknown: image, extra" in message


def test_load_refuses_missing_labels_only_where_they_are_needed(tmp_path: Path) -> None:
    path = _write(tmp_path, x=IMAGES)
    assert _load(path).labels is None
    with pytest.raises(BurnishError) as caught:
        _load(path, metric=Metric.Accuracy)
    assert caught.value.reason is Reason.LabelsMissing
    assert caught.value.field == FIELD and "'label'" in caught.value.message


@pytest.mark.parametrize("shape", [(10, 4, 8), (10, 3), (10, 3, 8, 1), (10, 3, 0)])
def test_load_refuses_shapes_that_do_not_fit(shape: tuple[int, ...], tmp_path: Path) -> None:
    message = _refusal(_write(tmp_path, x=np.zeros(shape, np.float32)))
    assert "'x'" in message and str(list(shape)) in message


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        (DataType.FP32, np.uint8),
        (DataType.INT32, np.int64),
        (DataType.INT32, np.float32),
        (DataType.FP16, np.float32),
        (DataType.BOOL, np.uint8),
        (DataType.FP32, "S4"),
        (DataType.BYTES, np.uint8),
    ],
)
def test_load_refuses_dtypes_that_do_not_fit(kind: DataType, found: Any, tmp_path: Path) -> None:
    message = _refusal(_write(tmp_path, x=np.ones((2, 3, 8)).astype(found)), _signature(kind=kind))
    assert "'x'" in message and "the model wants" in message


def test_load_refuses_no_samples(tmp_path: Path) -> None:
    assert "no samples" in _refusal(_write(tmp_path, x=IMAGES[:0]))


def test_load_refuses_object_arrays_without_loading_them(tmp_path: Path) -> None:
    canary = tmp_path / "canary"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (canary,))

    message = _refusal(_write(tmp_path, x=np.array([Evil()], dtype=object)))
    assert "Python objects" in message
    assert not canary.exists()


def test_load_refuses_differing_sample_counts(tmp_path: Path) -> None:
    message = _refusal(_write(tmp_path, x=IMAGES, label=LABELS[:7]))
    assert "x has 10" in message and "label has 7" in message


def test_load_refuses_labels_that_are_no_integers(tmp_path: Path) -> None:
    path = _write(tmp_path, x=IMAGES, label=LABELS / 2)
    for metric in (Metric.Accuracy, Metric.F1):
        assert "'label'" in _refusal(path, metric=metric)
    assert _load(path, metric=Metric.Agreement).labels is None  # nobody asks for them


def test_load_reads_labels_that_are_values_where_they_are_compared(tmp_path: Path) -> None:
    labels = _load(_write(tmp_path, x=IMAGES, label=LABELS / 2), metric=Metric.MSE).labels
    assert labels is not None
    np.testing.assert_array_equal(labels, LABELS / 2)
    assert "compares with numbers" in _refusal(_write(tmp_path, x=IMAGES, label=np.array(["a"] * 10)), metric=Metric.MAE)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_load_refuses_non_finite_values(value: float, tmp_path: Path) -> None:
    bad = IMAGES.copy()
    bad[6, 1, 2] = value
    assert "sample 6" in _refusal(_write(tmp_path, x=bad))


def test_load_refuses_a_double_that_float_cannot_hold(tmp_path: Path) -> None:
    assert "FP32" in _refusal(_write(tmp_path, x=np.full((2, 3, 8), 1e300)))


def test_load_refuses_sizes_and_values_outside_what_is_declared(tmp_path: Path) -> None:
    width = Input.model_validate({"name": "x", "dynamic": [{"axis": 2, "min": 16, "opt": 16, "max": 32}]})
    assert "16 to 32" in _refusal(_write(tmp_path, x=IMAGES), None, width)
    span = Input.model_validate({"name": "x", "range": {"min": 0, "max": 9}})
    assert "0 to 9" in _refusal(_write(tmp_path, x=np.full((2, 3, 8), 10, np.int32)), _signature(kind=DataType.INT32), span)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04" + bytes(50)])
def test_load_refuses_what_is_no_npz(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "data.npz").write_bytes(content)
    assert "no readable .npz" in _refusal(tmp_path / "data.npz")


def test_load_refuses_a_plain_npy_and_a_truncated_npz(tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", IMAGES)
    assert "no readable .npz" in _refusal(tmp_path / "data.npy")
    path = _write(tmp_path, x=IMAGES)
    path.write_bytes(path.read_bytes()[:-40])
    assert "no readable .npz" in _refusal(path)


def test_load_refuses_a_flipped_byte(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=IMAGES)
    content = bytearray((tmp_path / "data.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "data.npz").write_bytes(bytes(content))
    assert "no readable .npz" in _refusal(tmp_path / "data.npz")


def test_load_refuses_a_bomb_by_its_directory(tmp_path: Path) -> None:
    path = _write(tmp_path, x=np.zeros((1000, 3, 8), np.float32))
    assert path.stat().st_size < 2000
    assert "at most 2000" in _refusal(path, max_bytes=2000)


def test_load_refuses_a_header_that_announces_more_than_the_member_holds(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (2**40, 3, 8)})
    with zipfile.ZipFile(tmp_path / "data.npz", "w") as archive:
        archive.writestr("x.npy", header.getvalue() + bytes(100))
    assert "announces" in _refusal(tmp_path / "data.npz")


def test_load_refuses_too_many_members(tmp_path: Path) -> None:
    assert "members" in _refusal(_write(tmp_path, **{f"a{i}": np.zeros(1) for i in range(300)}))


def test_load_refuses_a_scalar_and_foreign_files(tmp_path: Path) -> None:
    assert "scalar" in _refusal(_write(tmp_path, x=np.float32(1)))
    with zipfile.ZipFile(tmp_path / "data.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "readme.txt" in _refusal(tmp_path / "data.npz")


def test_feeds_of_scalars_are_arrays(tmp_path: Path) -> None:
    feed = _load(_write(tmp_path, x=np.arange(3, dtype=np.float32)), _signature((), output=())).feeds(1)[2]["x"]
    assert isinstance(feed, np.ndarray)
    assert (feed.shape, feed.dtype, float(feed)) == ((), np.float32, 2.0)
