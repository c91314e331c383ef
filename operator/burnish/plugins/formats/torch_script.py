"""The TorchScript format: what torch.jit.save wrote. PyTorch calls it deprecated; models of the past are in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from burnish.plugins import base
from burnish.plugins.formats import _exported, _torch_module, _torch_trust

if TYPE_CHECKING:
    import numpy as np


class TorchScript(_torch_trust.Program):
    """A .pt file with code. Loading it runs that code, so it has to be trusted."""

    name: ClassVar[str] = "TorchScript"

    def export(self, source: base.SourceModel, target: Path, *, image: base.ServingImage) -> tuple[base.Signature, base.GraphFacts]:
        """Convert with the exporter that takes scripts; inputs are those of `spec.inputs`, because a script tells no shapes.

        Raises:
            BurnishError: InvalidModel, UnsupportedOperator, InputsNotGeneratable; as the ONNX format's `export`.
        """
        import torch

        model = _load(source)
        examples = tuple(_torch_module.example(i) for i in model.inputs)
        outputs = list(model.run({i.tensor.name: e.numpy() for i, e in zip(model.inputs, examples, strict=True)}))
        raw = target.with_suffix(".torch.onnx")
        varying = {i.tensor.name: {a: i.axis_name(a) for a, size in enumerate(i.tensor.shape) if size == -1} for i in model.inputs}
        batch = {name: {0: "batch"} for name in outputs} if all(0 in axes for axes in varying.values()) else {}
        with _torch_module.exporting():
            torch.onnx.export(
                model.module,
                examples,
                raw,
                dynamo=False,
                input_names=[i.tensor.name for i in model.inputs],
                output_names=outputs,
                dynamic_axes={**varying, **batch},
                opset_version=min(_torch_module.OPSET, image.max_opset),
            )
        return _exported.finish(raw, model.inputs, target, image=image)

    def reference(self, source: base.SourceModel, feeds: Sequence[base.Arrays]) -> list[dict[str, np.ndarray]]:
        """Outputs of the script in PyTorch."""
        model = _load(source)
        return [model.run(feed) for feed in feeds]


def _load(source: base.SourceModel) -> _torch_module.NamedModule:
    import torch

    module = _torch_trust.load(source, TorchScript.name, lambda path: torch.jit.load(path, map_location="cpu").eval(), "save it again")
    return _torch_module.NamedModule(module, _exported.undeclared(source.inputs, "a script"))
