"""What all pods have in common: the right node, Triton's resources, the store. (That they are Restricted: test_serving.py.)"""

import pytest

from burnish.manifests import pods


def test_cpu_target_asks_for_no_node_of_its_own(make_model, settings):
    target = make_model().spec.primary
    assert set(pods.pod_defaults(settings, target=target)) == set(pods.pod_defaults(settings))
    assert pods.triton_resources(target) == {"limits": {"cpu": "2", "memory": "1Gi"}, "requests": {"cpu": "100m", "memory": "1Gi"}}


def test_cpu_request_is_the_limit_where_nothing_else_is_said(make_model):
    target = make_model({"resources": {"cpu": "1500m", "memory": "1Gi"}}).spec.primary
    assert pods.triton_resources(target)["requests"]["cpu"] == "1500m"


@pytest.mark.parametrize(
    ("written", "rendered"),
    [("1Gi", "1Gi"), ("1.5Gi", "1.5Gi"), ("1073741824", "1073741824"), ("0.0700001Gi", "75162036"), ("100000000.5", "100000001")],
)
def test_memory_is_whole_bytes(make_model, written, rendered):
    found = pods.triton_resources(make_model({"resources": {"memory": written}}).spec.primary)
    assert found["limits"]["memory"] == found["requests"]["memory"] == rendered


def test_gpu_target_needs_its_product_labels_taints_and_devices(make_model, gpu, make_settings):
    target = make_model(gpu).spec.primary
    found = pods.pod_defaults(make_settings(images={"pull_secrets": ["mirror", "registry"]}), target=target)
    [term] = found["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert term["matchExpressions"] == [
        {"key": "burnish.dev/hardware-class", "operator": "In", "values": ["a"]},
        {"key": "example.com/pool", "operator": "In", "values": ["gpu"]},
        {"key": "nvidia.com/gpu.product", "operator": "In", "values": ["NVIDIA-A10"]},
    ]
    assert found["tolerations"] == [
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
        {"key": "pool", "operator": "Equal", "value": "gpu"},
    ]
    assert (found["runtimeClassName"], found["priorityClassName"]) == ("nvidia", "low")
    assert found["imagePullSecrets"] == [{"name": "mirror"}, {"name": "registry"}]
    resources = pods.triton_resources(target)
    assert resources["limits"]["nvidia.com/gpu"] == resources["requests"]["nvidia.com/gpu"] == "2"


def test_gpu_may_be_another_resource_and_is_one_by_default(make_model):
    target = make_model({"accelerator": {"type": "GPU", "resource": "nvidia.com/mig-1g.5gb"}}).spec.primary
    assert pods.triton_resources(target)["limits"] == {"cpu": "2", "memory": "1Gi", "nvidia.com/mig-1g.5gb": "1"}


def test_cpu_target_may_name_labels_too(make_model, settings):
    target = make_model({"accelerator": {"nodeLabels": [{"name": "pool", "value": "vnni"}]}}).spec.primary
    [term] = pods.pod_defaults(settings, target=target)["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    assert term == {"matchExpressions": [{"key": "pool", "operator": "In", "values": ["vnni"]}]}


def test_object_store_is_reached_with_a_mounted_secret_and_nothing_in_the_command_line(settings):
    access = pods.store_access(settings, "models")
    assert access.arguments == (
        "--store", "s3://models/store", "--store-credentials", "/credentials/store", "--cluster", "blue", "--namespace", "models"
    )  # fmt: skip
    [volume], [mount] = access.volumes, access.mounts
    assert volume["secret"] == {"secretName": "burnish-store", "defaultMode": 0o440, "optional": True}
    assert mount == {"name": volume["name"], "mountPath": "/credentials/store", "readOnly": True}


@pytest.mark.parametrize("read_only", [True, False])
def test_volume_store_is_mounted(make_settings, read_only):
    access = pods.store_access(make_settings(store={"volume": {"claim_name": "shared"}}), "models", read_only=read_only)
    assert access.arguments == ("--store", "/store", "--cluster", "blue", "--namespace", "models")
    assert access.volumes == ({"name": "store", "persistentVolumeClaim": {"claimName": "shared"}},)
    assert access.mounts == ({"name": "store", "mountPath": "/store", **({"readOnly": True} if read_only else {})},)


def test_owner_goes_with_the_resource_and_blocks_nothing(make_model, uid):
    [owner] = pods.owner(make_model(), uid)
    assert owner == {
        "apiVersion": "burnish.dev/v1alpha1",
        "kind": "OptimizedModel",
        "name": "digits",
        "uid": uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }
