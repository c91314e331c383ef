"""The real tritonserver: what it serves, what it refuses, how its end is noticed, and that nothing of it stays behind."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from burnish.api.job_contract import ArtifactConfig, ResolvedInput
from burnish.api.v1alpha1.optimized_model import Resources
from burnish.errors import BurnishError, Reason
from burnish.pipeline import cpu_limit, procfs, triton_installation
from burnish.pipeline import server as server_module
from burnish.pipeline.confined_process import ConfinedProcess, Limits
from burnish.pipeline.server import TritonServer, peak_memory_bytes
from burnish.plugins.base import DataType, HardwareClass, Signature, Tensor
from burnish.serving.config import ServingOptions
from burnish.serving.repository import write_repository
from burnish.toolchains import environments

READY_TIMEOUT_S = 120
ONE_CPU = Resources(cpu="1", memory="2Gi")
CAN_SET_QUOTA = os.geteuid() == 0 and any(
    os.access(path, os.W_OK) for path in ("/sys/fs/cgroup/cpu/cgroup.procs", "/sys/fs/cgroup/cgroup.subtree_control")
)

DATA_TYPES = {
    TensorProto.FLOAT: DataType.FP32,
    TensorProto.FLOAT16: DataType.FP16,
    TensorProto.INT64: DataType.INT64,
    TensorProto.STRING: DataType.BYTES,
}


@pytest.fixture(scope="session")
def python() -> Path:
    return environments.ensure("triton", print).python


def value(name: str, kind: int, shape: list) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def write_artifact(directory: Path, nodes, inputs, outputs, initializers=(), model_file: str = "model.onnx", backend: str = "onnxruntime") -> Path:
    """An artifact directory with an ONNX model, as `build` leaves it."""
    model = helper.make_model(
        helper.make_graph(list(nodes), "g", list(inputs), list(outputs), list(initializers)),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=9,
    )
    (directory / "model").mkdir(parents=True)
    onnx.save(model, directory / "model" / model_file)

    def tensor(info: onnx.ValueInfoProto) -> Tensor:
        sizes = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in info.type.tensor_type.shape.dim)
        return Tensor(name=info.name, data_type=DATA_TYPES[info.type.tensor_type.elem_type], shape=sizes)

    signature = Signature(inputs=tuple(map(tensor, inputs)), outputs=tuple(map(tensor, outputs)))
    config = ArtifactConfig(
        name="baseline",
        summary="",
        runtime="ONNXRuntime",
        backend=backend,
        model_file=model_file,
        signature=signature,
        inputs=tuple(ResolvedInput(name=t.name, data_type=t.data_type, shape=t.shape) for t in signature.inputs),
        source_digest="sha256:" + "0" * 64,
        artifact_key="",
        toolchain="",
        hardware_class=HardwareClass(architecture="", vendor="", isa=()),
    )
    (directory / "artifact.json").write_text(config.model_dump_json(by_alias=True))
    return directory


def relu(directory: Path, **options) -> Path:
    shape = ["n", 4]
    return write_artifact(
        directory,
        [helper.make_node("Relu", ["x"], ["y"])],
        [value("x", TensorProto.FLOAT, shape)],
        [value("y", TensorProto.FLOAT, shape)],
        **options,
    )


def write(tmp_path: Path, **models: Path) -> Path:
    repository = tmp_path / "repository"
    write_repository(repository, models, ServingOptions(threads=1, max_batch_size=4, parameters={"intra_op_thread_count": "1"}))
    return repository


def start(python: Path, tmp_path: Path, repository: Path, resources: Resources = ONE_CPU, **options) -> TritonServer:
    return TritonServer.start(repository, toolchain_python=python, resources=resources, log=tmp_path / "triton.log", **options)


def call(url: str, body: object = None) -> dict:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data=data), timeout=30) as answer:
        return json.loads(answer.read())


def infer(server: TritonServer, model: str, **inputs) -> dict:
    """Outputs by name, as (shape, data). Inputs are (datatype, shape, data)."""
    tensors = [{"name": name, "datatype": kind, "shape": shape, "data": data} for name, (kind, shape, data) in inputs.items()]
    answer = call(f"{server.url}/v2/models/{model}/infer", {"inputs": tensors})
    return {output["name"]: (output["shape"], output["data"]) for output in answer["outputs"]}


def states(server: TritonServer) -> dict[str, tuple[str, str]]:
    return {m["name"]: (m["state"], m.get("reason", "")) for m in call(f"{server.url}/v2/repository/index", {})}


def processes_of(log_directory: Path) -> list[int]:
    """Processes whose command line names this test's directory."""
    return [pid for pid in procfs._pids() if pid != os.getpid() and any(str(log_directory) in word for word in procfs.command_line(pid))]


