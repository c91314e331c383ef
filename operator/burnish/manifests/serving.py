"""A revision: the Deployment that serves one artifact, and the Services in front of it.

A revision is named by a hash of everything that makes it answer as it does, and is never changed, only scaled. So a Deployment that an older
operator rendered is still right, and an upgrade of the operator rolls nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from typing import Any

from burnish import names
from burnish.api.scalars import quantity_bytes
from burnish.api.v1alpha1.optimized_model import OptimizedModel, Target
from burnish.api.v1alpha1.status import ArtifactStatus
from burnish.manifests import pods
from burnish.manifests.settings import ContainerResources, Settings
from burnish.serving.config import ServingOptions, options_of
from burnish.serving.sizes import MIN_BYTES
from burnish.store.keys import canonical_json

Manifest = dict[str, Any]

TRITON, PULL, PROBE = "triton", "pull", "probe"
MODELS, GOLDEN = "/models", "/golden"
GRPC_MAX_AGE_MS, GRPC_GRACE_MS = 5000, 10000
"""A gRPC channel is as long-lived as its client; without an age it never leaves a server that is going."""
PRE_STOP_SECONDS = 10
"""Longer than endpoints take to spread, plus the age of gRPC channels; where it was shorter, or channels had no age, each roll lost dozens of calls."""
EXIT_TIMEOUT_SECONDS = 10
GRACE_SECONDS = PRE_STOP_SECONDS + EXIT_TIMEOUT_SECONDS + 10
STARTUP_SECONDS = 600
"""For loading; a stub that is killed while it loads leaves a server that never opens a port, and then only this ends it."""
_PROBE_BYTES = 64 * 2**20
"""Of the probe itself; a golden request and its answers come on top."""


def revision(artifact: ArtifactStatus, target: Target, model: OptimizedModel, settings: Settings) -> str:
    """Eight hex digits over what makes a server what it is; never replicas, and nothing of the operator's own release.

    Only what differs from a default counts: a release that adds a field, or a serving option, must not roll what an older one made.
    """
    written = {name: getattr(target, name) for name in ("resources", "accelerator", "pods")}
    facts = {
        "artifact": artifact.digest,
        "triton": [settings.images.triton, settings.images.serving_image],
        **{name: part.model_dump(mode="json", by_alias=True, exclude_defaults=True) for name, part in written.items()},
        "options": _told_options(_options(model, target)),
    }
    return hashlib.sha256(canonical_json(facts)).hexdigest()[:8]


def _told_options(options: ServingOptions) -> dict[str, object]:
    unset = ServingOptions(threads=0)
    found = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    found["parameters"] = dict(options.parameters)
    return {name: value for name, value in found.items() if value != getattr(unset, name)}


def _options(model: OptimizedModel, target: Target) -> ServingOptions:
    return options_of(target, model.spec.measurement.loads, model.spec.serving.dynamic_batching)


def selector(model: OptimizedModel, target: Target, revision: str) -> dict[str, str]:
    """What picks a revision's pods, and never a Job's."""
    return {
        names.LABEL_MODEL: model.metadata.name,
        names.LABEL_TARGET: target.name,
        names.LABEL_COMPONENT: names.COMPONENT_SERVER,
        names.LABEL_REVISION: revision,
    }


def selector_text(model: OptimizedModel, target: Target, revision: str) -> str:
    """The same as text, for the scale subresource."""
    return ",".join(f"{key}={value}" for key, value in sorted(selector(model, target, revision).items()))


def _host(model: OptimizedModel, target: Target | None) -> str:
    name = model.metadata.name if target is None else names.service(model.metadata.name, target.name)
    return f"{name}.{model.metadata.namespace}.svc"


def url(model: OptimizedModel, target: Target | None) -> str:
    """HTTP endpoint inside the cluster: of one target, or of the resource (its primary)."""
    return f"http://{_host(model, target)}:{names.HTTP_PORT}"


def grpc_url(model: OptimizedModel, target: Target | None) -> str:
    """Endpoint for gRPC inside the cluster."""
    return f"grpc://{_host(model, target)}:{names.GRPC_PORT}"


def build_service(model: OptimizedModel, target: Target | None, revision: str, settings: Settings, *, uid: str) -> Manifest:
    """The Service of a target, or of the resource itself (None), in front of a revision."""
    fronted = target or model.spec.primary
    labels = pods.labels(model, target, names.COMPONENT_SERVER)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": model.metadata.name if target is None else names.service(model.metadata.name, target.name),
            "namespace": model.metadata.namespace,
            "labels": labels,
            "ownerReferences": pods.owner(model, uid),
        },
        "spec": {
            "selector": selector(model, fronted, revision),
            "ports": [
                {"name": "http", "port": names.HTTP_PORT, "targetPort": "http", "protocol": "TCP"},
                {"name": "grpc", "port": names.GRPC_PORT, "targetPort": "grpc", "protocol": "TCP", "appProtocol": "kubernetes.io/h2c"},
            ],
        },
    }


def build_deployment(
    model: OptimizedModel, target: Target, artifact: ArtifactStatus, revision: str, replicas: int, settings: Settings, *, uid: str
) -> Manifest:
    """The Deployment of a revision."""
    chosen = selector(model, target, revision)
    labels = {**pods.labels(model, target, names.COMPONENT_SERVER), **chosen, names.LABEL_EPOCH: names.EPOCH}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": names.deployment(model.metadata.name, target.name, revision),
            "namespace": model.metadata.namespace,
            "labels": labels,
            "annotations": {f"{names.GROUP}/artifact": artifact.digest},
            "ownerReferences": pods.owner(model, uid),
        },
        "spec": {
            "replicas": replicas,
            "revisionHistoryLimit": 0,
            "selector": {"matchLabels": chosen},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {"metadata": {"labels": labels}, "spec": _pod(model, target, artifact, settings)},
        },
    }


def _pod(model: OptimizedModel, target: Target, artifact: ArtifactStatus, settings: Settings) -> Manifest:
    store = pods.store_access(settings, model.metadata.namespace, read_only=True)
    shared = quantity_bytes(artifact.shared_memory) if artifact.shared_memory else MIN_BYTES
    volumes: list[Manifest] = [{"name": name, "emptyDir": {}} for name in ("models", "golden", "scratch", "tmp")]
    return {
        **pods.pod_defaults(settings, target=target),
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "initContainers": [_pull(model, target, artifact, settings, store), _probe(model, settings, shared)],
        "containers": [_triton(target, settings)],
        "volumes": [*volumes, shared_memory_volume(shared), *store.volumes],
    }


def _pull(model: OptimizedModel, target: Target, artifact: ArtifactStatus, settings: Settings, store: pods.Access) -> Manifest:
    """Brings the artifact, verified, and compares the hardware; the only container that holds the store's credentials."""
    options = ["--digest", artifact.digest, "--model-name", model.metadata.name, "--models", MODELS, "--golden", GOLDEN]
    command = ["python3", "-m", "burnish.pipeline.pull", *options, "--options", _options(model, target).to_json()]
    command += ["--mismatch", settings.hardware_mismatch.value, *store.arguments]
    return {
        "name": PULL,
        **pods.image(settings.images.burnish, settings),
        "command": command,
        "env": [{"name": "HOME", "value": "/tmp"}, *store.environment],  # noqa: S108
        "resources": pods.step_resources(settings.light),
        "volumeMounts": [
            {"name": "models", "mountPath": MODELS},
            {"name": "golden", "mountPath": GOLDEN},
            {"name": "scratch", "mountPath": "/tmp"},  # noqa: S108
            *store.mounts,
        ],
    }


