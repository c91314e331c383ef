"""The promise of the set-up: from a bare tree to a working command, once, and in no time after that."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOT_IN_A_CLONE = (".venv", ".tools", ".git", ".work", "__pycache__", ".*_cache", ".hypothesis")

pytestmark = pytest.mark.long


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """This tree as a fresh clone has it."""
    return Path(shutil.copytree(ROOT, tmp_path / "burnish", ignore=shutil.ignore_patterns(*NOT_IN_A_CLONE)))


def _make(tree: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "VIRTUAL_ENV", "PYTHON", "VENV"))}
    home = tree.parent / "home"  # cold caches
    home.mkdir(exist_ok=True)
    environment = {**kept, "HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache"), "PYTHON": sys.executable, **variables}
    return subprocess.run(["make", *arguments], cwd=tree, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.alone
def test_install_makes_the_command_and_is_quick_when_done(tree: Path) -> None:
    first = _make(tree, "install")
    assert first.returncode == 0, first.stderr
    assert "fetching uv" in first.stdout
    burnish = tree / ".venv" / "bin" / "burnish"
    version = subprocess.run([str(burnish), "--version"], capture_output=True, text=True, check=True, cwd="/")
    assert version.stdout.startswith("burnish ")
    assert (burnish.parent / "uv").exists()  # toolchains are made with it

    start = time.monotonic()
    again = _make(tree, "install")
    seconds = time.monotonic() - start
    assert again.returncode == 0
    assert "installing" not in again.stdout
    assert seconds < 1.0


def test_install_replaces_an_environment_of_another_python_and_keeps_one_of_the_same(tree: Path) -> None:
    (tree / ".venv" / "bin").mkdir(parents=True)
    (tree / ".venv" / "pyvenv.cfg").touch()  # uv replaces nothing that isn't a virtual environment
    other = tree / ".venv" / "bin" / "python"
    other.write_text("#!/bin/sh\nexit 1\n")
    other.chmod(0o755)
    assert _make(tree, "install").returncode == 0
    mark = tree / ".venv" / "kept"
    mark.touch()
    for sentinel in (tree / ".venv").glob(".python-*"):
        sentinel.unlink()
    (tree / ".venv" / ".installed").unlink()
    again = _make(tree, "install")
    assert again.returncode == 0, again.stderr
    assert "installing Burnish" in again.stdout
    assert mark.exists()


def test_install_names_the_cure_when_python_is_unsupported(tree: Path) -> None:
    old = tree.parent / "python3.9"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    failed = _make(tree, "install", PYTHON=str(old))
    assert failed.returncode != 0
    assert "Burnish needs Python 3.11 or 3.12" in failed.stderr
    assert not (tree / ".venv").exists()