def shared_memory() -> set[str]:
    return {path.name for path in Path("/dev/shm").glob("burnish-*")}


def wait_until(condition, timeout_s: float = 15.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_server_answers_with_every_kind_of_tensor(python, tmp_path, backend):
    """OpenVINO reads ONNX as well, so nothing has to be converted for this."""
    models = {
        "batched": relu(tmp_path / "a", backend=backend),
        "other-file": relu(tmp_path / "b", model_file="net.onnx", backend=backend),
        "half": write_artifact(
            tmp_path / "c",
            [helper.make_node("Neg", ["x"], ["y"])],
            [value("x", TensorProto.FLOAT16, ["n", 2])],
            [value("y", TensorProto.FLOAT16, ["n", 2])],
            backend=backend,
        ),
        "scalars": write_artifact(
            tmp_path / "e",
            [helper.make_node("Mul", ["x", "scale"], ["z"]), helper.make_node("ReduceSum", ["z"], ["y"], keepdims=0)],
            [value("x", TensorProto.FLOAT, [2, 3]), value("scale", TensorProto.FLOAT, [])],
            [value("y", TensorProto.FLOAT, [])],
            backend=backend,
        ),
        "rank-one": write_artifact(
            tmp_path / "f",
            [helper.make_node("Add", ["x", "x"], ["y"])],
            [value("x", TensorProto.INT64, ["n"])],
            [value("y", TensorProto.INT64, ["n"])],
            backend=backend,
        ),
    }
    if backend == "onnxruntime":
        models["strings"] = write_artifact(
            tmp_path / "d",
            [helper.make_node("StringConcat", ["x", "x"], ["y"])],
            [value("x", TensorProto.STRING, ["n"])],
            [value("y", TensorProto.STRING, ["n"])],
        )
    with start(python, tmp_path, write(tmp_path, **models)) as server:
        server.wait_ready(READY_TIMEOUT_S)
        assert {name: state for name, (state, _) in states(server).items()} == dict.fromkeys(models, "READY"), states(server)
        floats = ("FP32", [2, 4], [1, -2, 3, -4, 5, -6, 7, -8])
        for name in ("batched", "other-file"):
            assert infer(server, name, x=floats)["y"] == ([2, 4], [1, 0, 3, 0, 5, 0, 7, 0])
        if backend == "onnxruntime":
            assert infer(server, "strings", x=("BYTES", [2, 1], ["ä", "b"]))["y"] == ([2, 1], ["ää", "bb"])
        assert infer(server, "scalars", x=("FP32", [2, 3], [1, 2, 3, 4, 5, 6]), scale=("FP32", [1], [2]))["y"] == ([1], [42])
        assert infer(server, "rank-one", x=("INT64", [3, 1], [1, 2, 3]))["y"] == ([3, 1], [2, 4, 6])
        assert infer_half(server, np.array([[1.5, -2]], np.float16)).tolist() == [[-1.5, 2]]
        assert server.peak_memory_bytes("batched") > 10 * 2**20
        assert peak_memory_bytes(server.pid, "absent") is None


def infer_half(server: TritonServer, x: np.ndarray) -> np.ndarray:
    """FP16 has no JSON form: the binary extension of the protocol."""
    header = json.dumps(
        {
            "inputs": [{"name": "x", "datatype": "FP16", "shape": list(x.shape), "parameters": {"binary_data_size": x.nbytes}}],
            "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
        }
    ).encode()
    request = urllib.request.Request(
        f"{server.url}/v2/models/half/infer", data=header + x.tobytes(), headers={"Inference-Header-Content-Length": str(len(header))}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return np.frombuffer(answer.read()[int(answer.headers["Inference-Header-Content-Length"]) :], np.float16).reshape(x.shape)


def test_server_serves_the_good_model_beside_a_broken_one(python, tmp_path):
    broken = relu(tmp_path / "broken")
    (broken / "model" / "model.onnx").write_bytes((broken / "model" / "model.onnx").read_bytes()[:40])
    with start(python, tmp_path, write(tmp_path, good=relu(tmp_path / "good"), broken=broken)) as server:
        server.wait_ready(READY_TIMEOUT_S)
        found = states(server)
        assert found["good"][0] == "READY"
        assert found["broken"][0] == "UNAVAILABLE"
        assert "onnxruntime" in found["broken"][1]
        assert infer(server, "good", x=("FP32", [1, 4], [1, -1, 2, -2]))["y"] == ([1, 4], [1, 0, 2, 0])


def test_server_refuses_a_config_that_contradicts_the_graph(python, tmp_path):
    repository = write(tmp_path, wrong=relu(tmp_path / "a"))
    config = repository / "wrong" / "config.pbtxt"
    config.write_text(config.read_text().replace("dims: [4]", "dims: [5]"))
    with start(python, tmp_path, repository) as server:
        server.wait_ready(READY_TIMEOUT_S)
        state, reason = states(server)["wrong"]
        assert state == "UNAVAILABLE"
        assert "[-1, 4]" in reason
        assert "[-1, 5]" in reason


def test_a_warmup_that_fails_takes_neither_the_model_nor_the_server_down(python, tmp_path):
    """Zeros are no valid request for this model (the index 0 - 1 is allowed, 0 - 10 is not), real data are."""
    picky = write_artifact(
        tmp_path / "a",
        [
            helper.make_node("Cast", ["x"], ["i"], to=TensorProto.INT64),
            helper.make_node("Sub", ["i", "ten"], ["j"]),
            helper.make_node("Gather", ["table", "j"], ["y"]),
        ],
        [value("x", TensorProto.FLOAT, ["n", 2])],
        [value("y", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(np.arange(4, dtype=np.float32), "table"), numpy_helper.from_array(np.array([10]), "ten")],
    )
    with start(python, tmp_path, write(tmp_path, picky=picky, good=relu(tmp_path / "good"))) as server:
        server.wait_ready(READY_TIMEOUT_S)
        assert "the warm-up failed" in (tmp_path / "triton.log").read_text()
        assert {name: state for name, (state, _) in states(server).items()} == {"picky": "READY", "good": "READY"}
        with pytest.raises(urllib.error.HTTPError) as caught:  # a real request's failure is one
            infer(server, "picky", x=("FP32", [1, 2], [0, 0]))
        with caught.value as refusal:
            assert refusal.code == 500
        assert infer(server, "picky", x=("FP32", [1, 2], [11, 13]))["y"] == ([1, 2], [1, 3])


def test_requests_that_are_batched_share_a_run_and_a_bad_one_fails_alone(python, tmp_path):
    lookup = write_artifact(
        tmp_path / "a",
        [helper.make_node("Gather", ["table", "i"], ["y"])],
        [value("i", TensorProto.INT64, ["n", 1])],
        [value("y", TensorProto.FLOAT, ["n", 1])],
        [numpy_helper.from_array(np.arange(4, dtype=np.float32), "table")],
    )
    repository = write(tmp_path, lookup=lookup)
    with (repository / "lookup" / "config.pbtxt").open("a") as config:
        config.write("dynamic_batching { preferred_batch_size: [4] max_queue_delay_microseconds: 5000000 }\n")
    with start(python, tmp_path, repository) as server, ThreadPoolExecutor(4) as pool:
        server.wait_ready(READY_TIMEOUT_S)

        def ask(index: int) -> list[float] | int:
            try:
                return infer(server, "lookup", i=("INT64", [1, 1], [index]))["y"][1]
            except urllib.error.HTTPError as error:
                with error:
                    return error.code

        assert list(pool.map(ask, [0, 1, 2, 3])) == [[0], [1], [2], [3]]
        [statistics] = call(f"{server.url}/v2/models/lookup/stats")["model_stats"]
        warmups_and_one = statistics["execution_count"]
        assert list(pool.map(ask, [0, 99, 2, 3])) == [[0], 500, [2], [3]]
        [statistics] = call(f"{server.url}/v2/models/lookup/stats")["model_stats"]
        assert statistics["execution_count"] == warmups_and_one + 1  # Triton handed all four over at once


def test_openvino_backend_batches_and_says_why_it_does_not_load(python, tmp_path):
    broken = relu(tmp_path / "broken", backend="openvino")
    (broken / "model" / "model.onnx").write_bytes((broken / "model" / "model.onnx").read_bytes()[:40])
    models = {"good": relu(tmp_path / "good", backend="openvino"), "broken": broken, "wrong": relu(tmp_path / "wrong", backend="openvino")}
    repository = write(tmp_path, **models)
    config = repository / "wrong" / "config.pbtxt"
    config.write_text(config.read_text().replace("dims: [4]", "dims: [5]"))
    with (repository / "good" / "config.pbtxt").open("a") as config:
        config.write("dynamic_batching { preferred_batch_size: [4] max_queue_delay_microseconds: 5000000 }\n")
    with start(python, tmp_path, repository) as server, ThreadPoolExecutor(4) as pool:
        server.wait_ready(READY_TIMEOUT_S)
        found = states(server)
        assert {name: state for name, (state, _) in found.items()} == {"good": "READY", "broken": "UNAVAILABLE", "wrong": "UNAVAILABLE"}
        assert "openvino:" in found["broken"][1]
        assert "[-1, 5]" in found["wrong"][1]
        before = call(f"{server.url}/v2/models/good/stats")["model_stats"][0]["execution_count"]
        answers = pool.map(lambda i: infer(server, "good", x=("FP32", [1, 4], [i, -i, 0, 1]))["y"][1], range(4))
        assert list(answers) == [[i, 0, 0, 1] for i in range(4)]
        assert call(f"{server.url}/v2/models/good/stats")["model_stats"][0]["execution_count"] == before + 1
    assert not processes_of(tmp_path)


def test_backend_completes_a_config_that_is_left_open(python, tmp_path):
    """As the native backend does where auto-completion is on, which our own server turns off."""
    repository = tmp_path / "repository"
    (repository / "model" / "1").mkdir(parents=True)
    os.link(relu(tmp_path / "a") / "model" / "model.onnx", repository / "model" / "1" / "model.onnx")
    (repository / "model" / "config.pbtxt").write_text('backend: "onnxruntime"\n')
    installation = triton_installation.find(python)
    installation.lay_out_backends(tmp_path / "backends", triton_installation.OUR_BACKENDS)
    port = server_module._free_ports(1)[0]
    command = [installation.program, f"--model-repository={repository}", f"--backend-directory={tmp_path / 'backends'}", "--http-address=127.0.0.1"]
    command += [f"--http-port={port}", "--allow-grpc=false", "--allow-metrics=false", "--backend-config=python,shm-region-prefix-name=burnish-test-"]
    environment = {"PATH": f"{installation.bin}:{os.environ['PATH']}", "LD_LIBRARY_PATH": ":".join(map(str, installation.libraries))}
    with ConfinedProcess.start(
        [str(word) for word in command], env=environment, cwd=tmp_path, log=tmp_path / "log", limits=Limits(), shm_prefix="burnish-test-"
    ):

        def completed() -> dict | None:
            try:
                return call(f"http://127.0.0.1:{port}/v2/models/model/config")
            except OSError:
                return None

        assert wait_until(lambda: completed() is not None, 60), (tmp_path / "log").read_text()
        config = completed()
    assert config["max_batch_size"] == 4
    assert "dynamic_batching" in config
    assert [(t["name"], t["data_type"], t["dims"]) for t in config["input"]] == [("x", "TYPE_FP32", [4])]
    assert [(t["name"], t["data_type"], t["dims"]) for t in config["output"]] == [("y", "TYPE_FP32", [4])]


def test_stop_leaves_no_process_and_no_shared_memory(python, tmp_path):
    server = start(python, tmp_path, write(tmp_path, model=relu(tmp_path / "a")))
    try:
        server.wait_ready(READY_TIMEOUT_S)
        assert shared_memory(), "the prefix was not taken: this test would prove nothing"
        assert len(processes_of(tmp_path)) >= 3  # guard, server, stub
        mine = {name for name in shared_memory() if any(name in word for pid in procfs.children(server.pid) for word in procfs.command_line(pid))}
        assert mine
    finally:
        server.stop()
    assert not processes_of(tmp_path)
    assert not mine & shared_memory()
    assert not server.is_alive()
    server.stop()


def test_kill_of_the_server_is_noticed_and_cleaned_up(python, tmp_path):
    with start(python, tmp_path, write(tmp_path, model=relu(tmp_path / "a"))) as server:
        server.wait_ready(READY_TIMEOUT_S)
        server.raise_if_ended()
        os.kill(server.pid, signal.SIGKILL)
        assert wait_until(lambda: not server.is_alive())
        with pytest.raises(BurnishError) as caught:
            server.raise_if_ended()
        assert caught.value.reason is Reason.ServerLost
        assert wait_until(lambda: not processes_of(tmp_path))


def test_server_that_exceeds_its_memory_is_ended_and_says_so(python, tmp_path):
    weights = numpy_helper.from_array(np.ones((64, 2**20), np.float32), "w")  # 256 MiB
    large = write_artifact(
        tmp_path / "a",
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [value("x", TensorProto.FLOAT, ["n", 64])],
        [value("y", TensorProto.FLOAT, ["n", 2**20])],
        [weights],
    )
    with start(python, tmp_path, write(tmp_path, large=large), Resources(cpu="1", memory="128Mi")) as server:
        with pytest.raises(BurnishError) as caught:
            server.wait_ready(READY_TIMEOUT_S)
        assert caught.value.reason is Reason.OutOfMemory
        assert caught.value.field == "spec.targets[].resources.memory"
        assert "128Mi" in caught.value.message
        assert wait_until(lambda: not processes_of(tmp_path))


def test_server_that_does_not_come_up_says_what_its_log_says(python, tmp_path):
    repository = write(tmp_path, model=relu(tmp_path / "a"))
    backends = tmp_path / "backends" / "onnxruntime"
    backends.mkdir(parents=True)
    (backends / "model.py").write_text("import time\ntime.sleep(600)\n")
    with start(python, tmp_path, repository, backends=backends.parent) as server:
        with pytest.raises(BurnishError) as caught:
            server.wait_ready(2.0)
        assert caught.value.reason is Reason.ServerNotReady
        assert "loading: model:1" in caught.value.message
    assert not processes_of(tmp_path)


def test_server_that_lost_tritons_own_race_is_started_again(python, tmp_path):
    """The first server really ends, as Triton does in its python backend's race for a lock; nothing else makes that happen when asked."""
    backends = shutil.copytree(triton_installation.OUR_BACKENDS, tmp_path / "backends")
    backend = backends / "onnxruntime" / "model.py"
    crash = f"""
        import os, signal, sys
        if not os.path.exists({str(tmp_path / "crashed")!r}):
            open({str(tmp_path / "crashed")!r}, "w").close()
            os.write(2, b"terminate called after throwing an instance of 'boost::interprocess::lock_exception'\\n")
            os.kill(os.getppid(), signal.SIGABRT)
        """
    backend.write_text(backend.read_text().replace("import os\n", f"import os\n{textwrap.dedent(crash)}", 1))
    with start(python, tmp_path, write(tmp_path, model=relu(tmp_path / "a")), backends=backends) as server:
        server.wait_ready(READY_TIMEOUT_S)
        assert (tmp_path / "crashed").exists()
        assert infer(server, "model", x=("FP32", [1, 4], [-1, 2, 3, 4])) == {"y": ([1, 4], [0, 2, 3, 4])}
    assert not processes_of(tmp_path)


def test_ports_taken_meanwhile_are_replaced(python, tmp_path, monkeypatch):
    with start(python, tmp_path, write(tmp_path, model=relu(tmp_path / "a"))) as first:
        first.wait_ready(READY_TIMEOUT_S)
        taken = int(first.url.rpartition(":")[2])
        real, answers = server_module._free_ports, iter([True])
        monkeypatch.setattr(server_module, "_free_ports", lambda count: [taken, *real(2)] if next(answers, False) else real(count))
        other = tmp_path / "other"
        other.mkdir()
        with start(python, other, tmp_path / "repository") as second:
            second.wait_ready(READY_TIMEOUT_S)
            assert second.url != first.url
            assert infer(second, "model", x=("FP32", [1, 4], [1, -1, 2, -2]))["y"] == ([1, 4], [1, 0, 2, 0])


def test_port_that_was_asked_for_is_taken_or_named(python, tmp_path):
    repository = write(tmp_path, model=relu(tmp_path / "a"))
    [port] = server_module._free_ports(1)
    with start(python, tmp_path, repository, http_port=port) as server:
        server.wait_ready(READY_TIMEOUT_S)
        assert server.url == f"http://127.0.0.1:{port}"
        other = tmp_path / "other"
        other.mkdir()
        with start(python, other, repository, http_port=port) as second, pytest.raises(BurnishError, match=f"127.0.0.1:{port}' already in use"):
            second.wait_ready(READY_TIMEOUT_S)


def test_whole_cpus_are_held_by_affinity(python, tmp_path):
    allowed = sorted(os.sched_getaffinity(0))
    with start(python, tmp_path, write(tmp_path, model=relu(tmp_path / "a"))) as server:
        server.wait_ready(READY_TIMEOUT_S)
        assert server.enforcement == "affinity"
        assert server.throttled_periods() is None
        for pid in (server.pid, *procfs.children(server.pid)):
            assert os.sched_getaffinity(pid) == {allowed[-1]}
        assert server.client_cpus == (tuple(allowed[:-1]) or tuple(allowed))


@pytest.mark.skipif(not CAN_SET_QUOTA, reason="needs root and a writable cpu cgroup")
def test_a_fraction_of_a_cpu_is_held_by_a_quota(python, tmp_path):
    with start(python, tmp_path, write(tmp_path, model=relu(tmp_path / "a")), Resources(cpu="500m", memory="2Gi")) as server:
        server.wait_ready(READY_TIMEOUT_S)
        group = cpu_limit.quota_group(server.pid)
        if server.enforcement == "cgroup v1 quota":
            assert (group / "cpu.cfs_quota_us").read_text().strip() == "50000"
            assert (group / "cpu.cfs_period_us").read_text().strip() == "100000"
        else:
            assert (group / "cpu.max").read_text().split() == ["50000", "100000"]
        members = {int(pid) for pid in (group / "cgroup.procs").read_text().split()}
        assert {server.pid, *procfs.children(server.pid)} <= members
        assert os.getpid() not in members
        assert server.throttled_periods() >= 0
    assert not group.exists()


def test_kill_of_the_parent_leaves_nothing(python, tmp_path):
    repository = write(tmp_path, model=relu(tmp_path / "a"))
    script = textwrap.dedent(f"""
        import time
        from pathlib import Path
        from burnish.api.v1alpha1.optimized_model import Resources
        from burnish.pipeline.server import TritonServer
        server = TritonServer.start(Path({str(repository)!r}), toolchain_python=Path({str(python)!r}), resources=Resources(cpu="1", memory="2Gi"),
                                    log=Path({str(tmp_path / "triton.log")!r}))
        server.wait_ready({READY_TIMEOUT_S})
        print("ready", flush=True)
        time.sleep(600)
    """)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        try:
            assert parent.stdout.readline() == "ready\n"
            before = shared_memory()
            mine = {name for name in before if any(name in word for pid in processes_of(tmp_path) for word in procfs.command_line(pid))}
            assert mine
        finally:
            parent.kill()
    assert wait_until(lambda: not processes_of(tmp_path))
    assert wait_until(lambda: not mine & shared_memory())


def test_repository_that_runs_code_of_the_model_is_never_served(python, tmp_path):
    repository = write(tmp_path, model=relu(tmp_path / "a"))
    config = repository / "model" / "config.pbtxt"
    config.write_text(config.read_text().replace('backend: "onnxruntime"', 'backend: "python"'))
    with pytest.raises(BurnishError) as caught:
        start(python, tmp_path, repository)
    assert caught.value.reason is Reason.UnsafeSource


def test_missing_libpython_is_named_with_its_cure(python, monkeypatch):
    monkeypatch.setattr(triton_installation, "_linker_cache", lambda name: [])
    monkeypatch.setattr(triton_installation, "_PROBE", triton_installation._PROBE.replace('"libpython": [', '"libpython": [] and ['))
    with pytest.raises(BurnishError) as caught:
        triton_installation.find.__wrapped__(python)
    assert caught.value.reason is Reason.LibpythonMissing
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert f"libpython{version}.so.1.0" in caught.value.message
    assert f"apt-get install libpython{version}" in caught.value.message
