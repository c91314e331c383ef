"""An artifact in a store, as a run files it."""

from __future__ import annotations

from pathlib import Path

import pytest

from burnish.api.job_contract import ArtifactConfig
from burnish.plugins.base import DataType, HardwareClass, Signature, Tensor
from burnish.store import artifacts
from burnish.store.store import Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store", namespace="vision")


@pytest.fixture
def artifact(store: Store, tmp_path: Path) -> str:
    """Its digest."""
    made = tmp_path / "made"
    (made / "model").mkdir(parents=True)
    (made / "model" / "model.onnx").write_bytes(b"graph" * 100)
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
    (made / "artifact.json").write_bytes(artifacts.config_bytes(config))
    return artifacts.put_artifact(store, made).digest
