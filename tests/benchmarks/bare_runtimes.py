"""Candidates of several runtimes, and what their libraries give somebody who calls them by hand, in one process of the toolchain that has them all.

Takes a plan (JSON) as its argument, prints one JSON object on its last line. bench_runtimes.py starts it with the `onnx` toolchain's interpreter.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import openvino

import bare
import by_hand
import machine
from burnish.plugins import registry
from burnish.plugins.base import Session

THREADS = 1
NNCF_SAMPLES = 300
"""`subset_size` of NNCF's own examples, and its default."""


def make_peers(names: Sequence[str], source: Path, folder: Path, calibration: Sequence[by_hand.Feed]) -> dict[str, tuple[str, Path]]:
    """Peer -> its runtime, and a directory as the runtime opens it. By the libraries' own functions, with their own defaults, on the same ONNX file."""
    made: dict[str, tuple[str, Path]] = {}
    for name in names:
        directory = folder / name.replace(" ", "-")
        directory.mkdir()
        if name.startswith("NNCF"):
            quantized = nncf.quantize(openvino.convert_model(source), nncf.Dataset(calibration), subset_size=NNCF_SAMPLES)
            openvino.save_model(quantized, directory / "model.xml", compress_to_fp16=False)
            made[name] = ("OpenVINO", directory)
        else:
            prepared = directory / "prepared.onnx"
            by_hand.prepare(source, prepared)
            op_types = by_hand.WEIGHTED if name.endswith("weighted types") else None
            by_hand.quantize("static", prepared, directory / "model.onnx", calibration, op_types=op_types)
            made[name] = ("ONNXRuntime", directory)
    return made


def load_feeds(path: Path, inputs: Sequence[str]) -> tuple[list[by_hand.Feed], np.ndarray | None]:
    """Requests of one sample each, and the labels."""
    with np.load(path) as data:
        arrays, labels = {name: data[name] for name in inputs}, data.get("label")
    count = len(next(iter(arrays.values())))
    return [{name: array[i : i + 1] for name, array in arrays.items()} for i in range(count)], labels


def quality(sessions: dict[str, Session], feeds: Sequence[by_hand.Feed], labels: np.ndarray | None, reference: str) -> dict[str, dict[str, float]]:
    """Session -> mean and lowest cosine to the reference's answers, and accuracy where there are labels."""
    answers = {key: np.stack([next(iter(session.infer(feed).values()))[0].ravel() for feed in feeds]) for key, session in sessions.items()}
    expected = answers[reference]
    found = {}
    for key, answer in answers.items():
        cosines = (answer * expected).sum(1) / np.linalg.norm(answer, axis=1) / np.linalg.norm(expected, axis=1)
        found[key] = {"cosine": float(cosines.mean()), "worstCosine": float(cosines.min())}
        if labels is not None:
            found[key]["accuracy"] = float((answer.argmax(1) == labels).mean())
    return found


def main() -> None:
    """All of it."""
    plan: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    calibration, _ = load_feeds(Path(plan["calibration"]), plan["inputs"])
    feeds, labels = load_feeds(Path(plan["evaluation"]), plan["inputs"])
    models = {key: (runtime, Path(directory)) for key, (runtime, directory) in plan["models"].items()}
    models |= make_peers(plan["peers"], Path(plan["source"]), Path(sys.argv[1]).parent, calibration)
    with machine.kept_to([max(os.sched_getaffinity(0))]):
        sessions = {key: registry.runtimes()[runtime].open(directory, threads=THREADS) for key, (runtime, directory) in models.items()}
        medians = bare.measure(sessions, feeds[: bare.FEEDS], plan["rounds"])
        qualities = quality(sessions, feeds, labels, plan["reference"])
    sizes = {key: sum(f.stat().st_size for f in directory.iterdir() if f.stem == "model") for key, (_, directory) in models.items()}
    found = {
        key: {"medians": medians[key].tolist(), "directory": str(directory), "runtime": runtime, "bytes": sizes[key], **qualities[key]}
        for key, (runtime, directory) in models.items()
    }
    print(f"\n{json.dumps(found)}")


if __name__ == "__main__":
    main()
