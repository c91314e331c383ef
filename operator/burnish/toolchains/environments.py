"""Makes and finds the virtual environments in which steps and the server run, one per toolchain.

Toolchains can't share one environment: Triton's Python stub needs numpy below 2, the optimizer's libraries are newer, and later ones (torch,
tensorflow) exclude each other. So each has a hashed lock in this package, and `ensure` turns the lock into an environment the first time it is
needed. That takes the network once; afterwards an environment is found by its name, without starting anything.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import burnish
from burnish.errors import BurnishError, Reason

Progress = Callable[[str], None]
"""Takes one line for the user."""

PACKAGE = Path(burnish.__file__).resolve().parent
"""Directory of the running `burnish` package: a checkout's or an installed wheel's."""

INSTALL_TIMEOUT_S = 1800.0
"""Upper limit for one creation, and for waiting for another process's."""

_MARKER = "complete.json"
_POLL_S = 0.2


@dataclasses.dataclass(frozen=True)
class Toolchain:
    """What one environment holds and what its identity covers."""

    name: str
    purpose: str
    lock: Path
    """Requirements with hashes, as `make lock` writes them."""
    has_burnish: bool
    """True where steps of Burnish itself run in it."""
    code: tuple[str, ...] = ()
    """Glob patterns below the package: the code that, beside the lock, decides which bytes come out."""


_LOCKS = PACKAGE / "toolchains" / "locks"
TOOLCHAINS: Mapping[str, Toolchain] = MappingProxyType(
    {
        toolchain.name: toolchain
        for toolchain in (
            Toolchain(
                name="onnx",
                purpose="exports, compresses, builds and measures",
                lock=_LOCKS / "onnx.txt",
                has_burnish=True,
                code=(
                    "plugins/**/*.py",
                    "measurement/metrics.py",
                    *(f"pipeline/{step}.py" for step in ("export", "lowering", "compress", "build", "samples", "inputs", "datasets")),
                    *(f"pipeline/{module}.py" for module in ("prepare", "preprocess", "npz_parts", "texts", "archives", "train", "lesson", "team")),
                ),
            ),
            Toolchain(
                name="torch",
                purpose="exports what PyTorch, torchvision, timm and transformers make, and trains",
                lock=_LOCKS / "torch.txt",
                has_burnish=True,
            ),
            Toolchain(
                name="tensorflow",
                purpose="exports what Keras and TensorFlow make",
                lock=_LOCKS / "tensorflow.txt",
                has_burnish=True,
            ),
            Toolchain(
                name="triton",
                purpose="serves: tritonserver and what its backends load",
                lock=_LOCKS / "triton.txt",
                has_burnish=False,
                code=("serving/backends/**/*.py",),
            ),
        )
    }
)
"""Every toolchain by name."""


@dataclasses.dataclass(frozen=True)
class Environment:
    """A complete virtual environment."""

    name: str
    """The toolchain's name."""
    directory: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.directory / "bin" / "python"

    @property
    def site_packages(self) -> Path:
        """Where its packages lie."""
        return self.directory / "lib" / f"python{_python_version()}" / "site-packages"


@functools.cache
def identity(name: str) -> str:
    """SHA-256 (hex) over the toolchain's lock and the code of Burnish that makes its bytes; part of the artifact key.

    Needs no environment. Equal on every machine that runs the same release.
    """
    toolchain = TOOLCHAINS[name]
    files = sorted({path for pattern in toolchain.code for path in PACKAGE.glob(pattern)})
    total = hashlib.sha256(_sha256(toolchain.lock.read_bytes()))
    for path in files:
        total.update(_sha256(path.relative_to(PACKAGE).as_posix().encode()) + _sha256(path.read_bytes()))
    return total.hexdigest()


def find(name: str) -> Environment | None:
    """The toolchain's environment if it is complete, else None. Starts nothing, waits for nothing."""
    return find_environment(TOOLCHAINS[name])


