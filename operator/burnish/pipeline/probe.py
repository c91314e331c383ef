"""Answers for the probes of a serving Triton, with the only thing that proves it well: the golden request, answered as the build answered it.

Triton's own health endpoints stay well when a backend process is dead, or when a model answers nonsense. So a loop here replays the golden
request and compares, and the kubelet asks this program:

    /startup   the golden answer has come since the server came up
    /ready     the last answer was right, and is recent
    /live      false after backend errors in a row, or when no answer came for `SILENCE_S` *and* Triton's own counter of answered requests
               stood still all the while: a server that is merely overloaded is never restarted
    /status    what was found, as JSON;  /metrics   how many requests of ours are among Triton's

Only the standard library is imported: it runs beside every server, all the time.
"""

from __future__ import annotations

import argparse
import array
import ast
import contextlib
import hashlib
import http.client
import http.server
import json
import math
import os
import re
import signal
import socket
import socketserver
import struct
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

RELATIVE, ABSOLUTE = 1e-3, 1e-5
"""Of a preserving step: max|a-b| <= RELATIVE max|a| + ABSOLUTE (as `burnish.measurement.equivalence`)."""
PERIOD_S, LONGEST_PAUSE_S = 2.0, 10.0
SHARE = 0.05
"""Of a server's time that the golden request may take: a slow model is asked less often."""
TIMEOUT_S = 20.0
SILENCE_S = 60.0
STALE_S = 30.0
"""An answer older than this says nothing of readiness."""
STARTUP_S = 600.0
"""For a server that was up to come up again; where the kubelet restarts it, the startup probe's own bound counts."""
ERRORS_IN_A_ROW = 3
REQUEST_ID = "burnish-probe"
"""Of every golden request, so that it can be told from traffic in Triton's log and traces."""
WRONG = "WrongAnswer"
CONTAINERS = 3
"""Of a serving pod, which share the room for termination messages."""

