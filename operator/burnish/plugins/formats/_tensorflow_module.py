"""A TensorFlow function with named inputs and outputs: running it as its own framework does, and bringing it to ONNX.

Everything that TensorFlow's formats share after they have a function in their hands.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from burnish.errors import BurnishError, Reason
from burnish.plugins import base
from burnish.plugins.formats import _exported, _onnx_graph

if TYPE_CHECKING:
    import numpy as np

OPSET = 18
"""The newest that tf2onnx 1.17 writes."""
_MAX_WEIGHT_BYTES = 1_900_000_000
"""tf2onnx puts weights into the protobuf, which holds 2 GiB."""
_TEXT = re.compile(r"LookupTable\w+|\w*HashTable\w*|String\w+|\w*Regex\w+|Unicode\w+|Substr|AsString|Ragged\w+")
"""TensorFlow's operators on text, and tables."""
_LISTED = 5
_ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "-1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_ENABLE_ONEDNN_OPTS": "0",  # plain kernels: the reference doesn't depend on the machine's instruction set
    "KERAS_BACKEND": "tensorflow",
    "KERAS_HOME": os.devnull,  # no keras.json of the user's decides what a model computes, and none is written
}


def library() -> Any:
    """The module `tensorflow`, set up to run on the CPU, silently; to be called before anything else imports it or Keras."""
    os.environ.update(_ENVIRONMENT)
    import tensorflow

    tensorflow.get_logger().setLevel(logging.ERROR)
    return tensorflow


@dataclasses.dataclass(frozen=True)
class NamedFunction:
    """A function and its inputs."""

    call: Callable[[Sequence[Any]], Mapping[str, Any]]
    """Tensors in the order of `inputs` -> tensors by name."""
    inputs: tuple[_exported.Input, ...]
    weight_bytes: int = 0

    def run(self, feed: base.Arrays) -> dict[str, np.ndarray]:
        """The model's own answer.

        Raises:
            BurnishError: InvalidModel where it refuses the feed.
        """
        import numpy as np

        tf = library()
        try:
            found = self.call([tf.constant(np.asarray(feed[i.tensor.name])) for i in self.inputs])
            return {name: np.asarray(value) for name, value in found.items()}
        except Exception as error:  # of an operator, whatever it is
            raise _broken("TensorFlow does not run the model on such a request", error) from error

    def export(self, target: Path, *, image: base.ServingImage) -> tuple[base.Signature, base.GraphFacts]:
        """Write ONNX to `target`, checked as every ONNX source is. The function is traced, not run.

        Raises:
            BurnishError: InvalidModel, UnsupportedOperator; as the ONNX format's `export`.
        """
        if self.weight_bytes > _MAX_WEIGHT_BYTES:
            text = f"the model has {self.weight_bytes / 1e9:.1f} GB of weights, and tf2onnx converts at most {_MAX_WEIGHT_BYTES / 1e9:.1f} GB"
            raise BurnishError(Reason.InvalidModel, f"{text}; convert it where it was trained, and use the ONNX file with its external data")
        tf = library()
        import onnx
        import tf2onnx

        logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)  # operators that it doesn't know are refused by name below
        specs = [tf.TensorSpec(_sizes(i.tensor), _dtype(i.tensor.data_type), name=i.tensor.name) for i in self.inputs]
        function = tf.function(lambda *tensors: dict(self.call(tensors)), autograph=False)
        try:
            captures = function.get_concrete_function(*specs).graph.captures
            model, _ = tf2onnx.convert.from_function(function, specs, opset=min(OPSET, image.max_opset))
        except Exception as error:  # of the tracing or the conversion, whatever it is
            raise _broken("TensorFlow does not bring the model to ONNX", error) from error
        _check_text(model)
        _inline_constants(model, {inner.name: outer.numpy() for outer, inner in captures if outer.dtype != tf.resource})
        number_names(model)
        raw = target.with_suffix(".tensorflow.onnx")
        onnx.save(model, raw)
        return _exported.finish(raw, self.inputs, target, image=image)


def _check_text(model: Any) -> None:
    """Refuse what tf2onnx left of TensorFlow's operators on text, with a cure of its own: no other operators would do.

    Raises:
        BurnishError: UnsupportedOperator.
    """
    import onnx

    names = sorted({node.op_type for node in _onnx_graph.nodes(model) if _TEXT.fullmatch(node.op_type) and not onnx.defs.has(node.op_type)})
    if names:
        cure = "the client prepares the text: save the part of the model behind it, which takes numbers"
        text = f"the model prepares text or ids with {', '.join(names[:_LISTED])}, which ONNX has no operators for; {cure}"
        raise BurnishError(Reason.UnsupportedOperator, text)