def ensure(name: str, progress: Progress) -> Environment:
    """The toolchain's environment, made now if it isn't there.

    Args:
        name: a key of `TOOLCHAINS`.
        progress: gets one line per thing that takes time; nothing if the environment is there.

    Raises:
        BurnishError: ToolchainUnavailable, with uv's own last lines and the cure. Nothing half-made stays behind.
    """
    return ensure_environment(TOOLCHAINS[name], progress)


def find_environment(toolchain: Toolchain) -> Environment | None:
    """As `find`, for a toolchain that need not be in `TOOLCHAINS`."""
    environment = Environment(toolchain.name, _directory(toolchain))
    # `python` is a link to the base interpreter, which may have been removed since.
    return environment if (environment.directory / _MARKER).is_file() and environment.python.exists() else None


def ensure_environment(toolchain: Toolchain, progress: Progress) -> Environment:
    """As `ensure`, for a toolchain that need not be in `TOOLCHAINS`."""
    if found := find_environment(toolchain):
        return found
    directory = _directory(toolchain)
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with _exclusive(
            directory.with_name(directory.name + ".lock"), lambda: progress(f"{_title(toolchain)}: another process is making it, waiting")
        ) as lock:
            return find_environment(toolchain) or _create(toolchain, directory, progress, lock)
    except OSError as error:
        cure = "Free space there, or set XDG_CACHE_HOME to a directory that can be written."
        raise BurnishError(
            Reason.ToolchainUnavailable, f"Toolchain {toolchain.name} can't be written to {directory.parent}: {error}. {cure}"
        ) from error


def cache_directory() -> Path:
    """Burnish's directory in the user's cache (XDG Base Directory Specification: a relative XDG_CACHE_HOME is ignored)."""
    configured = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (configured if configured.is_absolute() else Path.home() / ".cache") / "burnish"


def _create(toolchain: Toolchain, directory: Path, progress: Progress, lock: int) -> Environment:
    """Make the environment in place (a virtual environment can't be moved) and mark it complete last."""
    uv = functools.partial(_run_uv, toolchain, _find_uv(toolchain), directory.parent, lock)
    environment = Environment(toolchain.name, directory)
    if directory.exists():
        progress(f"{_title(toolchain)}: an earlier creation was interrupted, starting again")
        shutil.rmtree(directory)
    _remove_orphans(directory.parent)
    packages = len(re.findall(r"^[\w.-]+==", toolchain.lock.read_text(), re.MULTILINE))
    progress(f"{_title(toolchain)}: installing {packages} packages (once)")
    start = time.monotonic()
    try:
        uv("venv", "--python", sys.executable, str(directory))
        # Wheels only: nothing of a package runs while it is installed.
        install = ("pip", "install", "--no-deps", "--require-hashes", "--no-build", "--python", str(environment.python))
        uv(*install, "--requirements", str(toolchain.lock))
        if toolchain.has_burnish:
            (environment.site_packages / "burnish").symlink_to(PACKAGE, target_is_directory=True)
        (directory / _MARKER).write_text(json.dumps({"toolchain": toolchain.name, "packages": packages}) + "\n")
    except BaseException:  # Ctrl-C too
        shutil.rmtree(directory, ignore_errors=True)
        raise
    progress(f"{_title(toolchain)}: ready after {time.monotonic() - start:.0f} s")
    return environment


def _remove_orphans(directory: Path) -> None:
    """Remove the environments of checkouts that are gone (each has gigabytes, and nothing can use it): their link to the package leads nowhere."""
    for packages in directory.glob("*/lib/python*/site-packages"):
        link = packages / "burnish"
        if link.is_symlink() and not link.exists():
            environment = packages.parents[2]
            with environment.with_name(environment.name + ".lock").open("a") as lock:
                if _try_lock(lock.fileno()):
                    shutil.rmtree(environment, ignore_errors=True)


