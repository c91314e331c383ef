"""ONNX Runtime on the CPU: how passes are lowered for it, and what serving needs to know."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from burnish.errors import BurnishError, Reason
from burnish.plugins import base, onnx_fields
from burnish.plugins.runtimes import _codebook
from burnish.plugins.runtimes import _onnxruntime_lowering as lowering
from burnish.plugins.runtimes import _onnxruntime_quantize as quantize
from burnish.plugins.runtimes import _onnxruntime_session as ort
from burnish.plugins.runtimes import _onnxruntime_share as share


class OnnxRuntime(base.Runtime):
    """Triton's `onnxruntime` backend."""

    name: ClassVar[str] = "ONNXRuntime"
    toolchain: ClassVar[str] = "onnx"
    backend: ClassVar[str] = "onnxruntime"
    model_file: ClassVar[str] = "model.onnx"
    has_gpus: ClassVar[bool] = True
    libraries: ClassVar[tuple[str, ...]] = ("numpy", "onnxruntime")
    tools: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime.quantization")

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
        """Refuse what `image` can't load.

        Raises:
            BurnishError: UnsupportedOpset.
        """
        if refusal := self.too_new(*onnx_fields.versions(model), image=image):
            raise BurnishError(Reason.UnsupportedOpset, refusal)

    def too_new(self, opset: int, ir_version: int, *, image: base.ServingImage) -> str:
        """By what its ONNX Runtime loads."""
        if opset <= image.max_opset and ir_version <= image.max_ir_version:
            return ""
        return (
            f"the model has opset {opset} and IR version {ir_version}; "
            f"{image.name} loads at most opset {image.max_opset} and IR version {image.max_ir_version} in ONNX Runtime; "
            "export the model with an older opset, or use a newer serving image"
        )

    def apply(self, step: base.Step, source: Path, target: Path, *, calibration: Sequence[base.Arrays], answers: base.Answers | None = None) -> str:
        """Run one lowered step; the result was loaded and run once before this returns. Sharing weights tells what it saved.

        Raises:
            BurnishError: CandidateNotBuildable with ONNX Runtime's message; PassNotApplicable.
        """
        if step.kind == _codebook.STEP:
            return share.apply(step, source, target, calibration=calibration)
        quantize.apply(step, source, target, calibration=calibration)
        return ""

    def build(self, model: Path, target: Path, *, image: base.ServingImage) -> None:
        """Copy the model into `target` (ONNX Runtime loads ONNX as it is), if `image` can load it.

        Raises:
            BurnishError: UnsupportedOpset.
        """
        self.check(model, image=image)
        target.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(model, target / self.model_file)
        data = model.with_name(f"{model.name}.data")
        if data.exists():
            shutil.copyfile(data, target / data.name)

    def open(self, directory: Path, *, threads: int) -> base.Session:
        """Load what `build` wrote, with `threads` intra-op threads.

        Raises:
            BurnishError: CandidateNotBuildable with ONNX Runtime's own message.
        """
        try:
            return ort.open_session(directory / self.model_file, threads=threads)
        except ort.OrtError as error:
            raise BurnishError(Reason.CandidateNotBuildable, f"ONNX Runtime does not load the model: {error}") from error

    def parameters(self, threads: int) -> dict[str, str]:
        """Thread counts of the session, written out: the default takes every core of the node, whatever the container's limit."""
        return {"intra_op_thread_count": str(threads), "inter_op_thread_count": "1"}
