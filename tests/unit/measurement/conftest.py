"""A server that speaks the KServe v2 protocol over real sockets, with models whose latency is known by design.

Triton itself is in tests/integration; here the question is what the client and the engine do when a server is slow, wrong, silent or gone,
which no real one does on demand.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


@dataclasses.dataclass
class Model:
    """An identity model: output `y` is input `x`."""

    seconds: float = 0.0
    fail_after: int | None = None
    """Answers this many requests, then only errors."""
    hang_after: int | None = None
    """Answers this many requests, then keeps the connection open and says nothing."""
    empty: bool = False
    """Answers with the right shape and no bytes."""
    count: int = 0
    failures: int = 0
    compute_ns: int = 0
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)


class V2Server(ThreadingHTTPServer):
    """The server; `models` may be changed while it runs."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.models: dict[str, Model] = {}
        self.requests: list[str] = []
        """Names of the models asked for inference, in order."""
        self.sockets: list[socket.socket] = []
        self.live = True
        self.released = threading.Event()
        self.on_request: Callable[[str], None] = lambda model: None
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def vanish(self) -> None:
        """End like a killed process: no listener, all connections cut."""
        self.live = False
        self.socket.close()
        self.cut_connections()

    def cut_connections(self) -> None:
        """End all open connections."""
        for each in list(self.sockets):
            with contextlib.suppress(OSError):  # the client may have closed it
                each.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: V2Server

    def setup(self) -> None:
        super().setup()
        self.server.sockets.append(self.connection)

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        parts = self.path.strip("/").split("/")
        if parts[-1] == "stats":
            self._json(200, {"model_stats": [_statistics(self.server.models[parts[2]])]})
        elif parts[1] == "health":
            self._json(200 if self.server.live else 400, {})
        else:
            self._json(200 if parts[2] in self.server.models else 400, {})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/v2/repository/index":
            entries = [{"name": name, "version": "1", "state": "READY", "reason": ""} for name in self.server.models]
            broken = [{"name": "broken", "version": v, "state": s, "reason": r} for v, s, r in (("1", "UNAVAILABLE", "no good"),)]
            return self._json(200, [*entries, *broken, {"name": "never"}])
        name = self.path.split("/")[3]
        model = self.server.models.get(name)
        if model is None:
            return self._json(404, {"error": f"Request for unknown model: '{name}' is not found"})
        self.server.requests.append(name)
        self.server.on_request(name)
        return self._infer(model, body)

    def _infer(self, model: Model, body: bytes) -> None:
        with model.lock:
            model.count += 1
            number = model.count
        if model.hang_after is not None and number > model.hang_after:
            self.server.released.wait(30)
            return None
        if model.fail_after is not None and number > model.fail_after:
            model.failures += 1
            return self._json(500, {"error": "Stub process is not healthy"})
        time.sleep(model.seconds)
        model.compute_ns += int(model.seconds * 1e9)
        split = int(self.headers["Inference-Header-Content-Length"])
        tensor = json.loads(body[:split])["inputs"][0]
        data = b"" if model.empty else body[split:]
        head = {"outputs": [{**tensor, "name": "y", "parameters": {"binary_data_size": len(data)}}]}
        return self._send(200, json.dumps(head).encode(), data)

    def _json(self, status: int, value: object) -> None:
        self._send(status, json.dumps(value).encode(), None)

    def _send(self, status: int, head: bytes, data: bytes | None) -> None:
        self.send_response(status)
        if data is not None:
            self.send_header("Inference-Header-Content-Length", str(len(head)))
        self.send_header("Content-Length", str(len(head) + len(data or b"")))
        self.end_headers()
        self.wfile.write(head + (data or b""))


def _statistics(model: Model) -> dict[str, object]:
    def each(count: int, ns: int) -> dict[str, int]:
        return {"count": count, "ns": ns}

    done = model.count - model.failures
    counters = {"success": each(done, model.compute_ns), "fail": each(model.failures, 0), "compute_infer": each(done, model.compute_ns)}
    counters |= {name: each(done, 0) for name in ("queue", "compute_input", "compute_output")}
    return {"name": "m", "version": "1", "execution_count": done, "inference_stats": counters}


@pytest.fixture
def v2_server() -> Iterator[V2Server]:
    """A running server without models."""
    server = V2Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    server.server_close()
    thread.join(5)


@pytest.fixture
def model() -> type[Model]:
    """The class of the server's models."""
    return Model
