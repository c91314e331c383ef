"""Reading the user's samples from .npz, trusting nothing in the file.

An .npz is a zip of .npy files. Sizes come from the zip directory and the array headers and are checked before any array is allocated; object
arrays (pickles) are never loaded. What does not fit the model is refused by array name, with what was expected.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from burnish import names
from burnish.api.v1alpha1.optimized_model import Input, Metric
from burnish.errors import BurnishError, Reason
from burnish.plugins.base import DataType, Signature, Tensor

MAX_BYTES = 8 * 2**30
"""Largest uncompressed size of one dataset."""
MAX_MEMBERS = 256


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Samples that fit the model; the first axis of every array counts them."""

    arrays: dict[str, np.ndarray]
    """Input name -> (samples, ...) in the model's own dtype."""
    labels: np.ndarray | None
    """(samples, ...) where the file has them: class indices, or values for metrics that compare those."""
    is_batched: bool
    """The model takes several samples at once."""
    keeps_axis: bool
    """A feed has a leading axis for its samples: the batch axis, or one of fixed size 1."""
    notes: tuple[str, ...] = ()
    """Conversions that were made, for the report."""

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Input name -> shape of the feed of one sample."""
        return {name: array[:1].shape if self.keeps_axis else array.shape[1:] for name, array in self.arrays.items()}

    def feeds(self, batch: int, *, fill: bool = False) -> list[dict[str, np.ndarray]]:
        """All samples in order, `batch` per feed; the last feed is shorter, or with `fill` completed with samples from the start.

        Raises:
            BurnishError: InputsMismatch where the model takes one sample at a time and `batch` is larger.
        """
        if batch != 1 and not self.is_batched:
            raise BurnishError(
                Reason.InputsMismatch,
                f"the model has no batch axis, so {batch} samples can't be sent at once; set batchSize: 1",
                field="spec.measurement.loads",
            )
        if not self.keeps_axis:
            return [{name: array[i, ...] for name, array in self.arrays.items()} for i in range(len(self))]  # `...`: an array also of a scalar
        count = -(-len(self) // batch) * batch if fill else len(self)
        index = np.arange(count) % len(self)
        return [{name: array[index[i : i + batch]] for name, array in self.arrays.items()} for i in range(0, count, batch)]

    @functools.cached_property
    def digests(self) -> tuple[str, ...]:
        """SHA-256 of each sample's inputs (labels apart)."""
        return tuple(self._digest(i) for i in range(len(self)))

    def _digest(self, index: int) -> str:
        digest = hashlib.sha256()
        for name in sorted(self.arrays):
            sample = self.arrays[name][index]
            content = repr(sample.tolist()).encode() if sample.dtype == object else np.ascontiguousarray(sample).tobytes()
            digest.update(f"{name} {sample.dtype} {sample.shape} ".encode() + content)
        return digest.hexdigest()


def overlap(a: Dataset, b: Dataset) -> int:
    """How many samples of `b` also stand in `a`, byte for byte."""
    known = set(a.digests)
    return sum(digest in known for digest in b.digests)


def load_dataset(
    path: Path,
    inputs: Sequence[Input],
    signature: Signature,
    *,
    samples: int | None,
    field: str,
    metric: Metric | None = None,
    any_labels: bool = False,
    max_bytes: int = MAX_BYTES,
) -> Dataset:
    """Read the .npz file at `path`: one array per input of the model, (samples, ...), and `label`.

    Args:
        path: the file.
        inputs: `spec.inputs`: sizes and ranges that the samples have to keep.
        signature: of the model.
        samples: at most this many, from the start; None for all.
        field: where the manifest names this dataset, e.g. `spec.datasets.evaluation`.
        metric: that the samples are scored by; it says which labels are needed.
        any_labels: keep labels of any numeric type, for who reads them without a metric.
        max_bytes: largest uncompressed size.

    Raises:
        BurnishError: InvalidDataset, LabelsMissing.
    """
    return _Reader(path, inputs, signature, field, any_labels).read(samples, metric, max_bytes)


class _Header(NamedTuple):
    shape: tuple[int, ...]
    dtype: np.dtype


