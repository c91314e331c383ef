"""The client and the engine against a real tritonserver: what they send is understood, what they count is Triton's, what dies is noticed."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from burnish import names
from burnish.api.v1alpha1.optimized_model import Load, Resources
from burnish.errors import BurnishError, Reason
from burnish.measurement import rounds
from burnish.measurement.client import ModelError, TritonClient
from burnish.pipeline import procfs
from burnish.pipeline.server import TritonServer
from burnish.toolchains import environments

QUICK = rounds.Schedule(first_look=6, look_every=2, max_rounds=8, warm_up_seconds=0.1)
CONFIG = """backend: "onnxruntime"
max_batch_size: 8
input [{ name: "x" data_type: TYPE_FP32 dims: [4] }]
output [{ name: "y" data_type: TYPE_FP32 dims: [4] }]
instance_group [{ count: 1 kind: KIND_CPU }]
"""


def write_model(repository: Path, name: str, *, factor: float) -> None:
    """A model that multiplies its input."""
    shape = ["n", 4]
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "f"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [helper.make_tensor("f", TensorProto.FLOAT, [], [factor])],
    )
    (repository / name / "1").mkdir(parents=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), repository / name / "1" / "model.onnx")
    (repository / name / "config.pbtxt").write_text(CONFIG)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TritonServer]:
    write_model(tmp_path / "repository", names.BASELINE, factor=2)
    write_model(tmp_path / "repository", "candidate", factor=3)
    python = environments.ensure("triton", print).python
    resources = Resources(cpu="1", memory="1Gi")
    with TritonServer.start(tmp_path / "repository", toolchain_python=python, resources=resources, log=tmp_path / "triton.log") as running:
        running.wait_ready(60)
        yield running


@pytest.fixture
def client(server: TritonServer) -> Iterator[TritonClient]:
    with contextlib.closing(TritonClient(server.url, timeout_s=20)) as made:
        yield made


def requests(client: TritonClient) -> dict[str, list[object]]:
    arrays = [{"x": np.full((1, 4), value, np.float32)} for value in range(4)]
    return {name: [client.prepare(name, feed) for feed in arrays] for name in (names.BASELINE, "candidate")}


def test_infer_gives_the_models_own_answer(client: TritonClient) -> None:
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    assert np.array_equal(client.infer("candidate", {"x": x})["y"], 3 * x)
    assert {name: state.state for name, state in client.repository_index().items()} == {names.BASELINE: "READY", "candidate": "READY"}


def test_infer_with_a_wrong_shape_gives_tritons_words(client: TritonClient) -> None:
    with pytest.raises(ModelError, match="shape") as caught:
        client.infer("candidate", {"x": np.zeros((1, 5), np.float32)})
    assert caught.value.status == 400


def test_measure_load_counts_what_triton_counts(client: TritonClient) -> None:
    before = client.statistics("candidate")
    found = rounds.measure_load(
        client,
        Load(name="pair", concurrency=2),
        requests(client),
        decided=lambda trace: trace.rounds >= 8,
        deadline=time.monotonic() + 60,
        schedule=QUICK,
    )
    assert not found.failed
    assert (found.trace.rounds, found.trace.ended) == (8, "decided")
    for side in found.trace.sides.values():
        assert len(side.latencies_ms) == len(side.throughput_per_second) == 8
        assert all(0 < latency < 10_000 for block in side.latencies_ms for latency in block)
        assert side.compute_us is not None
        # Time in the backend is part of what the client waits for.
        assert side.compute_us / 1e3 < float(np.median([latency for block in side.latencies_ms for latency in block]))
    sent = sum(len(block) for block in found.trace.sides["candidate"].latencies_ms)
    assert client.statistics("candidate").since(before).success_count > sent, "the rounds and the warm-up"


def test_measure_load_drops_a_candidate_whose_backend_died(server: TritonServer, client: TritonClient) -> None:
    stub = next(pid for pid in procfs.descendants(server.pid) if any("/candidate/" in argument for argument in procfs.command_line(pid)))
    os.kill(stub, signal.SIGKILL)
    found = rounds.measure_load(
        client,
        Load(name="single"),
        requests(client),
        decided=lambda trace: True,
        deadline=time.monotonic() + 60,
        schedule=QUICK,
    )
    assert "candidate" in found.failed
    assert set(found.trace.sides) == {names.BASELINE}


def test_measure_load_ends_when_the_server_is_killed(server: TritonServer, client: TritonClient) -> None:
    def kill(progress: rounds.RoundProgress) -> None:
        if progress.rounds == 3:
            os.kill(server.pid, signal.SIGKILL)

    with pytest.raises(BurnishError) as caught:
        rounds.measure_load(
            client,
            Load(name="single"),
            requests(client),
            decided=lambda trace: False,
            deadline=time.monotonic() + 60,
            progress=kill,
            schedule=QUICK,
        )
    assert caught.value.reason is Reason.ServerLost
