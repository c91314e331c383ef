"""Samples against what the model and the manifest allow, and outputs against the samples."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from burnish.api.job_contract import PipelineRequest, StageRecord, StepName
from burnish.api.v1alpha1.optimized_model import Calibration, Datasets, DynamicAxis, Evaluation, Input, Load, Measurement, Metric
from burnish.errors import BurnishError, Reason
from burnish.pipeline import pairs
from burnish.pipeline.samples import Samples, open_datasets
from burnish.pipeline.workdir import WorkDir
from burnish.plugins.base import DataType, Signature, Tensor


def signature(x: tuple[int, ...] = (-1, 4), y: tuple[int, ...] = (-1, 3)) -> Signature:
    return Signature(inputs=(Tensor(name="x", data_type=DataType.FP32, shape=x),), outputs=(Tensor(name="y", data_type=DataType.FP32, shape=y),))


def open_samples(
    folder: Path, model: Signature, *, data: bool = True, bounds: tuple[int, int] | None = None, batch: int = 1, output: str | None = None
) -> Samples:
    """What `open_datasets` makes of ten samples, or of none."""
    work = WorkDir(folder)
    if data:
        shape = model.inputs[0].shape
        np.savez(folder / "data.npz", x=np.ones((10, *(shape[1:] if shape and shape[0] in (-1, 1) else shape)), np.float32))
    (folder / StepName.stage.value).mkdir(exist_ok=True)
    work.save(StepName.stage, StageRecord(source="", calibration="data.npz" if data else None, evaluation="data.npz" if data else None))
    uri = "file:data.npz"
    datasets = Datasets(
        calibration=Calibration(uri=uri) if data else None,
        evaluation=Evaluation(uri=uri, metric=Metric.Agreement, output=output) if data or output else None,
    )
    inputs = (Input(name="x", dynamic=[DynamicAxis(axis=0, min=bounds[0], opt=bounds[0], max=bounds[1])]),) if bounds else ()
    request = PipelineRequest.model_construct(inputs=inputs, datasets=datasets, measurement=Measurement(loads=[Load(name="only", batch_size=batch)]))
    return open_datasets(work, request, model)


@pytest.mark.parametrize("data", [True, False])
@pytest.mark.parametrize(("batch", "allowed"), [(1, False), (4, True), (8, True), (32, False)])
def test_load_is_held_to_the_declared_bounds_with_and_without_data(tmp_path: Path, data: bool, batch: int, allowed: bool) -> None:
    if allowed:
        found = open_samples(tmp_path, signature(), data=data, bounds=(4, 8), batch=batch)
        assert found.smallest_batch == 4
        assert found.feeds(1, found.smallest_batch)[0]["x"].shape == (4, 4)
        return
    with pytest.raises(BurnishError, match=f"batch size {batch} is outside") as caught:
        open_samples(tmp_path, signature(), data=data, bounds=(4, 8), batch=batch)
    assert (caught.value.reason, caught.value.field) == (Reason.InputsMismatch, "spec.measurement.loads")


def test_unknown_output_is_refused_wherever_samples_are_opened(tmp_path: Path) -> None:
    with pytest.raises(BurnishError, match="no output 'z'; it has y") as caught:
        open_samples(tmp_path, signature(), output="z")
    assert caught.value.field == "spec.datasets.evaluation.output"


@pytest.mark.parametrize(
    ("x", "output", "expected"),
    [
        ((-1, 4), (1, 3), (1, 3)),
        ((1, 4), (1, 3), (1, 3)),
        ((1, 4), (2, 2), (1, 2, 2)),
        ((1, 4), (), (1,)),
        ((4,), (1, 3), (1, 1, 3)),
        ((4,), (), (1,)),
    ],
)
def test_answer_to_one_sample_is_one_sample_whatever_its_shape(
    tmp_path: Path, x: tuple[int, ...], output: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    found = open_samples(tmp_path, signature(x, (-1, 3) if x[0] == -1 else output))
    assert found.as_batch({"y": np.zeros(output)}, 1)["y"].shape == expected


def test_output_of_a_batched_model_that_does_not_count_the_samples_is_refused(tmp_path: Path) -> None:
    found = open_samples(tmp_path, signature())
    found.check_answer({"y": np.zeros((2, 3))}, 2)
    with pytest.raises(BurnishError, match=r"'y' has shape \(5, 2, 3\) for 2 samples.*batch first") as caught:
        found.check_answer({"y": np.zeros((5, 2, 3))}, 2)
    assert caught.value.reason is Reason.InvalidModel


def test_stored_request_has_tritons_shapes() -> None:
    head, _, body = pairs.request_body({"x": np.ones(3, np.float32)}, signature((-1,), (-1,))).partition(b"\n")
    assert json.loads(head)["inputs"][0]["shape"] == [3, 1]
    assert len(body) == 12
