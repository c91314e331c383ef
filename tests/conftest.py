"""What tests of several folders need."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

# Hypothesis's plugin imports it when a session ends. Python 3.11.7's ast.parse may fail ("recursion depth mismatch") when the garbage collector runs
# code in the middle of it, and then there is garbage to collect; so it's imported now.
import hypothesis.internal.observability  # noqa: F401
import pytest

from burnish.api.job_contract import ArtifactConfig, ArtifactRef
from burnish.plugins.base import DataType, HardwareClass, Signature, Tensor
from burnish.store import artifacts
from burnish.store.store import Store

if TYPE_CHECKING:
    from control_plane import ControlPlane


@pytest.fixture(scope="session")
def bare_api() -> Iterator[ControlPlane]:
    """A control plane, one for each of pytest-xdist's workers; whether the CRD is in it is not said."""
    sys.path.insert(0, str(Path(__file__).parent / "cluster"))
    import control_plane

    with control_plane.running() as found:
        yield found


@pytest.fixture(scope="session")
def api(bare_api: ControlPlane) -> ControlPlane:
    """A control plane with the CRD."""
    bare_api.install_crd()
    return bare_api


@pytest.fixture
def file_artifact() -> Callable[[Store, Path, bytes], ArtifactRef]:
    """Files an artifact whose model is some bytes; `folder` is made, and what it is filed from."""

    def file(store: Store, folder: Path, model: bytes) -> ArtifactRef:
        (folder / "model").mkdir(parents=True)
        (folder / "model" / "model.onnx").write_bytes(model)
        tensor = Tensor(name="x", data_type=DataType.FP32, shape=(-1, 4))
        config = ArtifactConfig(
            name="baseline",
            summary="converted only",
            runtime="ONNXRuntime",
            backend="onnxruntime",
            model_file="model.onnx",
            signature=Signature(inputs=(tensor,), outputs=(tensor,)),
            inputs=(),
            source_digest="sha256:" + "0" * 64,
            artifact_key="0" * 64,
            toolchain="t",
            hardware_class=HardwareClass(architecture="x86-64", vendor="GenuineIntel", isa=("AVX2",)),
        )
        (folder / "artifact.json").write_bytes(artifacts.config_bytes(config))
        return artifacts.put_artifact(store, folder)

    return file
