"""A serving pod without the pod: what `pull` brings out of a store is loaded by a real tritonserver, and the probe watches it, as its own process."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from burnish.api.job_contract import ArtifactConfig, ResolvedInput
from burnish.api.messages import decode
from burnish.api.v1alpha1.optimized_model import Resources
from burnish.errors import Reason
from burnish.manifests.settings import HardwareMismatch
from burnish.pipeline import machine, pairs, probe, procfs, pull
from burnish.pipeline.server import TritonServer, _free_ports
from burnish.plugins.base import DataType, Signature, Tensor
from burnish.serving.config import ServingOptions
from burnish.store.artifacts import put_artifact
from burnish.store.store import open_store
from burnish.toolchains import environments

READY_TIMEOUT_S = 120
MODEL = "digits"
OPTIONS = ServingOptions(threads=1, parameters={"intra_op_thread_count": "1", "inter_op_thread_count": "1"})
SHAPE = ["n", 4]


@pytest.fixture(scope="session")
def python() -> Path:
    return environments.ensure("triton", print).python


def artifact(directory: Path, nodes, initializers=(), *, answer_offset: float = 0.0) -> Path:
    """An artifact directory as `build` leaves it, of a graph from `x` to `y`, both (n, 4); its golden answer is off by `answer_offset`."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPE) for name in "xy")
    graph = helper.make_graph(list(nodes), "g", [x], [y], list(initializers))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    (directory / "model").mkdir(parents=True)
    onnx.save(model, directory / "model" / "model.onnx")
    signature = Signature(
        inputs=(Tensor(name="x", data_type=DataType.FP32, shape=(-1, 4)),), outputs=(Tensor(name="y", data_type=DataType.FP32, shape=(-1, 4)),)
    )
    feed = {"x": np.array([[1, -2, 3, -4]], np.float32)}
    answer = {"y": onnxruntime.InferenceSession(model.SerializeToString()).run(["y"], feed)[0] + np.float32(answer_offset)}
    pairs.save_pair(directory / "golden.npz", feed, answer)
    (directory / "golden.request").write_bytes(pairs.request_body(feed, signature))
    config = ArtifactConfig(
        name="baseline",
        summary="",
        runtime="ONNXRuntime",
        backend="onnxruntime",
        model_file="model.onnx",
        signature=signature,
        inputs=tuple(ResolvedInput(name=t.name, data_type=t.data_type, shape=t.shape, is_batched=True) for t in signature.inputs),
        source_digest="sha256:" + "0" * 64,
        artifact_key="",
        toolchain="",
        hardware_class=machine.hardware_class(),
    )
    (directory / "artifact.json").write_text(config.model_dump_json(by_alias=True))
    return directory


def relu(directory: Path, **options) -> Path:
    return artifact(directory, [helper.make_node("Relu", ["x"], ["y"])], **options)


def slow(directory: Path) -> Path:
    """About 0.1 s of one CPU for each request, however small."""
    size = 1100
    weights = np.random.default_rng(1).standard_normal((size, size)).astype(np.float32) / size**0.5
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=1),  # of everything: it is one number, and the same for all
        helper.make_node("Mul", ["weights", "mean"], ["a"]),
        helper.make_node("MatMul", ["a", "weights"], ["b"]),
        helper.make_node("MatMul", ["b", "weights"], ["c"]),
        helper.make_node("ReduceMean", ["c"], ["number"], keepdims=1),
        helper.make_node("Add", ["x", "number"], ["y"]),
    ]
    return artifact(directory, nodes, [numpy_helper.from_array(weights, "weights")])


