"""The user's samples as requests: opened once per step, real ones where there are any, made up where that makes sense."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from burnish.api.job_contract import PipelineRequest, ResolvedInput, StageRecord, StepName
from burnish.api.v1alpha1.optimized_model import Metric
from burnish.measurement import tensors
from burnish.pipeline.datasets import Dataset, load_dataset
from burnish.pipeline.inputs import Shapes, generate, resolve_inputs
from burnish.pipeline.workdir import WorkDir
from burnish.plugins.base import Arrays, Signature

SEED = 20250101
"""Of made-up requests: equal in every run."""
MADE_UP = 32
"""Made-up requests per batch size, where there is no data."""


@dataclasses.dataclass(frozen=True)
class Samples:
    """The datasets of a request, checked against the model."""

    calibration: Dataset | None
    evaluation: Dataset | None
    inputs: tuple[ResolvedInput, ...]

    @property
    def best(self) -> Dataset | None:
        """The data that requests are drawn from: evaluation before calibration."""
        return self.evaluation or self.calibration

    def feeds(self, count: int, batch: int = 1) -> list[dict[str, np.ndarray]]:
        """`count` requests at most, of exactly `batch` samples each.

        Raises:
            BurnishError: InputsNotGeneratable where there is no data and none can be made up.
        """
        if self.best is not None:
            return self.best.feeds(batch, fill=True)[:count]
        return generate(self.inputs, batch, min(count, MADE_UP), SEED)


def open_datasets(work: WorkDir, request: PipelineRequest, signature: Signature) -> Samples:
    """Read what `stage` placed.

    Raises:
        BurnishError: InvalidDataset, LabelsMissing, InputsMismatch, InputsNotGeneratable.
    """
    staged = work.load(StepName.stage, StageRecord)
    data = request.datasets
    calibration = evaluation = None
    if staged.calibration and data.calibration:
        calibration = load_dataset(
            work.path(staged.calibration), request.inputs, signature, samples=data.calibration.samples, field="spec.datasets.calibration"
        )
    if staged.evaluation and data.evaluation:
        evaluation = load_dataset(
            work.path(staged.evaluation),
            request.inputs,
            signature,
            samples=data.evaluation.samples,
            field="spec.datasets.evaluation",
            need_label=data.evaluation.metric is Metric.Accuracy,
        )
    best = evaluation or calibration
    shapes: Shapes | None = best.shapes if best else None
    return Samples(calibration, evaluation, resolve_inputs(signature, request.inputs, shapes))


def save_pair(path: Path, feed: Arrays, answer: Arrays) -> None:
    """One request and its answer as npz: arrays `input:<name>` and `output:<name>`; equal arrays give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    named = {f"input:{name}": array for name, array in feed.items()} | {f"output:{name}": array for name, array in answer.items()}
    with path.open("wb") as file:
        np.savez_compressed(file, **{name: _plain(array) for name, array in named.items()})  # type: ignore[arg-type]  # the names are the keys


def request_body(feed: Arrays) -> bytes:
    """A request as Triton takes it over HTTP, answered in JSON: one line of JSON, then the tensors.

    KServe v2 with binary tensor data; the line with its newline is the part whose length goes into `Inference-Header-Content-Length`.
    """
    data = {name: tensors.to_bytes(array) for name, array in feed.items()}
    described = [
        {"name": name, "shape": list(array.shape), "datatype": tensors.data_type(array).value, "parameters": {"binary_data_size": len(data[name])}}
        for name, array in feed.items()
    ]
    return b"".join((json.dumps({"inputs": described}).encode(), b"\n", *data.values()))


def load_pair(path: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """What `save_pair` wrote."""
    with np.load(path, allow_pickle=False) as archive:
        return _named(archive, "input:"), _named(archive, "output:")


def _named(archive: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): archive[name] for name in archive if name.startswith(prefix)}


def _plain(array: np.ndarray) -> np.ndarray:
    """Strings as fixed-width text: an object array would be a pickle."""
    return array.astype(str) if array.dtype == object else array


def as_batch(outputs: Arrays, keeps_axis: bool) -> dict[str, np.ndarray]:
    """Outputs with a leading sample axis, also of models that have none."""
    return {name: array if keeps_axis else array[None] for name, array in outputs.items()}
