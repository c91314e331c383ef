"""Promises about the tree itself that no single module can keep."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEAVY = ("numpy", "scipy", "sklearn", "onnx", "onnxruntime", "openvino", "nncf", "matplotlib", "jinja2")
LIGHT = ("burnish.cli.main", "burnish.pipeline.resolve", "burnish.pipeline.stage", "burnish.pipeline.publish", "burnish.pipeline.runner")


def test_operator_folder_is_no_package() -> None:
    # With an __init__.py it would shadow the standard library's operator for whoever runs python in the root.
    assert not (ROOT / "operator" / "__init__.py").exists()


def test_command_line_and_light_steps_need_no_numeric_library() -> None:
    # They run in the light environment and image, and in every process that starts in milliseconds.
    code = f"import sys\nfor name in {HEAVY}: sys.modules[name] = None\nimport {', '.join(LIGHT)}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_build_loads_nothing_of_other_steps() -> None:
    # Its peak memory is the runtime's, on top of whatever its own process has loaded.
    others = ("onnx", "onnxruntime", "openvino", "scipy", "fsspec", "zstandard", "ssl", "burnish.pipeline.datasets", "burnish.pipeline.export")
    code = f"import sys\nfor name in {others}: sys.modules[name] = None\nfrom burnish.pipeline import __main__, build"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_judging_a_record_needs_no_numeric_library() -> None:
    code = f"import sys\nfor name in {HEAVY}: sys.modules[name] = None\nfrom burnish.pipeline import status, verdict\nfrom burnish.measurement import limits"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_tracked_files_name_no_index_and_no_path_of_a_machine() -> None:
    hosts = ("pypi" + ".org", "pythonhosted" + ".org", "proxy.golang" + ".org", "registry.npmjs" + ".org")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, tracked):
        content = (ROOT / name).read_bytes() if (ROOT / name).is_file() else b""
        for word in (*hosts, "/root/" + ".", str(ROOT)):
            assert word.encode() not in content, f"{name} holds {word}"
