"""A proxy of the kind that leads out of a company: CONNECT to a name that only it knows, and bytes both ways."""

from __future__ import annotations

import contextlib
import http.server
import select
import socket
import threading
from collections.abc import Iterator


class Proxy(http.server.ThreadingHTTPServer):
    """Leads whoever asks for `known` to this machine, to the port that was asked for."""

    daemon_threads = True

    def __init__(self, host: str, known: str) -> None:
        super().__init__((host, 0), Connect)
        self.url = f"http://{host}:{self.server_address[1]}"
        self.known = known
        self.asked: list[str] = []

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is none of ours."""


class Connect(http.server.BaseHTTPRequestHandler):
    server: Proxy

    def do_CONNECT(self) -> None:
        name, _, port = self.path.partition(":")
        self.server.asked.append(name)
        if name != self.server.known:
            self.send_error(502)
            return
        with socket.create_connection(("127.0.0.1", int(port)), timeout=30) as behind:
            self.send_response(200)
            self.end_headers()
            ends = {self.connection: behind, behind: self.connection}
            while True:
                for one in select.select(list(ends), [], [])[0]:
                    content = one.recv(65536)
                    if not content:
                        return
                    ends[one].sendall(content)

    def log_message(self, *arguments: object) -> None:
        """Nothing: pytest's output is for the tests."""


@contextlib.contextmanager
def running(host: str, known: str) -> Iterator[Proxy]:
    """Started."""
    with Proxy(host, known) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made
        made.shutdown()
