"""Loading every plugin costs no ML library: the controller does it."""

from __future__ import annotations

import subprocess
import sys

from burnish.plugins import registry


def test_registry_finds_the_plugins() -> None:
    assert registry.formats()["ONNX"].name == "ONNX"
    assert {name: runtime.backend for name, runtime in registry.runtimes().items()} == {"ONNXRuntime": "onnxruntime", "OpenVINO": "openvino"}
    assert "Quantize" in registry.passes()


def test_loading_all_plugins_in_a_fresh_process_imports_no_heavy_module() -> None:
    code = (
        "import sys; from burnish.plugins import registry; "
        "assert registry.formats() and registry.passes() and registry.runtimes(); "
        "print(sorted(m for m in sys.modules if m.split('.')[0] in "
        "{'onnx', 'onnxruntime', 'numpy', 'torch', 'torchvision', 'timm', 'transformers', 'safetensors', 'tensorflow', 'keras', 'tf2onnx', 'h5py', 'openvino', 'scipy', 'sklearn', 'google', 'ml_dtypes'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
