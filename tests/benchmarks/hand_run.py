"""The bare work of `burnish run examples/digits.yaml`, as one script that somebody might write by hand: no Burnish in it.

Load and check the model, quantize it three times, start Triton, send every evaluation sample to every model, then measure the same number of
interleaved rounds. Takes a plan (JSON) as its argument, prints what each part took (JSON).
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

import by_hand

Plan = dict[str, Any]

WARM_UP_SECONDS = 0.5


def quantize(plan: Plan, folder: Path) -> list[str]:
    """Write the model repository: the source, and the candidates."""
    source = Path(plan["source"])
    onnx.checker.check_model(onnx.load(source), full_check=True)
    with np.load(plan["calibration"]) as data:
        feeds = [{name: data[name][i : i + 1] for name in plan["inputs"]} for i in range(plan["calibrationSamples"])]
    by_hand.prepare(source, folder / "prepared.onnx")
    for name, config in plan["configs"].items():
        version = folder / "repository" / name / "1"
        version.mkdir(parents=True)
        if name == "baseline":
            (version / "model.onnx").write_bytes(source.read_bytes())
        else:
            by_hand.quantize(name, folder / "prepared.onnx", version / "model.onnx", feeds, op_types=by_hand.WEIGHTED)
        (version.parent / "config.pbtxt").write_text(config)
        onnxruntime.InferenceSession(version / "model.onnx").run(None, feeds[0])
    return list(plan["configs"])


def start_server(plan: Plan, folder: Path) -> subprocess.Popen[bytes]:
    """Triton on its own CPUs, ready."""
    os.sched_setaffinity(0, plan["serverCpus"])
    command = [*plan["command"], f"--model-repository={folder / 'repository'}", f"--http-port={plan['port']}"]
    with (folder / "triton.log").open("wb") as log:
        server = subprocess.Popen(command, env=plan["environment"], stdout=log, stderr=log)
    os.sched_setaffinity(0, plan["clientCpus"])
    while server.poll() is None:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", plan["port"], timeout=5)
            connection.request("GET", "/v2/health/ready")
            if connection.getresponse().status == 200:
                return server
        except OSError:
            pass
        time.sleep(0.05)
    raise SystemExit((folder / "triton.log").read_text()[-2000:])


def stop_server(server: subprocess.Popen[bytes]) -> None:
    """End it, by force if it doesn't want to."""
    server.terminate()
    try:
        server.wait(20)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def encode(feed: by_hand.Feed) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a request (KServe v2, binary tensors)."""
    kinds = {"float32": "FP32", "int32": "INT32", "int64": "INT64"}
    inputs = [
        {"name": name, "shape": list(a.shape), "datatype": kinds[str(a.dtype)], "parameters": {"binary_data_size": a.nbytes}}
        for name, a in feed.items()
    ]
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    return b"".join((head, *(a.tobytes() for a in feed.values()))), {"Inference-Header-Content-Length": str(len(head))}


def send(connection: http.client.HTTPConnection, model: str, request: tuple[bytes, dict[str, str]]) -> np.ndarray:
    """The model's first output, FP32."""
    connection.request("POST", f"/v2/models/{model}/infer", *request)
    answer = connection.getresponse()
    body, length = answer.read(), int(answer.headers["Inference-Header-Content-Length"])
    return np.frombuffer(body[length:], dtype=np.float32)


def evaluate(plan: Plan, connection: http.client.HTTPConnection, models: list[str]) -> tuple[dict[str, float], list[tuple[bytes, dict[str, str]]]]:
    """Accuracy of every model; and some requests for the rounds."""
    with np.load(plan["evaluation"]) as data:
        arrays, labels = {name: data[name] for name in plan["inputs"]}, data["label"]
    requests = [encode({name: array[i : i + 1] for name, array in arrays.items()}) for i in range(len(labels))]
    right = {m: sum(int(send(connection, m, r).argmax() == label) for r, label in zip(requests, labels, strict=True)) for m in models}
    return {model: count / len(labels) for model, count in right.items()}, requests[:16]


def measure(plan: Plan, connection: http.client.HTTPConnection, models: list[str], requests: list[tuple[bytes, dict[str, str]]]) -> dict[str, float]:
    """Median latency of every model over interleaved blocks, milliseconds."""
    latencies: dict[str, list[float]] = {model: [] for model in models}

    def block(model: str, seconds: float) -> list[float]:
        times: list[float] = []
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            started = time.perf_counter()
            send(connection, model, requests[len(times) % len(requests)])
            times.append(time.perf_counter() - started)
        return times

    for model in models:
        block(model, 2 * WARM_UP_SECONDS)
    for _ in range(plan["rounds"]):
        for model in random.sample(models, len(models)):
            latencies[model] += block(model, plan["blockSeconds"])
    return {model: 1e3 * statistics.median(times) for model, times in latencies.items()}


def main() -> None:
    """All of it."""
    marks = [("start", time.perf_counter())]
    plan: Plan = json.loads(Path(sys.argv[1]).read_text())
    folder = Path(sys.argv[1]).parent
    models = quantize(plan, folder)
    marks.append(("quantize", time.perf_counter()))
    server = start_server(plan, folder)
    connection = http.client.HTTPConnection("127.0.0.1", plan["port"], timeout=60)
    try:
        marks.append(("server", time.perf_counter()))
        accuracy, requests = evaluate(plan, connection, models)
        marks.append(("evaluate", time.perf_counter()))
        latency = measure(plan, connection, models, requests)
        marks.append(("rounds", time.perf_counter()))
    finally:
        connection.close()  # Triton waits for its clients
        stop_server(server)
    marks.append(("stop", time.perf_counter()))
    parts = {name: round(at - before, 2) for (_, before), (name, at) in itertools.pairwise(marks)}
    print(json.dumps({"parts": parts, "accuracy": accuracy, "latencyMs": latency}))


if __name__ == "__main__":
    main()
