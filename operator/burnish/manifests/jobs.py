"""The Jobs of a resource: one that resolves, and one per target whose init containers are the pipeline's steps.

A step per container: no image needs the libraries of all steps, the accelerator is asked for by what computes on it, and progress is the pod's own status. What a
container may touch is in its mounts: the work directory read-only, its own folder writable, the store's credentials only where the store is used.
"""

from __future__ import annotations

import hashlib
import math
import re
from typing import Any
from urllib.parse import urlsplit

from burnish import names
from burnish.api import requests
from burnish.api.job_contract import JobRequest, ResolveRequest, StepName, step_folder
from burnish.api.scalars import SUBDOMAIN_PATTERN, duration_seconds, quantity_bytes
from burnish.api.v1alpha1.optimized_model import OptimizedModel, Target
from burnish.errors import StepExit
from burnish.manifests import pods, serving
from burnish.manifests.settings import ContainerResources, Settings
from burnish.plugins import order, registry
from burnish.store.keys import canonical_json

Manifest = dict[str, Any]

WORK = "/work"
REQUEST = "/request"
SOURCE_CREDENTIALS = "/credentials/source"
PVC_SOURCES = "/sources"
NETWORK_POLICY = "burnish-pipeline"
SECRET_MODE = 0o440
MIN_SHARED_MEMORY = 64 * 2**20
KEEPER = "keep"
SERVER_URL = f"http://127.0.0.1:{names.HTTP_PORT}"
_KILLED = (137, 143)
"""SIGKILL and SIGTERM from outside: out of memory, or the pod's deadline. A node that is drained is told by a condition, which comes first."""


def build_resolve(model: OptimizedModel, run_key: str, settings: Settings, *, uid: str) -> Manifest:
    """The resolve Job of a run: one container that holds the source's and the store's credentials and runs nothing of the model's."""
    request = JobRequest(resolve=_resolve_request(model, settings), run_key=run_key)
    store = pods.store_access(settings, model.metadata.namespace)
    sources = _source_access(model, settings, store)
    container = {
        "name": StepName.resolve.value,
        **pods.image(settings.images.burnish, settings),
        "resources": pods.step_resources(settings.light),
        "command": _command(StepName.resolve, "--request", f"{REQUEST}/request.json", *store.arguments, *sources.arguments),
        "env": [*_environment(), *pods.proxy_environment(settings)],
        "volumeMounts": [*_scratch_mounts(), {"name": "request", "mountPath": REQUEST, "readOnly": True}, *store.mounts, *sources.mounts],
    }
    volumes = [*_scratch_volumes(settings.work_size), _request_volume(), *store.volumes, *sources.volumes]
    spec = {
        **pods.pod_defaults(settings, pull_secrets=_pull_secrets(model)),
        "restartPolicy": "Never",
        "activeDeadlineSeconds": _seconds(model.spec.jobs.deadline),
        "containers": [container],
        "volumes": volumes,
    }
    labels = pods.labels(model, None, names.COMPONENT_RESOLVE)
    name = names.resolve_job(model.metadata.name, run_key)
    return _job(name, model, labels, spec, request, uid=uid, containers=[StepName.resolve.value])


def exporter(target: Target, source_format: str) -> str:
    """The toolchain in which a source of that format is exported; the runtime's, where the format isn't known."""
    return registry.exporter(source_format, target.runtime.value).toolchain


def build_pipeline(model: OptimizedModel, target: Target, run_key: str, settings: Settings, *, uid: str, source_format: str = "") -> Manifest:
    """The pipeline Job of one target.

    Args:
        source_format: what `resolve` found the source to be.
    """
    request = JobRequest(resolve=_resolve_request(model, settings), run_key=run_key, target=target.name)
    store = pods.store_access(settings, model.metadata.namespace)
    optimizer = settings.images.optimizers[registry.runtimes()[target.runtime.value].toolchain]
    light, heavy, client = settings.light, settings.heavy, settings.client
    containers = [
        _step(StepName.stage, settings.images.burnish, settings, light, "--request", f"{REQUEST}/request.json", *store.arguments),
        _step(StepName.export, settings.images.optimizers[exporter(target, source_format)], settings, heavy),
        *_training(model, target, settings, store),
        _step(StepName.compress, optimizer, settings, heavy),
        _step(StepName.build, optimizer, settings, heavy),
        _triton(target, settings),
        _step(StepName.measure, optimizer, settings, client, "--server-url", SERVER_URL),
        _step(StepName.publish, settings.images.burnish, settings, light, *store.arguments),
    ]
    stage, publish = containers[0], containers[-1]
    stage["volumeMounts"] = [
        *_scratch_mounts(),  # all of the work directory: it makes the folders of the others
        {"name": "request", "mountPath": REQUEST, "readOnly": True},
        *store.mounts,
    ]
    publish["volumeMounts"] += store.mounts
    for container in (stage, publish):
        container["env"] += store.environment
    spec = {
        **pods.pod_defaults(settings, target=target),
        "restartPolicy": "Never",
        "activeDeadlineSeconds": _seconds(model.spec.jobs.deadline),
        "initContainers": containers[:-1],
        "containers": [publish],
        "volumes": [*_scratch_volumes(settings.work_size), _request_volume(), serving.shared_memory_volume(_shared_memory(target)), *store.volumes],
    }
    labels = pods.labels(model, target, names.COMPONENT_PIPELINE)
    name = names.pipeline_job(model.metadata.name, target.name, run_key)
    return _job(name, model, labels, spec, request, uid=uid, containers=[c["name"] for c in containers if c.get("restartPolicy") != "Always"])