class Pod:
    """`pull`, Triton and the probe, and what the kubelet does with them."""

    def __init__(self, tmp_path: Path, python: Path, directory: Path, *flags: str, options: ServingOptions = OPTIONS) -> None:
        self.tmp_path, self.python, self.flags = tmp_path, python, flags
        self.models, self.golden = tmp_path / "models", tmp_path / "golden"
        self.models.mkdir()
        self.golden.mkdir()
        store = open_store(tmp_path / "store")
        digest = put_artifact(store, directory).digest
        here, refuse = machine.hardware_class(), HardwareMismatch.Refuse
        pull.run(store, digest, model=MODEL, models=self.models, golden=self.golden, options=options, mismatch=refuse, here=here)
        self.http_port, self.probe_port = _free_ports(2)
        self.triton: TritonServer | None = None
        self.probe: subprocess.Popen[bytes] | None = None

    def start_triton(self, wait: bool = True) -> TritonServer:
        self.triton = TritonServer.start(
            self.models,
            toolchain_python=self.python,
            resources=Resources(cpu="1", memory="2Gi"),
            log=self.tmp_path / "triton.log",
            http_port=self.http_port,
        )
        if wait:
            self.triton.wait_ready(READY_TIMEOUT_S)
        return self.triton

    def start_probe(self) -> None:
        """As the image does, but with an interpreter that sees the standard library only."""
        assert self.triton is not None
        metrics_port = self.triton.metrics_url.rpartition(":")[2].partition("/")[0]
        ports = [f"--http-port={self.http_port}", f"--metrics-port={metrics_port}", f"--port={self.probe_port}", "--period=0.2"]
        paths = [f"--golden={self.golden}", f"--marker={self.tmp_path / 'marker'}", f"--termination-log={self.tmp_path / 'message'}"]
        with (self.tmp_path / "probe.log").open("ab") as log:
            command = [sys.executable, *self.isolation, probe.__file__, f"--model={MODEL}", *ports, *paths, *self.flags]
            self.probe = subprocess.Popen(command, stderr=log)
        assert self.until(lambda: self.ask("status")[0] == 200), (self.tmp_path / "probe.log").read_text()

    isolation: tuple[str, ...] = ("-I", "-S")

    def ask(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.probe_port}/{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def told(self) -> tuple[bool, bool, bool]:
        """Started, ready, live."""
        started, ready, live = (self.ask(path)[0] == 200 for path in ("startup", "ready", "live"))
        return started, ready, live

    def state(self) -> str:
        return json.loads(self.ask("status")[1] or "{}").get("state", "")

    def stub(self) -> int:
        """The process that holds the model."""
        [pid] = [pid for pid in procfs.children(self.triton.pid) if "stub" in procfs.command_line(pid)[0]]
        return pid

    @staticmethod
    def until(condition, timeout_s: float = 60.0) -> bool:
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def stop(self) -> None:
        if self.probe is not None:
            self.probe.kill()
            self.probe.wait()
        if self.triton is not None:
            self.triton.stop()


@pytest.fixture
def pod(tmp_path, python):
    made: list[Pod] = []

    def make(directory: Path, *flags: str, **options: ServingOptions) -> Pod:
        made.append(Pod(tmp_path, python, directory, *flags, **options))
        return made[-1]

    yield make
    for each in made:
        each.stop()


def test_right_answer_makes_the_server_ready_and_is_counted_apart(pod, tmp_path):
    batching = dataclasses.replace(OPTIONS, max_batch_size=4, is_dynamic=True, preferred_batch_sizes=(2, 4), max_queue_delay_us=100)
    pod = pod(relu(tmp_path / "a"), options=batching)
    triton = pod.start_triton()
    pod.start_probe()
    assert pod.until(lambda: pod.told() == (True, True, True)), pod.ask("status")
    with urllib.request.urlopen(f"{triton.url}/v2/models/{MODEL}/config", timeout=10) as answer:
        config = json.loads(answer.read())
    assert config["max_batch_size"] == 4
    assert config["dynamic_batching"]["preferred_batch_size"] == [2, 4]
    assert config["dynamic_batching"]["max_queue_delay_microseconds"] == 100
    ours = {line.partition("{")[0]: int(line.rpartition(" ")[2]) for line in pod.ask("metrics")[1].splitlines() if not line.startswith("#")}
    assert ours["burnish_probe_right"] == 1
    assert ours["burnish_probe_answers_total"] >= 1
    assert ours["burnish_probe_wrong_answers_total"] == 0
    pod.probe.kill()
    pod.probe.wait()
    theirs = probe.answered_requests(int(triton.metrics_url.rpartition(":")[2].partition("/")[0]), MODEL)
    assert theirs >= ours["burnish_probe_answers_total"]


def test_server_that_is_not_up_yet_is_not_started_and_live(pod, tmp_path):
    pod = pod(relu(tmp_path / "a"))
    pod.start_triton()
    pod.triton.stop()
    pod.start_probe()
    assert pod.until(lambda: pod.state() == "Down")
    assert pod.told() == (False, False, True)


def test_backend_that_was_killed_is_noticed_and_the_next_server_is_judged_anew(pod, tmp_path):
    pod = pod(relu(tmp_path / "a"))
    triton = pod.start_triton()
    pod.start_probe()
    assert pod.until(lambda: pod.told() == (True, True, True))
    os.kill(pod.stub(), signal.SIGKILL)
    assert pod.until(lambda: pod.told() == (True, False, False)), pod.ask("status")
    assert pod.state() == "BackendError"
    with urllib.request.urlopen(f"{triton.url}/v2/health/ready", timeout=10) as answer:
        assert answer.status == 200, "Triton itself would have noticed: the probe would not be needed"
    triton.stop()  # as the kubelet does, then
    assert pod.until(lambda: pod.told() == (False, False, True)), pod.ask("status")
    pod.start_triton()
    assert pod.until(lambda: pod.told() == (True, True, True)), pod.ask("status")


def test_wrong_answer_is_never_ready_is_told_once_and_restarts_nothing(pod, tmp_path):
    pod = pod(relu(tmp_path / "a", answer_offset=0.5))
    pod.isolation = ()  # the message is written with the package's own code
    pod.start_triton()
    pod.start_probe()
    assert pod.probe.wait(30) == 1
    failure = decode((tmp_path / "message").read_text()).failure
    assert failure.reason is Reason.WrongAnswer
    assert "output 'y' holds 1 where the build had 1.5" in failure.message
    (tmp_path / "message").unlink()
    pod.start_probe()  # as the kubelet does
    assert pod.until(lambda: pod.state() == "WrongAnswer")
    seen = [pod.told() for _ in range(20) if time.sleep(0.1) is None]
    assert set(seen) == {(False, False, True)}
    assert pod.probe.poll() is None
    assert not (tmp_path / "message").exists()


def test_answer_within_the_bound_is_right(pod, tmp_path):
    pod = pod(relu(tmp_path / "a", answer_offset=0.002))  # 1e-3 of the largest, 3, is 0.003
    pod.start_triton()
    pod.start_probe()
    assert pod.until(lambda: pod.told() == (True, True, True)), pod.ask("status")


def test_overload_restarts_nothing_and_a_backend_that_hangs_does(pod, tmp_path):
    pod = pod(slow(tmp_path / "a"), "--timeout=1", "--silence=6")
    triton = pod.start_triton()
    pod.start_probe()
    assert pod.until(lambda: pod.told() == (True, True, True)), pod.ask("status")
    request, over = (pod.golden / "golden.request").read_bytes(), threading.Event()
    header_length = len(request.partition(b"\n")[0]) + 1
    answered: list[float] = []

    def client() -> None:
        while not over.is_set():
            headers = {"Inference-Header-Content-Length": str(header_length)}
            with urllib.request.urlopen(urllib.request.Request(f"{triton.url}/v2/models/{MODEL}/infer", request, headers), timeout=120) as answer:
                answer.read()
            answered.append(time.monotonic())

    clients = [threading.Thread(target=client) for _ in range(60)]
    for each in clients:
        each.start()
    try:
        assert pod.until(lambda: pod.state() == "NoAnswer"), "the server kept up: this test would prove nothing"
        seen, until = set(), time.monotonic() + 15
        while time.monotonic() < until:
            seen.add((pod.state(), pod.told()))
            time.sleep(0.2)
        assert ("NoAnswer", (True, True, True)) in seen
        assert all(told == (True, True, True) for _, told in seen), seen
    finally:
        over.set()
        for each in clients:
            each.join()
    assert len(answered) > 60
    assert pod.until(lambda: pod.state() == "Right"), pod.ask("status")
    stub = pod.stub()
    os.kill(stub, signal.SIGSTOP)
    try:
        assert pod.until(lambda: pod.told() == (True, False, False)), pod.ask("status")
    finally:
        os.kill(stub, signal.SIGCONT)