_SUCCESS = re.compile(r'^nv_inference_request_success\{[^}]*model="([^"]+)"[^}]*\} (\d+)', re.MULTILINE)
_CODES = {"FP32": "f", "FP64": "d", "INT8": "b", "INT16": "h", "INT32": "i", "INT64": "q", "UINT8": "B", "UINT16": "H", "UINT32": "I", "UINT64": "Q"}
_NUMPY = {"f4": "f", "f8": "d", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I", "u8": "Q", "b1": "B"}

Values = Sequence[Any]
Buffer = bytes | memoryview


# --- the golden request and answer ------------------------------------------------------------------------------------------------------


class Request(NamedTuple):
    """An inference request as Triton takes it over HTTP."""

    body: bytes
    header_length: int
    """Of its JSON part."""


def load_request(path: Path) -> Request:
    """The golden request, with binary answers asked for."""
    head, _, tensors = path.read_bytes().partition(b"\n")
    described = json.loads(head) | {"id": REQUEST_ID, "parameters": {"binary_data_output": True}}
    header = json.dumps(described).encode()
    return Request(header + tensors, len(header))


def load_answer(path: Path) -> dict[str, Values]:
    """Output name -> its values, flat, from the arrays `output:<name>` of an npz file.

    Raises:
        ValueError: an array of a type that is not a number, a bool or text.
    """
    with zipfile.ZipFile(path) as archive:
        return {
            name.removeprefix("output:").removesuffix(".npy"): _npy(archive.read(name)) for name in archive.namelist() if name.startswith("output:")
        }


def _npy(data: bytes) -> Values:
    """Values of an array in numpy's own format (numpy.lib.format, versions 1 and 2), row by row."""
    form, at = ("<H", 10) if data[6] == 1 else ("<I", 12)
    (length,) = struct.unpack_from(form, data, 8)
    header = ast.literal_eval(data[at : at + length].decode("latin1"))
    kind, count, body = header["descr"], math.prod(header["shape"]), memoryview(data)[at + length :]
    if header["fortran_order"] and len(header["shape"]) > 1:
        raise ValueError("the golden answer is stored column by column")
    if kind[1] == "U":
        size = int(kind[2:]) * 4
        return [bytes(body[i * size : (i + 1) * size]).decode("utf-32-le").rstrip("\0") for i in range(count)]
    if kind[0] == ">" or kind[1:] not in (*_NUMPY, "f2"):
        raise ValueError(f"arrays of {kind} can't be compared here")
    return _halves(body) if kind[1:] == "f2" else _numbers(_NUMPY[kind[1:]], body)


def _halves(body: Buffer) -> Values:
    return array.array("f", (value for (value,) in struct.iter_unpack("<e", body)))


def _numbers(code: str, body: Buffer) -> Values:
    values = array.array(code)
    values.frombytes(body)
    if sys.byteorder != "little":
        values.byteswap()
    return values


def decode(datatype: str, body: Buffer) -> Values:
    """Values of a tensor in the binary form of the KServe v2 protocol.

    Raises:
        ValueError: the body is no such tensor.
    """
    if datatype == "BYTES":
        found, at = [], 0
        while at < len(body):
            if at + 4 > len(body):
                raise ValueError("a string's length prefix is cut off")
            (length,) = struct.unpack_from("<I", body, at)
            found.append(bytes(body[at + 4 : at + 4 + length]).decode("utf-8", errors="replace"))
            at += 4 + length
        return found
    if datatype == "FP16":
        return _halves(body)
    if datatype != "BOOL" and datatype not in _CODES:
        raise ValueError(f"tensors of {datatype} can't be compared here")
    return _numbers("B" if datatype == "BOOL" else _CODES[datatype], body)


def difference(name: str, wanted: Values, got: Values) -> str:
    """What of an output is not as it was; empty if nothing. Floats within the bound of a preserving step, all else exactly."""
    if len(got) != len(wanted):
        return f"output {name!r} has {len(got)} instead of {len(wanted)} values"
    if not wanted or not isinstance(wanted[0], float):
        return "" if list(wanted) == list(got) else f"output {name!r} differs from the build's"
    bound = RELATIVE * max((abs(v) for v in wanted if math.isfinite(v)), default=0.0) + ABSOLUTE
    for a, b in zip(wanted, got, strict=True):
        if not (a == b or abs(a - b) <= bound or (a != a and b != b)):  # NaN differs from itself
            return f"output {name!r} holds {b:.6g} where the build had {a:.6g}"
    return ""


class Comparison:
    """The golden answer, and what came of comparing with it."""

    def __init__(self, expected: dict[str, Values]) -> None:
        self._expected = expected
        self._known_right = b""

    def difference(self, outputs: dict[str, tuple[str, memoryview]]) -> str:
        """What of an answer (output name -> data type and bytes) is not as it was; empty if nothing.

        A server answers the same request with the same bytes, nearly always: those that were found right once are not looked at again.

        Raises:
            ValueError: the bytes are no tensors.
        """
        digest = hashlib.sha256()
        for name in sorted(outputs):
            digest.update(repr((name, outputs[name][0], len(outputs[name][1]))).encode())
            digest.update(outputs[name][1])
        if digest.digest() == self._known_right:
            return ""
        for name, wanted in self._expected.items():
            if name not in outputs:
                return f"output {name!r} is missing"
            found = difference(name, wanted, decode(*outputs[name]))
            if found:
                return found
        self._known_right = digest.digest()
        return ""


# --- asking -----------------------------------------------------------------------------------------------------------------------------


class BackendError(Exception):
    """Triton answered, and the answer is an error."""


def infer(port: int, model: str, request: Request, timeout_s: float) -> dict[str, tuple[str, memoryview]]:
    """One golden request; output name -> data type and bytes.

    Raises:
        BackendError: any status but 200.
        ConnectionRefusedError: there is no server.
        OSError: no answer, or none that is whole.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        headers = {"Inference-Header-Content-Length": str(request.header_length), "Content-Type": "application/octet-stream", "Connection": "close"}
        connection.request("POST", f"/v2/models/{model}/infer", request.body, headers)
        response = connection.getresponse()
        data = memoryview(response.read())
        if response.status != http.client.OK:
            raise BackendError(f"HTTP {response.status}: {bytes(data[:300]).decode(errors='replace')}")
        at = int(response.headers.get("Inference-Header-Content-Length", len(data)))
        found: dict[str, tuple[str, memoryview]] = {}
        for output in json.loads(bytes(data[:at]))["outputs"]:
            size = output["parameters"]["binary_data_size"]
            found[output["name"]] = (output["datatype"], data[at : at + size])
            at += size
        return found
    except (http.client.HTTPException, ValueError, KeyError, TypeError) as error:
        raise OSError(f"no whole answer ({type(error).__name__})") from error
    finally:
        connection.close()


def answered_requests(port: int, model: str) -> int | None:
    """Triton's own counter of answered requests; None where it doesn't tell."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5.0)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode(errors="replace")
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    counts = [int(count) for name, count in _SUCCESS.findall(text) if name == model]
    return sum(counts) if counts else None


class Health:
    """What the loop found, and what follows for each probe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, silence_s: float = SILENCE_S) -> None:
        self.started = False
        self.state, self.text = "Starting", ""
        self.requests = self.answers = self.wrong_answers = self.failures = 0
        self.wrong_in_a_row = 0
        self._clock, self._silence_s = clock, silence_s
        self._since = self._right_at = self._moved_at = clock()
        self._counter: int | None = None
        self._errors = 0

    def right(self) -> None:
        """The answer was the golden one."""
        self.started, self.state, self.text = True, "Right", ""
        self._right_at = self._moved_at = self._clock()
        self.answers += 1
        self._errors = self.wrong_in_a_row = 0

    def wrong(self, text: str) -> None:
        """Another answer came: the server lives, and must get no traffic."""
        self.state, self.text = WRONG, text
        self._moved_at = self._clock()
        self.answers += 1
        self.wrong_answers += 1
        self.wrong_in_a_row += 1
        self._errors = 0

    def failed(self, text: str, counter: int | None) -> None:
        """Triton answered with an error; while it answers others (`counter`, Triton's own of answered requests), the backend lives."""
        self.state, self.text = "BackendError", text
        self.failures += 1
        self._errors = 0 if self._has_moved(counter) else self._errors + 1

    def silent(self, counter: int | None) -> None:
        """No answer came in time."""
        self.state, self.text = "NoAnswer", "no answer to the golden request"
        self.failures += 1
        self._has_moved(counter)

    def down(self) -> None:
        """Nothing listens: it isn't up yet, or it ended. Whatever was known speaks of a server that is no more."""
        if self.state != "Down":
            self._since = self._clock()
        self.state, self.text = "Down", "Triton's port is closed"
        self.started, self._counter = False, None
        self._errors = self.wrong_in_a_row = 0

    def _has_moved(self, counter: int | None) -> bool:
        if counter is None or counter == self._counter:
            return False
        self._counter, self._moved_at = counter, self._clock()
        return True

    @property
    def is_ready(self) -> bool:
        """Right, and not long ago. Slow is not wrong: a server that answers others stays in."""
        if self.state == "Right":
            return self._clock() - self._right_at < STALE_S + TIMEOUT_S
        answers_others = self._errors == 0 and self._clock() - self._moved_at < STALE_S
        return self.started and self.state in ("NoAnswer", "BackendError") and answers_others

    @property
    def is_live(self) -> bool:
        """False where only a restart can help."""
        if self.state == WRONG:
            return True
        if not self.started:
            return self._clock() - self._since < STARTUP_S
        return self._errors < ERRORS_IN_A_ROW and self._clock() - self._moved_at < self._silence_s


def look(health: Health, comparison: Comparison, request: Request, *, model: str, http_port: int, metrics_port: int, timeout_s: float) -> None:
    """Ask once."""
    health.requests += 1
    try:
        found = comparison.difference(infer(http_port, model, request, timeout_s))
        if found:
            health.wrong(found)
        else:
            health.right()
    except ConnectionRefusedError:
        health.down()
    except BackendError as error:
        health.failed(str(error), answered_requests(metrics_port, model))
    except ValueError as error:
        health.wrong(str(error))
    except OSError:
        health.silent(answered_requests(metrics_port, model))


# --- answering --------------------------------------------------------------------------------------------------------------------------


def metrics(health: Health, model: str) -> str:
    """In Prometheus' text format: what part of Triton's own figures is ours, and what came of it."""
    counters = (
        ("requests_total", "counter", "Golden requests sent to Triton.", health.requests),
        (
            "answers_total",
            "counter",
            "Golden requests that Triton answered: this part of nv_inference_request_success is no traffic.",
            health.answers,
        ),
        ("wrong_answers_total", "counter", "Answers that were not the golden one.", health.wrong_answers),
        ("failures_total", "counter", "Golden requests with an error or no answer in time.", health.failures),
        ("right", "gauge", "1 while the last answer was the golden one.", int(health.state == "Right")),
    )
    return "".join(
        f'# HELP burnish_probe_{name} {told}\n# TYPE burnish_probe_{name} {kind}\nburnish_probe_{name}{{model="{model}"}} {value}\n'
        for name, kind, told, value in counters
    )


class _Server(http.server.ThreadingHTTPServer):
    """Listens on both families of addresses, and asks no resolver for its own name, as the library's does."""

    daemon_threads = True

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "", self.server_address[1]


class _Server6(_Server):
    address_family = socket.AF_INET6


def serve(health: Health, model: str, port: int) -> http.server.ThreadingHTTPServer:
    """The HTTP server that the kubelet and Prometheus ask; not yet started."""

    class Handler(http.server.BaseHTTPRequestHandler):
        timeout = 5.0

        def do_GET(self) -> None:
            answers = {"/startup": health.started, "/ready": health.is_ready, "/live": health.is_live, "/status": True, "/metrics": True}
            good = answers.get(self.path)
            if self.path == "/metrics":
                kind, text = "text/plain; version=0.0.4", metrics(health, model)
            else:
                told: dict[str, object] = {"state": health.state, "reason": WRONG if health.state == WRONG else "", "text": health.text}
                told |= {"started": health.started, "ready": health.is_ready, "live": health.is_live}
                kind, text = "application/json", json.dumps(told)
            with contextlib.suppress(OSError):
                self.send_response(404 if good is None else 200 if good else 503)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            """The kubelet asks every second or so; that is no news."""

    try:
        return _Server6(("::", port), Handler)
    except OSError:  # a node without IPv6
        return _Server(("", port), Handler)


def leave_message(path: Path, text: str) -> None:
    """The termination message of this container: the one thing of a pod that the operator reads."""
    from burnish.api.job_contract import Failure, Message  # heavy, and needed once
    from burnish.api.messages import budget, encode
    from burnish.errors import Reason

    message = f"the server does not answer the golden request as the build did: {text}; it gets no traffic"
    path.write_text(encode(Message(failure=Failure(step="probe", reason=Reason.WrongAnswer, message=message)), budget(CONTAINERS)))


def main(arguments: list[str] | None = None) -> int:
    """Watch and answer until ended. Ends by itself once, to leave the message of a wrong answer; the kubelet then starts it again."""
    options = _options(arguments)
    request = load_request(options.golden / "golden.request")
    comparison = Comparison(load_answer(options.golden / "golden.npz"))
    health = Health(silence_s=options.silence)
    server = serve(health, options.model, options.port)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    state = ""
    while True:
        since = time.monotonic()
        look(
            health,
            comparison,
            request,
            model=options.model,
            http_port=options.http_port,
            metrics_port=options.metrics_port,
            timeout_s=options.timeout,
        )
        took = time.monotonic() - since
        if health.state != state:
            state = health.state
            print(f"{state}{': ' if health.text else ''}{health.text}", file=sys.stderr, flush=True)  # noqa: T201
        if health.wrong_in_a_row >= ERRORS_IN_A_ROW and not options.marker.exists():
            options.marker.touch()
            leave_message(options.termination_log, health.text)
            return 1
        pause = min(took / SHARE, LONGEST_PAUSE_S) if health.state == "Right" else 0.0
        time.sleep(max(pause, options.period))


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m burnish.pipeline.probe", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="name of the model in Triton")
    parser.add_argument("--golden", type=Path, required=True, help="directory with golden.request and golden.npz")
    parser.add_argument("--port", type=int, default=8008, help="to answer probes on")
    parser.add_argument("--http-port", type=int, default=8000, help="Triton's")
    parser.add_argument("--metrics-port", type=int, default=8002, help="Triton's")
    parser.add_argument("--period", type=float, default=PERIOD_S, help="seconds between two requests, at least")
    parser.add_argument("--timeout", type=float, default=TIMEOUT_S, help="seconds for an answer")
    parser.add_argument("--silence", type=float, default=SILENCE_S, help="seconds without any answer, to anybody, after which a server is dead")
    parser.add_argument("--marker", type=Path, default=Path("/tmp/wrong-answer-told"), help="left when a wrong answer was told")  # noqa: S108
    parser.add_argument("--termination-log", type=Path, default=Path("/dev/termination-log"))
    return parser.parse_args(arguments)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, _: os._exit(128 + number))  # as burnish.pipeline.container says
    sys.exit(main())
