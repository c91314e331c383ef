"""A server that speaks the Hugging Face Hub's own HTTPS interface: revisions, large files on another host, tokens."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import ssl
import threading
from collections.abc import Iterator
from typing import Any

COMMIT = "c0ffee" + "0" * 34
TOKEN = "hf_hunter2"  # noqa: S105  # made up
FILES = {
    "config.json": b'{"model_type": "bert"}',
    "model.safetensors": b"w" * 300_000,
    "tokenizer.json": b"{}",
    "1_Pooling/config.json": b"{}",
    "pytorch_model.bin": b"a pickle",
    "onnx/model.onnx": b"onnx" * 10,
    "README.md": b"# read me",
}


class Hub(http.server.ThreadingHTTPServer):
    """One repository, org/model, of which large files are served by `cdn`; org/gated asks for the token."""

    daemon_threads = True

    def __init__(self, context: ssl.SSLContext, name: str) -> None:
        super().__init__((name, 0), Answer)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.url = f"https://{name}:{self.server_address[1]}"
        self.cdn: Hub | None = None
        self.seen: list[tuple[str, str]] = []
        self.files: dict[str, bytes] = dict(FILES)
        self.listed: dict[str, int] = {}

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is none of ours."""


class Answer(http.server.BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        token = self.headers.get("Authorization", "")
        self.server.seen.append((self.path, token))
        path = self.path.partition("?")[0]
        if "/org/gated" in path and token != f"Bearer {TOKEN}":
            self.send_error(401)
        elif path.startswith(("/api/models/org/", "/api/datasets/org/")):
            self.listing(path.rpartition("/")[2])
        elif self.server.cdn is None:
            self.send(self.server.files.get(path.removeprefix("/cdn/")))
        else:
            name = path.partition(f"/resolve/{COMMIT}/")[2]
            self.file(name)

    def listing(self, revision: str) -> None:
        if revision not in ("main", "v2"):
            self.send_error(404)
            return
        entries: list[dict[str, Any]] = []
        for name, content in self.server.files.items():
            size = self.server.listed.get(name, len(content))
            large = {"lfs": {"size": size, "sha256": hashlib.sha256(content).hexdigest()}} if size > 100_000 else {"size": size}
            entries.append({"rfilename": name, **large})
        self.send(json.dumps({"sha": COMMIT, "siblings": entries}).encode())

    def file(self, name: str) -> None:
        if name in self.server.files and len(self.server.files[name]) > 100_000:
            assert self.server.cdn is not None
            self.send_response(302)
            self.send_header("Location", f"{self.server.cdn.url}/cdn/{name}")
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self.send(self.server.files.get(name))

    def send(self, content: bytes | None) -> None:
        if content is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        """Nothing: pytest's output is for the tests."""


@contextlib.contextmanager
def running(context: ssl.SSLContext, name: str, cdn_name: str) -> Iterator[Hub]:
    """Started, both it and what serves its large files, under the names of this machine that the certificate is for."""
    with Hub(context, name) as made, Hub(context, cdn_name) as cdn:
        made.cdn = cdn
        for server in (made, cdn):
            threading.Thread(target=server.serve_forever, daemon=True).start()
        yield made
        made.shutdown()
        cdn.shutdown()
