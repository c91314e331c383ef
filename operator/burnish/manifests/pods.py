"""What all our pods have in common: the Restricted security profile, the node they need, the store they reach.

Job and server of a target get the same of it: what is measured is what is served.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from burnish import names
from burnish.api.scalars import quantity_bytes, quantity_value
from burnish.api.v1alpha1.optimized_model import OptimizedModel, Target
from burnish.manifests.settings import ContainerResources, Settings

Manifest = dict[str, Any]

USER = 65532
GPU_RESOURCE = "nvidia.com/gpu"
GPU_PRODUCT_LABEL = "nvidia.com/gpu.product"
STORE_CREDENTIALS = "/credentials/store"
STORE_VOLUME = "/store"
SECRET_MODE = 0o440


@dataclasses.dataclass(frozen=True)
class Access:
    """How a container reaches something: what its pod mounts, what its program is told, and the proxy in between."""

    volumes: tuple[Manifest, ...] = ()
    mounts: tuple[Manifest, ...] = ()
    arguments: tuple[str, ...] = ()
    environment: tuple[Manifest, ...] = ()


def owner(model: OptimizedModel, uid: str) -> list[Manifest]:
    """Owner references of a child: it goes with the resource."""
    return [
        {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "name": model.metadata.name,
            "uid": uid,
            "controller": True,
            "blockOwnerDeletion": False,
        }
    ]


def labels(model: OptimizedModel, target: Target | None, component: str) -> dict[str, str]:
    """Labels of a child."""
    found = {names.LABEL_MANAGED_BY: names.MANAGED_BY, names.LABEL_MODEL: model.metadata.name, names.LABEL_COMPONENT: component}
    return found | ({names.LABEL_TARGET: target.name} if target is not None else {})


def pod_defaults(settings: Settings, *, target: Target | None = None, pull_secrets: tuple[str, ...] = ()) -> Manifest:
    """Fields of a pod's spec: security, and for a target's pods the node that they need."""
    spec: Manifest = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    secrets = [*settings.images.pull_secrets, *pull_secrets]
    if target is not None:
        spec |= _placement(target)
        secrets += [secret.name for secret in target.pods.image_pull_secrets]
    if secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in dict.fromkeys(secrets)]
    return spec


def _placement(target: Target) -> Manifest:
    accelerator, pods = target.accelerator, target.pods
    wanted = [{"key": label.name, "operator": "In", "values": [label.value]} for label in accelerator.node_labels]
    if accelerator.gpus and accelerator.product is not None:
        wanted.append({"key": GPU_PRODUCT_LABEL, "operator": "In", "values": [accelerator.product]})
    spec: Manifest = {}
    if wanted:
        terms = [{"matchExpressions": sorted(wanted, key=lambda w: str(w["key"]))}]
        spec["affinity"] = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}
    if pods.tolerations:
        spec["tolerations"] = [t.model_dump(mode="json", by_alias=True, exclude_none=True) for t in pods.tolerations]
    if pods.runtime_class_name:
        spec["runtimeClassName"] = pods.runtime_class_name
    if pods.priority_class_name:
        spec["priorityClassName"] = pods.priority_class_name
    return spec


def container_security() -> Manifest:
    """A container's security context under the Restricted profile."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL"]},
    }


def image(reference: str, settings: Settings) -> Manifest:
    """A container's image, its pull policy and its security context."""
    return {"image": reference, "imagePullPolicy": settings.images.pull_policy, "securityContext": container_security()}


def step_resources(resources: ContainerResources) -> Manifest:
    """Resources of a step's container."""
    return {
        "limits": {"cpu": resources.cpu, "memory": resources.memory},
        "requests": {"cpu": resources.cpu_request, "memory": resources.memory_request},
    }


def triton_resources(target: Target) -> Manifest:
    """Resources of Triton's container: the same where it measures and where it serves."""
    resources = target.resources
    request = resources.cpu_request or resources.cpu
    found: Manifest = {
        "limits": {"cpu": resources.cpu, "memory": _bytes(resources.memory)},
        "requests": {"cpu": request, "memory": _bytes(resources.memory)},
    }
    return with_accelerator(found, target)


def with_accelerator(resources: Manifest, target: Target) -> Manifest:
    """The same, and the GPUs of a target that asks for some."""
    if not target.accelerator.gpus:
        return resources
    asked = {target.accelerator.resource or GPU_RESOURCE: str(target.accelerator.gpus)}
    return {side: {**amounts, **asked} for side, amounts in resources.items()}


def _bytes(quantity: str) -> str:
    """A memory quantity in whole bytes where it isn't a plain one: the apiserver takes fractions of a byte for a mistake."""
    return quantity if quantity_value(quantity) == quantity_bytes(quantity) else str(quantity_bytes(quantity))


def store_access(settings: Settings, namespace: str, *, read_only: bool = False) -> Access:
    """How a light step reaches the namespace's part of the store."""
    whose = ("--cluster", settings.cluster, "--namespace", namespace)
    volume = settings.store.volume
    if volume is not None:
        return Access(
            volumes=({"name": "store", "persistentVolumeClaim": {"claimName": volume.claim_name}},),
            mounts=({"name": "store", "mountPath": STORE_VOLUME, **({"readOnly": True} if read_only else {})},),
            arguments=("--store", STORE_VOLUME, *whose),
        )
    # optional: a step that finds it missing says so in its message; a pod that can't mount it says nothing that the controller could read.
    secret = {"secretName": settings.store.secret_name, "defaultMode": SECRET_MODE, "optional": True}
    return Access(
        volumes=({"name": "store-credentials", "secret": secret},),
        mounts=({"name": "store-credentials", "mountPath": STORE_CREDENTIALS, "readOnly": True},),
        arguments=("--store", settings.store.uri or "", "--store-credentials", STORE_CREDENTIALS, *whose),
        environment=proxy_environment(settings),
    )


def proxy_environment(settings: Settings) -> tuple[Manifest, ...]:
    """What tells a program of the proxy, where there is one."""
    if settings.proxy.https is None:
        return ()
    return ({"name": "HTTPS_PROXY", "value": settings.proxy.https}, {"name": "NO_PROXY", "value": settings.proxy.no_proxy})
