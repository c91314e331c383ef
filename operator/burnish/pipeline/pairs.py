"""Requests and answers: as files that one step leaves for another, and as what a server takes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from burnish.measurement import tensors
from burnish.plugins.base import Arrays, Signature


def save_pair(path: Path, feed: Arrays, answer: Arrays) -> None:
    """One request and its answer as npz: arrays `input:<name>` and `output:<name>`; equal arrays give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    named = {f"input:{name}": array for name, array in feed.items()} | {f"output:{name}": array for name, array in answer.items()}
    with path.open("wb") as file:
        np.savez_compressed(file, **{name: _plain(array) for name, array in named.items()})  # type: ignore[arg-type]  # the names are the keys


def load_pair(path: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """What `save_pair` wrote."""
    with np.load(path, allow_pickle=False) as archive:
        return _named(archive, "input:"), _named(archive, "output:")


def request_body(feed: Arrays, signature: Signature) -> bytes:
    """A request as Triton takes it over HTTP, answered in JSON: one line of JSON, then the tensors.

    KServe v2 with binary tensor data; the line with its newline is the part whose length goes into `Inference-Header-Content-Length`.
    """
    feed = tensors.to_served(feed, signature)
    data = {name: tensors.to_bytes(array) for name, array in feed.items()}
    described = [
        {"name": name, "shape": list(array.shape), "datatype": tensors.data_type(array).value, "parameters": {"binary_data_size": len(data[name])}}
        for name, array in feed.items()
    ]
    return b"".join((json.dumps({"inputs": described}).encode(), b"\n", *data.values()))


def as_batch(outputs: Arrays, count: int, *, keeps_axis: bool) -> dict[str, np.ndarray]:
    """Outputs to `count` samples with axis 0 counting them.

    A model that takes one sample at a time may answer with anything (`[boxes, 4]`, `[time, 1, classes]`): what has no leading axis of
    size 1 is the answer to that one sample as a whole.

    Args:
        outputs: of one request.
        count: its samples.
        keeps_axis: as `ExportRecord.keeps_axis`.
    """
    return {name: array if keeps_axis and array.ndim and len(array) == count else array[None] for name, array in outputs.items()}


def _named(archive: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): archive[name] for name in archive if name.startswith(prefix)}


def _plain(array: np.ndarray) -> np.ndarray:
    """Strings as fixed-width text: an object array would be a pickle."""
    return array.astype(str) if array.dtype == object else array