class _Reader:
    """One .npz file being read; keeps what every message needs."""

    def __init__(self, path: Path, inputs: Sequence[Input], signature: Signature, field: str, any_labels: bool) -> None:
        self.path, self.signature, self.field, self.any_labels = path, signature, field, any_labels
        self.declared = {entry.name: entry for entry in inputs}
        self.keeps_axis = signature.is_batched or all(t.shape and t.shape[0] == 1 for t in signature.inputs)
        self.notes: list[str] = []

    def read(self, samples: int | None, metric: Metric | None, max_bytes: int) -> Dataset:
        try:
            with zipfile.ZipFile(self.path) as archive:
                headers = self._headers(archive, max_bytes)
                self._check_names(headers, metric)
                count = self._check_counts(headers)
                keep = count if samples is None else min(samples, count)
                arrays = {t.name: self._load(archive, t, headers[t.name], keep) for t in self.signature.inputs}
                labels = self._labels(archive, headers, keep, metric)
        except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, NotImplementedError, ValueError) as error:
            raise self._invalid(f"{self.path.name} is no readable .npz file ({error}); write it with numpy.savez_compressed") from error
        return Dataset(arrays, labels, self.signature.is_batched, self.keeps_axis, tuple(self.notes))

    def _headers(self, archive: zipfile.ZipFile, max_bytes: int) -> dict[str, _Header]:
        members = archive.infolist()
        if len(members) > MAX_MEMBERS:
            raise self._invalid(f"{self.path.name} has {len(members)} members; at most {MAX_MEMBERS} are read")
        total = sum(member.file_size for member in members)
        if total > max_bytes:
            raise self._invalid(f"{self.path.name} unpacks to {total} bytes; at most {max_bytes} are read, use fewer samples")
        headers: dict[str, _Header] = {}
        for member in members:
            name = member.filename.removesuffix(".npy")
            if name == member.filename or name in headers:
                raise self._invalid(f"{self.path.name} holds {member.filename!r}, which is no array of its own; write it with numpy.savez_compressed")
            with archive.open(member) as stream:
                headers[name] = self._header(name, stream, member.file_size)
        return headers

    def _header(self, name: str, stream: IO[bytes], size_bytes: int) -> _Header:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
        if dtype.hasobject:
            raise self._invalid(f"array {name!r} holds Python objects, which are never loaded; store it as numbers or fixed-width strings")
        expected = dtype.itemsize
        for length in shape:
            expected *= length
        if stream.tell() + expected != size_bytes:
            raise self._invalid(f"array {name!r} announces {expected} bytes of data and has {size_bytes - stream.tell()}; the file is damaged")
        return _Header(tuple(shape), dtype)

    def _check_names(self, headers: dict[str, _Header], metric: Metric | None) -> None:
        wanted = [t.name for t in self.signature.inputs]
        missing = [n for n in wanted if n not in headers]
        surplus = [n for n in headers if n not in wanted and n != names.LABEL]
        if missing or surplus:
            wrong = [f"{what}: {', '.join(some[:8])}" for what, some in (("missing", missing), ("unknown", surplus)) if some]
            raise self._invalid(
                f"arrays must be named as the model's inputs ({', '.join(wanted)}), and {names.LABEL!r} for labels; {'; '.join(wrong)}"
            )
        if metric is not None and metric.needs_labels and (names.LABEL not in headers or names.LABEL in wanted):
            raise BurnishError(
                Reason.LabelsMissing,
                f"metric {metric.value} compares with labels and {self.path.name} has no array {names.LABEL!r}; add it, or use metric: Agreement",
                field=self.field,
            )

    def _check_counts(self, headers: dict[str, _Header]) -> int:
        for name, header in headers.items():
            if not header.shape:
                raise self._invalid(f"array {name!r} is a scalar; its first axis must count the samples")
        counts = {name: header.shape[0] for name, header in headers.items()}
        if len(set(counts.values())) > 1:
            raise self._invalid(f"arrays differ in their number of samples: {', '.join(f'{n} has {c}' for n, c in counts.items())}")
        count = next(iter(counts.values()))
        if count == 0:
            raise self._invalid(f"{self.path.name} has no samples")
        return count

    def _load(self, archive: zipfile.ZipFile, tensor: Tensor, header: _Header, keep: int) -> np.ndarray:
        self._check_shape(tensor, header)
        self._check_dtype(tensor, header)
        array = self._convert(tensor, self._array(archive, tensor.name)[:keep])
        if tensor.data_type.is_float and not np.isfinite(array).all():
            sample = int(np.argwhere(~np.isfinite(array))[0][0])
            raise self._invalid(
                f"array {tensor.name!r} holds NaN, infinity or a value too large for {tensor.data_type}, first in sample {sample}; remove it"
            )
        span = self.declared[tensor.name].range if tensor.name in self.declared else None
        if span is not None and (array.min() < span.min or array.max() > span.max):
            raise self._invalid(
                f"array {tensor.name!r} has values from {array.min()} to {array.max()}, outside the declared range {span.min} to {span.max}"
            )
        return array

    def _array(self, archive: zipfile.ZipFile, name: str) -> np.ndarray:
        with archive.open(f"{name}.npy") as stream:
            array: np.ndarray = np.lib.format.read_array(stream, allow_pickle=False)
        return array

    def _check_shape(self, tensor: Tensor, header: _Header) -> None:
        entry = self.declared.get(tensor.name)
        expected = list(tensor.shape if entry is None or entry.shape is None else entry.shape)
        if self.keeps_axis:
            expected = expected[1:]
        found = list(header.shape[1:])
        if len(found) != len(expected) or any(want not in (-1, have) for want, have in zip(expected, found, strict=True)):
            raise self._invalid(f"array {tensor.name!r} has shape {list(header.shape)}; expected [samples, {', '.join(map(str, expected))}]")
        if 0 in found:
            raise self._invalid(f"array {tensor.name!r} has shape {list(header.shape)}: its samples are empty")
        for bounds in entry.dynamic if entry else ():
            axis = bounds.axis if self.keeps_axis else bounds.axis + 1
            size = header.shape[axis]
            if axis > 0 and not (bounds.min <= size <= bounds.max and size % bounds.multiple_of == 0):
                allowed = f"{bounds.min} to {bounds.max}" + (f" in multiples of {bounds.multiple_of}" if bounds.multiple_of > 1 else "")
                raise self._invalid(f"array {tensor.name!r} has size {size} on axis {bounds.axis}; spec.inputs declares {allowed}")

    def _check_dtype(self, tensor: Tensor, header: _Header) -> None:
        if tensor.data_type is DataType.BYTES:
            if header.dtype.kind not in "SU":
                raise self._invalid(f"array {tensor.name!r} is {header.dtype}; the model wants strings (numpy dtype S or U)")
            return
        wanted = np.dtype(tensor.data_type.numpy_name)
        integers = header.dtype.kind in "iu" and wanted.kind in "iu" and np.can_cast(header.dtype, wanted, "safe")
        floats = header.dtype.kind == "f" and wanted.kind == "f" and (np.can_cast(header.dtype, wanted, "safe") or header.dtype.itemsize == 8)
        if header.dtype.newbyteorder("=") != wanted and not integers and not floats:
            raise self._invalid(
                f"array {tensor.name!r} is {header.dtype}; the model wants {wanted}; convert it as it was in training, then store it as {wanted}"
            )
        if header.dtype.newbyteorder("=") != wanted:
            self.notes.append(f"{self.field}: array {tensor.name!r} is {header.dtype} and was converted to {wanted}")

    def _convert(self, tensor: Tensor, array: np.ndarray) -> np.ndarray:
        if tensor.data_type is DataType.BYTES:
            return (np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array).astype(object)
        with np.errstate(over="ignore"):  # a value that overflows becomes infinity, which is refused next
            return np.ascontiguousarray(array, dtype=tensor.data_type.numpy_name)

    def _labels(self, archive: zipfile.ZipFile, headers: dict[str, _Header], keep: int, metric: Metric | None) -> np.ndarray | None:
        if names.LABEL not in headers or names.LABEL in {t.name for t in self.signature.inputs}:
            return None
        values = self.any_labels or (metric is not None and metric.compares_values)
        if headers[names.LABEL].dtype.kind not in ("iubf" if values else "iub"):
            if metric is None or not metric.needs_labels:
                return None  # nobody asks for it
            if values:
                raise self._invalid(f"array {names.LABEL!r} is {headers[names.LABEL].dtype}; metric {metric} compares with numbers")
            raise self._invalid(f"array {names.LABEL!r} is {headers[names.LABEL].dtype}; labels are integers, the index of the right class")
        return self._array(archive, names.LABEL)[:keep]

    def _invalid(self, message: str) -> BurnishError:
        return BurnishError(Reason.InvalidDataset, message, field=self.field)
