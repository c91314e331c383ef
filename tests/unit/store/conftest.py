"""Real file systems for the store's tests: full and read-only ones are mounted, because root ignores permissions."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from burnish.store.store import Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a tmpfs of the given size and returns where."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small file system")
    target = tmp_path / "mounted"
    target.mkdir()

    def mount(size: str) -> Path:
        made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(target)], capture_output=True, text=True)
        if made.returncode:
            pytest.skip(f"this machine lets nobody mount: {made.stderr.strip()}")
        return target

    try:
        yield mount
    finally:
        if target.is_mount():
            subprocess.run(["umount", "-l", str(target)], check=True)


@pytest.fixture
def make_read_only() -> Iterator[Callable[[Path], None]]:
    """Makes a directory read-only, for root too."""
    done: list[Path] = []

    def freeze(path: Path) -> None:
        if os.geteuid() != 0:
            path.chmod(0o500)
        else:
            made = subprocess.run(["mount", "--bind", str(path), str(path)], capture_output=True, text=True)
            if made.returncode:
                pytest.skip(f"this machine lets nobody mount: {made.stderr.strip()}")
            done.append(path)
            subprocess.run(["mount", "-o", "remount,bind,ro", str(path)], check=True)

    try:
        yield freeze
    finally:
        for path in done:
            subprocess.run(["umount", "-l", str(path)], check=True)
