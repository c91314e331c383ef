"""From the apiserver's JSON to what planning looks at, in two steps: an object is trimmed when it arrives, and viewed when it is needed.

Between the two it is kept as compact bytes: a watch delivers far more than planning reads, most changes (heartbeats, managed fields) change
nothing of it, and then nothing needs to be planned.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from burnish import names
from burnish.api import messages
from burnish.api.job_contract import Message
from burnish.reconcile.observed import ContainerView, DeploymentView, JobView, PodView, ServiceView

Object = Mapping[str, Any]

_LABEL_PREFIXES = (f"{names.GROUP}/", names.LABEL_MANAGED_BY)
_TEXT = 1024


def trim(kind: str, body: Object) -> bytes:
    """What planning may want of an object, as canonical JSON: equal bytes, equal plan."""
    trimmed = {"metadata": _metadata(kind, body), **_TRIM[kind](body)}
    return json.dumps(trimmed, separators=(",", ":"), sort_keys=True).encode()


def owner_uid(body: Object) -> str:
    """The uid of the controlling owner; empty where there is none."""
    return next((str(o["uid"]) for o in body["metadata"].get("ownerReferences", ()) if o.get("controller")), "")


def owner_text(body: Object) -> str:
    """`OptimizedModel a`, or empty where nothing owns it."""
    owners = body["metadata"].get("ownerReferences") or ()
    return next((f"{o.get('kind')} {o.get('name')}" for o in sorted(owners, key=lambda o: not o.get("controller"))), "")


def job(kept: Object, text: str = "") -> JobView:
    """A Job.

    Args:
        kept: as trimmed.
        text: why it has no pod, where the events say so.
    """
    conditions = {c["type"]: c for c in kept["status"].get("conditions", ())}
    ended: Object = conditions.get("Failed", {})
    state: Literal["active", "succeeded", "failed"] = "succeeded" if "Complete" in conditions else "failed" if ended else "active"
    return JobView(
        **_common(kept),
        created=_created(kept),
        started=datetime.fromisoformat(kept["status"]["startTime"]) if "startTime" in kept["status"] else None,
        state=state,
        reason=ended.get("reason", ""),
        text=ended.get("message", "") or text,
        is_suspended=kept["suspend"],
        is_deleting=_is_deleting(kept),
    )


def pod(kept: Object) -> PodView:
    """A pod, its init containers first."""
    status = kept["status"]
    conditions = {c["type"]: c for c in status["conditions"]}
    scheduled = conditions.get("PodScheduled", {})
    waits = scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable"
    common = _common(kept)
    return PodView(
        name=common["name"],
        labels=common["labels"],
        phase=status["phase"],
        owner_uid=kept["metadata"]["owner"],
        created=_created(kept),
        containers=tuple(_container(c) for c in status["containers"]),
        reason=status.get("reason", ""),
        text=status.get("message", ""),
        unschedulable=scheduled.get("message", "no node fits") if waits else "",
        is_ready=conditions.get("Ready", {}).get("status") == "True",
        is_deleting=_is_deleting(kept),
        node=kept["node"],
    )


def deployment(kept: Object) -> DeploymentView:
    """A Deployment."""
    status = kept["status"]
    return DeploymentView(
        **_common(kept),
        created=_created(kept),
        replicas=kept["replicas"],
        ready=status.get("readyReplicas", 0),
        available=status.get("availableReplicas", 0),
        text=next((c.get("message", "") for c in status["conditions"]), ""),
        is_observed=kept["isObserved"],
        is_deleting=_is_deleting(kept),
        annotations=kept["metadata"].get("annotations", {}),
    )


def service(kept: Object) -> ServiceView:
    """A Service."""
    return ServiceView(**_common(kept), selector=kept["selector"], annotations=kept["metadata"].get("annotations", {}))


def _common(kept: Object) -> dict[str, Any]:
    metadata = kept["metadata"]
    return {"name": metadata["name"], "uid": metadata["uid"], "labels": metadata["labels"]}


def _created(kept: Object) -> datetime:
    return datetime.fromisoformat(kept["metadata"]["created"])


def _is_deleting(kept: Object) -> bool:
    return bool(kept["metadata"].get("isDeleting"))


def _metadata(kind: str, body: Object) -> dict[str, Any]:
    metadata = body["metadata"]
    found = {"name": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"]}
    if kind == names.KIND:
        return found | {"generation": metadata.get("generation", 0), "isDeleting": "deletionTimestamp" in metadata}
    labels = {k: v for k, v in metadata.get("labels", {}).items() if k.startswith(_LABEL_PREFIXES)}
    annotations = {k: v for k, v in metadata.get("annotations", {}).items() if k.startswith(f"{names.GROUP}/") and k != names.ANNOTATION_REQUEST}
    found |= {"labels": labels, "created": metadata["creationTimestamp"], "owner": owner_uid(body)}
    if "deletionTimestamp" in metadata:
        found["isDeleting"] = True
    return found | ({"annotations": annotations} if annotations else {})


def _trim_model(body: Object) -> dict[str, Any]:
    return {"apiVersion": names.API_VERSION, "kind": names.KIND, "spec": body.get("spec", {}), "status": body.get("status")}


def _trim_job(body: Object) -> dict[str, Any]:
    ended = [_pick(c, "type", "reason", "message") for c in _true(body, ("Complete", "Failed"))]
    return {"suspend": bool(body["spec"].get("suspend")), "status": {"conditions": ended, **_pick(body.get("status", {}), "startTime")}}


def _trim_pod(body: Object) -> dict[str, Any]:
    status = body.get("status", {})
    containers = [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]
    conditions = [_pick(c, "type", "status", "reason", "message") for c in status.get("conditions", ()) if c["type"] in ("PodScheduled", "Ready")]
    for condition in conditions:
        if condition["status"] == "True" or condition["type"] == "Ready":
            condition.pop("message", None)
            condition.pop("reason", None)
    kept = {"phase": status.get("phase", "Pending"), "conditions": conditions, "containers": [_trim_container(c) for c in containers]}
    return {"node": body["spec"].get("nodeName", ""), "status": kept | _pick(status, "reason", "message")}


def _trim_container(status: Object) -> dict[str, Any]:
    found: dict[str, Any] = {"name": status["name"], "ready": status.get("ready", False), "restarts": status.get("restartCount", 0)}
    for field, name in (("state", "state"), ("lastState", "last")):
        for state, facts in (status.get(field) or {}).items():
            found[name] = {"is": state, **_pick(facts, "reason", "message", "exitCode")}
    return found


def _trim_deployment(body: Object) -> dict[str, Any]:
    status = body.get("status", {})
    failures = [_pick(c, "message") for c in _true(body, ("ReplicaFailure",))]
    return {
        "replicas": body["spec"].get("replicas", 1),
        "isObserved": status.get("observedGeneration", 0) >= body["metadata"].get("generation", 0),
        "status": {**_pick(status, "readyReplicas", "availableReplicas"), "conditions": failures},
    }


def _trim_service(body: Object) -> dict[str, Any]:
    return {"selector": body["spec"].get("selector") or {}}


_TRIM: dict[str, Callable[[Object], dict[str, Any]]] = {
    names.KIND: _trim_model,
    "Job": _trim_job,
    "Pod": _trim_pod,
    "Deployment": _trim_deployment,
    "Service": _trim_service,
}


def _true(body: Object, types: Sequence[str]) -> list[Object]:
    return [c for c in body.get("status", {}).get("conditions") or () if c["type"] in types and c["status"] == "True"]


def _pick(facts: Object, *fields: str) -> dict[str, Any]:
    return {field: facts[field] for field in fields if facts.get(field) not in (None, "")}


def _container(kept: Object) -> ContainerView:
    """One container. A running one that was restarted tells why it ended the last time: a loop of restarts is told by nothing else."""
    state, last = kept.get("state", {"is": "waiting"}), kept.get("last", {})
    ended = state if state["is"] == "terminated" else last
    message = _message(state) or _message(last)
    reason = state.get("reason", "")
    if not reason and not kept["ready"]:
        reason = ended.get("reason", "")
    return ContainerView(
        name=kept["name"],
        state=state["is"],
        reason=reason,
        text="" if message is not None else (state.get("message", "") or last.get("message", ""))[:_TEXT],
        exit_code=ended.get("exitCode"),
        message=message,
        is_ready=kept["ready"],
        restarts=kept["restarts"],
    )


def _message(facts: Object) -> Message | None:
    return messages.decode(facts.get("message", ""))
