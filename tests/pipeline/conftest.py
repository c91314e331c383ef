"""Runs `burnish` as a user does: the installed program, a directory with manifest, model and data, a store and a cache of its own.

The cache is a directory of the test's, so that runs and reports of the person who tests are left alone; only the toolchains' environments are
that person's, because making them takes minutes once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.server
import io
import itertools
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import trustme
import yaml
from onnx import TensorProto, helper, numpy_helper

from burnish.cli.main import main
from burnish.toolchains import environments

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
PROGRAM = Path(sys.executable).with_name("burnish")
RUN_TIMEOUT_S = 240


@dataclasses.dataclass(frozen=True)
class Ran:
    """What a command left."""

    code: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def object(self) -> dict[str, Any]:
        """stdout as the one JSON object that it has to be."""
        found: dict[str, Any] = json.loads(self.stdout)
        return found

    @property
    def status(self) -> dict[str, Any]:
        return self.object["status"]

    @property
    def target(self) -> dict[str, Any]:
        """The only target."""
        (found,) = self.status["targets"]
        return found

    @property
    def failure(self) -> dict[str, Any]:
        return self.status["lastFailure"]

    @property
    def conditions(self) -> dict[str, tuple[str, str]]:
        """Type -> (status, reason)."""
        return {c["type"]: (c["status"], c["reason"]) for c in self.status["conditions"]}

    @property
    def steps(self) -> list[str]:
        """Steps that were started, in order, as the progress lines tell."""
        words = [line.removesuffix(": started").split() for line in self.stderr.splitlines() if line.endswith(": started")]
        return [each[-1] for each in words]


class Running:
    """A `burnish` that runs, in a process group of its own as a shell makes it, so that Ctrl-C can be pressed."""

    def __init__(self, command: list[str], project: Project) -> None:
        self._started = time.monotonic()
        self._process = subprocess.Popen(
            command, cwd=project.path, env=project.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
        )
        self._lines: list[str] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_for(self, text: str, timeout: float = 120) -> str:
        """The first line of stderr that holds `text`."""

        def found() -> str | None:
            return next((line for line in self._lines if text in line), None)

        with self._news:
            assert self._news.wait_for(found, timeout), f"no {text!r} in:\n{''.join(self._lines)}"
            return found() or ""

    def press_ctrl_c(self) -> None:
        """SIGINT to the process group, as the terminal sends it."""
        os.killpg(self.pid, signal.SIGINT)

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self, timeout: float = 120) -> Ran:
        """Its end."""
        assert self._process.stdout is not None
        try:
            self._process.wait(timeout)
        finally:
            self._process.kill()
        self._reader.join()
        stderr = "".join(self._lines)
        assert "Traceback" not in stderr, stderr
        return Ran(self._process.returncode, self._process.stdout.read(), stderr, time.monotonic() - self._started)

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            with self._news:
                self._lines.append(line)
                self._news.notify_all()


class Project:
    """A user's directory."""

    def __init__(self, directory: Path) -> None:
        self.path = directory
        self.store = directory / "store"
        self.cache = directory / "cache" / "burnish"
        self.cache.mkdir(parents=True)
        (self.cache / "toolchains").symlink_to(environments.cache_directory() / "toolchains", target_is_directory=True)

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        return {**os.environ, "XDG_CACHE_HOME": str(self.cache.parent), **(extra or {})}

    def burnish(self, *arguments: object, env: Mapping[str, str] | None = None, timeout: float = RUN_TIMEOUT_S) -> Ran:
        """Run `burnish` to its end. Whatever it was told to do, it must not show a traceback."""
        started = time.monotonic()
        done = subprocess.run(
            [PROGRAM, *map(str, arguments)], cwd=self.path, env=self.environment(env), capture_output=True, text=True, timeout=timeout, check=False
        )
        return _told(Ran(done.returncode, done.stdout, done.stderr, time.monotonic() - started))

    def call(self, *arguments: object) -> Ran:
        """The same without a process of its own, which takes half a second: for what ends where nothing is built yet. The steps are processes."""
        started, stdout, stderr = time.monotonic(), io.StringIO(), io.StringIO()
        handler = signal.getsignal(signal.SIGTERM)
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            patch.chdir(self.path)
            patch.setenv("XDG_CACHE_HOME", str(self.cache.parent))
            try:
                code = main([*map(str, arguments)])
            finally:
                signal.signal(signal.SIGTERM, handler)
        return _told(Ran(code, stdout.getvalue(), stderr.getvalue(), time.monotonic() - started))

    def start(self, manifest: Path, *options: object) -> Running:
        """Start `burnish run -o json`."""
        return Running([str(PROGRAM), "run", str(manifest), "--store", str(self.store), "-o", "json", *map(str, options)], self)

    def run(self, manifest: Path, *options: object, **more: Any) -> Ran:
        """`burnish run -o json` with this project's store."""
        return self.burnish(*self._run(manifest), *options, **more)

    def try_out(self, manifest: Path) -> Ran:
        """The same as a `call`."""
        return self.call(*self._run(manifest))

    def _run(self, manifest: Path) -> tuple[object, ...]:
        return "run", manifest, "--store", self.store, "-o", "json"

    def write(self, spec: Mapping[str, Any], name: str = "tiny") -> Path:
        """A manifest with this spec."""
        path = self.path / f"{name}.yaml"
        whole = {"apiVersion": "burnish.dev/v1alpha1", "kind": "OptimizedModel", "metadata": {"name": name}, "spec": spec}
        path.write_text(yaml.safe_dump(whole, sort_keys=False))
        return path

    def records(self, kind: str) -> list[str]:
        """Names of the store's records of a kind."""
        folder = self.store / "local" / "default" / "records" / kind
        return sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []

    def processes(self) -> list[tuple[int, str]]:
        """(pid, command line) of every living process that names this directory, or works in it; the server and its models' processes do."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                cwd = str((entry / "cwd").readlink())
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:  # it ended while we looked
                continue
            if state != "Z" and line and (str(self.path) in line or cwd.startswith(str(self.path))):
                found.append((int(entry.name), line))
        return found


def _told(ran: Ran) -> Ran:
    assert "Traceback" not in ran.stdout + ran.stderr, ran.stderr
    return ran


@pytest.fixture(scope="session", autouse=True)
def toolchains() -> None:
    """The steps' environments, in the user's cache; made now if they are not there, not within some test's time limit."""
    for name in environments.TOOLCHAINS:
        environments.ensure(name, print)


