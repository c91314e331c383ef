"""What the person who installs Burnish decides, once for the whole installation: images, store, defaults of Jobs.

The chart renders it into a ConfigMap, the controller reads it at start-up, and nothing of it is in the resource: a tenant can't change it.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field, ValidationError

from burnish.api.base import ApiModel
from burnish.api.scalars import Duration, Quantity
from burnish.errors import BurnishError, Reason

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]
Reference = Annotated[str, Field(min_length=1, max_length=512)]


class Images(ApiModel):
    """Container images."""

    burnish: Reference
    """Controller, resolve, stage, publish, pull, probe."""
    optimizers: dict[str, Reference]
    """Toolchain (`onnx`, ...) -> image with its libraries."""
    triton: Reference
    """What measures and serves."""
    serving_image: str = "local-cpu"
    """Name of `triton` in burnish.serving.images: which versions are in it and what they load."""
    pull_policy: str = "IfNotPresent"
    pull_secrets: tuple[Name, ...] = ()


class VolumeStore(ApiModel):
    """A store on a PersistentVolumeClaim, made once per namespace, with no owner, and never deleted."""

    claim_name: Name = "burnish-store"
    size: Quantity = "20Gi"
    storage_class_name: str | None = None
    access_mode: str = "ReadWriteMany"


class StoreSettings(ApiModel):
    """Where artifacts live: an object store, or a volume."""

    uri: str | None = None
    """s3://bucket/prefix."""
    secret_name: Name = "burnish-store"  # noqa: S105  # a name
    """Secret with the credentials, in each namespace, made by its admin (keys: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL ...)."""
    volume: VolumeStore | None = None
    egress_cidrs: tuple[str, ...] = ("0.0.0.0/0", "::/0")
    egress_ports: tuple[int, ...] = (443,)
    """What pipeline pods may reach beside DNS (NetworkPolicy); nothing with a volume."""


class ContainerResources(ApiModel):
    """Resources of a step's container."""

    cpu: Quantity = "1"
    memory: Quantity = "4Gi"
    cpu_request: Quantity = "100m"
    memory_request: Quantity = "256Mi"


class ProxySettings(ApiModel):
    """How what is outside the cluster is reached, where there is no other way: sources, and a store that is an object store."""

    https: Annotated[str, Field(pattern=r"^http://[^@/\s]+:[0-9]+/?$", max_length=512)] | None = None
    """Of https connections: http://HOST:PORT. Without a user: it stands in the pods."""
    no_proxy: Annotated[str, Field(max_length=4096)] = ""
    """Hosts and domains that are reached without it, with commas between."""


class HardwareMismatch(StrEnum):
    """What a server does on another class of hardware than its artifact was measured on."""

    Refuse = "Refuse"
    Warn = "Warn"


class Settings(ApiModel):
    """Everything about an installation."""

    images: Images
    store: StoreSettings
    cluster: Name = "default"
    """Part of the path in the store: several clusters may share one."""
    watch_namespaces: tuple[Name, ...] = ()
    """Empty: all."""
    lease_namespace: Name = "burnish-system"
    lease_name: Name = "burnish-controller"
    heavy: ContainerResources = ContainerResources()
    """export, compress, build."""
    client: ContainerResources = ContainerResources(cpu="1", memory="2Gi")
    """measure."""
    light: ContainerResources = ContainerResources(cpu="500m", memory="512Mi", cpu_request="50m", memory_request="96Mi")
    """resolve, stage, publish, pull, probe."""
    work_size: Quantity = "20Gi"
    """Limit of a Job's work directory."""
    proxy: ProxySettings = ProxySettings()
    allow_private_addresses: bool = False
    """Whether https sources may be on private addresses of the cluster's network."""
    trusted_namespaces: tuple[Name, ...] = ()
    """Where spec.source.trusted counts: there, formats that run code when they are loaded are loaded."""
    hardware_mismatch: HardwareMismatch = HardwareMismatch.Refuse
    rollout_timeout: Duration = "10m"
    """For a new revision to answer; then it is taken back."""
    drain: Duration = "15s"
    """From the switch of traffic to the end of the old revision."""
    resync: Duration = "5m"
    """How often everything is looked at again, events or not."""
    workers: Annotated[int, Field(ge=1, le=256)] = 16


def load(path: Path) -> Settings:
    """Read the settings file (YAML).

    Raises:
        BurnishError: InvalidManifest, with the fields that are wrong.
    """
    try:
        return Settings.model_validate(yaml.safe_load(path.read_text()))
    except (OSError, yaml.YAMLError) as error:
        raise BurnishError(Reason.InvalidManifest, f"can't read the settings {path}: {error}; the chart's ConfigMap holds them") from error
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(str(p) for p in e['loc'])}: {e['msg']}" for e in error.errors(include_url=False, include_input=False))
        raise BurnishError(Reason.InvalidManifest, f"the settings {path} are wrong: {wrong}; correct the chart's values") from error
