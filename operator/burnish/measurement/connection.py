"""The hot path of measuring: bytes out, bytes in. Everything that could be done before or after is done there."""

from __future__ import annotations

import socket


class Connection:
    """A keep-alive connection that can do one thing: write a prepared message and read one answer with a Content-Length."""

    def __init__(self, host: str, port: int, timeout_s: float) -> None:
        """Args:
        host: name or address.
        port: of the HTTP endpoint.
        timeout_s: longest wait for the connection, and for each piece of an answer.

        Raises:
            OSError: no connection.
        """
        self._socket = socket.create_connection((host, port), timeout_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = self._socket.makefile("rb", buffering=65536)

    def exchange(self, message: bytes) -> tuple[int, int, bytes]:
        """(HTTP status, length of the JSON part, body).

        Raises:
            OSError: the connection broke. ValueError: what came is not an answer we can read.
        """
        self._socket.sendall(message)
        readline = self._reader.readline
        status_line = readline(65536)
        if not status_line:
            raise ConnectionResetError("closed by the server")
        status, length, json_length = int(status_line.split(None, 2)[1]), -1, -1
        while (line := readline(65536)) not in (b"\r\n", b"\n"):
            name, separator, value = line.partition(b":")
            if not separator:
                raise ConnectionResetError("closed in the middle of an answer")
            name = name.lower()
            if name == b"content-length":
                length = int(value)
            elif name == b"inference-header-content-length":
                json_length = int(value)
        if length < 0:
            raise ValueError("the answer has no Content-Length")
        body = self._reader.read(length)
        if len(body) < length:
            raise ConnectionResetError("closed in the middle of an answer")
        return status, (json_length if json_length >= 0 else length), body

    def close(self) -> None:
        """Give the socket back."""
        self._reader.close()
        self._socket.close()
