"""Takes the network from this process and all its later children: a seccomp filter that refuses every socket but Unix ones.

Export, compress and build open files that nobody has vetted, with libraries that were written to be fast. What such a file may get to run has
nothing to send, and nobody to send it to. The filter needs no privilege, can't be taken back, and works the same on a laptop and in a pod, where
a NetworkPolicy may or may not be enforced.

Processes that train side by side need sockets to each other. They get a network namespace of their own, in which there is nothing but loopback, where one can
be made: by root, or where the kernel lets everybody make user namespaces; not in most containers.

Sources: seccomp(2), Linux's include/uapi/linux/{filter,seccomp,audit}.h; network_namespaces(7), user_namespaces(7), netdevice(7).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import socket
import struct
import sys
from enum import Enum

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _MODE_FILTER = 38, 22, 2
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06  # BPF: ld [k], jeq, jge, ret
_ALLOW, _KILL, _REFUSE = 0x7FFF0000, 0x80000000, 0x00050000 | errno.EACCES
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data; the low word of the argument, both machines being little-endian
_X32 = 0x40000000
_MACHINES = {  # audit architecture; system calls socket, io_uring_setup, setns
    "x86_64": (0xC000003E, 41, 425, 308),
    "aarch64": (0xC00000B7, 198, 425, 268),
}
_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000  # linux/sched.h
_SET_FLAGS, _UP_AND_RUNNING = 0x8914, 0x1 | 0x40  # SIOCSIFFLAGS; IFF_UP, IFF_RUNNING


class Reach(Enum):
    """What network this process has."""

    Nothing = "Nothing"
    Loopback = "Loopback"
    All = "All"


_reach = Reach.All


def reach() -> Reach:
    """What `drop` and `separate` left of it."""
    return _reach


def separate() -> bool:
    """Move this process and its later children into a network namespace with loopback only, for good. False where none can be made.

    Has to come before the process has threads: a user namespace takes no process that has some.
    """
    global _reach
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEW_NETWORK) != 0 and libc.unshare(_NEW_USER | _NEW_NETWORK) != 0:
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sH14x", b"lo", _UP_AND_RUNNING))
    known = _MACHINES.get(platform.machine())
    if known is None or sys.byteorder != "little" or not _install(_no_way_back(known[0], known[3])):
        return False
    _reach = Reach.Loopback
    return True


def drop() -> bool:
    """Refuse network sockets from now on. False where this machine has no filters (another architecture, an old kernel).

    io_uring goes too: it opens sockets without the system call.
    """
    global _reach
    known = _MACHINES.get(platform.machine())
    if known is None or sys.byteorder != "little":
        return False
    if not _install(_program(*known[:3])) or is_open():
        return False
    _reach = Reach.Nothing
    return True


def _install(program: list[tuple[int, int, int, int]]) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    filters = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *instruction) for instruction in program))
    header = struct.pack("HxxxxxxP", len(program), ctypes.addressof(filters))
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    return bool(libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.create_string_buffer(header), 0, 0) == 0)


def _no_way_back(architecture: int, setns: int) -> list[tuple[int, int, int, int]]:
    """BPF instructions that refuse to enter another namespace, which root could do otherwise."""
    return [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 2, 0, _X32),
        (_EQUAL, 1, 0, setns),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _REFUSE),
    ]


def _program(architecture: int, socket_call: int, io_uring_setup: int) -> list[tuple[int, int, int, int]]:
    """BPF instructions: code, jump if true, jump if false, operand."""
    return [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),  # a 32-bit system call: other numbers, other ways to a socket
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 5, 0, _X32),
        (_EQUAL, 4, 0, io_uring_setup),
        (_EQUAL, 0, 2, socket_call),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_EQUAL, 0, 1, socket.AF_UNIX),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _REFUSE),
    ]


def is_open() -> bool:
    """True where this process can still make a network socket."""
    try:
        os.close(socket.socket(socket.AF_INET, socket.SOCK_STREAM).detach())
    except OSError as error:
        if error.errno != errno.EACCES:
            raise
        return False
    return True
