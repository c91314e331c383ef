"""How the runtimes run what rounding_cases.py wrote: `loaded_cases.py DIRECTORY`, in the environment that has both, leaves outcome.json.

For each NAME.onnx with NAME.npz beside it: the operators of ONNX Runtime's optimized graph, the precision of OpenVINO's layers, and both answers.
"""

from __future__ import annotations

import collections
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino

from burnish.plugins import registry
from burnish.serving import images

FOLDER = Path(sys.argv[1])
WEIGHTED = ("Convolution", "FullyConnected", "MatMul")


def by_onnxruntime(path: Path, feed: dict[str, np.ndarray]) -> tuple[dict[str, int], np.ndarray]:
    optimized = path.with_suffix(".optimized")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(optimized)
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, feed)
    return dict(collections.Counter(node.op_type for node in onnx.load(optimized).graph.node)), answer


def by_openvino(path: Path, feed: dict[str, np.ndarray]) -> tuple[list[list[str]], np.ndarray]:
    """(kind, precision) of each layer with weights, of what our own plugin builds."""
    runtime = registry.runtimes()["OpenVINO"]
    built = FOLDER / f"{path.stem}-openvino"
    built.mkdir()
    runtime.build(path, built, image=images.LOCAL_CPU)
    answer = runtime.open(built, threads=1).infer(feed)["output"]
    options = {"INFERENCE_NUM_THREADS": "1", "INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.Core().compile_model(built / runtime.model_file, "CPU", options).get_runtime_model()
    layers = []
    for op in model.get_ordered_ops():
        told = {key: op.get_rt_info()[key].astype(str) for key in ("layerType", "runtimePrecision")}
        if told["layerType"] in WEIGHTED:
            layers.append([told["layerType"], told["runtimePrecision"]])
    return layers, answer


def loaded(path: Path) -> dict[str, Any]:
    feed = dict(np.load(path.with_suffix(".npz")))
    operators, ours = by_onnxruntime(path, feed)
    layers, theirs = by_openvino(path, feed)
    return {"operators": operators, "layers": layers, "difference": float(np.abs(ours - theirs).max() / np.abs(ours).max())}


if __name__ == "__main__":
    outcome = {path.stem: loaded(path) for path in sorted(FOLDER.glob("*.onnx"))}
    (FOLDER / "outcome.json").write_text(json.dumps(outcome, indent=1))
