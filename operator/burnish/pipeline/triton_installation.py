"""Finds tritonserver and what it needs in the serving environment, and lays its backends out as Triton wants them.

The server comes out of a Python package that does not install it: the program, one stub per Python version and the shared libraries lie in
three places of site-packages, and the stub also needs the shared libpython of the environment's own Python.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
import subprocess
from pathlib import Path

import burnish.serving
from burnish.errors import BurnishError, Reason

OUR_BACKENDS = Path(burnish.serving.__file__).parent / "backends"
"""Python-based backends that go by the native backends' names, one directory each; what they share is in `python`, where Triton's own is laid out."""

_PROBE = """
import json, sys, sysconfig
print(json.dumps({
    "version": "%d.%d" % sys.version_info[:2],
    "site_packages": sysconfig.get_path("purelib"),
    "libpython": ["%s/%s" % (sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("MULTIARCH")),
                  sysconfig.get_config_var("LIBDIR"), sys.base_prefix + "/lib"],
}))
"""
_PROBE_TIMEOUT_S = 60.0


@dataclasses.dataclass(frozen=True)
class TritonInstallation:
    """Where everything is."""

    program: Path
    python_backend: tuple[Path, ...]
    """Library, Python module and stub of the python backend, which carries all the others."""
    bin: Path
    """The environment's own; with it first in PATH the stub's embedded interpreter finds the environment by its pyvenv.cfg."""
    libraries: tuple[Path, ...]
    """Directories for LD_LIBRARY_PATH."""

    def lay_out_backends(self, target: Path, ours: Path) -> None:
        """Write a backend directory: the python backend, and the backends in `ours`.

        Copies, because Triton refuses links that leave the directory.

        Args:
            target: must not exist.
            ours: holds one directory per backend, with its model.py, and `python` with what they share.
        """
        (target / "python").mkdir(parents=True)
        for file in self.python_backend:
            shutil.copy(file, target / "python" / file.name)
        for file in sorted(ours.glob("*/*.py")):
            (target / file.parent.name).mkdir(exist_ok=True)
            shutil.copyfile(file, target / file.parent.name / file.name)


@functools.cache
def find(python: Path) -> TritonInstallation:
    """The installation in the environment of the interpreter `python` (`<venv>/bin/python`, not resolved).

    Raises:
        BurnishError: ToolchainUnavailable, if tritonserver isn't there; LibpythonMissing, if the stub could not start.
    """
    try:
        probe = subprocess.run([str(python), "-I", "-c", _PROBE], capture_output=True, text=True, timeout=_PROBE_TIMEOUT_S, check=True)
        found = json.loads(probe.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise BurnishError(Reason.ToolchainUnavailable, f"{python} does not run: {error}; remove its directory, it will be made again") from error
    site_packages = Path(found["site_packages"])
    server = site_packages / "pytriton" / "tritonserver"
    backend = server / "backends" / "python"
    stub = server / "python_backend_stubs" / found["version"] / "triton_python_backend_stub"
    installation = TritonInstallation(
        program=server / "bin" / "tritonserver",
        python_backend=(backend / "libtriton_python.so", backend / "triton_python_backend_utils.py", stub),
        bin=python.parent,
        libraries=(_libpython_directory(found["version"], [Path(p) for p in found["libpython"]]), site_packages / "nvidia_pytriton.libs"),
    )
    missing = [path for path in (installation.program, *installation.python_backend, installation.libraries[1]) if not path.exists()]
    if missing:
        raise BurnishError(
            Reason.ToolchainUnavailable,
            f"the serving environment of {python} is incomplete: {missing[0]} is missing; remove the environment, it will be made again",
        )
    return installation


def _libpython_directory(version: str, directories: list[Path]) -> Path:
    name = f"libpython{version}.so.1.0"
    for directory in (*directories, *_linker_cache(name)):
        if (directory / name).exists():
            return directory
    raise BurnishError(
        Reason.LibpythonMissing,
        f"Triton's Python stub needs the shared library {name}, and there is none beside this Python; "
        f"install it (Debian, Ubuntu: apt-get install libpython{version}) or use a Python built with --enable-shared",
    )


def _linker_cache(name: str) -> list[Path]:
    """Directories where the dynamic linker finds `name` (ldconfig -p: `name (facts) => path`)."""
    program = shutil.which("ldconfig", path="/sbin:/usr/sbin:/bin:/usr/bin")
    if program is None:
        return []
    listing = subprocess.run([program, "-p"], capture_output=True, text=True, timeout=_PROBE_TIMEOUT_S, check=False).stdout
    return [Path(line.rpartition("=> ")[2]).parent for line in listing.splitlines() if line.split(" ", 1)[0].strip() == name]
