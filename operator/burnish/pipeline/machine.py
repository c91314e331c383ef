"""What this machine is: the hardware class that measurements hold for, and the facts that are printed beside every figure."""

from __future__ import annotations

import dataclasses
import functools
import os
import platform
from pathlib import Path

from burnish.plugins.base import HardwareClass

_CPUINFO = Path("/proc/cpuinfo")

_ISA_FLAGS = {"AVX2": "avx2", "AVX512-VNNI": "avx512_vnni", "AVX-VNNI": "avx_vnni", "AMX": "amx_int8", "NEON-DOT": "asimddp"}
"""Instruction sets that decide which kernels a runtime takes -> their names in /proc/cpuinfo (`flags` on x86, `Features` on Arm)."""

_ARCHITECTURES = {"x86_64": "x86-64", "amd64": "x86-64", "arm64": "aarch64"}

_ARM_VENDORS = {0x41: "ARM", 0x46: "Fujitsu", 0x48: "HiSilicon", 0x4E: "NVIDIA", 0x50: "APM", 0x51: "Qualcomm", 0x61: "Apple", 0xC0: "Ampere"}
"""MIDR_EL1.Implementer, Arm Architecture Reference Manual."""


@dataclasses.dataclass(frozen=True)
class MachineFacts:
    """The part of `job_contract.Environment` that is the machine's."""

    node: str
    cpu_model: str
    cpus: int
    """CPUs that this process may use."""
    kernel: str
    memory_bytes: int


@functools.cache
def hardware_class() -> HardwareClass:
    """The hardware class of this machine."""
    return parse_hardware_class(_CPUINFO.read_text(), platform.machine())


def parse_hardware_class(cpuinfo: str, machine: str) -> HardwareClass:
    """The hardware class that a text of /proc/cpuinfo and `uname -m` speak of.

    Only what *every* CPU has counts: on a machine with two kinds of cores a process may run on either.
    """
    blocks = _blocks(cpuinfo)
    flags = set.intersection(*(set((block.get("flags") or block.get("Features", "")).split()) for block in blocks)) if blocks else set()
    first = blocks[0] if blocks else {}
    return HardwareClass(
        architecture=_ARCHITECTURES.get(machine.lower(), machine.lower()),
        vendor=first.get("vendor_id") or _arm_vendor(first.get("CPU implementer", "")),
        isa=tuple(name for name, flag in _ISA_FLAGS.items() if flag in flags),
    )


def facts() -> MachineFacts:
    """Facts of this machine."""
    first = next(iter(_blocks(_CPUINFO.read_text())), {})
    return MachineFacts(
        node=os.environ.get("NODE_NAME") or platform.node(),  # a pod is told its node; its own name says nothing
        cpu_model=first.get("model name") or first.get("CPU part", "unknown"),
        cpus=len(os.sched_getaffinity(0)),
        kernel=platform.release(),
        memory_bytes=memory_bytes(),
    )


def memory_bytes() -> int:
    """Physical memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _blocks(cpuinfo: str) -> list[dict[str, str]]:
    """One dictionary per CPU; blocks of /proc/cpuinfo that speak of no CPU (Arm boards add some) are left out."""
    blocks = [
        {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in block.splitlines())} for block in cpuinfo.split("\n\n")
    ]
    return [block for block in blocks if "processor" in block]


def _arm_vendor(implementer: str) -> str:
    try:
        return _ARM_VENDORS.get(int(implementer, 16), implementer)
    except ValueError:
        return "unknown"
