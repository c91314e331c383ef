"""One resource and one installation, for all tests of manifests; each fixture makes one, changed as the test wants it."""

import pytest

from burnish.api.v1alpha1.optimized_model import OptimizedModel
from burnish.api.v1alpha1.status import ArtifactStatus
from burnish.manifests.settings import Settings

UID = "0d1f4a3e-6f5b-4c0e-9d55-1c8a8f6b7a11"


@pytest.fixture
def uid() -> str:
    return UID


@pytest.fixture
def make_settings():
    def make(**changes) -> Settings:
        written = {
            "images": {"burnish": "burnish:1", "optimizers": {"onnx": "optimizer-onnx:1"}, "triton": "triton:1"},
            "store": {"uri": "s3://models/store"},
            "cluster": "blue",
        }
        written["images"] |= changes.pop("images", {})
        return Settings.model_validate(written | changes)

    return make


@pytest.fixture
def settings(make_settings) -> Settings:
    return make_settings()


@pytest.fixture
def make_model():
    """`digits` in namespace `models` with one target `cpu`."""

    def make(target: dict | None = None, **spec) -> OptimizedModel:
        resources = {"cpu": "2", "memory": "1Gi", "cpuRequest": "100m"}
        written = {
            "source": {"uri": "s3://models/digits.onnx"},
            "targets": [{"name": "cpu", "runtime": "ONNXRuntime", "resources": resources} | (target or {})],
        }
        metadata = {"name": "digits", "namespace": "models", "generation": 1, "uid": UID}
        return OptimizedModel.model_validate({"metadata": metadata, "spec": written | spec})

    return make


@pytest.fixture
def make_artifact():
    def make(digit: str = "a", **changes) -> ArtifactStatus:
        written = {"digest": f"sha256:{digit * 64}", "uri": "s3://models/store", "size": "26Mi", "served": "Candidate", "sharedMemory": "96Mi"}
        return ArtifactStatus.model_validate(written | changes)

    return make


@pytest.fixture
def gpu() -> dict:
    """A target with everything that concerns its node."""
    return {
        "name": "gpu",
        "accelerator": {
            "type": "GPU",
            "product": "NVIDIA-A10",
            "count": 2,
            "nodeLabels": [{"name": "example.com/pool", "value": "gpu"}, {"name": "burnish.dev/hardware-class", "value": "a"}],
        },
        "pods": {
            "tolerations": [
                {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
                {"key": "pool", "operator": "Equal", "value": "gpu"},
            ],
            "runtimeClassName": "nvidia",
            "priorityClassName": "low",
            "imagePullSecrets": [{"name": "registry"}],
        },
    }
