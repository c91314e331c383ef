"""Runs in the toolchain environment `tensorflow`: makes small models as Keras and TensorFlow do, brings each to ONNX, and says what came of it.

    python tensorflow_formats.py DIRECTORY      leaves the models there, and outcome.json: case -> outcome

tests/pipeline/test_tensorflow_formats.py reads the outcome.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from burnish.plugins.formats import _tensorflow_module

tf = _tensorflow_module.library()

import h5py  # noqa: E402  # after the set-up of TensorFlow
import keras  # noqa: E402
import numpy as np  # noqa: E402
from format_cases import BATCH, Case, image, run  # noqa: E402
from tensorflow.core.protobuf import saved_model_pb2  # noqa: E402
from torch_archives import rewritten, without  # noqa: E402

GRAY = image(16, 16, 1)

GOOD = {
    "keras": Case("Keras", "net.keras"),
    "keras, its input renamed": Case("Keras", "net.keras", inputs=image(16, 16, 1, name="features")),
    "keras without the extension": Case("Keras", "net.model"),
    "hdf5": Case("Keras", "net.h5"),
    "two inputs, two outputs by name": Case("Keras", "two.keras"),
    "recurrent": Case("Keras", "recurrent.keras"),
    "constants and layers of training": Case("Keras", "normalized.keras"),
    "constants, exported by keras": Case("SavedModel", "normalized"),
    "constant strings": Case("SavedModel", "labels"),
    "input without effect": Case("SavedModel", "idle"),
    "exported by keras": Case("SavedModel", "exported"),
    "several inputs exported by keras": Case("SavedModel", "two"),
    "saved by tensorflow, only signature": Case("SavedModel", "only"),
    "saved by tensorflow, declared signature": Case("SavedModel", "several", {"signature": "double"}),
    "unknown rank that the manifest tells": Case("SavedModel", "unranked", inputs=image(8)),
    "shape that contradicts the model, which others compare": Case("Keras", "two.keras", inputs=image(3, name="x")),
    "fixed batch": Case("SavedModel", "fixed"),
}
BAD = {
    "lambda": Case("Keras", "lambda.keras"),
    "lambda in hdf5": Case("Keras", "lambda.h5"),
    "layer that loads a program": Case("Keras", "tfsm.keras"),
    "custom layer": Case("Keras", "custom.keras"),
    "custom layer in hdf5": Case("Keras", "custom.h5"),
    "layer that only its author has, in hdf5": Case("Keras", "plain.h5"),
    "class of another module": Case("Keras", "module.keras"),
    "layer that prepares text": Case("Keras", "text.keras"),
    "layer that looks up ids": Case("Keras", "ids.keras"),
    "text, exported by keras": Case("SavedModel", "text"),
    "ids, exported by keras": Case("SavedModel", "ids"),
    "weights alone": Case("Keras", "net.weights.h5"),
    "hdf5 that is no model": Case("Keras", "table.h5"),
    "weights from another file": Case("Keras", "external.keras"),
    "link to another file": Case("Keras", "linked.h5"),
    "zip bomb": Case("Keras", "bomb.keras"),
    "entry outside": Case("Keras", "outside.keras"),
    "archive without weights": Case("Keras", "cut.keras"),
    "truncated hdf5": Case("Keras", "cut.h5"),
    "description that is no json": Case("Keras", "garbled.keras"),
    "never built": Case("Keras", "unbuilt.keras"),
    "writes a file": Case("SavedModel", "writer"),
    "writes a file when it is loaded": Case("SavedModel", "initializer"),
    "reads a file": Case("SavedModel", "reader"),
    "calls python": Case("SavedModel", "python"),
    "prints": Case("SavedModel", "printer"),
    "vocabulary of a file": Case("SavedModel", "vocabulary"),
    "saver that something else calls": Case("SavedModel", "saver"),
    "operator that ONNX lacks": Case("SavedModel", "bessel"),
    "operator that TensorFlow lacks": Case("SavedModel", "acme"),
    "several signatures, none declared": Case("SavedModel", "several"),
    "signature that is not there": Case("SavedModel", "several", {"signature": "triple"}),
    "no signature": Case("SavedModel", "none"),
    "unknown rank": Case("SavedModel", "unranked"),
    "truncated program": Case("SavedModel", "cut"),
    "missing variables": Case("SavedModel", "hollow"),
    "two forms": Case("SavedModel", "forms"),
    "two graphs": Case("SavedModel", "graphs"),
}


@keras.saving.register_keras_serializable("acme")
class Frobnicate(keras.layers.Layer):
    def call(self, inputs: Any) -> Any:
        return inputs * 2


class Plain(keras.layers.Layer):
    def call(self, inputs: Any) -> Any:
        return inputs * 2


def network(*layers: keras.layers.Layer) -> keras.Model:
    begin = [
        keras.Input((16, 16, 1), name="image"),
        keras.layers.Conv2D(4, 3, padding="same"),
        keras.layers.BatchNormalization(),
        keras.layers.ReLU(),
    ]
    return keras.Sequential([*begin, keras.layers.MaxPooling2D(4), keras.layers.Flatten(), *layers, keras.layers.Dense(10, name="logits")])


def two() -> keras.Model:
    x, ids = keras.Input((16,), name="x"), keras.Input((None,), dtype="int32", name="ids")
    body = keras.layers.Dense(8, activation="relu")(x)
    tokens = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(20, 5)(ids))
    joined = keras.layers.Concatenate()([body, tokens])
    return keras.Model({"x": x, "ids": ids}, {"logits": keras.layers.Dense(3)(joined), "features": body})


def make(directory: Path) -> None:
    """Every model that a case names; whatever runs where it must not writes directory/canary."""
    keras.utils.set_random_seed(0)
    canary = directory / "canary"
    of_keras(directory, canary)
    of_tensorflow(directory, canary)


def of_keras(directory: Path, canary: Path) -> None:
    def code(inputs: Any, canary: str = str(canary)) -> Any:
        open(canary, "w").close()  # noqa: PTH123  # marshalled with the layer, so it names nothing of this module
        return inputs

    net = network()
    net.save(directory / "net.keras")
    net.save(directory / "net.h5")
    net.save_weights(directory / "net.weights.h5")
    net.export(directory / "exported", verbose=False)
    shutil.copy(directory / "net.keras", directory / "net.model")
    two().save(directory / "two.keras")
    two().export(directory / "two", verbose=False)
    pixels = keras.Input((8, 8, 3), name="image")
    normal = keras.layers.Normalization(mean=[0.4, 0.5, 0.6], variance=[0.2, 0.3, 0.4])(pixels)
    for name, body in {"normalized.keras": keras.layers.Dropout(0.5)(keras.layers.RandomFlip()(normal)), "normalized": normal}.items():
        model = keras.Model(pixels, keras.layers.Dense(3, name="logits")(keras.layers.Flatten()(body)))
        model.save(directory / name) if "." in name else model.export(directory / name, verbose=False)
    of_text(directory)
    steps = keras.Input((7, 3), name="x")
    keras.Model(steps, keras.layers.Dense(2, name="logits")(keras.layers.LSTM(4)(steps))).save(directory / "recurrent.keras")
    for name, layer in {"lambda": keras.layers.Lambda(code), "custom": Frobnicate()}.items():
        model = network(layer)
        model.save(directory / f"{name}.keras")
        model.save(directory / f"{name}.h5")
    canary.unlink(missing_ok=True)  # our own call
    keras.Sequential([keras.layers.Dense(3)]).save(directory / "unbuilt.keras")
    network(Plain()).save(directory / "plain.h5")
    keras.saving.get_custom_objects().clear()
    with h5py.File(directory / "table.h5", "w") as table:
        table["x"] = np.zeros(3)
    damaged(directory, (directory / "net.keras").read_bytes())
    with h5py.File(directory / "net.h5") as old, h5py.File(directory / "linked.h5", "w") as new:
        new.attrs["model_config"] = old.attrs["model_config"]
        new["model_weights"] = h5py.ExternalLink(str(directory / "net.h5"), "/model_weights")


def of_text(directory: Path) -> None:
    """A scalar string and a table that a function captures, and a table alone."""
    words = keras.layers.TextVectorization(vocabulary=["good", "bad"], output_sequence_length=4, name="words")
    numbers = keras.layers.IntegerLookup(vocabulary=[12, 36], name="numbers")
    for name, layer, x in (
        ("text", words, keras.Input((1,), dtype="string", name="x")),
        ("ids", numbers, keras.Input((4,), dtype="int64", name="x")),
    ):
        body = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(8, 5)(layer(x)))
        model = keras.Model(x, keras.layers.Dense(2, name="logits")(body))
        model.save(directory / f"{name}.keras")
        model.export(directory / name, verbose=False)


def damaged(directory: Path, whole: bytes) -> None:
    def change(**entries: Callable[[bytes], bytes]) -> bytes:
        return rewritten(whole, lambda name, data: entries[name.replace(".", "_")](data) if name.replace(".", "_") in entries else data)

    def described(module: str, name: str) -> Callable[[bytes], bytes]:
        def changed(data: bytes) -> bytes:
            config = json.loads(data)
            config["config"]["layers"][-1].update(module=module, class_name=name, registered_name=None)
            return json.dumps(config).encode()

        return changed

    def external(_: bytes) -> bytes:
        stream = io.BytesIO()
        with h5py.File(stream, "w") as file:
            file.create_dataset("layers/dense/vars/0", (64, 10), "float32", external=[("/etc/hostname", 0, 2560)])
        return stream.getvalue()

    stream = io.BytesIO(whole)
    with zipfile.ZipFile(stream, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("assets/zeros", bytes(2**26))
    files = {
        "tfsm.keras": change(config_json=described("keras.layers", "TFSMLayer")),
        "module.keras": change(config_json=described("os", "system")),
        "external.keras": change(model_weights_h5=external),
        "bomb.keras": stream.getvalue(),
        "outside.keras": appended(whole, "../canary"),
        "cut.keras": without(whole, "model.weights.h5"),
        "cut.h5": (directory / "net.h5").read_bytes()[:5000],
        "garbled.keras": change(config_json=lambda data: data[:-20]),
    }
    for name, content in files.items():
        (directory / name).write_bytes(content)


def appended(content: bytes, name: str) -> bytes:
    stream = io.BytesIO(content)
    with zipfile.ZipFile(stream, "a") as archive:
        archive.writestr(name, "")
    return stream.getvalue()


def of_tensorflow(directory: Path, canary: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32)
    row = tf.TensorSpec((None, 8), tf.float32, name="x")

    def save(name: str, *functions: Callable[..., Any], spec: Any = row, **signatures: Callable[..., Any]) -> tf.Module:
        """One signature, called serving_default as TensorFlow does, or several by name."""
        module = tf.Module()
        module.weight = tf.Variable(weight)
        made = {key: tf.function(f, input_signature=[spec]) for key, f in signatures.items()}
        module.kept = [tf.function(f, input_signature=[spec]) for f in functions]
        tf.saved_model.save(module, str(directory / name), signatures={k: f.get_concrete_function() for k, f in made.items()})
        return module

    def product(x: Any) -> Any:
        return tf.matmul(x, weight)

    def answer(x: Any) -> dict[str, Any]:
        return {"logits": product(x)}

    def writes(x: Any) -> dict[str, Any]:
        with tf.control_dependencies([tf.io.write_file(str(canary), "x")]):
            return answer(tf.identity(x))

    def reads(x: Any) -> dict[str, Any]:
        return {"logits": product(x) + tf.cast(tf.strings.length(tf.io.read_file("/etc/hostname")), tf.float32)}

    def prints(x: Any) -> dict[str, Any]:
        tf.print(x, output_stream=f"file://{canary}")
        return answer(x)

    save("only", mine=lambda x: {"logits": product(x)})
    save("several", double=lambda x: {"logits": 2 * product(x)}, half=lambda x: {"logits": product(x) / 2})
    save("none", product)
    save("unranked", spec=tf.TensorSpec(None, tf.float32, name="x"), serving_default=lambda x: {"logits": tf.matmul(tf.reshape(x, (-1, 8)), weight)})
    idle = tf.function(lambda x, y: {"logits": product(x)}, input_signature=[row, tf.TensorSpec((None, 2), tf.float32, name="y")])
    tf.saved_model.save(tf.Module(), str(directory / "idle"), signatures=idle.get_concrete_function())
    labels = tf.Module()
    labels.names = tf.constant(list("abcdefgh"))
    named = tf.function(lambda x: {"logits": product(x), "y": tf.gather(labels.names, tf.argsort(x))}, input_signature=[row])
    tf.saved_model.save(labels, str(directory / "labels"), signatures=named.get_concrete_function())
    save("fixed", spec=tf.TensorSpec((BATCH, 8), tf.float32, name="x"), serving_default=answer)
    save("writer", serving_default=writes)
    save("initializer", writes, serving_default=answer)
    save("reader", serving_default=reads)
    save("python", serving_default=lambda x: {"logits": tf.ensure_shape(tf.numpy_function(lambda v: v, [product(x)], tf.float32), (None, 8))})
    save("printer", serving_default=prints)
    save("bessel", serving_default=lambda x: {"logits": tf.math.special.bessel_i0(product(x))})
    vocabulary(directory)
    tampered(directory, canary)


def vocabulary(directory: Path) -> None:
    words = directory / "words.txt"
    words.write_text("a\nb\n")
    module = tf.Module()
    start = tf.lookup.TextFileInitializer(str(words), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER)
    module.table = tf.lookup.StaticHashTable(start, 0)
    spec = tf.TensorSpec((None, 1), tf.string, name="words")
    function = tf.function(lambda words: {"ids": module.table.lookup(words)}, input_signature=[spec])
    tf.saved_model.save(module, str(directory / "vocabulary"), signatures=function.get_concrete_function())


def tampered(directory: Path, canary: Path) -> None:
    def change(name: str, edit: Callable[[Any], None], source: str = "only") -> None:
        shutil.copytree(directory / source, directory / name)
        path = directory / name / "saved_model.pb"
        model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
        edit(model)
        path.write_bytes(model.SerializeToString())

    def rename(model: Any) -> None:
        for function in model.meta_graphs[0].graph_def.library.function:
            for node in function.node_def:
                node.op = "AcmeFrobnicate" if node.op == "MatMul" else node.op

    def call_saver(model: Any) -> None:
        graph = model.meta_graphs[0]
        (saver,) = (n for n in graph.graph_def.node if n.name == graph.saver_def.save_tensor_name.partition(":")[0])
        graph.object_graph_def.concrete_functions[saver.attr["f"].func.name].SetInParent()

    change("acme", rename)
    change("saver", call_saver)
    change("graphs", lambda model: model.meta_graphs.add().CopyFrom(model.meta_graphs[0]))
    change("cut", lambda model: None)
    content = (directory / "cut/saved_model.pb").read_bytes()
    (directory / "cut/saved_model.pb").write_bytes(content[: len(content) // 2])
    change("hollow", lambda model: None, "exported")
    shutil.rmtree(directory / "hollow/variables")
    change("forms", lambda model: None)
    (directory / "forms/saved_model.pbtxt").write_text("")


def main() -> None:
    directory = Path(sys.argv[1])
    make(directory)
    run(directory, {**GOOD, **BAD})


if __name__ == "__main__":
    main()
