"""A cluster in memory that does what a plan asks for, so that the planning can be driven through whole lives without one.

It knows what Kubernetes does with what it is given (a Job gets a pod, a Deployment gets ready) only as far as a test says so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from burnish import names
from burnish.api.job_contract import Message, PublishMessage, ResolveMessage, TargetMessage
from burnish.api.job_contract import Plan as Needs
from burnish.api.v1alpha1 import status as api
from burnish.api.v1alpha1.optimized_model import OptimizedModel
from burnish.api.v1alpha1.status import State
from burnish.manifests.settings import Settings
from burnish.reconcile import planning
from burnish.reconcile.actions import Action, Create, Delete, Plan, Scale, Select
from burnish.reconcile.observed import ContainerView, DeploymentView, JobView, Key, Observed, PodView, ServiceView

START = datetime(2026, 1, 1, tzinfo=UTC)
ROUNDS = 60


class World:
    """One resource and its children."""

    def __init__(self, model: OptimizedModel, settings: Settings, uid: str = "uid-1") -> None:
        self.settings, self.now, self.made = settings, START, 0
        self.observed = Observed(key=Key("models", model.metadata.name), uid=uid, generation=1, model=model)
        self.created: list[str] = []
        self.source_format = "ONNX"
        self.answer: Callable[[str], api.TargetStatus] = lambda target: published(target, "a")

    def edit(self, model: OptimizedModel) -> None:
        self.observed = dataclasses.replace(self.observed, model=model, generation=self.observed.generation + 1)

    def plan(self) -> Plan:
        return planning.plan(self.observed, self.settings, self.now)

    def reconcile(self, writes: int | None = None) -> Plan:
        """Plan once and carry it out; only the first `writes` actions, and no status, where the operator is killed after them."""
        plan = self.plan()
        for action in plan.actions[:writes]:
            self.apply(action)
        if writes is None and plan.status is not None:
            self.observed = dataclasses.replace(self.observed, status=plan.status)
        return plan

    def settle(self, step: Callable[[World], None] | None = None) -> Plan:
        """Until nothing changes: reconcile, let the cluster work, let time pass."""
        for _ in range(ROUNDS):
            before = self.observed
            plan = self.reconcile()
            (step or World.work)(self)
            self.now += timedelta(seconds=plan.requeue_seconds or 0)
            if self.observed == before and not plan.actions and plan.requeue_seconds is None:
                return plan
        raise AssertionError(f"not settled: {plan.actions}")

    # --- the cluster ------------------------------------------------------------------------------------------------------------------

    def work(self) -> None:
        """Every Job ends well and every Deployment gets ready."""
        for job in self.observed.jobs:
            if job.state == "active":
                self.finish(job)
        self.observed = dataclasses.replace(
            self.observed, deployments=tuple(dataclasses.replace(d, ready=d.replicas, available=d.replicas) for d in self.observed.deployments)
        )

    def finish(self, job: JobView) -> None:
        """The Job ends with its message."""
        target = job.labels.get(names.LABEL_TARGET)
        if target is None:
            assert self.observed.model is not None
            found = [
                TargetMessage(status=api.TargetStatus(name=t.name, state=State.Running), plan=Needs.Build) for t in self.observed.model.spec.targets
            ]
            source = api.SourceStatus(digest=f"sha256:{'0' * 64}", size="1Mi", format=self.source_format)
            message, container = Message(resolved=ResolveMessage(source=source, targets=tuple(found))), "resolve"
        else:
            message, container = Message(published=PublishMessage(status=self.answer(target), source_format=self.source_format)), "publish"
        self.end(job, "succeeded", ContainerView(name=container, state="terminated", exit_code=0, message=message))

    def end(self, job: JobView, state: str, *containers: ContainerView, reason: str = "") -> None:
        """The Job ends, and leaves a pod with these containers."""
        pod = PodView(
            name=f"{job.name}-x", labels=job.labels, phase="Failed" if state == "failed" else "Succeeded", owner_uid=job.uid,
            created=self.now, containers=containers, reason=reason, node="n",
        )  # fmt: skip
        ended = dataclasses.replace(job, state=state)
        others = tuple(j for j in self.observed.jobs if j.uid != job.uid)
        self.observed = dataclasses.replace(self.observed, jobs=(*others, ended), pods=(*self.observed.pods, pod))

    def apply(self, action: Action) -> None:
        """What the apiserver does."""
        match action:
            case Create():
                self._create(action)
            case Delete(kind, name, uid):
                self._delete(kind, name, uid)
            case Scale(_, uid, replicas):
                self.observed = dataclasses.replace(
                    self.observed,
                    deployments=tuple(
                        dataclasses.replace(d, replicas=replicas, ready=min(d.ready, replicas), available=min(d.available, replicas))
                        if d.uid == uid else d for d in self.observed.deployments
                    ),
                )  # fmt: skip
            case Select(_, uid, selector, annotations):
                self.observed = dataclasses.replace(
                    self.observed,
                    services=tuple(
                        dataclasses.replace(s, selector=selector, annotations=s.annotations | annotations) if s.uid == uid else s
                        for s in self.observed.services
                    ),
                )

    def _create(self, action: Create) -> None:
        self.made += 1
        uid, metadata, spec = f"made-{self.made}", action.manifest["metadata"], action.manifest["spec"]
        labels, seen = metadata.get("labels", {}), self.observed
        there = {
            *((("Job", j.name)) for j in seen.jobs),
            *(("Deployment", d.name) for d in seen.deployments),
            *(("Service", s.name) for s in seen.services),
        }
        if (action.kind, action.name) in there:
            raise AssertionError(f"made twice: {action.kind} {action.name}")
        self.created.append(action.kind)
        if action.kind == "Job":
            job = JobView(name=action.name, uid=uid, labels=labels, created=self.now, state="active")
            self.observed = dataclasses.replace(seen, jobs=(*seen.jobs, job))
        elif action.kind == "Deployment":
            made = DeploymentView(name=action.name, uid=uid, labels=labels, created=self.now, replicas=spec["replicas"], ready=0, available=0)
            self.observed = dataclasses.replace(seen, deployments=(*seen.deployments, made))
        elif action.kind == "Service":
            self.observed = dataclasses.replace(
                seen, services=(*seen.services, ServiceView(name=action.name, uid=uid, labels=labels, selector=spec["selector"]))
            )

    def _delete(self, kind: str, name: str, uid: str) -> None:
        seen = self.observed
        self.observed = dataclasses.replace(
            seen,
            jobs=tuple(j for j in seen.jobs if (kind, j.uid) != ("Job", uid)),
            pods=tuple(p for p in seen.pods if p.owner_uid != uid),
            deployments=tuple(d for d in seen.deployments if (kind, d.uid) != ("Deployment", uid)),
            services=tuple(s for s in seen.services if (kind, s.uid) != ("Service", uid)),
        )

    def summary(self) -> object:
        """What stands in the end, without times and uids."""
        seen = self.observed
        return (
            sorted((j.name, j.state) for j in seen.jobs), sorted((d.name, d.replicas) for d in seen.deployments),
            sorted((s.name, sorted(s.selector.items())) for s in seen.services), seen.status and seen.status.phase,
        )  # fmt: skip


def published(target: str, digit: str) -> api.TargetStatus:
    """The status of a target whose pipeline published the artifact with this digit."""
    artifact = api.ArtifactStatus.model_validate(
        {"digest": f"sha256:{digit * 64}", "uri": "s3://models/store", "size": "26Mi", "served": "Candidate", "sharedMemory": "96Mi"}
    )
    return api.TargetStatus(name=target, state=State.Published, artifact=artifact)
