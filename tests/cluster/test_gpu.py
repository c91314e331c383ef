"""A GPU target at a real apiserver and scheduler: its pods are admitted under the Restricted profile, and go to the labelled node and nowhere else.

There is no GPU here and no kubelet: a node is an object with a label and a patched capacity, and being bound to it is all that a pod can come to.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from control_plane import MERGE, ControlPlane, wait_until

from burnish.api.v1alpha1.optimized_model import OptimizedModel
from burnish.api.v1alpha1.status import ArtifactStatus
from burnish.manifests import jobs, serving
from burnish.manifests.settings import Settings

UID = "0d1f4a3e-6f5b-4c0e-9d55-1c8a8f6b7a11"
NVIDIA = Settings.model_validate(
    {
        "images": {
            "burnish": "burnish:1",
            "optimizers": {"onnx": "optimizer-onnx:1", "torch": "optimizer-torch:1"},
            "triton": "registry.example/nvidia/tritonserver:25.10-py3",
            "servingImage": "nvidia-25.10",
        },
        "store": {"uri": "s3://models/store"},
    }
)
TARGET = {
    "name": "gpu",
    "runtime": "ONNXRuntime",
    "accelerator": {"type": "GPU", "product": "NVIDIA-A10", "count": 1},
    "resources": {"cpu": "2", "memory": "2Gi"},
    "pods": {"tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}], "runtimeClassName": "nvidia"},
}
MANIFEST = {
    "apiVersion": "burnish.dev/v1alpha1",
    "kind": "OptimizedModel",
    "metadata": {"name": "digits"},
    "spec": {"source": {"uri": "s3://models/digits/model.onnx"}, "targets": [TARGET]},
}


TRAINING = {"passes": [{"type": "Finetune"}], "datasets": {"training": {"uri": "s3://models/training.npz"}}}
KINDS = pytest.mark.parametrize("kind", ["server", "job", "training job"])


@pytest.fixture
def restricted(api: ControlPlane) -> Iterator[str]:
    name = api.create_namespace("gpu", {"pod-security.kubernetes.io/enforce": "restricted"})
    yield name
    api.delete_namespace(name)


@pytest.fixture
def runtime_class(api: ControlPlane) -> None:
    """As NVIDIA's operator makes it."""
    body = {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "nvidia"}, "handler": "nvidia"}
    assert api.request("POST", "/apis/node.k8s.io/v1/runtimeclasses", body).status in (201, 409)


@contextlib.contextmanager
def node(api: ControlPlane, *, product: str | None, gpus: int) -> Iterator[str]:
    """A node that says it is ready; it goes by itself when it is forgotten, and with the context at the latest."""
    name = f"gpu-{secrets.token_hex(4)}"
    taints = [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}]  # it keeps other tests' pods away, too
    labels = {"kubernetes.io/hostname": name} | ({"nvidia.com/gpu.product": product} if product else {})
    body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}, "spec": {"taints": taints}}
    assert api.request("POST", "/api/v1/nodes", body).status == 201
    try:
        capacity = {"cpu": "16", "memory": "64Gi", "pods": "110", "ephemeral-storage": "100Gi"} | ({"nvidia.com/gpu": str(gpus)} if gpus else {})
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        ready = {"type": "Ready", "status": "True", "reason": "Test", "message": "", "lastHeartbeatTime": now, "lastTransitionTime": now}
        status = {"status": {"capacity": capacity, "allocatable": capacity, "conditions": [ready]}}
        assert api.request("PATCH", f"/api/v1/nodes/{name}/status", status, content_type=MERGE).status == 200
        wait_until(lambda: not_ready_taint(api, name) is None, "node without the taint of a node that is not ready")
        yield name
    finally:
        api.request("DELETE", f"/api/v1/nodes/{name}")


def not_ready_taint(api: ControlPlane, name: str) -> Any:
    taints = api.request("GET", f"/api/v1/nodes/{name}").body["spec"].get("taints", ())
    return next((taint for taint in taints if taint["key"] == "node.kubernetes.io/not-ready"), None)


def pod_of(kind: str, namespace: str) -> dict[str, Any]:
    """A pod of the Deployment, or of the Job, that the controller would make, for the scheduler alone."""
    spec: dict[str, Any] = {**MANIFEST["spec"], **(TRAINING if kind == "training job" else {})}  # type: ignore[dict-item]
    model = OptimizedModel.model_validate(MANIFEST | {"metadata": {"name": "digits", "namespace": namespace, "uid": UID}, "spec": spec})
    (target,) = model.spec.targets
    if kind == "server":
        artifact = ArtifactStatus.model_validate({"digest": f"sha256:{'a' * 64}", "uri": "s3://models/store", "size": "26Mi", "served": "Candidate"})
        made = serving.build_deployment(model, target, artifact, "0a1b2c3d", 1, NVIDIA, uid=UID)
    else:
        made = jobs.build_pipeline(model, target, "k" * 64, NVIDIA, uid=UID)
    template = made["spec"]["template"]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": template["metadata"] | {"name": "pod"}, "spec": template["spec"]}


def condition(api: ControlPlane, namespace: str) -> dict[str, Any]:
    """What the scheduler says of the pod."""

    def found() -> Any:
        conditions = api.request("GET", f"/api/v1/namespaces/{namespace}/pods/pod").body["status"].get("conditions", ())
        return next((c for c in conditions if c["type"] == "PodScheduled"), None)

    told: dict[str, Any] = wait_until(found, "scheduler's word")
    return told


@KINDS
@pytest.mark.usefixtures("runtime_class")
def test_pod_with_nvidias_image_is_admitted_and_bound_to_the_node_with_its_gpu(api: ControlPlane, restricted: str, kind: str) -> None:
    """The node has one GPU: a pod whose `train` and Triton both ask for it holds it once."""
    with (
        node(api, product=None, gpus=1),
        node(api, product="NVIDIA-T4", gpus=1),
        node(api, product="NVIDIA-A10", gpus=1) as right,
    ):
        answer = api.request("POST", f"/api/v1/namespaces/{restricted}/pods", pod_of(kind, restricted))
        assert answer.status == 201, answer.message
        (triton,) = [c for c in (*answer.body["spec"]["initContainers"], *answer.body["spec"]["containers"]) if c["name"] == "triton"]
        assert triton["image"] == NVIDIA.images.triton
        assert triton["resources"]["limits"]["nvidia.com/gpu"] == "1"
        assert answer.body["spec"]["runtimeClassName"] == "nvidia"
        assert wait_until(
            lambda: api.request("GET", f"/api/v1/namespaces/{restricted}/pods/pod").body["spec"].get("nodeName"), "binding"
        ) == right  # fmt: skip
        assert condition(api, restricted)["status"] == "True"


@KINDS
@pytest.mark.usefixtures("runtime_class")
def test_pod_waits_where_no_node_has_its_gpu(api: ControlPlane, restricted: str, kind: str) -> None:
    with node(api, product="NVIDIA-T4", gpus=1), node(api, product="NVIDIA-A10", gpus=0):
        assert api.request("POST", f"/api/v1/namespaces/{restricted}/pods", pod_of(kind, restricted)).status == 201
        told = condition(api, restricted)
        assert (told["status"], told["reason"]) == ("False", "Unschedulable")
        assert "Insufficient nvidia.com/gpu" in told["message"]
        assert "node affinity" in told["message"]


def test_gpu_target_is_taken(api: ControlPlane, restricted: str) -> None:
    assert api.create_model(restricted, MANIFEST).status == 201
