"""The filter is installed in child processes: it can't be taken back."""

from __future__ import annotations

import os
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


SEPARATE = """
import ctypes, errno, os, socket, subprocess, sys
from burnish.pipeline import no_network
outside = socket.create_server(("127.0.0.1", 0))
before = os.open("/proc/self/ns/net", os.O_RDONLY)
assert no_network.reach() is no_network.Reach.All
assert no_network.separate()
assert no_network.reach() is no_network.Reach.Loopback
try:
    socket.create_connection(outside.getsockname(), timeout=5)
    sys.exit("the machine's loopback is in reach")
except ConnectionRefusedError:
    pass
try:
    socket.create_connection(("192.0.2.1", 80), timeout=5)
    sys.exit("the network is in reach")
except OSError as error:
    assert error.errno == errno.ENETUNREACH, error
inside = socket.create_server(("127.0.0.1", 0))
child = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1])), timeout=5).sendall(b'hello')"
subprocess.run([sys.executable, "-c", child, str(inside.getsockname()[1])], check=True)
assert inside.accept()[0].recv(5) == b"hello"  # processes that train together reach each other
libc = ctypes.CDLL(None, use_errno=True)
assert libc.setns(before, 0) == -1 and ctypes.get_errno() == errno.EACCES, "the way back is open"
print("apart")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="elsewhere the kernel may allow nobody a network namespace")
def test_separate_leaves_loopback_to_the_process_and_its_children_and_no_way_back() -> None:
    done = subprocess.run([sys.executable, "-c", SEPARATE], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "apart", done.stderr
