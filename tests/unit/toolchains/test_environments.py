import hashlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from burnish.errors import BurnishError, Reason
from burnish.toolchains import environments
from burnish.toolchains.environments import Toolchain

CREATE = """
import sys
from pathlib import Path
from burnish.toolchains.environments import Toolchain, ensure_environment
toolchain = Toolchain(name="tiny", purpose="tests", lock=Path(sys.argv[1]), has_burnish=True)
print(ensure_environment(toolchain, lambda line: print(line, flush=True)).directory, flush=True)
"""
"""What another process runs; prints its progress and, last, the environment's directory."""


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toolchain:
    """A toolchain of one small pure-Python package, and an empty cache; uv keeps its own, as it would on a user's machine."""
    monkeypatch.setenv("UV_CACHE_DIR", _uv_cache())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    real = environments.TOOLCHAINS["onnx"].lock.read_text()
    entry = re.search(r"^mdurl==(?:.*\\\n)*.*\n", real, re.MULTILINE)
    assert entry is not None
    lock = tmp_path / "tiny.txt"
    lock.write_text(entry.group())
    return Toolchain(name="tiny", purpose="tests", lock=lock, has_burnish=True)


def _uv_cache() -> str:
    uv = environments._find_uv(environments.TOOLCHAINS["onnx"])
    return subprocess.run([str(uv), "cache", "dir"], capture_output=True, text=True, check=True).stdout.strip()


def _program(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def _gated_uv(directory: Path, *, before: str) -> tuple[Path, Path]:
    """The real uv behind a gate: its command `before` makes the file `go.reached`, then waits for `go`. Returns the program and `go`."""
    real, go = environments._find_uv(environments.TOOLCHAINS["onnx"]), directory / "go"
    gate = f'if [ "$1" = {before} ]; then touch {shlex.quote(str(go))}.reached; until [ -e {shlex.quote(str(go))} ]; do sleep 0.05; done; fi'
    return _program(directory / "gated-uv", f'{gate}\nexec {shlex.quote(str(real))} "$@"'), go


def _start(toolchain: Toolchain, uv: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CREATE, str(toolchain.lock)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "BURNISH_UV": str(uv)},
    )


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def _left(toolchain: Toolchain) -> list[str]:
    return [path.name for path in environments._directory(toolchain).parent.iterdir() if path.is_dir()]


def test_environment_of_a_checkout_that_is_gone_is_removed_when_another_is_made(
    tiny: Toolchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkouts = [tmp_path / name / "burnish" for name in ("gone", "kept", "new")]
    made = []
    for checkout in checkouts:
        checkout.mkdir(parents=True)
        monkeypatch.setattr(environments, "PACKAGE", checkout)
        if checkout is checkouts[-1]:
            shutil.rmtree(checkouts[0])
        made.append(environments.ensure_environment(tiny, lambda _: None).directory)
    assert [directory.exists() for directory in made] == [False, True, True]


def test_environment_runs_packages_and_burnish_when_made(tiny: Toolchain) -> None:
    lines: list[str] = []
    environment = environments.ensure_environment(tiny, lines.append)
    code = "import burnish, mdurl, sys; print(burnish.__file__, sys.version)"
    said = subprocess.run([str(environment.python), "-I", "-c", code], capture_output=True, text=True, check=True, cwd="/").stdout
    assert Path(said.split()[0]).resolve().parent == environments.PACKAGE
    assert said.rstrip().endswith(sys.version)
    assert lines[0] == "toolchain tiny: installing 1 packages (once)"
    assert lines[-1].startswith("toolchain tiny: ready after ")
    assert list((environment.site_packages).glob("pip*")) == []


def test_environment_starts_nothing_when_complete(tiny: Toolchain, monkeypatch: pytest.MonkeyPatch) -> None:
    made = environments.ensure_environment(tiny, lambda _: None)
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("a process was started"))
    lines: list[str] = []
    start = time.perf_counter()
    assert environments.ensure_environment(tiny, lines.append) == made
    assert time.perf_counter() - start < 0.05
    assert lines == []


def test_environment_is_made_once_when_two_processes_need_it(tiny: Toolchain, tmp_path: Path) -> None:
    uv, go = _gated_uv(tmp_path, before="pip")
    first = _start(tiny, uv)
    assert _line(first) == "toolchain tiny: installing 1 packages (once)"
    second = _start(tiny, uv)
    assert _line(second) == "toolchain tiny: another process is making it, waiting"
    go.touch()
    out_first, out_second = first.communicate(timeout=60)[0], second.communicate(timeout=60)[0]
    assert (first.returncode, second.returncode) == (0, 0)
    assert out_first.splitlines()[-1] == out_second.splitlines()[-1]
    assert "installing" not in out_second


def test_environment_is_repaired_when_its_maker_was_killed(tiny: Toolchain, tmp_path: Path) -> None:
    uv, go = _gated_uv(tmp_path, before="pip")
    killed = _start(tiny, uv)
    _line(killed)
    _wait_until((tmp_path / "go.reached").exists)
    killed.kill()
    assert killed.wait(timeout=30) == -signal.SIGKILL
    assert environments.find_environment(tiny) is None
    # The orphaned uv still holds the lock: the next process must not share the directory with it.
    repairing = _start(tiny, uv)
    assert _line(repairing) == "toolchain tiny: another process is making it, waiting"
    go.touch()
    out, _ = repairing.communicate(timeout=60)
    assert out.splitlines()[:2] == [
        "toolchain tiny: an earlier creation was interrupted, starting again",
        "toolchain tiny: installing 1 packages (once)",
    ]
    assert repairing.returncode == 0
    assert environments.find_environment(tiny) is not None
    for pipe in (killed.stdout, killed.stderr):
        assert pipe is not None
        pipe.close()


