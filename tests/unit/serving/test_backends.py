"""What can be said of our backends without a server; the rest is in tests/integration/test_server.py."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import burnish.serving
from burnish.plugins import registry

BACKENDS = Path(burnish.serving.__file__).parent / "backends"


def test_there_is_a_backend_for_every_runtime():
    assert {path.parent.name for path in BACKENDS.glob("*/model.py")} == {runtime.backend for runtime in registry.runtimes().values()}


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_backend_refuses_a_numpy_with_which_the_stub_answers_nothing(tmp_path, backend):
    assert int(np.__version__.split(".")[0]) >= 2, "this environment can't show it"
    (tmp_path / "triton_python_backend_utils.py").write_text("")  # comes with Triton only
    done = subprocess.run(
        [sys.executable, str(BACKENDS / backend / "model.py")],
        env={"PYTHONPATH": f"{tmp_path}:{BACKENDS / 'python'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "needs numpy < 2" in done.stderr
