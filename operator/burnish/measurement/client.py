"""A client of Triton's HTTP endpoint that costs next to nothing, because its own time is part of every latency it measures.

KServe v2 protocol with the binary tensor data extension. A request is one byte string, made beforehand; sending it is one write, and of the
answer only the status and two lengths are looked at. Control calls go through `http.client`; for inference its header handling took
0.14 ms of 0.44 ms (tiny model, same server, interleaved), so that path has a connection
of its own (`connection.py`).
"""

from __future__ import annotations

import dataclasses
import http.client
import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast
from urllib.parse import quote, urlsplit

import numpy as np
from numpy.typing import NDArray

from burnish.measurement import tensors
from burnish.measurement.connection import Connection
from burnish.plugins.base import Arrays, DataType, Signature


class ServerUnreachableError(Exception):
    """No answer: connection refused, broken, or what came is no HTTP."""


class RequestTimeoutError(ServerUnreachableError):
    """The connection stands but no answer came in time."""


class ModelError(Exception):
    """The server answered, with an error."""

    def __init__(self, status: int, text: str) -> None:
        """Args:
        status: HTTP status, 200 where an answer could not be understood.
        text: Triton's own words.
        """
        super().__init__(text)
        self.status = status
        self.text = text


class ModelState(NamedTuple):
    """One entry of the repository index."""

    state: str
    """READY, UNAVAILABLE, LOADING, UNLOADING; empty where Triton never tried."""
    reason: str


@dataclasses.dataclass(frozen=True)
class PreparedRequest:
    """An inference request, ready to be written to a connection again and again."""

    model: str
    message: bytes


class RawAnswer(NamedTuple):
    """An answer as it came: `body` starts with `json_length` bytes of JSON, tensors follow."""

    json_length: int
    body: bytes


@dataclasses.dataclass(frozen=True)
class ModelStatistics:
    """Triton's cumulative counters of one model, all versions together; times in nanoseconds, summed over requests."""

    success_count: int = 0
    fail_count: int = 0
    execution_count: int = 0
    request_ns: int = 0
    queue_ns: int = 0
    compute_input_ns: int = 0
    compute_infer_ns: int = 0
    compute_output_ns: int = 0

    def since(self, earlier: ModelStatistics) -> ModelStatistics:
        """What was added after `earlier`."""
        names = (f.name for f in dataclasses.fields(self))
        return ModelStatistics(**{name: getattr(self, name) - getattr(earlier, name) for name in names})


