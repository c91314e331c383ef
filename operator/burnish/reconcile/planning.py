"""The heart of the operator: from what is observed to what is to be done and what is to be said. Pure.

Level-triggered: nothing is remembered between two calls but what stands in the cluster, so it can be called at any time, any number of times, and
an operator that was killed in the middle goes on where the cluster is. docs/lifecycle.md holds the table of all situations; a test reads it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import UTC, datetime

from burnish import names
from burnish.api.job_contract import Warned
from burnish.api.v1alpha1 import status as api
from burnish.api.v1alpha1.optimized_model import OnInfeasible, OptimizedModel, ServingMode, Target
from burnish.api.v1alpha1.status import ConditionType, Phase, State
from burnish.errors import REASONS, Kind, Reason
from burnish.manifests import jobs as job_manifests
from burnish.manifests import serving
from burnish.manifests.settings import Settings
from burnish.plugins import order
from burnish.reconcile import conditions, jobs, rollout, runs, targets
from burnish.reconcile.actions import Action, Create, Delete, Plan
from burnish.reconcile.conditions import Claim
from burnish.reconcile.observed import Observed

CONFLICT_SECONDS = 60.0
"""How often an object in our way is looked at again: nobody tells us when it goes."""
_MESSAGE = 32768


def plan(observed: Observed, settings: Settings, now: datetime) -> Plan:
    """Bring one resource closer to its spec."""
    if observed.is_deleting:  # its children go by owner reference
        return Plan()
    if observed.model is None:
        return _invalid(observed, now)
    return _Planner(observed, observed.model, settings, now).plan()


@dataclasses.dataclass(frozen=True)
class _Standing:
    """One target: its answer and its servers."""

    target: Target
    answer: targets.Answer
    rollout: rollout.Rollout
    status: api.TargetStatus

    @property
    def is_in_progress(self) -> bool:
        """Something of it goes on by itself."""
        return not self.answer.is_final or (self.status.state is State.Published and not self.rollout.is_complete and not self.rollout.is_taken_back)


class _Planner:
    def __init__(self, observed: Observed, model: OptimizedModel, settings: Settings, now: datetime) -> None:
        self.observed, self.model, self.settings, self.now = observed, model, settings, now
        self.run = runs.current(model, observed.uid, settings)
        self.is_served = model.spec.serving.mode is ServingMode.Triton
        self.resolved = targets.resolution(observed, self.run, model, now)

    def plan(self) -> Plan:
        standings = [self._standing(target) for target in self.model.spec.targets]
        blocked = self._blocked() or self._without_image(standings)
        actions = (*self._jobs(standings, blocked), *self._serving(standings))
        claims = self._claims(standings, blocked)
        before = list(self.observed.status.conditions) if self.observed.status else []
        found = conditions.build(claims, before, self.observed.generation, self.now)
        return Plan(
            actions=actions,
            status=self._status(standings, found, blocked),
            events=conditions.events(before, found),
            requeue_seconds=self._requeue(standings),
        )

    # --- targets ----------------------------------------------------------------------------------------------------------------------

    def _standing(self, target: Target) -> _Standing:
        answer = targets.answer(self.observed, self.run, self.model, target.name, self.resolved, self.now)
        status = answer.status
        if not answer.is_final and not (answer.status.state is State.Running and answer.status.job_ref) and self.resolved.progress:
            status = self._resolving(status)
        published = status if answer.is_final and status.state is State.Published and status.artifact else None
        if not self.is_served:
            return _Standing(target, answer, rollout.Rollout(is_complete=True), status)
        taken_back = self._taken_back(target, status) if published else None
        if taken_back is not None:
            published = None
        found = rollout.plan(self.observed, self.model, target, published, self.settings, self.now)
        if taken_back is not None:
            found = dataclasses.replace(
                found, problem=jobs.Failure(taken_back.reason or Reason.RolloutTimedOut, taken_back.message), is_taken_back=True
            )
        return _Standing(target, answer, found, self._served_status(target, status, found))

    def _resolving(self, status: api.TargetStatus) -> api.TargetStatus:
        """While the resolve Job runs, its progress is every target's."""
        progress = self.resolved.progress
        assert progress is not None  # noqa: S101  # the caller looked
        step = "resolve" if progress.step == names.COMPONENT_RESOLVE else f"resolve: {progress.step}"
        update: dict[str, object] = {"state": State.Running, "step": step}
        if progress.blocked is not None:
            update |= {"reason": progress.blocked.reason, "message": progress.blocked.message[:1024]}
        return status.model_copy(update=update)

    def _taken_back(self, target: Target, status: api.TargetStatus) -> api.TargetStatus | None:
        """What the status says of a rollout of this very result that was taken back; it isn't tried again."""
        for known in self.observed.status.targets if self.observed.status else ():
            if known.name == target.name and known.state is State.Failed and known.reason in rollout.TAKEN_BACK and known.job_ref == status.job_ref:
                return known
        return None

    def _served_status(self, target: Target, status: api.TargetStatus, found: rollout.Rollout) -> api.TargetStatus:
        update: dict[str, object] = {}
        if found.active:
            update |= {
                "revision": found.active,
                "replicas": found.replicas,
                "ready_replicas": found.ready,
                "url": serving.url(self.model, target),
            }
        if status.state is State.Published and found.problem is not None and (found.is_taken_back or not found.is_active):
            update |= {"reason": found.problem.reason, "message": found.problem.message[:1024]}
        if status.state is State.Published and found.is_taken_back:
            update["state"] = State.Failed
        elif status.state is State.Published and found.is_active and (found.ready or not self.model.spec.replicas_of(target)):
            update["state"] = State.Serving
        return status.model_copy(update=update)

    # --- what is to be done -----------------------------------------------------------------------------------------------------------

    def _blocked(self) -> jobs.Failure | None:
        """What forbids any Job."""
        volume = self.settings.store.volume
        if volume is not None and volume.access_mode != "ReadWriteMany" and self.observed.nodes > 1:
            return jobs.Failure(
                Reason.StoreNotShared,
                f"the store's volume ({volume.access_mode}) can be mounted by one node, and the cluster has {self.observed.nodes}; "
                "set the chart's store.volume.accessMode to ReadWriteMany with a storage class that has it, or use an S3 store",
            )
        namespace = self.model.metadata.namespace
        if self.model.spec.source.trusted and namespace not in self.settings.trusted_namespaces:
            return jobs.Failure(
                Reason.SourceNotTrusted,
                f"spec.source.trusted does not count in namespace {namespace}; who runs Burnish may list it in the chart's trustedNamespaces, "
                "or give the model as safetensors (format StateDict) or as ONNX, which run nothing when they are loaded",
            )
        for conflict in self.observed.conflicts:
            owner = f", which belongs to {conflict.owner}," if conflict.owner else ""
            return jobs.Failure(
                Reason.NameConflict,
                f"there is a {conflict.kind} {conflict.name}{owner} that Burnish did not make for this resource; it is left alone. "
                "Rename one of the two (metadata.name or targets[].name)",
            )
        for refusal in self.observed.refusals:
            return jobs.Failure(Reason.PodNotAdmitted, f"the apiserver refuses {refusal.kind} {refusal.name}: {refusal.text}")
        return None

    def _without_image(self, standings: Sequence[_Standing]) -> jobs.Failure | None:
        """The installation can't export such a source."""
        for s in standings:
            if not s.answer.wants_pipeline:
                continue
            if order.training_part(self.model.spec.passes_of(s.target)) and order.TRAINER not in self.settings.images.optimizers:
                return jobs.Failure(
                    Reason.ToolchainUnavailable,
                    f"passes of target {s.target.name} train, and this installation has no image for that; set the chart's images.optimizers.{order.TRAINER}",
                )
            toolchain = job_manifests.exporter(s.target, self._source_format())
            if toolchain not in self.settings.images.optimizers:
                return jobs.Failure(
                    Reason.ToolchainUnavailable,
                    f"the source is {self._source_format()}, and this installation has no image that exports it; "
                    f"set the chart's images.optimizers.{toolchain}",
                )
        return None

    def _source_format(self) -> str:
        return self.resolved.message.source.format or "" if self.resolved.message else ""

    def _jobs(self, standings: Sequence[_Standing], blocked: jobs.Failure | None) -> tuple[Action, ...]:
        current = {self.run.resolve_job, *(self.run.pipeline_job(s.target.name) for s in standings)}
        actions: list[Action] = [Delete("Job", j.name, j.uid) for j in self.observed.jobs if j.name not in current and not j.is_deleting]
        stale = {j.name: j for s in standings for j in s.answer.stale} | (
            {self.resolved.stale.name: self.resolved.stale} if self.resolved.stale else {}
        )
        actions += [Delete("Job", j.name, j.uid) for j in stale.values()]
        if self.model.spec.suspend:
            running = [j for j in self.observed.jobs if j.name in current and j.name not in stale and j.state == "active" and not j.is_deleting]
            return (*actions, *(Delete("Job", j.name, j.uid) for j in running))
        if blocked is not None and blocked.reason in (Reason.StoreNotShared, Reason.SourceNotTrusted, Reason.ToolchainUnavailable):
            return tuple(actions)
        there = {j.name for j in self.observed.jobs}
        wanted: list[Create] = []
        if any(s.answer.wants_resolve for s in standings) and self.run.resolve_job not in there and self.resolved.failure is None:
            wanted.append(Create(job_manifests.build_resolve(self.model, self.run.key, self.settings, uid=self.observed.uid)))
        wanted += [
            Create(
                job_manifests.build_pipeline(
                    self.model, s.target, self.run.key, self.settings, uid=self.observed.uid, source_format=self._source_format()
                )
            )
            for s in standings
            if s.answer.wants_pipeline and self.run.pipeline_job(s.target.name) not in there
        ]
        if wanted:
            needed = job_manifests.build_prerequisites(self.model.metadata.namespace, self.settings)
            actions += [Create(manifest) for manifest in needed]
        return (*actions, *wanted)

    def _serving(self, standings: Sequence[_Standing]) -> tuple[Action, ...]:
        if not self.is_served:
            done = all(s.answer.is_final and s.status.state is State.Published for s in standings)
            return rollout.retire(self.observed, set()) if done else ()
        actions: list[Action] = list(rollout.retire(self.observed, {s.target.name for s in standings}))
        starts = self.model.spec.suspend
        for standing in standings:
            actions += [a for a in standing.rollout.actions if not (starts and isinstance(a, Create))]
        primary = self._primary(standings)
        return (*actions, *rollout.front(self.observed, self.model, self.settings, primary.rollout.active, self.now))

    def _primary(self, standings: Sequence[_Standing]) -> _Standing:
        return next(s for s in standings if s.target.name == self.model.spec.primary.name)

    def _requeue(self, standings: Sequence[_Standing]) -> float | None:
        times = [t for s in standings for t in (s.answer.requeue_seconds, s.rollout.requeue_seconds) if t is not None]
        if self.resolved.requeue_seconds is not None:
            times.append(self.resolved.requeue_seconds)
        if self.observed.conflicts or self.observed.refusals:
            times.append(CONFLICT_SECONDS)
        return max(0.5, min(times)) if times else None

    # --- what is to be said -----------------------------------------------------------------------------------------------------------

    def _failure(self, standings: Sequence[_Standing], blocked: jobs.Failure | None) -> tuple[jobs.Failure, str | None] | None:
        """What stands in the way of this generation for good, and whose it is."""
        if blocked is not None:
            return blocked, None
        for s in standings:
            status = s.status
            if s.rollout.is_taken_back and s.rollout.problem is not None:
                return s.rollout.problem, s.target.name
            if s.answer.is_final and status.state in (State.Failed, State.Refused, State.Undecided) and not self._is_kept(s):
                step = status.step or ("measure" if status.state is not State.Failed else None)
                return jobs.Failure(status.reason or Reason.JobFailed, status.message, step), s.target.name
        return None

    def _is_kept(self, standing: _Standing) -> bool:
        """A refusal that the user answers with what serves now."""
        refused = standing.status.state in (State.Refused, State.Undecided)
        return refused and self.model.spec.constraints.on_infeasible is OnInfeasible.KeepCurrent and bool(standing.rollout.active)

    def _waiting(self, standings: Sequence[_Standing]) -> jobs.Failure | None:
        """What somebody has to do so that it goes on by itself."""
        if self.resolved.progress is not None and self.resolved.progress.blocked is not None:
            return self.resolved.progress.blocked
        for s in standings:
            if s.status.state is State.Running and s.status.reason is not None:
                return jobs.Failure(s.status.reason, s.status.message, s.status.step)
            if s.rollout.problem is not None and not s.rollout.is_taken_back:
                return s.rollout.problem
        return None

    def _claims(self, standings: Sequence[_Standing], blocked: jobs.Failure | None) -> list[Claim]:
        failure = self._failure(standings, blocked)
        waiting = self._waiting(standings)
        suspended = self.model.spec.suspend
        progress = self._progress(standings)
        ready = self._ready(standings, failure, waiting, progress)
        statuses = [s.status for s in standings]
        is_final = all(s.answer.is_final for s in standings)
        text = failure[0].message if failure else ""
        stopped = suspended and progress is not None
        goes_on = self._goes_on(progress, blocked)
        return [
            ready,
            Claim(ConditionType.Reconciling, True, progress, (waiting.message if waiting else ready.message)[:_MESSAGE])
            if progress is not None and goes_on
            else Claim(ConditionType.Reconciling, False, Reason.Suspended if stopped else Reason.Settled),
            Claim(ConditionType.Stalled, True, failure[0].reason, text)
            if failure is not None and not goes_on
            else Claim(ConditionType.Stalled, False, waiting.reason if waiting and progress else Reason.Settled),
            self._source_claim(standings),
            self._optimized(standings, failure, is_final),
            *conditions.gates(statuses, is_final=is_final),
            self._serving_ready(standings),
            self._rollout_claim(standings, Reason.Suspended if stopped else progress, failure),
            *conditions.warnings(self._warnings(standings)),
        ]

    def _progress(self, standings: Sequence[_Standing]) -> Reason | None:
        """What is going on, or None where nothing is."""
        if any(s.answer.wants_resolve for s in standings) or self.resolved.progress is not None:
            return Reason.Resolving
        if any(not s.answer.is_final for s in standings):
            return Reason.Optimizing
        return Reason.RollingOut if self.is_served and any(s.is_in_progress and s.answer.status.state is State.Published for s in standings) else None

    def _goes_on(self, progress: Reason | None, blocked: jobs.Failure | None) -> bool:
        """Something works towards this generation's result, whatever stands in the way of the rest of it."""
        if progress is None or self.model.spec.suspend:
            return False
        seen, current = self.observed, {self.run.resolve_job, *(self.run.pipeline_job(t.name) for t in self.model.spec.targets)}
        return (
            blocked is None
            or any(j.state == "active" and j.name in current and not j.is_deleting for j in seen.jobs)
            or any(d.ready < d.replicas and not d.is_deleting for d in seen.deployments)
        )

    def _ready(
        self, standings: Sequence[_Standing], failure: tuple[jobs.Failure, str | None] | None, waiting: jobs.Failure | None, progress: Reason | None
    ) -> Claim:
        if failure is not None:
            reason, target = failure[0].reason, failure[1]
            return Claim(ConditionType.Ready, False, reason, f"{target}: {failure[0].message}" if target else failure[0].message)
        if progress is not None:
            if self.model.spec.suspend:
                return Claim(ConditionType.Ready, False, Reason.Suspended, "spec.suspend is true: nothing is started; set it to false to go on")
            if waiting is not None:
                return Claim(ConditionType.Ready, False, waiting.reason, waiting.message)
            steps = ", ".join(f"{s.target.name}: {self._step(s)}" for s in standings)
            return Claim(ConditionType.Ready, False, progress, steps)
        if any(self._is_kept(s) for s in standings):
            kept = "; ".join(f"{s.target.name}: revision {s.rollout.active} is kept: {s.status.message}" for s in standings if self._is_kept(s))
            return Claim(ConditionType.Ready, True, Reason.CurrentKept, kept)
        words = "; ".join(f"{s.target.name}: {s.status.message}{self._scaled_to_zero(s)}" for s in standings)
        if any(s.status.reason is Reason.BaselineServed for s in standings):
            return Claim(ConditionType.Ready, True, Reason.BaselineServed, words)
        return Claim(ConditionType.Ready, True, Reason.Serving if self.is_served else Reason.Published, words)

    def _scaled_to_zero(self, standing: _Standing) -> str:
        """Ready, as was asked for, and still nothing answers: that has to be said."""
        return " (scaled to zero: no server runs)" if self.is_served and not self.model.spec.replicas_of(standing.target) else ""

    @staticmethod
    def _step(standing: _Standing) -> str:
        if not standing.answer.is_final:
            return standing.status.step or "waiting"
        if standing.rollout.is_complete:
            return "done"
        return f"{standing.rollout.ready} of {standing.rollout.replicas} servers answer" if standing.rollout.is_active else "the new revision starts"

    def _source_claim(self, standings: Sequence[_Standing]) -> Claim:
        if self.resolved.failure is not None:
            return Claim(ConditionType.SourceResolved, False, self.resolved.failure.reason, self.resolved.failure.message)
        if (self.resolved.message is not None or self._known_source() is not None) and not any(s.answer.wants_resolve for s in standings):
            return Claim(ConditionType.SourceResolved, True, Reason.SourcePinned)
        failed = next((s.status for s in standings if s.answer.is_final and s.status.job_ref and s.status.job_ref.name == self.run.resolve_job), None)
        if failed is not None and failed.state is State.Failed:
            return Claim(ConditionType.SourceResolved, False, failed.reason or Reason.JobFailed, failed.message)
        return Claim(ConditionType.SourceResolved, None, Reason.Resolving)

    def _optimized(self, standings: Sequence[_Standing], failure: tuple[jobs.Failure, str | None] | None, is_final: bool) -> Claim:
        published = [s for s in standings if s.answer.is_final and s.answer.status.state is State.Published]
        if len(published) == len(standings):
            baseline = any(s.answer.status.reason is Reason.BaselineServed for s in standings)
            return Claim(ConditionType.Optimized, True, Reason.BaselineServed if baseline else Reason.Published)
        wrong = next((s.answer.status for s in standings if s.answer.is_final and s.answer.status.state is not State.Published), None)
        if wrong is not None:
            return Claim(ConditionType.Optimized, False, wrong.reason or Reason.JobFailed, wrong.message)
        return Claim(ConditionType.Optimized, None, Reason.Optimizing)

    def _serving_ready(self, standings: Sequence[_Standing]) -> Claim:
        if not self.is_served and not self.observed.services:
            return Claim(ConditionType.ServingReady, False, Reason.PublishOnly)
        standing = self._primary(standings)
        primary = standing.rollout
        if not self.is_served or primary.ready:
            return Claim(ConditionType.ServingReady, True, Reason.Serving, f"revision {primary.active}" if primary.active else "")
        why = ""
        if primary.active and not primary.replicas:
            is_wanted = self.model.spec.replicas_of(standing.target) > 0
            why = "the revision before made room for the new one" if is_wanted else "the primary is scaled to zero"
        return Claim(ConditionType.ServingReady, False, Reason.NotServing, why)

    def _rollout_claim(self, standings: Sequence[_Standing], progress: Reason | None, failure: tuple[jobs.Failure, str | None] | None) -> Claim:
        if not self.is_served:
            return Claim(ConditionType.RolloutComplete, True, Reason.PublishOnly)
        problem = next((s.rollout.problem for s in standings if s.rollout.problem is not None), None)
        if problem is not None:
            return Claim(ConditionType.RolloutComplete, False, problem.reason, problem.message)
        if all(s.answer.is_final and s.rollout.is_complete for s in standings):
            return Claim(ConditionType.RolloutComplete, True, Reason.Serving)
        if all(self._is_kept(s) or (s.answer.is_final and s.rollout.is_complete) for s in standings):
            return Claim(ConditionType.RolloutComplete, True, Reason.CurrentKept)
        if failure is not None:  # NotServing would be untrue where an older revision serves on
            return Claim(ConditionType.RolloutComplete, False, failure[0].reason, failure[0].message)
        moving = any(s.status.state in (State.Published, State.Serving) and not s.rollout.is_complete for s in standings)
        return Claim(ConditionType.RolloutComplete, False, Reason.RollingOut if moving else progress or Reason.NotServing)

    def _warnings(self, standings: Sequence[_Standing]) -> list[Warned]:
        found = [w for s in standings for w in s.answer.warnings]
        if self.resolved.message is not None:
            found += self.resolved.message.warnings
        return found or self._known_warnings(standings)

    def _known_warnings(self, standings: Sequence[_Standing]) -> list[Warned]:
        """Those of the status, where the Jobs that raised them are gone."""
        if self.resolved.message is not None or self.observed.status is None or not all(s.answer.is_final for s in standings):
            return []
        kinds = (ConditionType.DataIndependent, ConditionType.DataSufficient)
        return [Warned(reason=c.reason, message=c.message) for c in self.observed.status.conditions if c.type in kinds]

    def _known_source(self) -> api.SourceStatus | None:
        """The source that the status holds for this run."""
        known = self.observed.status
        of_run = known is not None and any(
            t.job_ref is not None and t.job_ref.name in (self.run.resolve_job, self.run.pipeline_job(t.name)) for t in known.targets
        )
        return known.source if known is not None and of_run else None

    def _status(self, standings: Sequence[_Standing], found: list[api.Condition], blocked: jobs.Failure | None) -> api.Status:
        primary = self._primary(standings).rollout
        served = self.is_served and bool(primary.active)
        source = self.resolved.message.source if self.resolved.message else self._known_source()
        detected = next((s.answer.source_format for s in standings if s.answer.source_format not in ("", "unknown")), "")
        if source is not None and detected:
            source = source.model_copy(update={"format": detected})
        elif source is not None and source.format == "unknown" and (known := self._known_source()) is not None:
            source = known
        return api.Status(
            observed_generation=self.observed.generation,
            phase=self._phase(standings, blocked),
            conditions=found,
            source=source,
            targets=[s.status for s in standings],
            replicas=primary.replicas if served else 0,
            selector=serving.selector_text(self.model, self.model.spec.primary, primary.active) if served else None,
            url=serving.url(self.model, None) if served else None,
            grpc_url=serving.grpc_url(self.model, None) if served else None,
            last_failure=self._last_failure(standings, blocked),
        )

    def _phase(self, standings: Sequence[_Standing], blocked: jobs.Failure | None) -> Phase:
        failure = self._failure(standings, blocked)
        progress = self._progress(standings)
        if failure is not None and self._goes_on(progress, blocked):
            return Phase.Running  # another target goes on; lastFailure and Ready tell of this one
        if failure is not None:
            refused = (
                all(s.status.state in (State.Refused, State.Undecided) or s.status.state is not State.Failed for s in standings) and blocked is None
            )
            return Phase.Refused if refused and REASONS[failure[0].reason].kind is Kind.RESULT else Phase.Failed
        if progress is None:
            return Phase.Ready
        if self.model.spec.suspend:
            return Phase.Suspended
        started = self.resolved != targets.Resolution() or any(s.status.state is not State.Pending for s in standings)
        return Phase.Running if started else Phase.Pending

    def _last_failure(self, standings: Sequence[_Standing], blocked: jobs.Failure | None) -> api.LastFailure | None:
        failure = self._failure(standings, blocked)
        if failure is None:
            kept = next((s for s in standings if self._is_kept(s)), None)
            if kept is None:
                return None
            failure = jobs.Failure(kept.status.reason or Reason.Undecided, kept.status.message, "measure"), kept.target.name
        return last_failure(self.observed, failure[0], failure[1], self.now)


