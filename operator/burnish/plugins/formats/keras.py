"""The Keras format: a model as `model.save` leaves it, its layers as a description and its weights as HDF5.

Nothing of such a file runs: only Keras' own layers are built, with its safe mode on, and what would need other code is refused by name before.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from burnish.errors import BurnishError, Reason
from burnish.plugins import base
from burnish.plugins.files import Files
from burnish.plugins.formats import _keras_file, _tensorflow_module

if TYPE_CHECKING:
    import numpy as np

_UNKNOWN = re.compile(r"(?:Unknown \w+:|Could not locate \w+) '([^']+)'")
"""How Keras says which class or function it doesn't have."""


class Keras(base.Format):
    """A .keras file, or the .h5 file of older releases."""

    name: ClassVar[str] = "Keras"
    toolchain: ClassVar[str] = "tensorflow"

    def detect(self, files: Files) -> bool:
        """True for a zip file with Keras' entries, and for any HDF5 file."""
        return _keras_file.is_archive(files) or _keras_file.is_hdf5(files)

    def export(self, source: base.SourceModel, target: Path, *, image: base.ServingImage) -> tuple[base.Signature, base.GraphFacts]:
        """Build the layers, load the weights, convert.

        Raises:
            BurnishError: UnsafeSource, ArchitectureMismatch; as `NamedFunction.export`.
        """
        return _load(source).export(target, image=image)

    def reference(self, source: base.SourceModel, feeds: Sequence[base.Arrays]) -> list[dict[str, np.ndarray]]:
        """Outputs of the model in Keras, eager."""
        model = _load(source)
        return [model.run(feed) for feed in feeds]


def _load(source: base.SourceModel) -> _tensorflow_module.NamedFunction:
    tf = _tensorflow_module.library()
    suffix = _keras_file.check(source.path)
    import keras

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"model{suffix}"  # Keras goes by the name
        path.symlink_to(source.path.resolve())
        try:
            model = keras.saving.load_model(path, compile=False, safe_mode=True)
        except Exception as error:  # of Keras' own constructors: ValueError, TypeError, KeyError, OSError, ...
            unknown = _UNKNOWN.search(str(error))
            if unknown:
                raise _keras_file.needs_code(source.path.name, [unknown[1]]) from error
            said = " ".join(str(error).replace(str(path), source.path.name).split())[:300]
            text = f"Keras {keras.__version__} can't build the model from {source.path.name}: {said}; save it again with this release"
            raise BurnishError(Reason.InvalidModel, text) from error
    if not getattr(model, "inputs", None):
        text = f"{source.path.name} was saved before the model was built, so it has no weights; call the model once, or begin it with keras.Input, and save again"
        raise BurnishError(Reason.InvalidModel, text)
    if any(getattr(tensor, kind, False) for tensor in model.inputs for kind in ("sparse", "ragged")):
        raise BurnishError(
            Reason.InvalidModel, "the model takes sparse or ragged tensors, which Triton's protocol can't carry; let it take dense ones"
        )
    weights = sum(weight.numpy().nbytes for weight in model.weights)
    inputs = _tensorflow_module.declare({tensor.name: tensor for tensor in model.inputs}, source.inputs)

    def call(tensors: Sequence[Any]) -> Mapping[str, Any]:
        given = tensors[0] if len(tensors) == 1 else keras.tree.pack_sequence_as(model.input, list(tensors))
        return {name: tf.convert_to_tensor(value) for name, value in _named_outputs(keras, model, model(given, training=False)).items()}

    return _tensorflow_module.NamedFunction(call, inputs, weights)


def _named_outputs(keras: Any, model: Any, answer: Any) -> dict[str, Any]:
    """By the keys of the mapping that the model returns, else the names of the layers that make them."""
    if isinstance(answer, dict) and not any(keras.tree.is_nested(value) for value in answer.values()):
        return answer
    values = keras.tree.flatten(answer)
    names = [model.layers[-1].name] if isinstance(model, keras.Sequential) else list(getattr(model, "output_names", ()))
    if not len(set(names)) == len(names) == len(values):
        names = [f"output_{number}" for number in range(len(values))]
    return dict(zip(names, values, strict=True))
