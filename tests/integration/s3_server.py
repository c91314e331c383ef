"""A real S3 server (versitygw) on a port of this machine, for tests."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import trustme

from burnish.store import s3
from burnish.store.credentials import Credentials

ROOT = Path(__file__).parents[2]
KEY, SECRET = "test", "hunter2"


@contextlib.contextmanager
def running(folder: Path, authority: trustme.CA | None = None) -> Iterator[Credentials]:
    """Start it over `folder`; the credentials carry its address. With an authority it speaks TLS, and they trust that."""
    program = subprocess.run([ROOT / "e2e/cluster/cluster", "path", "versitygw"], check=True, capture_output=True, text=True).stdout.strip()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "data").mkdir(parents=True)
    (folder / "meta").mkdir()
    command = [program, "--port", f"127.0.0.1:{port}", "--quiet", "posix", "--sidecar", str(folder / "meta"), str(folder / "data")]
    url, file = f"http://127.0.0.1:{port}", ""
    if authority is not None:
        certificate = authority.issue_cert("127.0.0.1")
        certificate.private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))
        authority.cert_pem.write_to_path(str(folder / "ca.crt"))
        command[1:1] = ["--cert", str(folder / "server.pem"), "--key", str(folder / "server.pem")]
        url, file = f"https://127.0.0.1:{port}", str(folder / "ca.crt")
    keys = {"ROOT_ACCESS_KEY": KEY, "ROOT_SECRET_KEY": SECRET}
    with (folder / "log").open("wb") as log, subprocess.Popen(command, env=os.environ | keys, stdout=log, stderr=log) as process:
        try:
            _wait(port)
            yield Credentials(access_key=KEY, secret_key=SECRET, endpoint=url, region="us-east-1", authority=file)
        finally:
            process.terminate()


def make_bucket(credentials: Credentials, name: str) -> None:
    """An empty bucket."""
    s3.connect(credentials).call_s3("create_bucket", Bucket=name)


def _wait(port: int) -> None:
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise TimeoutError("versitygw does not answer")
