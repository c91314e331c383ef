"""Sources of PyTorch and TensorFlow on a real cluster. Their images have gigabytes, so they are built, loaded and installed here only."""

from __future__ import annotations

import pytest

from installation import EXPORTERS, Installation, Space, is_ready, is_stalled

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]


@pytest.mark.parametrize(("example", "source_format"), [("pytorch", "StateDict"), ("keras", "Keras")])
def test_a_source_waits_for_the_image_of_its_toolchain_and_is_then_served(
    installation: Installation, space: Space, example: str, source_format: str
) -> None:
    image = EXPORTERS[example]
    installation.upload(example)
    installation.apply_example(space, example)
    failure = space.wait(example, is_stalled)["status"]["lastFailure"]
    assert failure["reason"] == "ToolchainUnavailable"
    assert image.replace("optimizer-", "images.optimizers.") in failure["message"]

    installation.images(image)
    installation.install()
    model = space.wait(example, is_ready)
    assert model["status"]["source"]["format"] == source_format
    (target,) = model["status"]["targets"]
    assert target["artifact"]["served"] == "Candidate"
    (job,) = (j for j in space.get("jobs", "") if "resolve" not in j["metadata"]["name"])
    images = {c["name"]: c["image"] for c in job["spec"]["template"]["spec"]["initContainers"]}
    assert images["export"] == installation.references[image]
    assert images["build"] == images["measure"] == installation.references["optimizer-onnx"]


def test_trusted_does_not_count_where_nobody_said_so(space: Space) -> None:
    source = {"uri": "s3://models/net.pt2", "trusted": True}
    targets = [{"name": "cpu", "runtime": "ONNXRuntime"}]
    space.apply(
        {"apiVersion": "burnish.dev/v1alpha1", "kind": "OptimizedModel", "metadata": {"name": "net"}, "spec": {"source": source, "targets": targets}}
    )
    assert space.wait("net", is_stalled)["status"]["lastFailure"]["reason"] == "SourceNotTrusted"
    assert space.get("jobs", "") == []
