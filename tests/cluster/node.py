"""Plays the kubelet on a control plane without nodes: what becomes of pods is written by the test, everything else is done by the real controllers.

A resolve pod finds the source, a pipeline pod publishes, a server's pod answers; or whatever a test says instead.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

from control_plane import MERGE, ControlPlane

from burnish import names
from burnish.api import messages
from burnish.api.job_contract import Message, Plan, PublishMessage, ResolveMessage, TargetMessage
from burnish.api.v1alpha1 import status as api
from burnish.errors import Reason

Fate = Callable[[dict[str, Any]], dict[str, Any]]
NOW = "2026-01-01T00:00:00Z"


def digest(text: str) -> str:
    """Any digest, the same for the same text."""
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def succeeded(pod: dict[str, Any], message: Message) -> dict[str, Any]:
    """A pod that ended well and left a message."""
    containers = pod["spec"]["containers"]
    return {"phase": "Succeeded", "containerStatuses": [_ended(c, 0, messages.encode(message, 4096)) for c in containers]}


def failed(pod: dict[str, Any], container: str, exit_code: int, reason: str = "Error", message: str = "") -> dict[str, Any]:
    """A pod one of whose containers failed."""
    kinds = {"initContainerStatuses": pod["spec"].get("initContainers", []), "containerStatuses": pod["spec"]["containers"]}
    found: dict[str, Any] = {"phase": "Failed"}
    for kind, containers in kinds.items():
        found[kind] = [_ended(c, exit_code, message, reason) for c in containers if c["name"] == container]
    return found


def _ended(container: dict[str, Any], exit_code: int, message: str, reason: str = "Completed") -> dict[str, Any]:
    ended = {"exitCode": exit_code, "reason": reason, "message": message, "startedAt": NOW, "finishedAt": NOW}
    return {"name": container["name"], "image": container["image"], "imageID": "x", "ready": False, "restartCount": 0, "state": {"terminated": ended}}


def resolved(pod: dict[str, Any]) -> dict[str, Any]:
    """The source is there, and nothing is known."""
    unknown = api.Cache(artifact=api.Lookup.Miss, measurement=api.Lookup.Miss)
    target = TargetMessage(plan=Plan.Build, status=api.TargetStatus(name="cpu", state=api.State.Pending, cache=unknown))
    source = api.SourceStatus(digest=digest("source"), size="3Mi", format="ONNX")
    return succeeded(pod, Message(resolved=ResolveMessage(source=source, targets=(target,))))


def published(pod: dict[str, Any]) -> dict[str, Any]:
    """A candidate is published; other limits, another one."""
    request = json.loads(pod["metadata"]["annotations"][names.ANNOTATION_REQUEST])
    content = digest(json.dumps(request["resolve"]["constraints"], sort_keys=True))
    artifact = api.ArtifactStatus(digest=content, uri=f"s3://b/x@{content}", size="1Mi", served=api.Served.Candidate, candidate="static")
    status = api.TargetStatus(name="cpu", state=api.State.Published, reason=Reason.Published, message="static holds every limit", artifact=artifact)
    return succeeded(pod, Message(published=PublishMessage(status=status, source_format="ONNX")))


def answers(pod: dict[str, Any]) -> dict[str, Any]:
    """A server's pod that is ready."""
    states = [
        {"name": c["name"], "image": c["image"], "imageID": "x", "ready": True, "restartCount": 0, "state": {"running": {"startedAt": NOW}}}
        for c in pod["spec"]["containers"]
    ]
    ready = [{"type": kind, "status": "True", "lastTransitionTime": NOW} for kind in ("Ready", "ContainersReady")]
    return {"phase": "Running", "conditions": ready, "containerStatuses": states}


class Node:
    """Lets the pods of one namespace run."""

    def __init__(self, api: ControlPlane, namespace: str) -> None:
        self._api, self._namespace = api, namespace
        self.fates: dict[str, Fate] = {
            names.COMPONENT_RESOLVE: resolved,
            names.COMPONENT_PIPELINE: published,
            names.COMPONENT_SERVER: answers,
        }

    def step(self) -> None:
        """Whatever waits gets what becomes of it."""
        path = f"/api/v1/namespaces/{self._namespace}/pods"
        for pod in self._api.request("GET", path).body["items"]:
            name, labels = pod["metadata"]["name"], pod["metadata"].get("labels", {})
            if "deletionTimestamp" in pod["metadata"]:  # nobody else ends it where there is no kubelet
                self._api.request("DELETE", f"{path}/{name}", {"gracePeriodSeconds": 0})
            elif pod["status"].get("phase") == "Pending" and (fate := self.fates.get(labels.get(names.LABEL_COMPONENT, ""))):
                status = fate(pod)
                if status:
                    self._api.request("PATCH", f"{path}/{name}/status", {"status": status}, content_type=MERGE)