def _training(model: OptimizedModel, target: Target, settings: Settings, store: pods.Access) -> list[Manifest]:
    """The step that trains, where a pass does, and beside it the sidecar that brings its checkpoints into the store: the step itself sees no credentials."""
    if not order.training_part(model.spec.passes_of(target)):
        return []
    keeper = {
        "name": KEEPER,
        **pods.image(settings.images.burnish, settings),
        "restartPolicy": "Always",
        "command": ["python3", "-m", "burnish.pipeline.keep", "--work", WORK, *store.arguments],
        "env": [*_environment(), *store.environment],
        "resources": pods.step_resources(settings.light),
        "volumeMounts": [*_scratch_mounts()[:1], {"name": "work", "mountPath": WORK, "readOnly": True}, *store.mounts],
    }
    trainer = _step(StepName.train, settings.images.optimizers[order.TRAINER], settings, settings.heavy)
    if target.accelerator.gpus:
        trainer["resources"] = pods.with_accelerator(trainer["resources"], target)
        trainer["volumeMounts"] += serving.shared_memory_mounts()  # through which NCCL's processes meet
    return [keeper, trainer]


def build_prerequisites(namespace: str, settings: Settings) -> list[Manifest]:
    """What must be there before a Job starts, once per namespace and nobody's: the store's volume claim, and the NetworkPolicy of all pipeline pods."""
    found: list[Manifest] = []
    volume = settings.store.volume
    if volume is not None:
        spec: Manifest = {"accessModes": [volume.access_mode], "resources": {"requests": {"storage": volume.size}}}
        if volume.storage_class_name is not None:
            spec["storageClassName"] = volume.storage_class_name
        metadata = {"name": volume.claim_name, "namespace": namespace, "labels": {names.LABEL_MANAGED_BY: names.MANAGED_BY}}
        found.append({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec})
    found.append(build_network_policy(namespace, settings))
    return found


def build_network_policy(namespace: str, settings: Settings) -> Manifest:
    """Nothing reaches a pipeline's pods, and they reach the cluster's DNS and the store; with a volume for a store, nothing."""
    egress: list[Manifest] = []
    if settings.store.volume is None:
        dns = [{"port": 53, "protocol": protocol} for protocol in ("UDP", "TCP")]
        peers = [{"ipBlock": {"cidr": cidr}} for cidr in settings.store.egress_cidrs]
        ports = [{"port": port, "protocol": "TCP"} for port in settings.store.egress_ports]
        egress = [{"ports": dns}, {"to": peers, "ports": ports}]
    spec = {
        "podSelector": {"matchLabels": {names.LABEL_MANAGED_BY: names.MANAGED_BY, names.LABEL_COMPONENT: names.COMPONENT_PIPELINE}},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [],
        "egress": egress,
    }
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {
            "name": NETWORK_POLICY,
            "namespace": namespace,
            "labels": {names.LABEL_MANAGED_BY: names.MANAGED_BY},
            "annotations": {names.ANNOTATION_SPEC: hashlib.sha256(canonical_json(spec)).hexdigest()},
        },
        "spec": spec,
    }


def _resolve_request(model: OptimizedModel, settings: Settings) -> ResolveRequest:
    return requests.resolve_request(model, base="", hardware_class=None, serving_image=settings.images.serving_image)


def _source_access(model: OptimizedModel, settings: Settings, store: pods.Access) -> pods.Access:
    """What `resolve` needs to read the sources: the Secret that the spec names, and the claims that its URIs name."""
    volumes: list[Manifest] = []
    mounts: list[Manifest] = []
    arguments: list[str] = []
    secret = model.spec.source.secret_ref
    if secret is not None:
        volumes.append({"name": "source-credentials", "secret": {"secretName": secret.name, "defaultMode": pods.SECRET_MODE, "optional": True}})
        mounts.append({"name": "source-credentials", "mountPath": SOURCE_CREDENTIALS, "readOnly": True})
        arguments += ["--source-credentials", SOURCE_CREDENTIALS]
    # The kubelet never mounts a claim that a pod has under two names: a source on the store's own claim is a second mount of that volume.
    known = {volume["persistentVolumeClaim"]["claimName"]: volume["name"] for volume in store.volumes if "persistentVolumeClaim" in volume}
    for number, claim in enumerate(dict.fromkeys(claim for uri in model.spec.uris if (claim := _claim(uri)))):
        name = known.get(claim) or f"source-{number}"
        if claim not in known:
            volumes.append({"name": name, "persistentVolumeClaim": {"claimName": claim, "readOnly": True}})
        mounts.append({"name": name, "mountPath": f"{PVC_SOURCES}/{claim}", "readOnly": True})
        arguments += ["--pvc", f"{claim}={PVC_SOURCES}/{claim}"]
    if settings.allow_private_addresses:
        arguments.append("--allow-private-addresses")
    return pods.Access(tuple(volumes), tuple(mounts), tuple(arguments))