def _probe(model: OptimizedModel, settings: Settings, shared_bytes: int) -> Manifest:
    """Answers for Triton's probes: its own health endpoints stay well when a backend process is dead.

    It is ready when Triton is, so that a message that it left about a wrong answer holds for as long as it isn't.
    """
    memory = f"{math.ceil((_PROBE_BYTES + 2 * shared_bytes) / 2**20)}Mi"  # shared memory holds 3 requests with their answers; it keeps up to 5
    return {
        "name": PROBE,
        **pods.image(settings.images.burnish, settings),
        "restartPolicy": "Always",
        "command": ["python3", "-m", "burnish.pipeline.probe", "--model", model.metadata.name, "--golden", GOLDEN, "--port", str(names.PROBE_PORT)],
        "env": [{"name": "HOME", "value": "/tmp"}],  # noqa: S108
        "ports": [{"name": "probe", "containerPort": names.PROBE_PORT}],
        "resources": pods.step_resources(ContainerResources(cpu="200m", memory=memory, cpu_request="10m", memory_request="32Mi")),
        "readinessProbe": {**_asks("/ready"), "periodSeconds": 2, "failureThreshold": 2},
        "volumeMounts": [{"name": "golden", "mountPath": GOLDEN, "readOnly": True}, {"name": "scratch", "mountPath": "/tmp"}],  # noqa: S108
    }