@pytest.fixture(scope="session")
def examples() -> Path:
    return EXAMPLES


@pytest.fixture(scope="session")
def make_project() -> type[Project]:
    return Project


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """An empty project. Nothing may be left running in it."""
    made = Project(tmp_path)
    yield made
    left = made.processes()
    for pid, _ in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


@pytest.fixture
def copy_of(project: Project) -> Callable[[Project], Project]:
    """Brings another project's files and store here, so that a test may change them."""

    def copy(other: Project) -> Project:
        for entry in other.path.iterdir():
            if entry.name not in ("cache", "work"):
                target = project.path / entry.name
                shutil.copytree(entry, target, symlinks=True) if entry.is_dir() else shutil.copy2(entry, target)
        return project

    return copy


@dataclasses.dataclass(frozen=True)
class Example:
    """A project, its manifest, and what its first run left. Tests read it; whoever changes something works on a copy of the store."""

    project: Project
    manifest: Path
    first: Ran


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Example:
    """The digits example as it is, run once."""
    made = Project(tmp_path_factory.mktemp("digits"))
    manifest = EXAMPLES / "digits.yaml"
    return Example(made, manifest, made.run(manifest, "--report", made.path / "report.html"))


@pytest.fixture
def port() -> int:
    """One that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Site(http.server.ThreadingHTTPServer):
    """A server on this machine that does to a download what its path says; `content` is what it has."""

    daemon_threads = True

    def __init__(self, directory: Path) -> None:
        authority = trustme.CA()
        self.authority = directory / "authority.pem"
        authority.cert_pem.write_to_path(str(self.authority))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(context)
        super().__init__(("127.0.0.1", 0), Answer)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.content = b""
        self.seen: list[str] = []
        self.stop = threading.Event()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is none of ours."""

    def uri(self, path: str) -> str:
        return f"https://localhost:{self.server_address[1]}/{path}"

    @property
    def environment(self) -> dict[str, str]:
        return {"SSL_CERT_FILE": str(self.authority), "NO_PROXY": "localhost"}