def last_failure(observed: Observed, failure: jobs.Failure, target: str | None, now: datetime) -> api.LastFailure:
    """`status.lastFailure`, with the time at which it was first seen."""
    found = api.LastFailure(
        target=target,
        step=failure.step,
        reason=failure.reason,
        message=failure.message[:_MESSAGE],
        time=now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )
    known = observed.status.last_failure if observed.status else None
    same = known is not None and known.model_copy(update={"time": found.time}) == found
    return known if known is not None and same else found


def _invalid(observed: Observed, now: datetime) -> Plan:
    """A spec that this release can't read: it is said, and everything that is there is left alone."""
    known = observed.status or api.Status(observed_generation=observed.generation)
    failure = jobs.Failure(Reason.InvalidManifest, observed.invalid)
    claims = [
        Claim(ConditionType.Ready, False, Reason.InvalidManifest, observed.invalid),
        Claim(ConditionType.Reconciling, False, Reason.Settled),
        Claim(ConditionType.Stalled, True, Reason.InvalidManifest, observed.invalid),
    ]
    made = conditions.build(claims, known.conditions, observed.generation, now)
    rest = [c for c in known.conditions if c.type not in {m.type for m in made}]
    status = known.model_copy(
        update={
            "observed_generation": observed.generation,
            "phase": Phase.Failed,
            "conditions": [*made, *rest],
            "last_failure": last_failure(observed, failure, None, now),
        }
    )
    return Plan(status=status, events=conditions.events(known.conditions, made))
