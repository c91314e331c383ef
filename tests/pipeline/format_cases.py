"""What the scripts that make models in a toolchain's environment share: export each, compare, and say what came of it.

Each script makes all its models in one process, because importing such a library takes seconds, and leaves one JSON object: case -> outcome.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from burnish.errors import BurnishError
from burnish.measurement import equivalence
from burnish.plugins import base, registry
from burnish.plugins.files import LocalFiles
from burnish.plugins.formats import onnx as onnx_format
from burnish.serving import images

BATCH, TOKENS = 3, 7


@dataclasses.dataclass(frozen=True)
class Case:
    format: str
    path: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    inputs: tuple[base.DeclaredInput, ...] = ()


def image(*shape: int, name: str = "image") -> tuple[base.DeclaredInput, ...]:
    return (base.DeclaredInput(name, None, (-1, *shape)),)


Look = Callable[[Case, Path, dict[str, np.ndarray], dict[str, np.ndarray]], dict[str, Any]]
"""More of a good case's outcome, from its path, a request and the framework's answer."""


def feeds(signature: base.Signature) -> dict[str, np.ndarray]:
    generator, found = np.random.default_rng(0), {}
    for tensor in signature.inputs:
        shape = [tensor.shape[0] if tensor.shape[0] > 0 else BATCH, *(TOKENS if size == -1 else size for size in tensor.shape[1:])]
        if tensor.range:
            found[tensor.name] = generator.integers(tensor.range[0], tensor.range[1] + 1, shape).astype(tensor.data_type.numpy_name)
        else:
            found[tensor.name] = generator.standard_normal(shape).astype(tensor.data_type.numpy_name)
    if "attention_mask" in found:
        found["attention_mask"][1, TOKENS // 2 :] = 0  # padding
    return found


def perturb(path: Path) -> None:
    """Change every weight by about a hundredth; not all by the same factor, which normalization would take out again."""
    model, generator = onnx.load(path), np.random.default_rng(0)
    for weight in (t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT and len(t.dims) > 1):
        weight.CopyFrom(
            numpy_helper.from_array(numpy_helper.to_array(weight) * generator.normal(1, 0.01, weight.dims).astype(np.float32), weight.name)
        )
    onnx.save(model, path)


def compare(case: Case, source: base.SourceModel, target: Path, signature: base.Signature, said: list[str], look: Look) -> dict[str, Any]:
    plugin, hub, written = registry.formats()[case.format], onnx_format.Onnx(), base.SourceModel(target)
    feed = feeds(signature)
    shuffled = {name: array[::-1].copy() for name, array in feed.items()}
    (expected,) = plugin.reference(source, [feed])
    found = [hub.reference(written, [f])[0] for f in (feed, shuffled)]
    perturb(target)
    found.append(hub.reference(written, [feed])[0])
    verdicts = [equivalence.preserving_violation(equivalence.compare(expected, answer)) for answer in found]
    graph = onnx.load(target).graph
    return {
        "inputs": {t.name: [t.data_type, *t.shape] for t in signature.inputs},
        "ranges": {t.name: t.range for t in signature.inputs if t.range},
        "outputs": {t.name: [t.data_type, *t.shape] for t in signature.outputs},
        "axes": sorted({d.dim_param for v in (*graph.input, *graph.output) for d in v.type.tensor_type.shape.dim if d.dim_param}),
        "said": said,
        "same": verdicts[0],
        "shuffled": verdicts[1],
        "perturbed": verdicts[2],
        "companions": [p.name for p in plugin.companions(source.path)],
        "left": sorted(p.name for p in target.parent.iterdir()),
        **look(case, source.path, feed, expected),
    }


def outcome(directory: Path, number: int, case: Case, look: Look) -> dict[str, Any]:
    said: list[str] = []
    source = base.SourceModel(directory / case.path, base.SourceOptions(**case.options), case.inputs, said.append)
    target = directory / "out" / str(number) / "model.onnx"
    target.parent.mkdir(parents=True)
    detected = [name for name, plugin in registry.formats().items() if plugin.detect(LocalFiles(source.path))]
    try:
        signature, _ = registry.formats()[case.format].export(source, target, image=images.LOCAL_CPU)
    except BurnishError as error:
        return {"detected": detected, "reason": error.reason, "field": error.field, "message": error.message}
    return {"detected": detected, **compare(case, source, target, signature, said, look)}


def run(directory: Path, cases: Mapping[str, Case], look: Look = lambda *_: {}) -> None:
    """Export every case; leaves directory/outcome.json. Whatever runs where it must not writes directory/canary."""
    found = {}
    for number, (name, case) in enumerate(cases.items()):
        found[name] = {"format": case.format, **outcome(directory, number, case, look), "canary": (directory / "canary").exists()}
        (directory / "canary").unlink(missing_ok=True)
    (directory / "outcome.json").write_text(json.dumps(found))
