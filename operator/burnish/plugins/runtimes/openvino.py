"""OpenVINO on the CPU: how passes are lowered for it, and what serving needs to know."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from burnish.errors import BurnishError, Reason
from burnish.plugins import base
from burnish.plugins.runtimes import _codebook
from burnish.plugins.runtimes import _openvino_lowering as lowering
from burnish.plugins.runtimes import _openvino_model as ir
from burnish.plugins.runtimes import _openvino_quantize as quantize
from burnish.plugins.runtimes import _openvino_session as session
from burnish.plugins.runtimes import _openvino_share as share


class OpenVino(base.Runtime):
    """Triton's `openvino` backend."""

    name: ClassVar[str] = "OpenVINO"
    toolchain: ClassVar[str] = "onnx"
    backend: ClassVar[str] = "openvino"
    model_file: ClassVar[str] = "model.xml"

    def objection(self, passes: Sequence[base.PassRequest], *, has_calibration: bool) -> base.Objection | None:
        """What no graph could make right: a second pass, static quantization without data."""
        return lowering.objection(passes, has_calibration=has_calibration)

    def lower(
        self, passes: Sequence[base.PassRequest], graph: base.GraphFacts, hardware: base.HardwareClass, *, has_calibration: bool
    ) -> base.Lowering:
        """Decide which candidates to build. Pure; no passes, no candidates.

        Raises:
            BurnishError: CalibrationMissing, PassNotApplicable: an explicit request that can't be met.
        """
        return lowering.lower(passes, graph, hardware, has_calibration=has_calibration)

    def check(self, model: Path, *, image: base.ServingImage) -> None:
        """Refuse what OpenVINO can't convert, and what `image` can't load of it.

        Raises:
            BurnishError: UnsupportedOperator, UnsupportedOpset, CandidateNotBuildable.
        """
        _check_image(ir.read(model), image)

    def apply(self, step: base.Step, source: Path, target: Path, *, calibration: Sequence[base.Arrays], answers: base.Answers | None = None) -> str:
        """Run one lowered step; the result was loaded and run once before this returns. Accuracy control tells what it left in float, sharing
        weights what it saved.

        Raises:
            BurnishError: UnsupportedOperator; PassNotApplicable; CandidateNotBuildable with the words of OpenVINO or NNCF.
        """
        if step.kind == _codebook.STEP:
            return share.apply(step, source, target, calibration=calibration)
        return quantize.apply(step, source, target, calibration=calibration, answers=answers)

    def build(self, model: Path, target: Path, *, image: base.ServingImage) -> None:
        """Write the model into `target` as OpenVINO's IR, weights as they are, if `image` can load it.

        Raises:
            BurnishError: UnsupportedOperator; UnsupportedOpset; CandidateNotBuildable.
        """
        loaded = ir.read(model)
        _check_image(loaded, image)
        target.mkdir(parents=True, exist_ok=True)
        ir.save(loaded, target / self.model_file)
        del loaded
        ir.return_memory()

    def open(self, directory: Path, *, threads: int) -> base.Session:
        """Load what `build` wrote, as it will be served.

        Raises:
            BurnishError: CandidateNotBuildable with OpenVINO's own message.
        """
        return session.open_session(directory / self.model_file, self.parameters(threads))

    def parameters(self, threads: int) -> dict[str, str]:
        """Threads written out (the default takes every core of the node), one stream of them, and FP32 where the graph says FP32.

        The native backend runs every request at the largest batch and fills up smaller ones, if it is told to.
        """
        return {"INFERENCE_NUM_THREADS": str(threads), "NUM_STREAMS": "1", "INFERENCE_PRECISION_HINT": "f32", "ENABLE_BATCH_PADDING": "YES"}


def _check_image(model: Any, image: base.ServingImage) -> None:
    opset = ir.opset(model)
    if opset > image.max_openvino_opset:
        raise BurnishError(
            Reason.UnsupportedOpset,
            f"the model needs operators of OpenVINO's opset {opset}; "
            f"{image.name} (OpenVINO {image.versions['openvino']}) loads at most opset {image.max_openvino_opset}",
        )