def _triton(target: Target, settings: Settings) -> Manifest:
    return {
        "name": TRITON,
        **pods.image(settings.images.triton, settings),
        "command": ["tritonserver", f"--model-repository={MODELS}", *flags()],
        "env": environment(target),
        "ports": [
            {"name": "http", "containerPort": names.HTTP_PORT},
            {"name": "grpc", "containerPort": names.GRPC_PORT},
            {"name": "metrics", "containerPort": names.METRICS_PORT},
        ],
        "resources": pods.triton_resources(target),
        "startupProbe": {**_asks("/startup"), "periodSeconds": 1, "failureThreshold": STARTUP_SECONDS},
        "readinessProbe": {**_asks("/ready"), "periodSeconds": 2, "failureThreshold": 2},
        "livenessProbe": {**_asks("/live"), "periodSeconds": 5, "failureThreshold": 3},
        "lifecycle": {"preStop": {"sleep": {"seconds": PRE_STOP_SECONDS}}},
        "volumeMounts": [
            {"name": "models", "mountPath": MODELS, "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
            *shared_memory_mounts(),
        ],
    }


def _asks(path: str) -> Manifest:
    return {"httpGet": {"path": path, "port": names.PROBE_PORT}, "timeoutSeconds": 5}


def flags() -> list[str]:
    """Triton's flags, the same where it measures and where it serves: nothing is loaded or completed at run time, channels have an age."""
    return [
        "--model-control-mode=none",
        "--disable-auto-complete-config",
        f"--exit-timeout-secs={EXIT_TIMEOUT_SECONDS}",
        f"--http-port={names.HTTP_PORT}",
        f"--grpc-port={names.GRPC_PORT}",
        f"--metrics-port={names.METRICS_PORT}",
        f"--grpc-max-connection-age={GRPC_MAX_AGE_MS}",
        f"--grpc-max-connection-age-grace={GRPC_GRACE_MS}",
        "--metrics-config=summary_latencies=true",
    ]


def environment(target: Target) -> list[Manifest]:
    """Triton's environment: no telemetry of a library, and no GPU where none was asked for."""
    found = [
        {"name": "HOME", "value": "/tmp"},  # noqa: S108
        {"name": "ORT_DISABLE_TELEMETRY", "value": "1"},
        {"name": "PYTHONDONTWRITEBYTECODE", "value": "1"},
    ]
    if not target.accelerator.gpus:
        found.append({"name": "CUDA_VISIBLE_DEVICES", "value": ""})
    return found


def shared_memory_volume(size_bytes: int) -> Manifest:
    """Shared memory of a pod with Triton; it counts into the container's memory limit."""
    return {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{math.ceil(size_bytes / 2**20)}Mi"}}


def shared_memory_mounts() -> list[Manifest]:
    """Where it is mounted."""
    return [{"name": "shm", "mountPath": "/dev/shm"}]  # noqa: S108
