"""A server that speaks Azure's REST interface for blobs: keys, signatures, folders, what changes or breaks off on the way.

A fake of the wire, because Azure's own emulator (Azurite) needs Node. The same requests were made of Azurite 3.35 by hand.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import http.server
import os
import ssl
import threading
from collections.abc import Callable, Iterator
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

ACCOUNT = "reader"
KEY = base64.b64encode(b"hunter2 hunter2").decode()
SAS = "sv=2021-12-02&sr=c&sp=rl&sig=hunter2%2Bsignature%3D"
CONTENT = os.urandom(3 * 2**20)
BLOBS = {
    "digits/model.onnx": CONTENT,
    "bert/config.json": b"{}",
    "bert/1_Pooling/config.json": b"[]",
    "bert/model.safetensors": CONTENT[:100_000],
    "bert-large/model.onnx": b"no part of bert",
    "with space/ä+b%41.onnx": b"named oddly",
}


class Blobs(http.server.ThreadingHTTPServer):
    """The container `models` of an account whose name stands in the path, as with Azurite; `public` is open to all."""

    daemon_threads = True

    def __init__(self, context: ssl.SSLContext, name: str = "localhost") -> None:
        super().__init__((name, 0), Answer)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.url = f"https://{name}:{self.server_address[1]}/{ACCOUNT}"
        self.blobs = dict(BLOBS)
        self.folders: set[str] = set()
        self.page = 5000
        self.listing: bytes | None = None
        self.cut_after: int | None = None
        self.when_cut: Callable[[], None] = lambda: None
        self.seen: list[tuple[str, str, str]] = []
        """Verb, path and Range of what was asked."""

    def etag(self, name: str) -> str:
        return '"0x' + hashlib.sha256(self.blobs[name]).hexdigest()[:15].upper() + '"'

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is none of ours."""


class Answer(http.server.BaseHTTPRequestHandler):
    server: Blobs

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.seen.append((self.command, self.path, self.headers.get("Range", "")))
        parts = urlsplit(self.path)
        _, account, container, *rest = unquote(parts.path).split("/", 3)
        assert account == ACCOUNT
        if container != "public" and not self.may_read():
            self.send_error(409 if "Authorization" not in self.headers and "sig=" not in parts.query else 403)
        elif container not in ("models", "public"):
            self.send_error(404)
        elif not rest:
            self.list({name: values[0] for name, values in parse_qs(parts.query).items()})
        elif rest[0] in self.server.folders:
            self.answer(b"", {"x-ms-meta-hdi_isfolder": "true", "ETag": '"0x1"'})
        elif rest[0] in self.server.blobs:
            self.blob(rest[0])
        else:
            self.send_error(404)

    def may_read(self) -> bool:
        """Shared Key as Microsoft's page tells it, from what came over the wire; or the one signature that was given out."""
        parts, given = urlsplit(self.path), self.headers.get("Authorization", "")
        if not given:
            return parts.query.endswith(SAS)
        length = self.headers.get("Content-Length", "")
        lines = [self.command, "", "", "" if length == "0" else length, "", self.headers.get("Content-Type", ""), self.headers.get("Date", "")]
        lines += [self.headers.get(name, "") for name in ("If-Modified-Since", "If-Match", "If-None-Match", "If-Unmodified-Since", "Range")]
        lines += sorted(f"{name.lower()}:{value.strip()}" for name, value in self.headers.items() if name.lower().startswith("x-ms-"))
        lines += [f"/{ACCOUNT}{parts.path}", *sorted(f"{name}:{','.join(sorted(values))}" for name, values in parse_qs(parts.query).items())]
        signature = hmac.digest(base64.b64decode(KEY), "\n".join(lines).encode(), "sha256")
        return given == f"SharedKey {ACCOUNT}:{base64.b64encode(signature).decode()}"

    def list(self, query: dict[str, str]) -> None:
        assert (query["restype"], query["comp"]) == ("container", "list")
        names = sorted(name for name in {*self.server.blobs, *self.server.folders} if name.startswith(query.get("prefix", "")))
        first = int(query.get("marker", "0"))
        more = first + self.server.page if len(names) > first + self.server.page else ""
        blobs = "".join(self.entry(name) for name in names[first : first + self.server.page])
        text = f'<?xml version="1.0" encoding="utf-8"?><EnumerationResults><Blobs>{blobs}</Blobs><NextMarker>{more}</NextMarker></EnumerationResults>'
        self.answer(self.server.listing or ("\ufeff" + text).encode(), {})

    def entry(self, name: str) -> str:
        if name in self.server.folders:
            facts = "<Content-Length>0</Content-Length><Etag>0x1</Etag><ResourceType>directory</ResourceType>"
        else:
            facts = f"<Content-Length>{len(self.server.blobs[name])}</Content-Length><Etag>{self.server.etag(name).strip(chr(34))}</Etag>"
        shown = '<Name Encoded="true">bert%2Fbell%07</Name>' if name == "bert/bell\a" else f"<Name>{escape(name)}</Name>"
        return f"<Blob>{shown}<Properties>{facts}</Properties></Blob>"

    def blob(self, name: str) -> None:
        content, etag = self.server.blobs[name], self.server.etag(name)
        assert "If-Range" not in self.headers, "Azure's page on Get Blob knows none"
        if self.headers.get("If-Match", etag) != etag:
            self.send_error(412)
            return
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        ranged = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if "Range" in self.headers else {}
        self.answer(content[start:], {"ETag": etag, "Accept-Ranges": "bytes", **ranged}, status=206 if ranged else 200, may_break=True)

    def answer(self, body: bytes, headers: dict[str, str], *, status: int = 200, may_break: bool = False) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        cut, self.server.cut_after = (self.server.cut_after, None) if may_break else (None, self.server.cut_after)
        self.wfile.write(body[:cut])
        if cut is not None:
            self.server.when_cut()

    def log_message(self, *arguments: object) -> None:
        """Nothing: pytest's output is for the tests."""


@contextlib.contextmanager
def running(context: ssl.SSLContext, name: str = "localhost") -> Iterator[Blobs]:
    """Started, under the name of this machine that its certificate is for."""
    with Blobs(context, name) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made
        made.shutdown()
