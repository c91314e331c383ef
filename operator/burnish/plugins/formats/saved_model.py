"""The SavedModel format: a directory with a graph, its functions and its variables, as TensorFlow 2 and Keras' `export` write it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from burnish.errors import BurnishError, Reason
from burnish.plugins import base
from burnish.plugins.files import Files, head
from burnish.plugins.formats import _tensorflow_graph, _tensorflow_module

if TYPE_CHECKING:
    import numpy as np

HEAD = b"\x08\x01\x12"
"""SavedModel: field 1, saved_model_schema_version = 1, then field 2, a MetaGraphDef (saved_model.proto)."""


class SavedModel(base.Format):
    """A directory with saved_model.pb. Operators that reach beyond the model are refused before it is loaded."""

    name: ClassVar[str] = "SavedModel"
    toolchain: ClassVar[str] = "tensorflow"
    options: ClassVar[frozenset[str]] = frozenset({"signature"})

    def detect(self, files: Files) -> bool:
        """True for a directory whose saved_model.pb begins as one."""
        return files.is_directory and _tensorflow_graph.MODEL in files.paths and head(files, _tensorflow_graph.MODEL, len(HEAD)) == HEAD

    def export(self, source: base.SourceModel, target: Path, *, image: base.ServingImage) -> tuple[base.Signature, base.GraphFacts]:
        """Check the protobuf, load, convert one signature.

        Raises:
            BurnishError: UnsafeSource, InvalidManifest, InputsNotGeneratable; as `NamedFunction.export`.
        """
        return _load(source).export(target, image=image)

    def reference(self, source: base.SourceModel, feeds: Sequence[base.Arrays]) -> list[dict[str, np.ndarray]]:
        """Outputs of the signature in TensorFlow."""
        model = _load(source)
        return [model.run(feed) for feed in feeds]


def _load(source: base.SourceModel) -> _tensorflow_module.NamedFunction:
    tf = _tensorflow_module.library()
    graph = _tensorflow_graph.read(source.path)
    name = _tensorflow_graph.signature_name(graph, source.options.signature)
    _tensorflow_graph.check_operators(graph)
    try:
        loaded = tf.saved_model.load(str(source.path))
        function = loaded.signatures[name]
    except Exception as error:  # of whatever is damaged: DataLossError, NotFoundError, KeyError, ...
        said = " ".join(str(error).replace(str(source.path), source.path.name).split())[:300]
        raise BurnishError(Reason.InvalidModel, f"TensorFlow {tf.__version__} can't load the SavedModel: {said}; copy or save it again") from error
    _, specs = function.structured_input_signature
    inputs = _tensorflow_module.declare(dict(sorted(specs.items())), source.inputs)

    def call(tensors: Sequence[Any], keep: Any = loaded) -> Mapping[str, Any]:
        # A signature does not keep its variables alive; what was loaded does.
        answer: Mapping[str, Any] = function(**dict(zip(sorted(specs), tensors, strict=True)))
        return answer

    weights = sum(variable.dtype.size * variable.shape.num_elements() for variable in function.variables)
    return _tensorflow_module.NamedFunction(call, inputs, weights)
