"""Shared memory of a server. The measurements behind the formula are in docs/serving.md."""

import pytest

from burnish.api.job_contract import ArtifactConfig, Bounds, ResolvedInput
from burnish.plugins.base import DataType, HardwareClass, Signature, Tensor
from burnish.serving.config import ServingOptions
from burnish.serving.sizes import MIN_BYTES, shared_memory_bytes

MIB = 2**20


def artifact(inputs: dict[str, tuple], outputs: dict[str, tuple], bounds: dict[str, tuple[Bounds, ...]] | None = None) -> ArtifactConfig:
    """Name -> (data type, shape)."""
    tensors = [tuple(Tensor(name=n, data_type=kind, shape=shape) for n, (kind, shape) in side.items()) for side in (inputs, outputs)]
    return ArtifactConfig(
        name="baseline",
        summary="",
        runtime="ONNXRuntime",
        backend="onnxruntime",
        model_file="model.onnx",
        signature=Signature(inputs=tensors[0], outputs=tensors[1]),
        inputs=tuple(ResolvedInput(name=t.name, data_type=t.data_type, shape=t.shape, bounds=(bounds or {}).get(t.name, ())) for t in tensors[0]),
        source_digest="sha256:" + "0" * 64,
        artifact_key="",
        toolchain="",
        hardware_class=HardwareClass(architecture="", vendor="", isa=()),
    )


IMAGE = {"image": (DataType.FP32, (-1, 3, 1024, 1024))}  # 12 MiB
MASK = {"mask": (DataType.FP16, (-1, 2, 1024, 1024))}  # 4 MiB


def test_a_small_model_gets_the_least():
    small = artifact({"x": (DataType.FP32, (-1, 4))}, {"y": (DataType.FP32, (-1, 4))})
    assert shared_memory_bytes(small, ServingOptions(threads=1, max_batch_size=8)) == MIN_BYTES


@pytest.mark.parametrize(("batch", "instances", "gpus"), [(4, 1, 0), (8, 1, 0), (8, 2, 0), (8, 2, 3)])
def test_a_large_model_gets_room_for_each_instances_largest_batch(batch, instances, gpus):
    found = shared_memory_bytes(artifact(IMAGE, MASK), ServingOptions(threads=1, max_batch_size=batch, instances=instances, gpus=gpus))
    assert found == (1 + instances * max(gpus, 1) * (1 + 16 * batch) * 3) * MIB


def test_the_declared_largest_sizes_count():
    bounds = {"ids": (Bounds(axis=1, min=1, opt=128, max=4096),)}
    found = artifact({"ids": (DataType.INT64, (-1, -1))}, {"states": (DataType.FP32, (-1, -1, 1024))}, bounds)
    per_sample = 4096 * 8 + 4096 * 1024 * 4  # the output's length, which nobody declared, is taken to be the input's
    assert shared_memory_bytes(found, ServingOptions(threads=1, max_batch_size=8)) == -(-(MIB + (MIB + 8 * per_sample) * 3) // MIB) * MIB


def test_a_model_without_a_batch_axis_counts_once():
    fixed = artifact({"image": (DataType.UINT8, (64, MIB))}, {"mask": (DataType.BOOL, (64, MIB))})
    assert shared_memory_bytes(fixed, ServingOptions(threads=1, max_batch_size=8)) == (1 + 129 * 3) * MIB


def test_strings_count_with_a_guess():
    text = artifact({"text": (DataType.BYTES, (-1, 4096))}, {"text2": (DataType.BYTES, (-1, 4096))})
    assert shared_memory_bytes(text, ServingOptions(threads=1, max_batch_size=64)) == (1 + 129 * 3) * MIB
