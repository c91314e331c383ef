"""A real server of Google Cloud Storage's interface (fake-gcs-server), behind a front that does what it doesn't: TLS, asking who reads, pages."""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import re
import socket
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

ROOT = Path(__file__).parents[2]
EMAIL = "reader@project.iam.gserviceaccount.com"
TOKEN = "ya29.hunter2"  # noqa: S105  # made up
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Front(http.server.ThreadingHTTPServer):
    """Passes what it is asked on to `behind`. Where `is_closed`, to those alone who hold the token that it gives for a signed claim."""

    daemon_threads = True

    def __init__(self, context: ssl.SSLContext, behind: str, name: str) -> None:
        super().__init__((name, 0), Passing)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.url = f"https://{name}:{self.server_address[1]}"
        self.behind = behind
        self.key = rsa.generate_private_key(65537, 2048)
        self.is_closed = False
        self.cut_after: int | None = None
        """Bytes of a body, after which the next connection breaks."""
        self.when_cut: Callable[[], None] = lambda: None
        self.seen: list[tuple[str, str, str]] = []
        """Path, Authorization and Range of what was asked."""

    def key_file(self, **changes: str) -> str:
        """The service account's key, as Google hands it out."""
        pem = self.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()
        told = {"type": "service_account", "client_email": EMAIL, "private_key_id": "1", "private_key": pem, "token_uri": f"{self.url}/token"}
        return json.dumps({**told, **changes})

    def upload(self, bucket: str, name: str, content: bytes, encoding: str = "") -> None:
        """Make an object."""
        metadata = json.dumps({"name": name, **({"contentEncoding": encoding} if encoding else {})}).encode()
        body = b"--b\r\nContent-Type: application/json\r\n\r\n" + metadata
        body += b"\r\n--b\r\nContent-Type: application/octet-stream\r\n\r\n" + content + b"\r\n--b--\r\n"
        headers = {"Content-Type": "multipart/related; boundary=b"}
        place = f"{self.behind}/upload/storage/v1/b/{bucket}/o?uploadType=multipart&name={quote(name, safe='')}"
        _DIRECT.open(urllib.request.Request(place, body, headers)).read()

    def make_bucket(self, name: str) -> None:
        """An empty one."""
        body = json.dumps({"name": name}).encode()
        _DIRECT.open(urllib.request.Request(f"{self.behind}/storage/v1/b?project=p", body, {"Content-Type": "application/json"})).read()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is none of ours."""


class Passing(http.server.BaseHTTPRequestHandler):
    server: Front

    def do_GET(self) -> None:
        token = self.headers.get("Authorization", "")
        self.server.seen.append((self.path, token, self.headers.get("Range", "")))
        if self.server.is_closed and token != f"Bearer {TOKEN}":
            self.send_error(401)
            return
        headers = {name: self.headers[name] for name in ("Range", "If-Range") if name in self.headers}
        try:
            place = re.sub("&(maxResults|pageToken)=[^&]*", "", self.path)
            with _DIRECT.open(urllib.request.Request(self.server.behind + place, headers=headers)) as answer:
                body = self.page_of(answer.read())
                self.send_response(answer.status)
                self.send_header("Content-Length", str(len(body)))
                if "Content-Range" in answer.headers:
                    self.send_header("Content-Range", answer.headers["Content-Range"])
                self.end_headers()
        except urllib.error.HTTPError as error:
            self.send_error(error.code)
            return
        cut, self.server.cut_after = (self.server.cut_after, None) if "alt=media" in self.path else (None, self.server.cut_after)
        self.wfile.write(body[:cut])
        if cut is not None:
            self.server.when_cut()

    def page_of(self, body: bytes) -> bytes:
        """A listing's page; the server behind leaves out what is over maxResults, and tells of no next page."""
        query = parse_qs(urlsplit(self.path).query)
        if "maxResults" not in query:
            return body
        told, size, first = json.loads(body), int(query["maxResults"][0]), int(query.get("pageToken", ["0"])[0])
        more = {"nextPageToken": str(first + size)} if len(told.get("items", [])) > first + size else {}
        return json.dumps({**told, "items": told.get("items", [])[first : first + size], **more}).encode()

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        text, _, signature = form["assertion"][0].rpartition(".")
        try:
            self.server.key.public_key().verify(_decoded(signature), text.encode(), padding.PKCS1v15(), hashes.SHA256())
            claims = json.loads(_decoded(text.partition(".")[2]))
            assert form["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]
            assert claims["iss"] == EMAIL and claims["aud"] == f"{self.server.url}/token" and claims["scope"].endswith("/devstorage.read_only")
            assert claims["iat"] <= time.time() < claims["exp"] <= claims["iat"] + 3600
        except Exception:
            self.send_error(400)
            return
        answer = json.dumps({"access_token": TOKEN, "expires_in": 3599, "token_type": "Bearer"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *arguments: object) -> None:
        """Nothing: pytest's output is for the tests."""


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@contextlib.contextmanager
def running(folder: Path, context: ssl.SSLContext, name: str = "localhost") -> Iterator[Front]:
    """Both, started, the front under the name of this machine that its certificate is for; `folder` gets the log."""
    program = subprocess.run([ROOT / "e2e/cluster/cluster", "path", "fake-gcs-server"], check=True, capture_output=True, text=True).stdout.strip()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [program, "-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-public-host", f"127.0.0.1:{port}", "-backend", "memory"]
    with (folder / "gcs.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log, cwd=folder) as process:
        try:
            _wait(f"{url}/storage/v1/b?project=p")
            with Front(context, url, name) as front:
                threading.Thread(target=front.serve_forever, daemon=True).start()
                yield front
                front.shutdown()
        finally:
            process.terminate()


def _wait(url: str) -> None:
    for _ in range(200):
        try:
            _DIRECT.open(url, timeout=1).read()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise TimeoutError("fake-gcs-server does not answer")
