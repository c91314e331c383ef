"""The StateDict format: weights alone, and the name of the architecture that they belong to.

Nothing of such a file runs: safetensors holds numbers, and a pickle is read with `weights_only` or not at all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from burnish.plugins import base
from burnish.plugins.files import Files, read_json
from burnish.plugins.formats import _torch_architectures, _torch_module, _torch_weights

if TYPE_CHECKING:
    import numpy as np


class StateDict(base.Format):
    """A .safetensors file, or the .pt, .pth or .bin file that torch.save makes of a state dict."""

    name: ClassVar[str] = "StateDict"
    toolchain: ClassVar[str] = "torch"
    options: ClassVar[frozenset[str]] = frozenset({"architecture", "architecture_args"})
    is_trainable: ClassVar[bool] = True

    def detect(self, files: Files) -> bool:
        """True for safetensors, and for what torch.save wrote that is neither a program nor a script."""
        return _torch_weights.looks_like_safetensors(files) or _torch_weights.zip_kind(files) == self.name or _torch_weights.looks_like_pickle(files)

    def check_options(self, options: base.SourceOptions) -> None:
        """As every format's; and the architecture is on the list.

        Raises:
            BurnishError: InvalidManifest, ArchitectureMismatch.
        """
        super().check_options(options)
        _torch_architectures.check_name(options.architecture)

    def wanted(self, folder: Files) -> str:
        """The architecture: that of timm's config.json, where there is one."""
        return _torch_architectures.of_timm(read_json(folder, "config.json")) or "the architecture, such as architecture: torchvision.models.resnet18"

    def export(self, source: base.SourceModel, target: Path, *, image: base.ServingImage) -> tuple[base.Signature, base.GraphFacts]:
        """Build the architecture, load the weights, export.

        Raises:
            BurnishError: ArchitectureMismatch, UnsafeSource, InputsNotGeneratable; as `NamedModule.export`.
        """
        return _load(source).export(target, image=image)

    def reference(self, source: base.SourceModel, feeds: Sequence[base.Arrays]) -> list[dict[str, np.ndarray]]:
        """Outputs of the module in PyTorch, eager."""
        model = _load(dataclasses.replace(source, say=base.silent))  # `export` has said it
        return [model.run(feed) for feed in feeds]

    def module(self, source: base.SourceModel) -> _torch_module.NamedModule:
        """The architecture with its weights."""
        return _load(dataclasses.replace(source, say=base.silent))


def _load(source: base.SourceModel) -> _torch_module.NamedModule:
    module = _torch_architectures.build(source.options)
    architecture = source.options.architecture or ""
    _torch_weights.fit(module, _torch_weights.load(source.path, source.say), architecture, source.say)
    inputs = _torch_architectures.inputs_of(module, source.options, source.inputs)
    return _torch_module.NamedModule(module, inputs, by_keyword=architecture.startswith("transformers."))