def _claim(uri: str) -> str | None:
    """The volume claim that a pvc: URI names, where it may be the name of one."""
    parts = urlsplit(uri)
    return parts.netloc if parts.scheme == "pvc" and re.fullmatch(SUBDOMAIN_PATTERN, parts.netloc) else None


def _pull_secrets(model: OptimizedModel) -> tuple[str, ...]:
    return tuple(dict.fromkeys(secret.name for target in model.spec.targets for secret in target.pods.image_pull_secrets))


def _step(step: StepName, image: str, settings: Settings, resources: ContainerResources, *arguments: str) -> Manifest:
    """A step's container: the work directory read-only, its own folder writable."""
    folder = step_folder(step)
    own = {"name": "work", "mountPath": f"{WORK}/{folder}", "subPath": folder}
    return {
        "name": step.value,
        **pods.image(image, settings),
        "command": _command(step, *arguments),
        "env": _environment(),
        "resources": pods.step_resources(resources),
        "volumeMounts": [*_scratch_mounts()[:1], {"name": "work", "mountPath": WORK, "readOnly": True}, own],
    }


def _triton(target: Target, settings: Settings) -> Manifest:
    """The measuring server: a native sidecar without probes, because one that fails to load a model is a finding, not a reason to restart."""
    repositories = [f"{WORK}/{step_folder(step)}/repository" for step in (StepName.build, StepName.stage)]
    return {
        "name": serving.TRITON,
        **pods.image(settings.images.triton, settings),
        "restartPolicy": "Always",
        "command": ["tritonserver", *(f"--model-repository={folder}" for folder in repositories), *serving.flags(), "--exit-on-error=false"],
        "env": serving.environment(target),
        "resources": pods.triton_resources(target),
        "volumeMounts": [*_scratch_mounts()[:1], {"name": "work", "mountPath": WORK, "readOnly": True}, *serving.shared_memory_mounts()],
    }


def _command(step: StepName, *arguments: str) -> list[str]:
    return ["python3", "-m", "burnish.pipeline", step.value, "--job", "--work", WORK, *arguments]


def _environment() -> list[Manifest]:
    return [
        {"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        {"name": "HOME", "value": "/tmp"},  # noqa: S108  # the only other place that a container may write to
        {"name": "ORT_DISABLE_TELEMETRY", "value": "1"},
        {"name": "PYTHONUNBUFFERED", "value": "1"},
    ]


def _scratch_mounts() -> list[Manifest]:
    return [{"name": "tmp", "mountPath": "/tmp"}, {"name": "work", "mountPath": WORK}]  # noqa: S108


def _scratch_volumes(work_size: str) -> list[Manifest]:
    return [{"name": "tmp", "emptyDir": {"sizeLimit": work_size}}, {"name": "work", "emptyDir": {"sizeLimit": work_size}}]


def _request_volume() -> Manifest:
    item = {"path": "request.json", "fieldRef": {"fieldPath": f"metadata.annotations['{names.ANNOTATION_REQUEST}']"}}
    return {"name": "request", "downwardAPI": {"items": [item], "defaultMode": SECRET_MODE}}


def _shared_memory(target: Target) -> int:
    """While nothing is built, nobody knows how large requests are: a part of the memory limit."""
    return max(MIN_SHARED_MEMORY, quantity_bytes(target.resources.memory) // 4)


def _job(
    name: str, model: OptimizedModel, labels: dict[str, str], spec: Manifest, request: JobRequest, *, uid: str, containers: list[str]
) -> Manifest:
    annotations = {names.ANNOTATION_REQUEST: request.model_dump_json(by_alias=True, exclude_none=True)}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": model.metadata.namespace, "labels": labels, "ownerReferences": pods.owner(model, uid)},
        "spec": {
            "backoffLimit": model.spec.jobs.backoff_limit,
            "podFailurePolicy": {"rules": _failure_rules(containers)},
            "template": {"metadata": {"labels": labels, "annotations": annotations}, "spec": spec},
        },
    }


def _failure_rules(containers: list[str]) -> list[Manifest]:
    """A drained node is nobody's fault; what can't be cured by trying again ends the Job. One rule per step: one without a name would also
    match the server's end by SIGKILL, which is how a native sidecar may end.
    """
    ended = sorted((int(StepExit.NOT_RETRIABLE), *_KILLED))
    return [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        *({"action": "FailJob", "onExitCodes": {"containerName": c, "operator": "In", "values": ended}} for c in containers),
    ]


def _seconds(duration: str) -> int:
    return max(1, math.ceil(duration_seconds(duration)))
