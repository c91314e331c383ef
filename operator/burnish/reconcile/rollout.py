"""From a published artifact to a server that answers, without a moment in which nothing does.

A revision is a Deployment that is never changed, only scaled; the Service's selector says which one is active, and to patch it is the whole
switch. So what serves can be read off the cluster at any time, whatever the operator did or didn't get to before it was killed.

    new revision starts beside the active one  ->  answers  ->  Service selects it  ->  drain  ->  old one goes

Where the scheduler has no room for both, the old one makes room first (and comes back if the new one doesn't answer in time).
"""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta

from burnish import names
from burnish.api.scalars import duration_seconds
from burnish.api.v1alpha1 import status as api
from burnish.api.v1alpha1.optimized_model import OptimizedModel, Target
from burnish.errors import Reason
from burnish.manifests import serving
from burnish.manifests.settings import Settings
from burnish.reconcile import jobs
from burnish.reconcile.actions import Action, Create, Delete, Scale, Select
from burnish.reconcile.observed import DeploymentView, Observed, PodView, ServiceView

SWITCHED_AT = f"{names.GROUP}/switched-at"
"""Annotation of a Service: when its selector was changed, RFC 3339; the old revision goes after the drain."""
ROOM_SECONDS = 10.0
"""How long the scheduler may find no room before the old revision makes some."""
TAKEN_BACK = (Reason.RolloutTimedOut, Reason.HardwareMismatch, Reason.WrongAnswer)
"""Why a revision may have been taken back; the same artifact is not tried again for the same run."""


@dataclasses.dataclass(frozen=True)
class Rollout:
    """What one target's serving needs, and what it is."""

    actions: tuple[Action, ...] = ()
    active: str = ""
    """The revision that the Service selects; empty where there is none."""
    replicas: int = 0
    ready: int = 0
    """Of the active revision."""
    is_complete: bool = False
    """The wanted revision is active, has its replicas, and nothing else is left."""
    is_active: bool = False
    """The wanted revision is what serves, or would with replicas above 0."""
    problem: jobs.Failure | None = None
    """What keeps the wanted revision from answering."""
    is_taken_back: bool = False
    """The wanted revision failed, and the one before serves on."""
    requeue_seconds: float | None = None


def plan(observed: Observed, model: OptimizedModel, target: Target, published: api.TargetStatus | None, settings: Settings, now: datetime) -> Rollout:
    """What to do for one target.

    Args:
        published: its result, where one is published; None while there is none for this generation: then what serves only keeps its replicas.
    """
    return _TargetRollout(observed, model, target, settings, now).plan(published)


def retire(observed: Observed, keep: set[str]) -> tuple[Action, ...]:
    """Remove the servers and Services of targets that the spec doesn't have any more (or of all, for PublishOnly)."""
    found: list[Action] = []
    for service in observed.services:
        target = service.labels.get(names.LABEL_TARGET, "")
        if target and target not in keep:
            found.append(Delete("Service", service.name, service.uid))
    if not keep:
        found += [Delete("Service", s.name, s.uid) for s in observed.services if not s.labels.get(names.LABEL_TARGET)]
    found += [
        Delete("Deployment", d.name, d.uid) for d in observed.deployments if d.labels.get(names.LABEL_TARGET, "") not in keep and not d.is_deleting
    ]
    return tuple(found)


def front(observed: Observed, model: OptimizedModel, settings: Settings, active: str, now: datetime) -> tuple[Action, ...]:
    """The Service of the resource's own name, in front of the primary's active revision."""
    primary = model.spec.primary
    service = next((s for s in observed.services if s.name == model.metadata.name), None)
    if service is None:
        return (Create(serving.build_service(model, None, active, settings, uid=observed.uid)),) if active else ()
    wanted = serving.selector(model, primary, active)
    if active and service.selector != wanted:
        return (Select(service.name, service.uid, wanted, {SWITCHED_AT: _time(now)}),)
    return ()


