"""Constant load on a Service: HTTP with a fresh connection per request, and one gRPC channel that stays; every failure is kept."""

from __future__ import annotations

import http.client
import json
import threading
import time
import urllib.request
from types import TracebackType
from typing import Any

import numpy as np
import tritonclient.grpc as triton

from demo import first_sample
from installation import ROOT

PAUSE_SECONDS = 0.02
ANSWER_SECONDS = 60
WAITING = 256
"""Requests that wait for an answer at most: a client that has more drops them."""


def _request() -> tuple[list[int], list[float]]:
    sample, _ = first_sample(ROOT / "examples/digits/evaluation.npz")
    shape, values = sample["image"]
    return [1, *shape], values


def infer(address: str, model: str, timeout: float = 30) -> list[float]:
    """One answer, over a fresh connection."""
    shape, values = _request()
    connection = http.client.HTTPConnection(address, 8000, timeout=timeout)
    try:
        connection.request("GET", f"/v2/models/{model}")
        facts = json.load(connection.getresponse())
        body = {"inputs": [{"name": facts["inputs"][0]["name"], "shape": shape, "datatype": "FP32", "data": values}]}
        connection.request("POST", f"/v2/models/{model}/infer", json.dumps(body))
        response = connection.getresponse()
        answer = json.load(response)
        assert response.status == 200, answer
        found: list[float] = answer["outputs"][0]["data"]
        return found
    finally:
        connection.close()


def read(url: str) -> str:
    """GET, never through a proxy."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=10) as response:
        text: str = response.read().decode()
        return text


class Traffic:
    """Runs while the context lasts; `counts` and `failures` tell how it went."""

    def __init__(self, address: str, model: str) -> None:
        self.address, self.model = address, model
        self.counts = {"http": 0, "grpc": 0}
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(name,)) for name in self.counts]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        print(f"traffic: {self.counts}, {len(self.failures)} failed: {self.failures[:3]}")

    def _run(self, protocol: str) -> None:
        shape, values = _request()
        client = triton.InferenceServerClient(f"{self.address}:8001")
        name = client.get_model_metadata(self.model, as_json=True)["inputs"][0]["name"]
        tensor = triton.InferInput(name, shape, "FP32")
        tensor.set_data_from_numpy(np.array(values, dtype=np.float32).reshape(shape))
        body = json.dumps({"inputs": [{"name": name, "shape": shape, "datatype": "FP32", "data": values}]})
        if protocol == "http":
            client.close()
        while not self._stop.is_set():
            try:
                if protocol == "grpc":
                    client.infer(self.model, [tensor], client_timeout=10)
                else:
                    self._post(body)
                self.counts[protocol] += 1
            except Exception as error:
                self.failures.append(f"{time.strftime('%H:%M:%S')} {protocol}: {type(error).__name__}: {error}")
            time.sleep(PAUSE_SECONDS)

    def _post(self, body: str) -> Any:
        connection = http.client.HTTPConnection(self.address, 8000, timeout=10)
        try:
            connection.request("POST", f"/v2/models/{self.model}/infer", body)
            response = connection.getresponse()
            content = response.read()
            if response.status != 200:
                raise OSError(f"{response.status} {content[:200]!r}")
        finally:
            connection.close()


class Overload:
    """Requests at a rate of our choosing, answered or not, over one gRPC channel; no more than WAITING wait at a time."""

    def __init__(self, address: str, model: str) -> None:
        shape, values = _request()
        self._client = triton.InferenceServerClient(f"{address}:8001")
        name = self._client.get_model_metadata(model, as_json=True)["inputs"][0]["name"]
        self._tensor = triton.InferInput(name, shape, "FP32")
        self._tensor.set_data_from_numpy(np.array(values, dtype=np.float32).reshape(shape))
        self._model = model
        self.waiting = WAITING
        self.capacity = 0.0
        """Answers per second, of the first run: always as many waiting as there may be."""
        self.offered = self.answered = 0.0
        """Per second, of the last run."""
        self.failures: list[str] = []
        self._latencies: list[float] = []

    def run(self, seconds: float, times: float = 0) -> None:
        """Find the capacity; or offer so many times the capacity."""
        self.failures, self._latencies, dropped = [], [], 0
        room = threading.BoundedSemaphore(WAITING)
        pause = 1 / (times * self.capacity) if times else 0.0
        start = time.monotonic()
        sent = 0
        while (now := time.monotonic()) < start + seconds:
            if (ahead := start + sent * pause - now) > 0:
                time.sleep(ahead)
            sent += 1
            if not room.acquire(timeout=0 if times else seconds):
                dropped += 1
                continue
            self._client.async_infer(self._model, [self._tensor], self._answered(time.monotonic(), room), client_timeout=ANSWER_SECONDS)
        for _ in range(WAITING):  # the last ones' answers
            assert room.acquire(timeout=ANSWER_SECONDS)
        self.offered, self.answered = sent / seconds, len(self._latencies) / (time.monotonic() - start)
        if not times:
            self.capacity = self.answered
        print(
            f"overload: {self.offered:.0f}/s offered, {self.answered:.0f}/s answered, {dropped / sent:.0%} dropped, "
            f"p99 {self.latency_seconds(0.99):.2f} s, {len(self.failures)} failed: {self.failures[:3]}"
        )

    def latency_seconds(self, share: float) -> float:
        """The quantile of the last run."""
        return sorted(self._latencies)[int(share * (len(self._latencies) - 1))]

    def _answered(self, sent: float, room: threading.BoundedSemaphore) -> Any:
        def told(result: Any, error: Exception | None) -> None:
            if error is None:
                self._latencies.append(time.monotonic() - sent)
            else:
                self.failures.append(str(error))
            room.release()

        return told
