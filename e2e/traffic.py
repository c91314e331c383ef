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


def _request() -> tuple[list[int], list[float]]:
    (shape, values), _ = first_sample(ROOT / "examples/digits/evaluation.npz")
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
