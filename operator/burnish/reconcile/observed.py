"""What a reconcile looks at: one resource and everything it owns, as the cluster shows it. The controller fills it, the planner reads it.

Views hold what planning needs and no more; whatever is not here can't influence a decision.
"""

from __future__ import annotations

import dataclasses
from datetime import datetime
from typing import Literal, NamedTuple

from burnish.api.job_contract import Message
from burnish.api.v1alpha1.optimized_model import OptimizedModel
from burnish.api.v1alpha1.status import Status


class Key(NamedTuple):
    """Which resource."""

    namespace: str
    name: str


@dataclasses.dataclass(frozen=True)
class ContainerView:
    """One container of a pod, init containers in their order first."""

    name: str
    state: Literal["waiting", "running", "terminated"]
    reason: str = ""
    """The kubelet's word: ImagePullBackOff, CreateContainerConfigError, OOMKilled, Completed, Error ..."""
    text: str = ""
    """The kubelet's message where it waits."""
    exit_code: int | None = None
    message: Message | None = None
    """What it left as termination message, where that is one of ours."""
    is_ready: bool = False
    restarts: int = 0


@dataclasses.dataclass(frozen=True)
class PodView:
    """A pod that belongs to the resource."""

    name: str
    labels: dict[str, str]
    phase: str
    """Pending, Running, Succeeded, Failed."""
    owner_uid: str
    """Of the Job, or of the ReplicaSet."""
    created: datetime
    containers: tuple[ContainerView, ...] = ()
    reason: str = ""
    """status.reason: DeadlineExceeded, Evicted ..."""
    text: str = ""
    unschedulable: str = ""
    """The scheduler's words while no node fits; empty once it is scheduled."""
    is_ready: bool = False
    is_deleting: bool = False
    node: str = ""
    news: str = ""
    """What the step that trains said last."""


@dataclasses.dataclass(frozen=True)
class JobView:
    """A Job of the resource."""

    name: str
    uid: str
    labels: dict[str, str]
    created: datetime
    state: Literal["active", "succeeded", "failed"]
    reason: str = ""
    """Of the condition Failed: BackoffLimitExceeded, PodFailurePolicy ..."""
    text: str = ""
    started: datetime | None = None
    """status.startTime: set again when a suspended Job goes on."""
    is_suspended: bool = False
    """By Kueue or somebody else: waiting then counts for nobody."""
    is_deleting: bool = False


@dataclasses.dataclass(frozen=True)
class DeploymentView:
    """A revision's Deployment."""

    name: str
    uid: str
    labels: dict[str, str]
    created: datetime
    replicas: int
    """As specified."""
    ready: int
    available: int
    text: str = ""
    """Why its ReplicaSet can't make pods (condition ReplicaFailure), where it can't."""
    is_observed: bool = True
    """The Deployment controller has seen the current spec."""
    is_deleting: bool = False
    annotations: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class ServiceView:
    """A Service of the resource."""

    name: str
    uid: str
    labels: dict[str, str]
    selector: dict[str, str]
    annotations: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Conflict:
    """An object of a name that we need belongs to somebody else."""

    kind: str
    name: str
    owner: str = ""
    """What can be said of whose it is, e.g. `OptimizedModel a`; empty where nothing owns it."""


@dataclasses.dataclass(frozen=True)
class Refusal:
    """The apiserver refused to make or change an object of ours, for a reason that trying again does not cure by itself (403, 422, quota)."""

    kind: str
    name: str
    text: str


@dataclasses.dataclass(frozen=True)
class Observed:
    """One resource, and what belongs to it."""

    key: Key
    uid: str
    generation: int
    model: OptimizedModel | None
    """None where the spec is not valid for this release; `invalid` then says why."""
    invalid: str = ""
    status: Status | None = None
    """As it stands on the resource; None where there is none, or none that this release reads."""
    is_deleting: bool = False
    jobs: tuple[JobView, ...] = ()
    pods: tuple[PodView, ...] = ()
    deployments: tuple[DeploymentView, ...] = ()
    services: tuple[ServiceView, ...] = ()
    conflicts: tuple[Conflict, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    nodes: int = 0
    """Schedulable nodes of the cluster; 0 where the controller may not list them."""
