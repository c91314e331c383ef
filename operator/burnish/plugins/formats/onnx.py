"""The ONNX source format: the hub that every other format is brought to, so its checks guard the whole pipeline.

An ONNX file is untrusted input. It is parsed, checked and made self-contained here (external data inlined), so that no later step has to
resolve a path that the file's author chose.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from burnish.errors import BurnishError, Reason
from burnish.plugins import base, onnx_fields
from burnish.plugins.files import Files, LocalFiles, head
from burnish.plugins.formats import _onnx_checks, _onnx_external, _onnx_graph

if TYPE_CHECKING:
    import numpy as np


class Onnx(base.Format):
    """An .onnx file, or a directory with exactly one and its external data."""

    name: ClassVar[str] = "ONNX"
    toolchain: ClassVar[str] = "onnx"
    libraries: ClassVar[tuple[str, ...]] = ("numpy", "onnx", "onnxruntime")
    is_trainable: ClassVar[bool] = True

    def detect(self, files: Files) -> bool:
        """True if the file, or the directory's one .onnx file, starts with the fields of a ModelProto."""
        candidates = _model_names(files.paths) if files.is_directory else files.paths
        return len(candidates) == 1 and onnx_fields.looks_like_model(head(files, candidates[0], onnx_fields.HEAD_BYTES))

    def versions(self, files: Files) -> tuple[int, int] | None:
        """As the fields of the ModelProto say."""
        (name,) = _model_names(files.paths) if files.is_directory else files.paths
        with files.open(name) as stream:
            return onnx_fields.declared_versions(stream)

    def export(self, source: base.SourceModel, target: Path, *, image: base.ServingImage) -> tuple[base.Signature, base.GraphFacts]:
        """Check the model and write it to `target` as one self-contained file; unnamed nodes get names.

        Raises:
            BurnishError: InvalidModel, UnsupportedOperator, UnsupportedOpset, NonFiniteWeights, UnsafeExternalData.
        """
        file = model_file(source.path)
        model = _onnx_graph.parse(file)
        _onnx_external.inline(model, file.parent)
        _onnx_checks.check_versions(model)
        _onnx_checks.check_operators(model)
        _onnx_graph.infer_output_shapes(model)
        signature = _onnx_graph.signature(model)
        _onnx_graph.name_nodes(model)
        _onnx_external.save(model, target)
        _onnx_checks.check_model(target)
        _onnx_checks.check_weights(model)
        return signature, _onnx_graph.facts(model)

    def reference(self, source: base.SourceModel, feeds: Sequence[base.Arrays]) -> list[dict[str, np.ndarray]]:
        """Outputs of the source file itself in ONNX Runtime, with every graph optimization off.

        Raises:
            BurnishError: InvalidModel where ONNX Runtime does not load or run the file; UnsafeExternalData.
        """
        from burnish.plugins.runtimes import _onnxruntime_session as ort

        file = model_file(source.path)
        _onnx_external.check(_onnx_graph.parse(file), file.parent)
        try:
            session = ort.open_session(file, threads=1, optimize=False)
            return [session.infer(feed) for feed in feeds]
        except ort.OrtError as error:
            raise BurnishError(Reason.InvalidModel, f"ONNX Runtime does not run {file.name}: {error}") from error


def _model_names(paths: Sequence[str]) -> list[str]:
    """`model.onnx` where there is one, else every .onnx file beside it."""
    return ["model.onnx"] if "model.onnx" in paths else sorted(p for p in paths if p.endswith(".onnx") and "/" not in p)


def model_file(path: Path) -> Path:
    """The .onnx file that `path`, a file or a directory, stands for.

    Raises:
        BurnishError: InvalidModel where a directory does not hold exactly one.
    """
    if not path.is_dir():
        return path
    found = _model_names(LocalFiles(path).paths)
    if len(found) != 1:
        raise BurnishError(Reason.InvalidModel, f"the directory must hold model.onnx, or exactly one .onnx file; found: {', '.join(found) or 'none'}")
    return path / found[0]
