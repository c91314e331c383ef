"""What is known of each target: its result, or what stands between here and one.

Facts come first: a Job that is there is read, whatever the status says. The status is the memory for what is gone: Jobs and pods are collected
sooner or later, and then the result that was written down for this very run still holds.
"""

from __future__ import annotations

import dataclasses
from datetime import datetime

from burnish.api.job_contract import Plan, ResolveMessage, Warned
from burnish.api.scalars import duration_seconds
from burnish.api.v1alpha1 import status as api
from burnish.api.v1alpha1.optimized_model import OptimizedModel
from burnish.api.v1alpha1.status import State
from burnish.errors import Reason
from burnish.reconcile import jobs
from burnish.reconcile.observed import JobView, Observed, PodView
from burnish.reconcile.runs import Run

TERMINAL = (State.Published, State.Serving, State.Refused, State.Undecided, State.Failed)
_MESSAGE = 1024


@dataclasses.dataclass(frozen=True)
class Answer:
    """Where one target stands, before serving is looked at."""

    status: api.TargetStatus
    is_final: bool
    source_format: str = ""
    warnings: tuple[Warned, ...] = ()
    wants_pipeline: bool = False
    """Its pipeline Job is to be started."""
    wants_resolve: bool = False
    """Only the resolve Job can tell."""
    stale: tuple[JobView, ...] = ()
    """Jobs that ended and left nothing readable, or waited too long: to be deleted."""
    requeue_seconds: float | None = None


@dataclasses.dataclass(frozen=True)
class Resolution:
    """What the resolve Job says."""

    message: ResolveMessage | None = None
    failure: jobs.Failure | None = None
    progress: jobs.Progress | None = None
    stale: JobView | None = None
    """It ended well, but what it left is lost."""
    requeue_seconds: float | None = None


def resolution(observed: Observed, run: Run, model: OptimizedModel, now: datetime) -> Resolution:
    """Read the run's resolve Job; nothing of all where there is none."""
    job = next((j for j in observed.jobs if j.name == run.resolve_job and not j.is_deleting), None)
    if job is None:
        return Resolution()
    pods = jobs.pods_of(observed, job)
    if job.state == "succeeded":
        message = jobs.result(pods)
        return Resolution(stale=job) if message is None or message.resolved is None else Resolution(message=message.resolved)
    if job.state == "failed":
        known = _remembered_failure(observed, run) if not pods else None  # pods are collected first, and the reason was theirs
        return Resolution(failure=known or jobs.failure(job, pods))
    left = jobs.waited_too_long(job, pods, duration_seconds(model.spec.jobs.queue_timeout), now)
    if left is not None and left <= 0:
        return Resolution(failure=_queue_timeout(model, job, pods), stale=job)
    progress = jobs.progress(job, pods, now)
    return Resolution(progress=progress, requeue_seconds=_earliest(left, progress.again_seconds))


def answer(observed: Observed, run: Run, model: OptimizedModel, target: str, resolved: Resolution, now: datetime) -> Answer:
    """Where one target stands."""
    job = next((j for j in observed.jobs if j.name == run.pipeline_job(target) and not j.is_deleting), None)
    if job is not None:
        return _from_job(observed, run, model, target, job, now)
    found = next((t for t in resolved.message.targets if t.status.name == target), None) if resolved.message else None
    if found is not None and found.plan is Plan.Nothing:
        return Answer(
            _with_job(found.status, run.resolve_job), is_final=True, source_format=resolved.message.source.format if resolved.message else ""
        )
    known = remembered(observed, run, target)
    if known is not None:
        return Answer(known, is_final=True)
    if found is not None:
        return Answer(_running(target, "starting", found.status.cache), is_final=False, wants_pipeline=True)
    if resolved.failure is not None:
        return Answer(_failed(target, resolved.failure, run.resolve_job), is_final=True)
    return Answer(api.TargetStatus(name=target, state=State.Pending), is_final=False, wants_resolve=True)


def remembered(observed: Observed, run: Run, target: str) -> api.TargetStatus | None:
    """The result that the status holds for this very run."""
    for known in observed.status.targets if observed.status else ():
        jobs_of_run = (run.resolve_job, run.pipeline_job(target))
        if known.name == target and known.state in TERMINAL and known.job_ref is not None and known.job_ref.name in jobs_of_run:
            state = State.Published if known.state is State.Serving else known.state
            return known.model_copy(update={"state": state})
    return None


def _remembered_failure(observed: Observed, run: Run) -> jobs.Failure | None:
    """Why this very run's resolve Job failed, as the status holds it."""
    for known in observed.status.targets if observed.status else ():
        if known.state is State.Failed and known.reason is not None and known.job_ref is not None and known.job_ref.name == run.resolve_job:
            return jobs.Failure(known.reason, known.message, known.step)
    return None


def _from_job(observed: Observed, run: Run, model: OptimizedModel, target: str, job: JobView, now: datetime) -> Answer:
    pods = jobs.pods_of(observed, job)
    if job.state == "failed":
        known = remembered(observed, run, target) if not pods else None  # pods are collected first, and the reason was theirs
        if known is not None:
            return Answer(known, is_final=True)
        return Answer(_failed(target, jobs.failure(job, pods), job.name), is_final=True)
    if job.state == "succeeded":
        message = jobs.result(pods)
        if message is not None and message.published is not None:
            told = message.published
            return Answer(_with_job(told.status, job.name), is_final=True, source_format=told.source_format, warnings=told.warnings)
        known = remembered(observed, run, target)
        if known is not None:
            return Answer(known, is_final=True)
        # What it published is in the store: look it up again.
        lost = (job, *(j for j in observed.jobs if j.name == run.resolve_job))
        return Answer(_running(target, "looking up"), is_final=False, wants_resolve=True, stale=lost)
    left = jobs.waited_too_long(job, pods, duration_seconds(model.spec.jobs.queue_timeout), now)
    if left is not None and left <= 0:
        return Answer(_failed(target, _queue_timeout(model, job, pods), job.name), is_final=True, stale=(job,))
    progress = jobs.progress(job, pods, now)
    status = _running(target, progress.step)
    if progress.blocked is not None:
        status = status.model_copy(update={"reason": progress.blocked.reason, "message": progress.blocked.message[:_MESSAGE]})
    return Answer(
        status.model_copy(update={"job_ref": api.JobReference(name=job.name)}),
        is_final=False,
        requeue_seconds=_earliest(left, progress.again_seconds),
    )


def _earliest(*times: float | None) -> float | None:
    return min((t for t in times if t is not None), default=None)


def _queue_timeout(model: OptimizedModel, job: JobView, pods: list[PodView]) -> jobs.Failure:
    words = next((p.unschedulable for p in pods if p.unschedulable), job.text or "its pod was never scheduled")
    return jobs.Failure(
        Reason.QueueTimeout,
        f"Job {job.name} waited longer than spec.jobs.queueTimeout ({model.spec.jobs.queue_timeout}): {words}; "
        "give it a node, then change spec.source.refresh to try again",
    )


def _running(target: str, step: str, cache: api.Cache | None = None) -> api.TargetStatus:
    return api.TargetStatus(name=target, state=State.Running, step=step, cache=cache)


def _failed(target: str, failure: jobs.Failure, job: str) -> api.TargetStatus:
    return api.TargetStatus(
        name=target,
        state=State.Failed,
        reason=failure.reason,
        message=failure.message[:_MESSAGE],
        step=failure.step,
        job_ref=api.JobReference(name=job),
    )


def _with_job(status: api.TargetStatus, job: str) -> api.TargetStatus:
    return status.model_copy(update={"job_ref": api.JobReference(name=job)})
