"""What tests/pipeline/test_openvino.py asks of the plugin, run in the toolchain's environment, which has OpenVINO and no pytest.

Usage: python openvino_checks.py FOLDER. The folder holds the models that it names; one JSON object goes to the last line of stdout.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import openvino

from burnish.errors import BurnishError
from burnish.plugins import base, registry
from burnish.plugins.runtimes import _openvino_model as ir
from burnish.serving import images

FEEDS = [{"image": np.random.default_rng(i).standard_normal((1, 1, 8, 8)).astype(np.float32)} for i in range(16)]
RUNTIME = registry.runtimes()["OpenVINO"]
STATIC = {"transformer": False, "reduceRange": False, "keepEnds": False, "calibrationMethod": "MinMax", "excluded": []}
SHARE = {"clusters": 16, "granularity": "Tensor", "groupSize": 32, "seed": 0}
STEPS = {
    "static": base.Step("static", STATIC),
    "static-ends": base.Step("static", {**STATIC, "keepEnds": True}),
    "static-but": base.Step("static", {**STATIC, "excluded": ["conv2"]}),
    "static-percentile": base.Step("static", {**STATIC, "calibrationMethod": "Percentile"}),
    "int4": base.Step("int4", {"blockSize": 32, "excluded": []}),
    "int4-but": base.Step("int4", {"blockSize": 32, "excluded": ["fc"]}),
    "weights": base.Step("weights", {"excluded": []}),
    "weights-but": base.Step("weights", {"excluded": ["fc"]}),
    "shared": base.Step("share", SHARE),
    "shared-channel": base.Step("share", {**SHARE, "granularity": "Channel"}),
    "shared-group": base.Step("share", {**SHARE, "granularity": "Group"}),
    "shared-many": base.Step("share", {**SHARE, "clusters": 256}),
    "fp16": base.Step("fp16", {"excluded": []}),
    "fp16-but": base.Step("fp16", {"excluded": ["conv2"]}),
}


def indices(path: Path) -> dict[str, list[object]]:
    """Weights that are read from a codebook: the type of their indices, and how many different values there are."""
    gathers = [op for op in ir.read(path).get_ordered_ops() if op.get_type_name() == "Gather" and op.get_friendly_name().partition("/")[0] == "w2"]
    found = {}
    for op in gathers:
        index = op.input_value(1).get_node()
        constant = index if index.get_type_name() == "Constant" else index.input_value(0).get_node()
        found["w2"] = [constant.get_element_type().get_type_name(), op.input_value(0).get_node().data.size]
    return found


def float_ops(path: Path) -> list[str]:
    """Weighted operations whose weights are stored as FP32; a codebook's Gather is none."""
    ops = [op for op in ir.weighted_ops(ir.read(path)) if op.get_type_name() != "Gather"]
    return [ir.label(op) for op in ops if ir.weight(op).get_element_type().get_type_name() == "f32"]


def of_weights(folder: Path, name: str) -> dict[str, object]:
    """What a step of weights alone makes of wide.onnx: the type of each layer's weights, and the bytes of all."""
    target = folder / f"wide-{name}" / RUNTIME.model_file
    target.parent.mkdir()
    note = RUNTIME.apply(STEPS[name], folder / "wide.onnx", target, calibration=[])
    types = {ir.label(op): ir.weight(op).get_element_type().get_type_name() for op in ir.weighted_ops(ir.read(target))}
    return {"types": types, "bytes": target.with_suffix(".bin").stat().st_size, "note": note}


def quantized(folder: Path, source: str, feeds: list[base.Arrays], **options: object) -> list[Any]:
    """The operations that round activations in what static quantization makes of a model, in order."""
    target = folder / f"{source}-{'-'.join(map(str, options.values()))}" / RUNTIME.model_file
    target.parent.mkdir()
    RUNTIME.apply(base.Step("static", {**STATIC, **options}), folder / f"{source}.onnx", target, calibration=feeds)
    return [op for op in ir.read(target).get_ordered_ops() if op.get_type_name() == "FakeQuantize"]


def largest(folder: Path, method: str) -> float:
    """Of the image's values, in what is calibrated on requests that have one value of 80 in 16,384."""
    feeds = [{"image": np.random.default_rng(i).standard_normal((256, 1, 8, 8)).astype(np.float32)} for i in range(2)]
    for feed in feeds:
        feed["image"][3, 0, 2, 2] = 80.0
    first = quantized(folder, "cnn", feeds, calibrationMethod=method)[0]
    return float(first.input_value(2).get_node().data.max())


def rounded(folder: Path, *, transformer: bool) -> int:
    """How many activations of the attention are rounded."""
    feeds = [{"x": np.random.default_rng(i).standard_normal((1, 4, 16)).astype(np.float32)} for i in range(16)]
    return len(quantized(folder, "attention", feeds, transformer=transformer))


def made(folder: Path, name: str) -> Path:
    target = folder / name / RUNTIME.model_file
    target.parent.mkdir(parents=True)
    RUNTIME.apply(STEPS[name], folder / "cnn.onnx", target, calibration=FEEDS)
    return target


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes() + path.with_suffix(".bin").read_bytes()).hexdigest()


def refusal(action) -> dict[str, str]:
    try:
        action()
    except BurnishError as error:
        return {"reason": error.reason.value, "message": error.message}
    return {}


def cosine(name: str, folder: Path) -> float:
    RUNTIME.build(folder / name / RUNTIME.model_file, folder / f"{name}-built", image=images.LOCAL_CPU)
    ours = np.concatenate([RUNTIME.open(folder / f"{name}-built", threads=1).infer(feed)["score"].ravel() for feed in FEEDS])
    expected = np.concatenate([registry.runtimes()["ONNXRuntime"].open(folder / "onnx", threads=1).infer(feed)["score"].ravel() for feed in FEEDS])
    return float(ours @ expected / np.linalg.norm(ours) / np.linalg.norm(expected))


