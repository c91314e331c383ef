"""Holds a process to a number of CPUs: by affinity where the number is whole, by a CFS quota where it is a fraction.

A measurement is worth nothing if the server had more CPU than the one that will serve. Affinity needs no privilege and never throttles; a
fraction of a CPU exists only as a quota, which needs a writable cgroup. What can't be held is refused, never ignored.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from decimal import Decimal
from pathlib import Path

from burnish.errors import BurnishError, Reason

PERIOD_US = 100_000
"""CFS period, microseconds: the kernel's default, and what the kubelet uses."""

_GROUP_PREFIX = "burnish-"

FIELD = "spec.targets[].resources.cpu"


@dataclasses.dataclass(frozen=True)
class CpuLimit:
    """A prepared limit; `enter` puts the calling process (and so all its later children) under it."""

    enforcement: str
    """`affinity`, `cgroup v1 quota` or `cgroup v2 quota`."""
    cpus: tuple[int, ...] = ()
    """The CPUs to run on; empty for a quota, which leaves all of them."""
    cgroup: Path | None = None

    def enter(self) -> None:
        """Put this process under the limit."""
        if self.cgroup is not None:
            (self.cgroup / "cgroup.procs").write_text(str(os.getpid()))
        else:
            os.sched_setaffinity(0, self.cpus)

    def remove(self, timeout_s: float = 2.0) -> None:
        """Remove the control group, once its processes are gone; idempotent."""
        if self.cgroup is not None:
            remove_cgroup(self.cgroup, timeout_s)


def prepare(cpus: Decimal, *, proc: Path = Path("/proc/self")) -> CpuLimit:
    """Make a limit of `cpus` CPUs, or say why this machine can't.

    A whole number takes the *last* CPUs that this process may use: interrupts and the client live on the first ones (`client_cpus`).

    Args:
        cpus: 0.5, 1, 2, ...
        proc: `/proc/self`, or a directory that looks like it.

    Raises:
        BurnishError: ResourcesNotEnforceable, when there are fewer CPUs, or no control group takes a quota.
    """
    allowed = sorted(os.sched_getaffinity(0))
    if cpus > len(allowed):
        raise BurnishError(
            Reason.ResourcesNotEnforceable,
            f"asks for {cpus} CPUs, but this process may use {len(allowed)}; ask for at most {len(allowed)}, or run on a larger machine",
            field=FIELD,
        )
    if cpus == cpus.to_integral_value():
        return CpuLimit("affinity", cpus=tuple(allowed[-int(cpus) :]))
    problems: list[str] = []
    for make in (_quota_v1, _quota_v2):
        try:
            return make(cpus, proc)
        except OSError as error:
            problems.append(str(error))
    raise BurnishError(
        Reason.ResourcesNotEnforceable,
        f"{cpus} CPUs need a CFS quota, and no control group here takes one ({'; '.join(problems)}); "
        "run as root with a writable cpu cgroup, or ask for whole CPUs",
        field=FIELD,
    )


def client_cpus(server_cpus: tuple[int, ...]) -> tuple[int, ...]:
    """The CPUs that a load generator should keep to, so that it takes nothing from the server; all of them where there are no others."""
    allowed = sorted(os.sched_getaffinity(0))
    return tuple(cpu for cpu in allowed if cpu not in server_cpus) or tuple(allowed)


def quota_group(pid: int) -> Path | None:
    """The control group that holds the CPU quota of process `pid`; None where Burnish set none."""
    for kind, controller in (("cgroup", "cpu"), ("cgroup2", "")):
        with contextlib.suppress(OSError):
            name = Path(_membership(Path(f"/proc/{pid}"), controller)).name
            if name.startswith(_GROUP_PREFIX):
                mount = _mount(Path("/proc/self"), kind, controller)
                return next((path for path in (mount / _membership(Path(f"/proc/{pid}"), controller), mount / name) if path.is_dir()), None)
    return None


def throttled_periods(cgroup: Path) -> int:
    """How many periods the processes of a quota group were throttled in so far (`nr_throttled` of cpu.stat, v1 and v2)."""
    for line in (cgroup / "cpu.stat").read_text().splitlines():
        name, _, value = line.partition(" ")
        if name == "nr_throttled":
            return int(value)
    return 0


def remove_cgroup(cgroup: Path, timeout_s: float = 2.0) -> None:
    """Remove an emptied control group; the kernel may need a moment after the last process ended."""
    deadline = time.monotonic() + timeout_s
    while cgroup.exists():
        try:
            cgroup.rmdir()
        except OSError:
            if time.monotonic() > deadline:
                return
            time.sleep(0.02)


def _quota_v1(cpus: Decimal, proc: Path) -> CpuLimit:
    mount = _mount(proc, "cgroup", "cpu")
    for parent in (mount / _membership(proc, "cpu"), mount):  # in a container the path may be the host's; the mount then is our own root
        if parent.is_dir():
            cgroup = _create(parent, {"cpu.cfs_period_us": str(PERIOD_US), "cpu.cfs_quota_us": str(_quota_us(cpus))})
            return CpuLimit("cgroup v1 quota", cgroup=cgroup)
    raise OSError(f"v1: no group of this process under {mount}")


def _quota_v2(cpus: Decimal, proc: Path) -> CpuLimit:
    mount = _mount(proc, "cgroup2", "")
    own = mount / _membership(proc, "")
    # A group that holds processes can't pass controllers on ("no internal processes", cgroup-v2.rst), except the root: then a sibling does.
    for parent in (own, own.parent):
        if parent != mount and mount not in parent.parents:
            continue
        if _passes_cpu_on(parent):
            cgroup = _create(parent, {"cpu.max": f"{_quota_us(cpus)} {PERIOD_US}"})
            return CpuLimit("cgroup v2 quota", cgroup=cgroup)
    raise OSError(f"v2: the cpu controller is not available below {own}")


def _passes_cpu_on(parent: Path) -> bool:
    control = parent / "cgroup.subtree_control"
    with contextlib.suppress(OSError):
        if "cpu" in control.read_text().split():
            return True
        if "cpu" in (parent / "cgroup.controllers").read_text().split():
            control.write_text("+cpu")
            return True
    return False


def _create(parent: Path, settings: dict[str, str]) -> Path:
    cgroup = parent / f"{_GROUP_PREFIX}{os.getpid()}"
    cgroup.mkdir()
    try:
        for name, value in settings.items():
            (cgroup / name).write_text(value)
    except OSError:
        remove_cgroup(cgroup)
        raise
    return cgroup


def _quota_us(cpus: Decimal) -> int:
    return int(cpus * PERIOD_US)


def _mount(proc: Path, kind: str, controller: str) -> Path:
    """Where a cgroup hierarchy is mounted, by mountinfo (proc(5)): ... mount point ... - type source super-options."""
    for line in (proc / "mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        fields = after.split()
        if fields[:1] == [kind] and (not controller or controller in fields[-1].split(",")):
            return Path(before.split()[4])
    raise OSError(f"no {kind} {controller}".rstrip() + " hierarchy is mounted")


def _membership(proc: Path, controller: str) -> str:
    """This process's group in a hierarchy, relative to its mount (`/proc/self/cgroup`: id:controllers:path)."""
    for line in (proc / "cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return path.lstrip("/")
    raise OSError(f"this process is in no group for {controller or 'v2'}")
