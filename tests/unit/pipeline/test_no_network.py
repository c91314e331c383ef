"""The filter is installed in child processes: it can't be taken back."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="no filter for this machine")

PROGRAM = """
import socket, subprocess, sys
from burnish.pipeline import no_network
assert no_network.is_open()
assert no_network.drop()
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_PACKET):
    try:
        socket.socket(family, socket.SOCK_DGRAM)
        sys.exit(f"{family!r} is open")
    except PermissionError:
        pass
a, b = socket.socketpair()  # Unix sockets stay
a.send(b"x")
assert b.recv(1) == b"x"
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
assert libc.syscall(425, 1, None) == -1 and ctypes.get_errno() == 13, "io_uring opens sockets without the system call"
child = subprocess.run([sys.executable, "-c", "import socket; socket.socket()"], capture_output=True, text=True)
assert "PermissionError" in child.stderr, child.stderr
import threading
found = []
def attempt():
    try:
        socket.socket()
    except PermissionError as error:
        found.append(error)
thread = threading.Thread(target=attempt)
thread.start()
thread.join()
assert found
print("offline")
"""


def test_drop_refuses_every_network_socket_to_threads_and_children_too() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "offline", done.stderr