def controlled(folder: Path, answers, limit: str = "0.02") -> tuple[str, list[str]]:
    """What accuracy control tells of mlp.onnx, and which of its operations are in float."""
    target = folder / f"controlled-{limit}" / RUNTIME.model_file
    target.parent.mkdir()
    feeds = [{"x": np.random.default_rng(i).standard_normal((1, 16)).astype(np.float32)} for i in range(64)]
    note = RUNTIME.apply(base.Step("static", {**STATIC, "maxDrop": limit}), folder / "mlp.onnx", target, calibration=feeds, answers=answers)
    return note, float_ops(target)


def shared_mlp(folder: Path) -> None:
    """A model whose weights all have fewer elements than there are clusters."""
    RUNTIME.apply(base.Step("share", {**SHARE, "clusters": 256}), folder / "small.onnx", folder / "small" / RUNTIME.model_file, calibration=[])


def written_to(folder: Path) -> str:
    """What comes of a model that does not fit into a file system."""
    try:
        ir.save(ir.read(folder.parent / "large.onnx"), folder / "model.xml")
    except OSError as error:
        return error.strerror or ""
    return "no error"


def iterated() -> openvino.Model:
    """A TensorIterator, of opset 1, over an operator of opset 7: what ONNX has no operator for."""
    from openvino import opset1, opset7

    x, slice_of_x = (opset1.parameter([size, 1, 2], openvino.Type.f32) for size in (4, 1))
    result = opset7.gelu(slice_of_x, "erf")
    iterator = opset1.tensor_iterator()
    iterator.set_body(openvino.Model([result], [slice_of_x], "body"))
    iterator.set_sliced_input(slice_of_x, x.output(0), 0, 1, 1, -1, 0)
    return openvino.Model([iterator.get_concatenated_slices(result.output(0), 0, 1, 1, -1, 0)], [x], "iterated")


def of_older_onnx(folder: Path, runtime: str) -> dict[str, str]:
    """What comes of cnn.onnx for a serving image whose ONNX Runtime is older than the model: its export, and the runtime's word."""
    image = dataclasses.replace(images.LOCAL_CPU, name="older", max_opset=17, max_ir_version=8)
    target = folder / f"older-{runtime}.onnx"
    registry.formats()["ONNX"].export(base.SourceModel(folder / "cnn.onnx"), target, image=image)
    return refusal(lambda: registry.runtimes()[runtime].check(target, image=image))


def main(folder: Path) -> dict[str, object]:
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes((folder / "cnn.onnx").read_bytes())
    (folder / "again").mkdir()
    (folder / "again" / "cnn.onnx").write_bytes((folder / "cnn.onnx").read_bytes())
    paths = {name: made(folder, name) for name in STEPS}
    again = {name: made(folder / "again", name) for name in reversed(STEPS)}
    older = dataclasses.replace(images.LOCAL_CPU, name="older", max_openvino_opset=7)
    return {
        "version": openvino.__version__,
        "opset": max(int(name.removeprefix("opset")) for name in dir(openvino) if name.startswith("opset")),
        "float": {name: float_ops(path) for name, path in paths.items()},
        "bytes": {name: path.with_suffix(".bin").stat().st_size for name, path in paths.items()},
        "small int4": RUNTIME.apply(STEPS["int4"], folder / "cnn.onnx", folder / "small-int4.xml", calibration=[]),
        "of weights": {name: of_weights(folder, name) for name in ("int4", "weights")},
        "largest": {method: largest(folder, method) for method in ("MinMax", "Percentile")},
        "rounded": {str(transformer): rounded(folder, transformer=transformer) for transformer in (False, True)},
        "indices": {name: indices(path) for name, path in paths.items() if name.startswith("shared")},
        "shared too little": refusal(lambda: shared_mlp(folder)),
        "full disk": written_to(folder / "full") if (folder / "full").is_mount() else None,
        "controlled": controlled(folder, base.Answers(lambda outputs: [int(outputs["y"].argmax())], lambda a, b: float(a == b))),
        "uncontrollable": refusal(lambda: controlled(folder, base.Answers(lambda outputs: [object()], lambda a, b: float(a == b)), "0.5")),
        "differ": [name for name in STEPS if digest(paths[name]) != digest(again[name])],
        "cosine": {name: cosine(name, folder) for name in STEPS},
        "concat": refusal(lambda: RUNTIME.build(folder / "concat.onnx", folder / "a", image=images.LOCAL_CPU)),
        "strings": refusal(lambda: RUNTIME.build(folder / "strings.onnx", folder / "b", image=images.LOCAL_CPU)),
        "older": refusal(lambda: RUNTIME.check(folder / "cnn.onnx", image=older)),
        "older built": refusal(lambda: RUNTIME.build(folder / "cnn.onnx", folder / "c", image=older)),
        "opsets": {**{name: ir.opset(ir.read(folder / f"{name}.onnx")) for name in ("cnn", "if", "loop")}, "iterator": ir.opset(iterated())},
        "older onnx": {runtime: of_older_onnx(folder, runtime) for runtime in ("ONNXRuntime", "OpenVINO")},
        "absent": refusal(lambda: RUNTIME.open(folder / "nowhere", threads=1)),
        "shape": refusal(lambda: RUNTIME.open(folder / "static-built", threads=1).infer({"image": np.ones((1, 3, 8, 8), np.float32)})),
    }


if __name__ == "__main__":
    sys.stdout.write(f"\n{json.dumps(main(Path(sys.argv[1])))}\n")
