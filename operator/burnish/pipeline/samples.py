"""The user's samples as requests: opened once per step, real ones where there are any, made up where that makes sense."""

from __future__ import annotations

import dataclasses

import numpy as np

from burnish.api import numbers
from burnish.api.job_contract import PipelineRequest, ResolvedInput, StageRecord, StepName
from burnish.errors import BurnishError, Reason
from burnish.pipeline import pairs, prepare
from burnish.pipeline.datasets import Dataset, load_dataset
from burnish.pipeline.inputs import Shapes, concrete_shape, generate, resolve_inputs
from burnish.pipeline.workdir import WorkDir
from burnish.plugins.base import Arrays, Signature
from burnish.serving.config import smallest_batch

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

    @property
    def golden(self) -> dict[str, np.ndarray]:
        """The golden request: the first samples of the calibration data, which builds the artifact anyway; of the evaluation data only where
        there is no other. The artifact key holds that data's digest (`lookup.artifact_key`).

        Raises:
            BurnishError: as `feeds`.
        """
        data, batch = self.calibration or self.evaluation, self.smallest_batch
        self.check_batch(batch)
        return data.feeds(batch, fill=True)[0] if data else generate(self.inputs, batch, 1, SEED)[0]

    @property
    def is_batched(self) -> bool:
        """A request may hold several samples."""
        return self.best.is_batched if self.best else all(i.is_batched for i in self.inputs)

    @property
    def keeps_axis(self) -> bool:
        """A request has a leading axis for its samples."""
        return self.best.keeps_axis if self.best else self.is_batched

    @property
    def smallest_batch(self) -> int:
        """Samples of the smallest request that spec.inputs allows."""
        return smallest_batch([i for i in self.inputs if i.is_batched])

    def check_batch(self, batch: int) -> None:
        """Refuse a batch that the model, or spec.inputs, does not allow.

        Raises:
            BurnishError: InputsMismatch.
        """
        for entry in self.inputs:
            concrete_shape(entry, batch)

    def as_batch(self, outputs: Arrays, count: int) -> dict[str, np.ndarray]:
        """As `pairs.as_batch`."""
        return pairs.as_batch(outputs, count, keeps_axis=self.keeps_axis)

    def check_answer(self, outputs: Arrays, count: int) -> None:
        """Refuse a model whose outputs don't count the samples on axis 0 though their shapes say so: batched requests would be mixed up.

        Raises:
            BurnishError: InvalidModel.
        """
        for name, array in outputs.items():
            if self.is_batched and len(array) != count:
                raise BurnishError(
                    Reason.InvalidModel,
                    f"output {name!r} has shape {array.shape} for {numbers.counted(count, 'sample')}: axis 0 of a model with a varying "
                    "axis 0 everywhere counts the samples, in each output; export it with the batch first, or with a fixed batch size of 1",
                    field="spec.source.uri",
                )

    def feeds(self, count: int, batch: int = 1) -> list[dict[str, np.ndarray]]:
        """`count` requests at most, of exactly `batch` samples each; the last one is completed with samples from the start.

        Raises:
            BurnishError: InputsMismatch where the model, or spec.inputs, does not allow that batch; InputsNotGeneratable where there is no data
                and none can be made up.
        """
        self.check_batch(batch)
        if self.best is not None:
            return self.best.feeds(batch, fill=True)[:count]
        return generate(self.inputs, batch, min(count, MADE_UP), SEED)


def open_datasets(work: WorkDir, request: PipelineRequest, signature: Signature) -> Samples:
    """Read what `stage` placed. Every step that needs samples comes here, so this also checks what else the request says of the model.

    Raises:
        BurnishError: InvalidDataset, LabelsMissing, InputsMismatch (also for a load's batch size, and for `evaluation.output`),
            InputsNotGeneratable.
    """
    _check_output(request, signature)
    staged = work.load(StepName.stage, StageRecord)
    data = request.datasets
    calibration = evaluation = None
    if staged.calibration and data.calibration:
        calibration = load_dataset(
            prepare.dataset_path(work, "calibration", staged.calibration),
            request.inputs,
            signature,
            samples=data.calibration.samples,
            field="spec.datasets.calibration",
        )
    if staged.evaluation and data.evaluation:
        evaluation = load_dataset(
            prepare.dataset_path(work, "evaluation", staged.evaluation),
            request.inputs,
            signature,
            samples=data.evaluation.samples,
            field="spec.datasets.evaluation",
            metric=data.evaluation.metric,
        )
    sized = calibration or evaluation  # sizes become part of the artifact, as the golden request does
    shapes: Shapes | None = sized.shapes if sized else None
    found = Samples(calibration, evaluation, resolve_inputs(signature, request.inputs, shapes))
    for load in request.measurement.loads:
        found.check_batch(load.batch_size)
    return found


def _check_output(request: PipelineRequest, signature: Signature) -> None:
    evaluation = request.datasets.evaluation
    outputs = [t.name for t in signature.outputs]
    if evaluation and evaluation.output is not None and evaluation.output not in outputs:
        raise BurnishError(
            Reason.InputsMismatch,
            f"the model has no output {evaluation.output!r}; it has {', '.join(outputs)}",
            field="spec.datasets.evaluation.output",
        )
