"""As the first process of a container sees SIGTERM: in a process namespace of its own."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from burnish.pipeline import container

WAITS = "import sys, time; print('up', flush=True); time.sleep(60)"


def _ended_by_sigterm(code: str) -> int | None:
    """Exit code of the namespace's first process; None where it went on."""
    with subprocess.Popen(["unshare", "--pid", "--fork", "--kill-child", sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as outer:
        assert outer.stdout is not None
        assert outer.stdout.readline() == "up\n"
        (first,) = Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()
        os.kill(int(first), signal.SIGTERM)
        try:
            return outer.wait(3)
        except subprocess.TimeoutExpired:
            outer.kill()
            return None


@pytest.mark.skipif(os.geteuid() != 0, reason="a process namespace needs root")
def test_first_process_of_a_container_ends_on_sigterm() -> None:
    assert _ended_by_sigterm(WAITS) is None, "without a handler it is not even told"
    assert _ended_by_sigterm(f"from {container.__name__} import end_on_sigterm; end_on_sigterm(); {WAITS}") == 143