class TritonClient:
    """One server. Threads may share it: each gets a keep-alive connection of its own."""

    def __init__(self, url: str, timeout_s: float = 60.0, *, signature: Signature | None = None) -> None:
        """Args:
        url: `http://host:port`.
        timeout_s: longest wait for a connection, and for each piece of an answer.
        signature: of the models that will be asked: arrays then have the models' own ranks, which are not always Triton's
            (`tensors.to_served`); None: arrays have Triton's.
        """
        address = urlsplit(url if "//" in url else f"//{url}")
        self.timeout_s, self._signature = timeout_s, signature
        self._host, self._port = address.hostname or "127.0.0.1", address.port or 80
        self._local = threading.local()
        self._connections: list[Connection] = []
        self._lock = threading.Lock()

    def is_live(self) -> bool:
        """True if the server answers that it is alive."""
        return self._is_ok("/v2/health/live")

    def is_ready(self, model: str | None = None) -> bool:
        """True if the server, or one model of it, answers that it is ready.

        With `--exit-on-error=false` a server with one broken model answers that it is *not* ready: ask for the model, or read the index.
        """
        return self._is_ok(f"/v2/models/{quote(model)}/ready" if model else "/v2/health/ready")

    def repository_index(self) -> dict[str, ModelState]:
        """Model -> state; of several versions the READY one.

        Raises:
            ServerUnreachableError, ModelError: as named.
        """
        index: dict[str, ModelState] = {}
        for entry in cast("list[dict[str, str]]", self._json("POST", "/v2/repository/index")):
            state = ModelState(entry.get("state", ""), entry.get("reason", ""))
            if entry["name"] not in index or state.state == "READY":
                index[entry["name"]] = state
        return index

    def statistics(self, model: str) -> ModelStatistics:
        """Cumulative counters of a model.

        Raises:
            ServerUnreachableError, ModelError: as named.
        """
        answer = cast("dict[str, Any]", self._json("GET", f"/v2/models/{quote(model)}/stats"))
        total = dict.fromkeys((f.name for f in dataclasses.fields(ModelStatistics)), 0)
        for version in answer["model_stats"]:
            counters = version["inference_stats"]
            total["success_count"] += counters["success"]["count"]
            total["fail_count"] += counters["fail"]["count"]
            total["execution_count"] += version["execution_count"]
            total["request_ns"] += counters["success"]["ns"]
            for name in ("queue", "compute_input", "compute_infer", "compute_output"):
                total[f"{name}_ns"] += counters[name]["ns"]
        return ModelStatistics(**total)

    def prepare(self, model: str, arrays: Arrays, output_names: Sequence[str] | None = None) -> PreparedRequest:
        """Build a request once, to be sent many times.

        Args:
            model: its name in the repository.
            arrays: input name -> array.
            output_names: outputs to ask for; default all.

        Raises:
            ValueError: a dtype that the protocol does not have.
        """
        if self._signature is not None:
            arrays = tensors.to_served(arrays, self._signature)
        data = {name: tensors.to_bytes(array) for name, array in arrays.items()}
        header: dict[str, Any] = {
            "inputs": [
                {
                    "name": name,
                    "shape": list(array.shape),
                    "datatype": tensors.data_type(array).value,
                    "parameters": {"binary_data_size": len(data[name])},
                }
                for name, array in arrays.items()
            ]
        }
        if output_names is None:
            header["parameters"] = {"binary_data_output": True}
        else:
            header["outputs"] = [{"name": name, "parameters": {"binary_data": True}} for name in output_names]
        head = json.dumps(header).encode()
        body = b"".join((head, *data.values()))
        lines = (
            f"POST /v2/models/{quote(model)}/infer HTTP/1.1",
            f"Host: {self._host}:{self._port}",
            "Content-Type: application/octet-stream",
            f"Inference-Header-Content-Length: {len(head)}",
            f"Content-Length: {len(body)}",
        )
        return PreparedRequest(model, "\r\n".join((*lines, "", "")).encode() + body)

    def send(self, request: PreparedRequest) -> RawAnswer:
        """Send on this thread's connection and wait for the whole answer; never tries twice (a retry would hide a restart).

        Raises:
            ServerUnreachableError, RequestTimeoutError, ModelError: as named.
        """
        connection = getattr(self._local, "connection", None) or self._connect()
        try:
            status, json_length, body = connection.exchange(request.message)
        except Exception as error:
            self._drop(connection)
            if isinstance(error, TimeoutError):
                raise RequestTimeoutError(f"{request.model} gave no answer within {self.timeout_s:g} s") from error
            if isinstance(error, (OSError, ValueError)):
                raise ServerUnreachableError(f"the connection to {self._host}:{self._port} broke: {error}") from error
            raise
        if status != 200:
            raise ModelError(status, _error_text(body))
        return RawAnswer(json_length, body)

    def infer(self, model: str, arrays: Arrays, output_names: Sequence[str] | None = None) -> dict[str, NDArray[np.generic]]:
        """Send one request and decode the answer; errors as in `prepare` and `send`."""
        outputs = decode(self.send(self.prepare(model, arrays, output_names)))
        return outputs if self._signature is None else tensors.from_served(outputs, self._signature)

    def close(self) -> None:
        """Close the connections of all threads. No thread may be in `send`."""
        with self._lock:
            connections, self._connections, self._local = self._connections, [], threading.local()
        for connection in connections:
            connection.close()

    def _connect(self) -> Connection:
        try:
            connection = Connection(self._host, self._port, self.timeout_s)
        except OSError as error:
            raise ServerUnreachableError(f"no connection to {self._host}:{self._port}: {error}") from error
        with self._lock:
            self._connections.append(connection)
        self._local.connection = connection
        return connection

    def _drop(self, connection: Connection) -> None:
        self._local.connection = None
        with self._lock:
            self._connections.remove(connection)
        connection.close()

    def _call(self, method: str, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=self.timeout_s)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except TimeoutError as error:
            raise RequestTimeoutError(f"{method} {path}: no answer within {self.timeout_s:g} s") from error
        except (OSError, http.client.HTTPException) as error:
            raise ServerUnreachableError(f"{method} {path}: {error}") from error
        finally:
            connection.close()

    def _is_ok(self, path: str) -> bool:
        try:
            return self._call("GET", path)[0] == 200
        except ServerUnreachableError:
            return False

    def _json(self, method: str, path: str) -> object:
        status, body = self._call(method, path)
        if status != 200:
            raise ModelError(status, _error_text(body))
        return json.loads(body)


def decode(answer: RawAnswer) -> dict[str, NDArray[np.generic]]:
    """Output name -> array (read-only; object arrays of bytes for BYTES).

    Raises:
        ModelError: the answer contradicts itself, as when a backend sends fewer bytes than the shape it announces.
    """
    try:
        header: Mapping[str, Any] = json.loads(answer.body[: answer.json_length])
        data, offset = memoryview(answer.body), answer.json_length
        outputs: dict[str, NDArray[np.generic]] = {}
        for output in header["outputs"]:
            kind, shape = DataType(output["datatype"]), tuple(output["shape"])
            if "data" in output:
                outputs[output["name"]] = np.array(output["data"], dtype=kind.numpy_name).reshape(shape)
                continue
            size = output["parameters"]["binary_data_size"]
            outputs[output["name"]] = tensors.from_bytes(data[offset : offset + size], kind, shape)
            offset += size
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(200, f"the answer can't be read: {error}") from error
    return outputs


def _error_text(body: bytes) -> str:
    """Triton's own words in an error answer."""
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return body.decode("utf-8", "replace").strip()[:1000] or "no message"
