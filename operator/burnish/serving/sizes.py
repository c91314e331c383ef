"""How much shared memory a server needs: Triton and its python backend exchange tensors through /dev/shm.

Measured with Triton 2.51 (the python backend): 1 MB from the start, 1 MB per instance, and a pool that grows to what is in flight and never
shrinks; where it can't grow, requests fail. That is the largest batch with its answer, once for one client, and up to 2.8 times for many of them:
answers wait there until they are sent while the next batch is written. Native backends need less.
"""

from __future__ import annotations

from burnish.api.job_contract import ArtifactConfig
from burnish.plugins.base import DataType, Tensor
from burnish.serving.config import ServingOptions

MIN_BYTES = 64 * 2**20
_START_BYTES = 2**20
_INSTANCE_BYTES = 2**20
_IN_FLIGHT = 3
_STRING_BYTES = 256
"""For a string of unknown length."""


def shared_memory_bytes(artifact: ArtifactConfig, options: ServingOptions) -> int:
    """Bytes for /dev/shm of one server, at least `MIN_BYTES`; rounded up to whole MiB."""
    batched = artifact.signature.is_batched and options.max_batch_size > 0
    largest = {entry.name: {bounds.axis: bounds.max for bounds in entry.bounds} for entry in artifact.inputs}
    batch = options.max_batch_size if batched else 1
    tensors = [*artifact.signature.inputs, *artifact.signature.outputs]
    # An output whose size nobody knows is taken to be as long as the longest input dimension that varies.
    longest = max((size for sizes in largest.values() for axis, size in sizes.items() if axis or not batched), default=1)
    request = sum(_bytes(tensor, largest.get(tensor.name, {}), longest, batched) for tensor in tensors) * batch
    total = _START_BYTES + options.instances * max(1, options.gpus) * (_INSTANCE_BYTES + request) * _IN_FLIGHT
    return max(MIN_BYTES, -(-total // 2**20) * 2**20)


def _bytes(tensor: Tensor, largest: dict[int, int], longest: int, batched: bool) -> int:
    size = _STRING_BYTES if tensor.data_type is DataType.BYTES else _item_bytes(tensor.data_type)
    for axis, dimension in enumerate(tensor.shape):
        if axis or not batched:
            size *= dimension if dimension != -1 else largest.get(axis, longest)
    return size


def _item_bytes(data_type: DataType) -> int:
    if data_type is DataType.BOOL:
        return 1
    return int("".join(c for c in data_type.value if c.isdigit())) // 8
