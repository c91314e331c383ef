"""Hardware classes from texts of /proc/cpuinfo as other machines show them, and this machine's own facts."""

import os
import platform
from pathlib import Path

import pytest

from burnish.pipeline import machine

AMD = """processor\t: 0
vendor_id\t: AuthenticAMD
model name\t: AMD EPYC 9R14
flags\t\t: fpu sse2 avx avx2 avx512f avx512_vnni

processor\t: 1
vendor_id\t: AuthenticAMD
model name\t: AMD EPYC 9R14
flags\t\t: fpu sse2 avx avx2 avx512f avx512_vnni
"""

INTEL = "processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: avx2 avx512_vnni avx_vnni amx_bf16 amx_tile amx_int8\n"

GRAVITON = """processor\t: 0
BogoMIPS\t: 2100.00
Features\t: fp asimd evtstrm aes asimdhp cpuid asimdrdm asimddp sve
CPU implementer\t: 0x41
CPU part\t: 0xd40

Hardware\t: a board
"""


@pytest.mark.parametrize(
    ("cpuinfo", "uname", "expected"),
    [
        (AMD, "x86_64", "x86-64/AuthenticAMD/AVX2,AVX512-VNNI"),
        (INTEL, "x86_64", "x86-64/GenuineIntel/AVX2,AVX512-VNNI,AVX-VNNI,AMX"),
        (GRAVITON, "aarch64", "aarch64/ARM/NEON-DOT"),
        (GRAVITON, "arm64", "aarch64/ARM/NEON-DOT"),
        (GRAVITON.replace("0x41", "0x99"), "aarch64", "aarch64/0x99/NEON-DOT"),
        ("", "riscv64", "riscv64/unknown/"),
    ],
)
def test_hardware_class_is_read_from_cpuinfo(cpuinfo, uname, expected):
    assert str(machine.parse_hardware_class(cpuinfo, uname)) == expected


def test_hardware_class_has_only_what_every_cpu_has():
    mixed = AMD + "\n" + AMD.replace("processor\t: 0", "processor\t: 2").replace(" avx512_vnni", "")
    assert machine.parse_hardware_class(mixed, "x86_64").isa == ("AVX2",)


def test_hardware_class_of_this_machine_agrees_with_the_kernel():
    found = machine.hardware_class()
    assert found.vendor not in ("", "unknown")
    assert ("AVX2" in found.isa) == (" avx2 " in Path("/proc/cpuinfo").read_text())


def test_facts_are_this_machines():
    facts = machine.facts()
    assert facts.kernel == platform.release()
    assert facts.cpus == len(os.sched_getaffinity(0))
    total = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    assert facts.memory_bytes == pytest.approx(total, rel=0.01)
    assert facts.cpu_model
    assert facts.node
