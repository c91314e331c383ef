"""A source of PyTorch on a real cluster. Its image has gigabytes, so it is built, loaded and installed here only."""

from __future__ import annotations

import pytest

from installation import Installation, Space, is_ready, is_stalled

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]


def test_a_state_dict_waits_for_its_image_and_is_then_served(installation: Installation, space: Space) -> None:
    installation.upload("pytorch")
    installation.apply_example(space, "pytorch")
    failure = space.wait("pytorch", is_stalled)["status"]["lastFailure"]
    assert failure["reason"] == "ToolchainUnavailable"
    assert "images.optimizers.torch" in failure["message"]

    installation.images("optimizer-torch")
    installation.install()
    model = space.wait("pytorch", is_ready)
    assert model["status"]["source"]["format"] == "StateDict"
    (target,) = model["status"]["targets"]
    assert target["artifact"]["served"] == "Candidate"
    (job,) = (j for j in space.get("jobs", "") if "resolve" not in j["metadata"]["name"])
    images = {c["name"]: c["image"] for c in job["spec"]["template"]["spec"]["initContainers"]}
    assert images["export"] == installation.references["optimizer-torch"]
    assert images["build"] == images["measure"] == installation.references["optimizer-onnx"]


def test_trusted_does_not_count_where_nobody_said_so(space: Space) -> None:
    source = {"uri": "s3://models/net.pt2", "trusted": True}
    targets = [{"name": "cpu", "runtime": "ONNXRuntime"}]
    space.apply(
        {"apiVersion": "burnish.dev/v1alpha1", "kind": "OptimizedModel", "metadata": {"name": "net"}, "spec": {"source": source, "targets": targets}}
    )
    assert space.wait("net", is_stalled)["status"]["lastFailure"]["reason"] == "SourceNotTrusted"
    assert space.get("jobs", "") == []
