"""Observes one resource and carries out its plan: all reads and writes of the controller, and what each answer of the apiserver means.

An answer that trying again does not cure by itself (a name that somebody else has, a pod that policy forbids) is an obstacle: it is remembered, shown
to the planner, and told in the status. Every other refusal is an `ApiError`, and the queue tries again.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import re
import secrets
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from burnish import names
from burnish.api import manifest
from burnish.api.v1alpha1.optimized_model import OptimizedModel
from burnish.api.v1alpha1.status import Status
from burnish.controller import apiserver, views
from burnish.controller.apiserver import ApiError, ApiServer
from burnish.controller.cache import Cache
from burnish.errors import BurnishError
from burnish.manifests.settings import Settings
from burnish.reconcile.actions import Action, Create, Delete, Event, Plan, Scale, Select
from burnish.reconcile.observed import Conflict, JobView, Key, Observed, PodView, Refusal

LOG = logging.getLogger(__name__)

_REFUSED = (400, 403, 422)
_NOTE = 1024
_PARSED = 64
"""Specs that are kept parsed; all of them would be most of the memory."""
_NEWS = re.compile(r"[A-Za-z]+: (?:epoch|step) \d+ of \d+[ -~]{0,160}")
"""A line of the training step's log that tells how far it is; the rest is the model's own business."""
_EVENT_PAUSE_SECONDS = 0.05
_NO_POD_SECONDS = 5.0
"""A Job is given this long for a pod; then its events are asked why there is none."""
CONTROLLER = f"{names.GROUP}/controller"


@dataclasses.dataclass(frozen=True)
class Obstacles:
    """What stood in the way when the plan was carried out."""

    conflicts: tuple[Conflict, ...] = ()
    refusals: tuple[Refusal, ...] = ()


class Cluster:
    """The cluster as the controller sees it, and its hands."""

    def __init__(self, api: ApiServer, settings: Settings, *, identity: str = "burnish") -> None:
        self.cache = Cache()
        self._api = api
        self._settings = settings
        self._identity = identity
        self._obstacles: dict[Key, Obstacles] = {}
        self._shared: set[tuple[str, str]] = set()
        """Namespace and kind of what is there once per namespace and nobody's."""
        self._nodes = 0
        self._models: dict[tuple[Key, str, int], tuple[OptimizedModel | None, str]] = {}
        self._events: asyncio.Queue[tuple[Key, str, Event]] = asyncio.Queue()

    # --- reading ----------------------------------------------------------------------------------------------------------------------

    async def sync(self) -> None:
        """List everything: at the start, and now and then, because a watch may lose an event.

        Raises:
            ApiError: a list was refused.
        """
        for resource in (apiserver.MODEL, *apiserver.WATCHED):
            query = {} if resource is apiserver.MODEL else {"labelSelector": names.MANAGED_SELECTOR}
            listed: set[str] = set()
            versions = []
            for namespace in self._settings.watch_namespaces or (None,):
                async for page in self._api.pages(resource, namespace, **query):
                    for body in page["items"]:
                        listed.add(body["metadata"]["uid"])
                        self.cache.seen(resource.kind, body)
                    versions.append(int(page["metadata"]["resourceVersion"]))
            self.cache.drop_unlisted(resource.kind, listed, min(versions))
        self.cache.forget_gone()
        self._shared.clear()
        volume = self._settings.store.volume
        if volume is not None and volume.access_mode != "ReadWriteMany":
            self._nodes = await self._count_nodes()

    async def observe(self, key: Key) -> Observed | None:
        """The resource and what belongs to it; None where it is gone.

        Raises:
            ApiError: events could not be read.
        """
        body = self.cache.model(key)
        if body is None:
            self._obstacles.pop(key, None)
            return None
        metadata = body["metadata"]
        uid = metadata["uid"]
        kept = {kind: [c for c in self.cache.children(key, kind) if c["metadata"]["owner"] == uid] for kind in ("Job", "Deployment", "Service")}
        pods = tuple([await self._with_news(key, views.pod(c)) for c in self.cache.children(key, "Pod")])
        with_pods = {pod.owner_uid for pod in pods}
        obstacles = self._obstacles.get(key, Obstacles())
        model, invalid = self._parsed(key, body)
        return Observed(
            key=key,
            uid=uid,
            generation=metadata["generation"],
            model=model,
            invalid=invalid,
            status=_status(body),
            is_deleting=metadata["isDeleting"],
            jobs=tuple([await self._job(key, c, with_pods) for c in kept["Job"]]),
            pods=pods,
            deployments=tuple(views.deployment(c) for c in kept["Deployment"]),
            services=tuple(views.service(c) for c in kept["Service"]),
            conflicts=obstacles.conflicts,
            refusals=obstacles.refusals,
            nodes=self._nodes,
        )

    def _parsed(self, key: Key, body: dict[str, Any]) -> tuple[OptimizedModel | None, str]:
        """The spec as this release reads it; of those looked at last it is known."""
        which = (key, body["metadata"]["uid"], body["metadata"]["generation"])
        found = self._models.pop(which, None) or _parse(body)
        self._models[which] = found
        if len(self._models) > _PARSED:
            del self._models[next(iter(self._models))]
        return found

    async def _with_news(self, key: Key, pod: PodView) -> PodView:
        """A pod with what its training step said last: an epoch changes nothing that could be watched. Without the right to read logs it goes without."""
        if not any(c.name == names.STEP_WITH_NEWS and c.state == "running" for c in pod.containers):
            return pod
        try:
            said = await self._api.log_end(key.namespace, pod.name, names.STEP_WITH_NEWS)
        except ApiError:
            return pod
        lines = [line for line in said.splitlines() if _NEWS.fullmatch(line)]
        return dataclasses.replace(pod, news=lines[-1]) if lines else pod

    async def _job(self, key: Key, kept: dict[str, Any], with_pods: set[str]) -> JobView:
        """A Job. Why the apiserver takes no pod of it stands in its events and nowhere else."""
        seen = views.job(kept)
        age = (datetime.now(UTC) - seen.created).total_seconds()
        if seen.state != "active" or seen.is_suspended or seen.is_deleting or seen.uid in with_pods or age < _NO_POD_SECONDS:
            return seen
        query = {"fieldSelector": f"involvedObject.uid={seen.uid},reason=FailedCreate"}
        try:
            found = (await self._api.list(apiserver.CORE_EVENT, key.namespace, **query))["items"]
        except ApiError as error:
            if error.status == 403:
                return seen
            raise
        newest = max(found, key=lambda e: str(e.get("lastTimestamp") or e["metadata"]["creationTimestamp"]), default=None)
        return views.job(kept, newest.get("message", "")) if newest is not None else seen

    async def _count_nodes(self) -> int:
        try:
            items = (await self._api.list(apiserver.NODE))["items"]
        except ApiError as error:
            if error.status == 403:  # installed per namespace: a Role can't allow it
                return 0
            raise
        return sum(not node["spec"].get("unschedulable", False) for node in items)

    # --- writing ----------------------------------------------------------------------------------------------------------------------

    async def execute(self, seen: Observed, plan: Plan) -> bool:
        """Carry out the actions, in order, those that remove something last. Returns True if what stands in the way is news.

        Before anything is removed, the status is written: a Job that waited too long, or a revision that never answered, is remembered nowhere else.

        Raises:
            ApiError: the apiserver could not do one now; those before it are done.
        """
        conflicts: list[Conflict] = []
        refusals: list[Refusal] = []
        removals = [action for action in plan.actions if isinstance(action, Delete)]
        others = [action for action in plan.actions if not isinstance(action, Delete)]
        for action in (*others, *removals):
            if removals and action is removals[0]:
                await self.tell(seen, plan)
            try:
                conflict = await self._do(seen, action)
            except ApiError as error:
                if error.status not in _REFUSED or _is_ending(error):
                    raise
                kind, name = (action.kind, action.name) if isinstance(action, Create | Delete) else (type(action).__name__, action.name)
                refusals.append(Refusal(kind, name, error.text))
                continue
            if conflict is not None:
                conflicts.append(conflict)
        found = Obstacles(tuple(conflicts), tuple(refusals))
        before = self._obstacles.pop(seen.key, Obstacles())
        if found != Obstacles():
            self._obstacles[seen.key] = found
        return found != before

    async def tell(self, seen: Observed, plan: Plan) -> None:
        """Write the status, if it says anything new; the events follow.

        Raises:
            ApiError: the apiserver could not take the status now.
        """
        if plan.status is None:
            return
        status = dump_status(plan.status)
        body = self.cache.model(seen.key)
        if body is None or body["metadata"]["uid"] != seen.uid or body.get("status") == status:
            return
        written = {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "metadata": {"name": seen.key.name, "namespace": seen.key.namespace, "uid": seen.uid},
            "status": status,
        }
        try:
            answer = await self._api.apply_status(apiserver.MODEL, seen.key.namespace, seen.key.name, written)
        except ApiError as error:
            if error.status in (404, 409) and await self._is_gone(seen):
                return
            raise
        self.cache.seen(names.KIND, answer)
        for event in plan.events:
            self._events.put_nowait((seen.key, seen.uid, event))

    async def _is_gone(self, seen: Observed) -> bool:
        """Whether the resource went, or another has its name; forgotten then, because a watch may have lost the end of it."""
        there = await self._api.get(apiserver.MODEL, seen.key.namespace, seen.key.name)
        if there is not None and there["metadata"]["uid"] == seen.uid:
            return False
        self.cache.forget(names.KIND, seen.key, seen.key.name, seen.uid)
        return True

    async def post_events(self) -> None:
        """Post events until cancelled: one after the other and at a pace, so that a storm of them never holds up a reconcile."""
        while True:
            await self._post(*await self._events.get())
            await asyncio.sleep(_EVENT_PAUSE_SECONDS)

    async def _do(self, seen: Observed, action: Action) -> Conflict | None:
        namespace = seen.key.namespace
        match action:
            case Create():
                return await self._create(seen, action)
            case Delete():
                await self._unless_gone(self._api.delete(apiserver.BY_KIND[action.kind], namespace, action.name, action.uid))
                self.cache.forget(action.kind, seen.key, action.name, action.uid)
            case Scale():
                body = {"metadata": {"uid": action.uid}, "spec": {"replicas": action.replicas}}
                await self._change(apiserver.DEPLOYMENT, namespace, action.name, body)
            case Select():
                known = next((s.selector for s in seen.services if s.uid == action.uid), {})
                selector = {**dict.fromkeys(known), **action.selector}
                metadata = {"uid": action.uid, "annotations": action.annotations}
                await self._change(apiserver.SERVICE, namespace, action.name, {"metadata": metadata, "spec": {"selector": selector}})
        return None

    async def _create(self, seen: Observed, action: Create) -> Conflict | None:
        resource, namespace = apiserver.BY_KIND[action.kind], seen.key.namespace
        is_shared = "ownerReferences" not in action.manifest["metadata"]
        if is_shared and (namespace, action.kind) in self._shared:
            return None
        try:
            made = await self._api.create(resource, namespace, action.manifest)
        except ApiError as error:
            if error.status == 404 or _is_ending(error):  # the namespace goes, and the resource with it
                return None
            if error.status != 409 or error.reason != "AlreadyExists":
                raise
            there = await self._api.get(resource, namespace, action.name)
            if there is None:
                raise ApiError(409, "Gone", f"{action.kind} {action.name} went while it was looked at") from None
            made = there
            conflict = await self._keep_shared(resource, action, there) if is_shared else self._conflict(seen, action, there)
            if conflict is not None:
                return conflict
        if is_shared:
            self._shared.add((namespace, action.kind))
        elif resource in apiserver.WATCHED:
            self.cache.seen(action.kind, made)
        return None

    async def _keep_shared(self, resource: apiserver.Resource, action: Create, there: dict[str, Any]) -> Conflict | None:
        """What a namespace has once: a volume claim may be an admin's own; a NetworkPolicy of ours follows the settings."""
        if resource is apiserver.CLAIM:
            return None
        if there["metadata"].get("labels", {}).get(names.LABEL_MANAGED_BY) != names.MANAGED_BY:
            return Conflict(action.kind, action.name, views.owner_text(there))
        annotations = action.manifest["metadata"]["annotations"]
        if there["metadata"].get("annotations", {}).get(names.ANNOTATION_SPEC) != annotations[names.ANNOTATION_SPEC]:
            change = {"metadata": {"annotations": annotations}, "spec": action.manifest["spec"]}
            await self._change(resource, there["metadata"]["namespace"], action.name, change)
        return None

    def _conflict(self, seen: Observed, action: Create, there: dict[str, Any]) -> Conflict | None:
        """What an object that has the name already is: ours, our predecessor's, or somebody else's."""
        owner = views.owner_uid(there)
        if owner == seen.uid:
            return None
        text = views.owner_text(there)
        if text == f"{names.KIND} {seen.key.name}":  # of the resource that had this name before: it goes by itself
            raise ApiError(409, "Predecessor", f"{action.kind} {action.name} of the deleted {text} is still going")
        return Conflict(action.kind, action.name, text)

    async def _change(self, resource: apiserver.Resource, namespace: str, name: str, body: dict[str, Any]) -> None:
        changed = await self._unless_gone(self._api.merge(resource, namespace, name, body))
        if changed is not None and resource in apiserver.WATCHED:
            self.cache.seen(resource.kind, changed)

    @staticmethod
    async def _unless_gone(call: Any) -> Any:
        """The call's answer; None where the object is gone, or another one has its name."""
        try:
            return await call
        except ApiError as error:
            if error.status in (404, 409):
                return None
            raise

    async def _post(self, key: Key, uid: str, event: Event) -> None:
        """An event on the resource. One that can't be posted is not worth failing for."""
        regarding = {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "name": key.name,
            "namespace": key.namespace,
            "uid": uid,
        }
        body = {
            "apiVersion": apiserver.EVENT.api_version,
            "kind": "Event",
            "metadata": {"name": f"{key.name}.{secrets.token_hex(8)}", "namespace": key.namespace},
            "eventTime": apiserver.micro_time(),
            "reportingController": CONTROLLER,
            "reportingInstance": self._identity[:128],
            "action": "Reconcile",
            "reason": event.reason.value,
            "type": event.type,
            "note": event.text.encode()[:_NOTE].decode(errors="ignore"),
            "regarding": regarding,
        }
        try:
            await self._api.create(apiserver.EVENT, key.namespace, body)
        except ApiError as error:
            LOG.warning("%s/%s: event %s could not be posted: %s", key.namespace, key.name, event.reason.value, error)


def dump_status(status: Status) -> dict[str, Any]:
    """A status as it stands on the resource."""
    found: dict[str, Any] = status.model_dump(mode="json", by_alias=True, exclude_none=True)
    return found


def _parse(body: dict[str, Any]) -> tuple[OptimizedModel | None, str]:
    """The resource as this release reads it, or why it can't."""
    document = {
        "apiVersion": body["apiVersion"],
        "kind": body["kind"],
        "metadata": {field: body["metadata"][field] for field in ("name", "namespace", "uid")},
        "spec": body["spec"],
    }
    try:
        return manifest.parse(document), ""
    except BurnishError as error:
        return None, error.message if error.field is None else f"{error.field} {error.message}"


def _status(body: dict[str, Any]) -> Status | None:
    try:
        return Status.model_validate(body["status"]) if body.get("status") else None
    except ValidationError:  # of a release that wrote it differently: planned anew from what is there
        return None


def _is_ending(error: ApiError) -> bool:
    return error.status == 403 and "is being terminated" in error.text
