"""The serving images that Burnish knows, and what each of them can load. The one table; artifacts are capped to it.

The figures of an image were found by loading models of rising opset and IR version with the very library version in it
(tests/unit/serving/test_images.py does it again for the image that runs here).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from types import MappingProxyType

from burnish.errors import BurnishError, Reason
from burnish.plugins.base import ServingImage

LOCAL_CPU = ServingImage(
    name="local-cpu",  # tritonserver out of its Python package, with our python-based backends (burnish/toolchains/locks/triton.txt)
    triton="2.51.0",
    versions={"nvidia-pytriton": "0.7.0", "onnxruntime": "1.32.0", "openvino": "2026.4.1", "numpy": "1.26.4"},
    max_opset=28,
    max_ir_version=14,
    max_openvino_opset=17,
)

NVIDIA_25_10 = ServingImage(
    # NVIDIA's own container of that release, with native backends. It was read about, not run: its ONNX Runtime is the one of the table in Triton's
    # docs/introduction/compatibility.md, its OpenVINO the one that build.py sets from 25.10 on. What these load was found with their wheels for CPUs.
    name="nvidia-25.10",
    triton="2.62.0",
    versions={"onnxruntime": "1.23.1", "openvino": "2025.3.0"},
    max_opset=23,
    max_ir_version=11,
    max_openvino_opset=16,
)

IMAGES: Mapping[str, ServingImage] = MappingProxyType({image.name: image for image in (LOCAL_CPU, NVIDIA_25_10)})
"""Every serving image by name."""


def image(name: str) -> ServingImage:
    """The serving image called `name`.

    Raises:
        BurnishError: InternalError, for a name that this release doesn't have (a request of another release).
    """
    if name not in IMAGES:
        raise BurnishError(Reason.InternalError, f"there is no serving image {name!r}; this release knows {', '.join(IMAGES)}")
    return IMAGES[name]


def triton_identity(image: ServingImage, lock_digest: str) -> str:
    """What the measurement key says of the server: SHA-256 (hex) over the image's table entry and the digest of what is installed in it.

    Args:
        image: the serving image.
        lock_digest: identity of the serving environment: its lock and the code of its backends.
    """
    facts = {
        "name": image.name,
        "triton": image.triton,
        "versions": dict(image.versions),
        "maxOpset": image.max_opset,
        "maxIrVersion": image.max_ir_version,
        "maxOpenvinoOpset": image.max_openvino_opset,
        "lock": lock_digest,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