def _inline_constants(model: Any, constants: base.Arrays) -> None:
    """Make initializers of the constants that a function has captured (the mean of a Normalization, for one): tf2onnx takes them for inputs."""
    from onnx import numpy_helper

    inputs = [value for value in model.graph.input if value.name in constants]
    model.graph.initializer.extend(numpy_helper.from_array(_array(constants[value.name]), value.name) for value in inputs)
    for value in inputs:
        model.graph.input.remove(value)


def _array(value: Any) -> np.ndarray:
    """What TensorFlow gives as an array, or, of one string, as bytes."""
    import numpy as np

    return np.asarray(value, dtype=object) if isinstance(value, bytes) else np.asarray(value)


def number_names(model: Any) -> None:
    """Number the names that tf2onnx makes up (`new_shape__39`) by their place: it counts in the order of a set, so equal models would differ in bytes."""
    kept = {value.name for value in (*model.graph.input, *model.graph.output)}
    taken = {found[2] for name in kept if (found := _NUMBERED.fullmatch(name))}
    fresh, numbers = (text for text in map(str, itertools.count(1)) if text not in taken), dict[str, str]()

    def renamed(name: str) -> str:
        found = _NUMBERED.fullmatch(name)
        if found is None or name in kept:
            return name
        if found[2] not in numbers:
            numbers[found[2]] = next(fresh)
        return f"{found[1]}__{numbers[found[2]]}{found[3]}"

    for graph in _onnx_graph.graphs(model):
        for node in graph.node:
            node.input[:] = map(renamed, node.input)
            node.output[:] = map(renamed, node.output)
            node.name = renamed(node.name)
        if isinstance(graph, type(model.graph)):
            for value in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
                value.name = renamed(value.name)
        else:  # a function: its inputs and outputs are plain names
            graph.input[:], graph.output[:] = map(renamed, graph.input), map(renamed, graph.output)


_NUMBERED = re.compile(r"(.*)__(\d+)((?::\d+)?)", re.DOTALL)


def declare(specs: Mapping[str, Any], declared: tuple[base.DeclaredInput, ...]) -> tuple[_exported.Input, ...]:
    """The inputs that a model tells, with names and sizes as the manifest has them where it may say so.

    Args:
        specs: name -> what has `shape` and `dtype`, in order.
        declared: `spec.inputs`; a shape that contradicts the model's is left to those who compare the two.

    Raises:
        BurnishError: InputsNotGeneratable where neither tells the number of axes; InvalidModel.
    """
    by_name = {entry.name: entry for entry in declared}
    if len(specs) == len(declared) == 1:
        by_name[next(iter(specs))] = declared[0]
    told = []
    for name, spec in specs.items():
        shape = _shape(spec) or (by_name[name].shape if name in by_name else None)
        if shape is None:
            text = f"input {name!r} has no known number of axes; declare it, such as spec.inputs: [{{name: {name}, shape: [-1, 224, 224, 3]}}]"
            raise BurnishError(Reason.InputsNotGeneratable, text, field="spec.inputs")
        told.append(_exported.Input(base.Tensor(name=name, data_type=_data_type(spec.dtype, name), shape=shape)))
    return tuple(
        mine if _narrows(mine.tensor.shape, theirs.tensor.shape) else dataclasses.replace(theirs, tensor=_renamed(theirs.tensor, mine.tensor.name))
        for mine, theirs in zip(_exported.declare(tuple(told), declared), told, strict=True)
    )


def _renamed(tensor: base.Tensor, name: str) -> base.Tensor:
    return tensor.model_copy(update={"name": name})


def _narrows(ours: tuple[int, ...], theirs: tuple[int, ...]) -> bool:
    return len(ours) == len(theirs) and all(their in (-1, our) for our, their in zip(ours, theirs, strict=True))


def _shape(spec: Any) -> tuple[int, ...] | None:
    """Sizes, -1 where unknown; None for an unknown rank. Of TensorFlow's TensorShape or Keras' tuple."""
    if getattr(spec.shape, "rank", 0) is None:
        return None
    return tuple(-1 if size is None else int(size) for size in spec.shape)


def _data_type(dtype: Any, name: str) -> base.DataType:
    text = dtype if isinstance(dtype, str) else dtype.name
    found = next((known for known in base.DataType if known.numpy_name == {"string": "object"}.get(text, text)), None)
    if found is None:
        raise BurnishError(Reason.InvalidModel, f"input {name!r} is {text}, which Triton's protocol can't carry; cast it inside the model")
    return found


def _dtype(data_type: base.DataType) -> Any:
    return library().as_dtype({"object": "string"}.get(data_type.numpy_name, data_type.numpy_name))


def _sizes(tensor: base.Tensor) -> list[int | None]:
    return [None if size == -1 else size for size in tensor.shape]


def _broken(what: str, error: Exception) -> BurnishError:
    said = " ".join((str(error) or type(error).__name__).split())[:400]
    return BurnishError(Reason.InvalidModel, f"{what}: {said}")