class _TargetRollout:
    def __init__(self, observed: Observed, model: OptimizedModel, target: Target, settings: Settings, now: datetime) -> None:
        self.observed, self.model, self.target, self.settings, self.now = observed, model, target, settings, now
        self.wanted_replicas = model.spec.replicas_of(target)
        name = names.service(model.metadata.name, target.name)
        self.service: ServiceView | None = next((s for s in observed.services if s.name == name), None)
        self.active_revision = self.service.selector.get(names.LABEL_REVISION, "") if self.service else ""
        ours = [d for d in observed.deployments if d.labels.get(names.LABEL_TARGET) == target.name and not d.is_deleting]
        self.deployments = {d.labels.get(names.LABEL_REVISION, ""): d for d in ours}
        self.active = self.deployments.get(self.active_revision)

    def plan(self, published: api.TargetStatus | None) -> Rollout:
        if published is None or published.artifact is None:
            return self._keep()
        revision = serving.revision(published.artifact, self.target, self.model, self.settings)
        deployment = self.deployments.get(revision)
        if deployment is None:
            return self._with_active(self._start(published.artifact, revision), is_active=False)
        if self.active_revision == revision:
            return self._settle(deployment, revision)
        if self._answers(deployment):
            return self._switch(deployment, revision)
        return self._wait(deployment, revision)

    def _keep(self) -> Rollout:
        """No result to roll out: what serves keeps its replicas, and what was on its way goes."""
        others = tuple(Delete("Deployment", d.name, d.uid) for r, d in self.deployments.items() if r != self.active_revision and self.active)
        return self._with_active((*self._scale(self.active), *others), is_active=False)

    def _start(self, artifact: api.ArtifactStatus, revision: str) -> tuple[Action, ...]:
        """A new revision, beside whatever serves; an older one that was on its way and never answered goes."""
        superseded = [Delete("Deployment", d.name, d.uid) for r, d in self.deployments.items() if r not in (self.active_revision, revision)]
        made = Create(
            serving.build_deployment(self.model, self.target, artifact, revision, self.wanted_replicas, self.settings, uid=self.observed.uid)
        )
        service = () if self.service else (Create(serving.build_service(self.model, self.target, revision, self.settings, uid=self.observed.uid)),)
        return (*superseded, made, *service)

    def _switch(self, deployment: DeploymentView, revision: str) -> Rollout:
        """It answers: one patch, and traffic goes there."""
        actions: tuple[Action, ...]
        if self.service is None:
            actions = (Create(serving.build_service(self.model, self.target, revision, self.settings, uid=self.observed.uid)),)
        else:
            wanted = serving.selector(self.model, self.target, revision)
            actions = (Select(self.service.name, self.service.uid, wanted, {SWITCHED_AT: _time(self.now)}),)
        return Rollout(
            actions=actions,
            active=revision,
            replicas=deployment.replicas,
            ready=deployment.ready,
            is_active=True,
            requeue_seconds=duration_seconds(self.settings.drain),
        )

    def _settle(self, deployment: DeploymentView, revision: str) -> Rollout:
        """The wanted revision is active: its replicas, and the end of what was before."""
        old = [d for r, d in self.deployments.items() if r != revision]
        left = self._drain_left() if old else 0.0
        removals = tuple(Delete("Deployment", d.name, d.uid) for d in old) if left <= 0 else ()
        complete = not old and deployment.replicas == self.wanted_replicas and self._answers(deployment)
        times = [left] if old and left > 0 else []
        if not self._answers(deployment) and self._left(deployment) > 0:
            times.append(self._left(deployment))  # nothing happens in the cluster when its time is over
        return Rollout(
            actions=(*self._scale(deployment), *removals),
            active=revision,
            replicas=deployment.replicas,
            ready=deployment.ready,
            is_complete=complete,
            is_active=True,
            problem=None if self._answers(deployment) else self._problem(deployment) or self._overdue(deployment),
            requeue_seconds=min(times, default=None),
        )

    def _wait(self, deployment: DeploymentView, revision: str) -> Rollout:
        """It doesn't answer yet: make room if that is what it needs, take it back if its time is over."""
        problem = self._problem(deployment)
        left = self._left(deployment)
        superseded = tuple(Delete("Deployment", d.name, d.uid) for r, d in self.deployments.items() if r not in (self.active_revision, revision))
        hopeless = problem is not None and problem.reason in (Reason.HardwareMismatch, Reason.WrongAnswer)
        if self.active is not None and (left <= 0 or hopeless):
            reason = problem.reason if problem and hopeless else Reason.RolloutTimedOut
            words = f": {problem.message}" if problem else ""
            taken_back = jobs.Failure(
                reason,
                problem.message
                if problem and hopeless
                else f"the new revision did not answer within {self.settings.rollout_timeout} and was taken back{words}",
            )
            back = (Delete("Deployment", deployment.name, deployment.uid), *superseded, *self._scale(self.active))
            return dataclasses.replace(self._with_active(back, is_active=False), problem=taken_back, is_taken_back=True)
        room = self._make_room(deployment)
        if self.active is not None and not room and self.active.replicas and not self._is_making_room():
            room = self._scale(self.active)
        found = self._with_active((*superseded, *self._scale(deployment), *room), is_active=False)
        return dataclasses.replace(
            found, problem=problem or self._overdue(deployment), requeue_seconds=min(max(left, 1.0), ROOM_SECONDS) if left > 0 else None
        )

    def _left(self, deployment: DeploymentView) -> float:
        """Seconds that a new revision still has to answer."""
        return (deployment.created + timedelta(seconds=duration_seconds(self.settings.rollout_timeout)) - self.now).total_seconds()

    def _overdue(self, deployment: DeploymentView) -> jobs.Failure | None:
        """No server answers, and those that are there have had their time; one that was added or replaced just now has not."""
        pods = self._pods(deployment)
        since = max([deployment.created, *(p.created for p in pods)])
        left = (since + timedelta(seconds=duration_seconds(self.settings.rollout_timeout)) - self.now).total_seconds()
        if deployment.ready or left > 0:
            return None
        return jobs.Failure(Reason.RolloutTimedOut, f"the server did not answer within {self.settings.rollout_timeout}; it may still come up")

    def _make_room(self, deployment: DeploymentView) -> tuple[Action, ...]:
        """The old revision's end, where the scheduler has said for a while that nothing else is missing."""
        waiting = [p for p in self._pods(deployment) if jobs.lacks_room(p)]
        long_enough = any((self.now - p.created).total_seconds() >= ROOM_SECONDS for p in waiting)
        if self.active is None or not self.active.replicas or not long_enough:
            return ()
        return (Scale(self.active.name, self.active.uid, 0),)

    def _is_making_room(self) -> bool:
        return self.active is not None and self.active.replicas == 0

    def _scale(self, deployment: DeploymentView | None) -> tuple[Action, ...]:
        if deployment is None or deployment.replicas == self.wanted_replicas:
            return ()
        return (Scale(deployment.name, deployment.uid, self.wanted_replicas),)

    def _answers(self, deployment: DeploymentView) -> bool:
        """As many servers as are wanted have answered the golden request."""
        return deployment.is_observed and deployment.available >= min(max(deployment.replicas, 1), self.wanted_replicas)

    def _problem(self, deployment: DeploymentView) -> jobs.Failure | None:
        """What keeps its pods from answering, in the words of whoever knows."""
        for pod in sorted(self._pods(deployment), key=lambda p: p.created, reverse=True):
            if pod.unschedulable:
                return jobs.Failure(Reason.NoMatchingNode, f"no node takes the server: {pod.unschedulable}")
            for container in pod.containers:
                if container.message is not None and container.message.failure is not None and not container.is_ready:
                    told = container.message.failure
                    return jobs.Failure(told.reason, told.message)
            blocked = jobs.container_progress(pod).blocked
            if blocked is not None:
                return blocked
        if deployment.text:
            return jobs.Failure(Reason.PodNotAdmitted, f"the apiserver takes no pod of the server: {deployment.text}")
        return None

    def _pods(self, deployment: DeploymentView) -> list[PodView]:
        revision = deployment.labels.get(names.LABEL_REVISION)
        return [
            p
            for p in self.observed.pods
            if p.labels.get(names.LABEL_TARGET) == self.target.name
            and p.labels.get(names.LABEL_REVISION) == revision
            and p.labels.get(names.LABEL_COMPONENT) == names.COMPONENT_SERVER
            and not p.is_deleting
        ]

    def _drain_left(self) -> float:
        """Seconds until what served before the switch may go."""
        switched = self.service.annotations.get(SWITCHED_AT, "") if self.service else ""
        try:
            since = datetime.strptime(switched, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
        except ValueError:
            return 0.0
        return (since + timedelta(seconds=duration_seconds(self.settings.drain)) - self.now).total_seconds()

    def _with_active(self, actions: tuple[Action, ...], *, is_active: bool) -> Rollout:
        active = self.active
        return Rollout(
            actions=actions,
            active=self.active_revision if active else "",
            replicas=active.replicas if active else 0,
            ready=active.ready if active else 0,
            is_active=is_active,
        )


def _time(now: datetime) -> str:
    return now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