def test_environment_leaves_nothing_when_interrupted(tiny: Toolchain, tmp_path: Path) -> None:
    uv, _ = _gated_uv(tmp_path, before="pip")
    process = _start(tiny, uv)
    _line(process)
    _wait_until((tmp_path / "go.reached").exists)
    assert _left(tiny) != []
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert _left(tiny) == []


def test_environment_is_remade_when_base_interpreter_is_gone(tiny: Toolchain) -> None:
    made = environments.ensure_environment(tiny, lambda _: None)
    made.python.unlink()
    made.python.symlink_to("/nonexistent/python")
    assert environments.find_environment(tiny) is None
    assert environments.ensure_environment(tiny, lambda _: None).python.exists()


def test_environment_fails_and_leaves_nothing_when_hash_differs(tiny: Toolchain) -> None:
    tiny.lock.write_text(re.sub(r"sha256:[0-9a-f]{64}", "sha256:" + "0" * 64, tiny.lock.read_text()))
    with pytest.raises(BurnishError) as caught:
        environments.ensure_environment(tiny, lambda _: None)
    assert caught.value.reason is Reason.ToolchainUnavailable
    assert "mdurl" in caught.value.message
    assert "hash" in caught.value.message.lower()
    assert _left(tiny) == []


def test_environment_error_holds_no_credentials_when_uv_prints_them(tiny: Toolchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = _program(tmp_path / "uv", 'echo "error: failed to fetch https://me:s3cret@index.example/simple/mdurl/" >&2; exit 2')
    monkeypatch.setenv("BURNISH_UV", str(broken))
    with pytest.raises(BurnishError) as caught:
        environments.ensure_environment(tiny, lambda _: None)
    assert "https://index.example/simple/mdurl/" in caught.value.message
    assert "s3cret" not in caught.value.message


def test_environment_fails_when_uv_fails_silently(tiny: Toolchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BURNISH_UV", str(_program(tmp_path / "uv", "exit 3")))
    with pytest.raises(BurnishError, match="exit code 3"):
        environments.ensure_environment(tiny, lambda _: None)
    assert _left(tiny) == []


def test_environment_names_the_cure_when_uv_is_missing(tiny: Toolchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BURNISH_UV", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(BurnishError, match=r"uv is not installed.*pip install uv"):
        environments.ensure_environment(tiny, lambda _: None)
    monkeypatch.setenv("BURNISH_UV", str(tmp_path / "nothing"))
    with pytest.raises(BurnishError, match=r"BURNISH_UV=.*nothing is no program"):
        environments.ensure_environment(tiny, lambda _: None)
    assert _left(tiny) == []


def test_environment_names_the_cure_when_cache_is_no_directory(tiny: Toolchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(BurnishError, match="set XDG_CACHE_HOME") as caught:
        environments.ensure_environment(tiny, lambda _: None)
    assert caught.value.reason is Reason.ToolchainUnavailable


def test_cache_directory_is_in_home_when_xdg_cache_home_is_relative(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "somewhere")
    assert environments.cache_directory() == tmp_path / ".cache" / "burnish"


def test_directory_differs_when_lock_differs(tiny: Toolchain) -> None:
    before = environments._directory(tiny)
    tiny.lock.write_text(tiny.lock.read_text() + "\n")
    assert environments._directory(tiny) != before


@pytest.mark.parametrize(
    ("changed", "differs"),
    [
        ("plugins/base.py", True),
        ("plugins/runtimes/added.py", True),
        ("pipeline/export.py", True),
        ("toolchains/locks/onnx.txt", True),
        ("toolchains/locks/triton.txt", False),
        ("errors.py", False),
        ("cli/added.py", False),
        (None, False),
    ],
)
def test_identity_follows_code_and_lock_when_they_change(tmp_path: Path, changed: str | None, differs: bool) -> None:
    copy = tmp_path / "burnish"
    shutil.copytree(environments.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    if changed:
        with (copy / changed).open("a") as file:
            file.write("# changed\n")
    code = "from burnish.toolchains import environments as e; print(e.PACKAGE, e.identity('onnx'))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    package, identity = said.stdout.split()
    assert Path(package) == copy
    assert len(identity) == hashlib.sha256().digest_size * 2
    assert (identity != environments.identity("onnx")) is differs


@pytest.mark.parametrize("name", environments.TOOLCHAINS)
def test_lock_names_no_index_and_hashes_everything(name: str) -> None:
    text = environments.TOOLCHAINS[name].lock.read_text()
    assert "://" not in text
    entries = re.split(r"\n(?=\S)", text.strip())
    assert entries
    assert all(re.match(r"[\w.-]+==\S+ ", entry) and "--hash=sha256:" in entry for entry in entries)


def test_onnx_environment_loads_its_libraries() -> None:
    environment = environments.ensure("onnx", print)
    code = "import burnish.plugins.registry, matplotlib, onnx, onnxruntime, scipy, sklearn, fsspec, zstandard; print(onnxruntime.__version__)"
    said = subprocess.run([str(environment.python), "-I", "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "1.32.0"


def test_triton_environment_runs_its_server_and_holds_numpy_below_2() -> None:
    environment = environments.ensure("triton", print)
    code = "import numpy, onnxruntime; print(numpy.__version__, onnxruntime.__version__)"
    said = subprocess.run([str(environment.python), "-I", "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["1.26.4", "1.32.0"]
    server = environment.site_packages / "pytriton" / "tritonserver" / "bin" / "tritonserver"
    help_text = subprocess.run([str(server), "--help"], capture_output=True, text=True, check=False)
    assert "--model-repository" in help_text.stdout + help_text.stderr


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)
