"""What the operator does when Kopf can't go on: an apiserver whose answers break off in the middle."""

from __future__ import annotations

import asyncio
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
import yaml

from burnish.controller import apiserver
from burnish.controller.operator import Operator
from burnish.manifests.settings import Settings


class _BreaksOff(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b'{"kind": ')

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def kubeconfig(tmp_path: Path) -> Iterator[Path]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _BreaksOff) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        path = tmp_path / "kubeconfig"
        cluster = {"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}
        contexts = [{"name": "c", "context": {"cluster": "c", "user": "u"}}]
        path.write_text(yaml.safe_dump({"clusters": [cluster], "contexts": contexts, "users": [{"name": "u", "user": {}}], "current-context": "c"}))
        yield path
        server.shutdown()


def test_watches_that_end_are_an_error_and_no_silence(kubeconfig: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    settings = Settings.model_validate(
        {"images": {"burnish": "b:1", "optimizers": {"onnx": "o:1"}, "triton": "t:1"}, "store": {"uri": "s3://b/x"}, "watchNamespaces": ["a"]}
    )

    async def watch() -> None:
        async with apiserver.connect() as api, asyncio.timeout(60):
            await Operator(api, settings).watch(threading.Event())

    with pytest.raises(aiohttp.ClientPayloadError):
        asyncio.run(watch())