class Answer(http.server.BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        self.server.seen.append(self.path)
        what = self.path.split("/")[1]
        content = self.server.content
        if what.isdigit():
            self.send_error(int(what))
            return
        self.send_response(302 if what == "plain" else 200)
        if what == "plain":
            self.send_header("Location", "http://localhost/model.onnx")
        self.send_header("Content-Length", str(len(content) // 2 if what == "more" else len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if what in ("cut", "silent") else content)
        if what == "silent":
            self.wfile.flush()
            self.server.stop.wait(60)

    def log_message(self, *arguments: object) -> None:
        """Nothing: pytest's output is for the tests."""


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A TLS server with a certificate of its own authority."""
    with Site(tmp_path_factory.mktemp("site")) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.stop.set()
        server.shutdown()
        thread.join()


def mlp(*, inputs: int = 16, hidden: int = 32, classes: int = 4, seed: int = 0, opset: int = 18) -> onnx.ModelProto:
    """Three layers with random weights: x (n, inputs) float32 -> y (n, classes)."""
    generator = np.random.default_rng(seed)
    sizes = [inputs, hidden, hidden, classes]
    weights = [
        numpy_helper.from_array((generator.standard_normal((m, n)) / np.sqrt(m)).astype(np.float32), f"w{i}")
        for i, (m, n) in enumerate(itertools.pairwise(sizes))
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["h0"], name="layer0"),
        helper.make_node("Relu", ["h0"], ["r0"], name="relu0"),
        helper.make_node("MatMul", ["r0", "w1"], ["h1"], name="layer1"),
        helper.make_node("Relu", ["h1"], ["r1"], name="relu1"),
        helper.make_node("MatMul", ["r1", "w2"], ["y"], name="layer2"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", inputs])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", classes])
    graph = helper.make_graph(nodes, "mlp", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


@pytest.fixture(scope="session")
def make_mlp() -> Callable[..., onnx.ModelProto]:
    return mlp


@pytest.fixture(scope="session")
def make_spec() -> Callable[..., dict[str, Any]]:
    """The spec of a tiny model's manifest: convert only, one target; keywords replace or add fields of the spec."""

    def make(**fields: Any) -> dict[str, Any]:
        return {
            "source": {"uri": "file:model.onnx"},
            "targets": [{"name": "cpu", "runtime": "ONNXRuntime", "resources": {"cpu": "1", "memory": "1Gi"}}],
            "measurement": {"timeout": "20s"},
            **fields,
        }

    return make


@dataclasses.dataclass(frozen=True)
class Tiny(Example):
    """A tiny model's example, with its spec."""

    spec: dict[str, Any]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, make_spec: Callable[..., dict[str, Any]]) -> Tiny:
    """A tiny model with one candidate, run once; whatever the candidate's speed is, it holds the limit."""
    made = Project(tmp_path_factory.mktemp("tiny"))
    onnx.save(mlp(), made.path / "model.onnx")
    spec = make_spec(passes=[{"type": "Quantize", "quantize": {"mode": "Dynamic"}}], constraints={"maxSlowdownPercent": 1000})
    manifest = made.write(spec)
    return Tiny(made, manifest, made.run(manifest, "--work", made.path / "work"), spec)
