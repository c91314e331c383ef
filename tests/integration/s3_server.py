"""A real S3 server (versitygw) on a port of this machine, for tests."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from burnish.store import s3
from burnish.store.credentials import Credentials

ROOT = Path(__file__).parents[2]
KEY, SECRET = "test", "hunter2"


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Credentials]:
    """Start it over `folder`; the credentials carry its address."""
    program = subprocess.run([ROOT / "e2e/cluster/cluster", "path", "versitygw"], check=True, capture_output=True, text=True).stdout.strip()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "data").mkdir(parents=True)
    (folder / "meta").mkdir()
    command = [program, "--port", f"127.0.0.1:{port}", "--quiet", "posix", "--sidecar", str(folder / "meta"), str(folder / "data")]
    keys = {"ROOT_ACCESS_KEY": KEY, "ROOT_SECRET_KEY": SECRET}
    with (folder / "log").open("wb") as log, subprocess.Popen(command, env=os.environ | keys, stdout=log, stderr=log) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(url)
            yield Credentials(access_key=KEY, secret_key=SECRET, endpoint=url, region="us-east-1")
        finally:
            process.terminate()


def make_bucket(credentials: Credentials, name: str) -> None:
    """An empty bucket."""
    s3.connect(credentials).call_s3("create_bucket", Bucket=name)


def _wait(url: str) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for _ in range(200):
        try:
            opener.open(url, timeout=1)
        except urllib.error.HTTPError as answer:
            answer.close()
            return
        except OSError:
            time.sleep(0.05)
    raise TimeoutError("versitygw does not answer")
