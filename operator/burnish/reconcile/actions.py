"""What a plan may ask for. The controller executes actions in order and stops at the first that fails; the next reconcile goes on.

Each is safe to repeat: creating what is there already is success if it is ours, deleting what is gone is success, and everything that changes
or deletes carries the uid of the object that was seen, so that one of the same name that came later is never touched.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from burnish.api.v1alpha1.status import Status
from burnish.errors import Reason

Manifest = dict[str, Any]
"""A Kubernetes object as JSON."""


@dataclasses.dataclass(frozen=True)
class Create:
    """POST an object. 409: success if its owner's uid is ours (or, without an owner, if it carries our label); else a `Conflict`."""

    manifest: Manifest

    @property
    def kind(self) -> str:
        """Its kind."""
        return str(self.manifest["kind"])

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.manifest["metadata"]["name"])


@dataclasses.dataclass(frozen=True)
class Delete:
    """DELETE an object, with a precondition on its uid; its pods go in the background."""

    kind: str
    name: str
    uid: str


@dataclasses.dataclass(frozen=True)
class Scale:
    """Set a Deployment's replicas by server-side apply, with its uid."""

    name: str
    uid: str
    replicas: int


@dataclasses.dataclass(frozen=True)
class Select:
    """Replace a Service's selector (and set annotations): the switch of traffic, and the rollback, is this one patch."""

    name: str
    uid: str
    selector: dict[str, str]
    annotations: dict[str, str] = dataclasses.field(default_factory=dict)


Action = Create | Delete | Scale | Select


@dataclasses.dataclass(frozen=True)
class Event:
    """A Kubernetes event on the resource; its reason is one of the closed list."""

    type: str
    """Normal or Warning."""
    reason: Reason
    text: str


@dataclasses.dataclass(frozen=True)
class Plan:
    """What one reconcile wants."""

    actions: tuple[Action, ...] = ()
    status: Status | None = None
    """What the resource's status shall be; written last and only if it differs. None: leave it."""
    events: tuple[Event, ...] = ()
    """Posted after the status."""
    requeue_seconds: float | None = None
    """Look again then, if nothing happens before."""