def _directory(toolchain: Toolchain) -> Path:
    """Named after everything the environment is made of, so that a new lock, interpreter or checkout never changes one that is in use."""
    parts = [toolchain.lock.read_bytes(), sys.base_prefix.encode(), str(PACKAGE).encode() if toolchain.has_burnish else b""]
    digest = hashlib.sha256(b"".join(_sha256(part) for part in parts)).hexdigest()
    return cache_directory() / "toolchains" / f"{toolchain.name}-py{_python_version()}-{digest[:12]}"


def _find_uv(toolchain: Toolchain) -> Path:
    """Find uv: BURNISH_UV, else from beside the running interpreter, else from PATH."""
    cure = "Install it beside Burnish (python -m pip install uv), or set BURNISH_UV to the program."
    if configured := os.environ.get("BURNISH_UV"):
        if not os.access(configured, os.X_OK):
            raise BurnishError(Reason.ToolchainUnavailable, f"Toolchain {toolchain.name} needs uv, and BURNISH_UV={configured} is no program. {cure}")
        return Path(configured).absolute()
    found = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
    if found is None:
        raise BurnishError(Reason.ToolchainUnavailable, f"Toolchain {toolchain.name} can't be made: uv is not installed. {cure}")
    return Path(found).absolute()


def _run_uv(toolchain: Toolchain, uv: Path, directory: Path, lock: int, *arguments: str) -> None:
    """Run uv in `directory`: outside the user's project, whose uv settings are none of ours. The user's own and UV_* variables hold.

    uv inherits the file lock, so that an uv which outlives a killed Burnish never writes into the next process's environment.

    Raises:
        BurnishError: ToolchainUnavailable.
    """
    try:
        done = subprocess.run(
            [str(uv), *arguments],
            cwd=directory,
            env=_uv_variables(),
            pass_fds=(lock,),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=INSTALL_TIMEOUT_S,
            check=False,
        )
        if done.returncode == 0:
            return
        said = done.stderr or f"exit code {done.returncode}"
    except subprocess.TimeoutExpired:
        said = f"no end after {INSTALL_TIMEOUT_S:.0f} s"
    last = "\n".join(f"  {line}" for line in _without_credentials(said).strip().splitlines()[-8:])
    cure = "Check the network and the package index (UV_DEFAULT_INDEX names another one), then try again."
    raise BurnishError(Reason.ToolchainUnavailable, f"Toolchain {toolchain.name} could not be installed. uv says:\n{last}\n{cure}")


def _uv_variables() -> dict[str, str]:
    """The user's variables; and uv trusts the machine's certificates where it has some, because a company's proxy signs with its own."""
    import ssl  # only who installs needs it

    known = ssl.get_default_verify_paths()
    has_certificates = bool(known.cafile or (known.capath and any(Path(known.capath).iterdir())))
    return {**({"UV_SYSTEM_CERTS": "true"} if has_certificates else {}), **os.environ}


@contextlib.contextmanager
def _exclusive(path: Path, on_wait: Callable[[], None]) -> Iterator[int]:
    """Hold the file lock `path` and yield its descriptor; the kernel lets go of it however the process ends.

    Raises:
        BurnishError: ToolchainUnavailable if another process holds it for longer than a creation may take.
    """
    with path.open("a") as file:
        deadline = time.monotonic() + INSTALL_TIMEOUT_S
        waiting = False
        while not _try_lock(file.fileno()):
            if not waiting:
                on_wait()
                waiting = True
            if time.monotonic() > deadline:
                raise BurnishError(
                    Reason.ToolchainUnavailable, f"Another process has held {path} for {INSTALL_TIMEOUT_S:.0f} s. End it, then try again."
                )
            time.sleep(_POLL_S)
        yield file.fileno()


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _without_credentials(text: str) -> str:
    return re.sub(r"(?<=://)[^/@\s]+@", "", text)


def _title(toolchain: Toolchain) -> str:
    return f"toolchain {toolchain.name}"


def _python_version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
