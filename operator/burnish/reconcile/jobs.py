"""What a Job and its pods say: how far the work is, what came of it, or why nothing did.

Neither a Job nor its events change when a step advances, an image can't be pulled or no node fits; the pods' status holds it all. So a Job is
read through its newest pod, container by container, in the order in which they run.
"""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta

from burnish import names
from burnish.api.job_contract import Message
from burnish.errors import Reason
from burnish.reconcile.observed import ContainerView, JobView, Observed, PodView

TRITON, KEEPER = "triton", "keep"
_NOT_PULLABLE = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable", "ImageInspectError"}
_STARTING = {"", "ContainerCreating", "PodInitializing"}
_MEMORY_FIELDS = {TRITON: "raise spec.targets[].resources.memory"}
_NO_ROOM = "Insufficient"
_PATIENCE_SECONDS = 10.0
"""A pod is given this long for a node before anybody is told: the scheduler's next try often finds one, and so does an autoscaler."""
SIDECARS = (TRITON, KEEPER)
"""Containers that run beside the steps and end with the pod."""
NEWS_SECONDS = 15.0
"""How often a step's own news are looked at: neither the pod nor anything else changes with them."""
SHARED_STORE = "raise the chart's value for the memory of steps"


@dataclasses.dataclass(frozen=True)
class Failure:
    """Why there is no result."""

    reason: Reason
    message: str
    step: str | None = None


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a Job is."""

    step: str
    """A container's name, or what it waits for."""
    blocked: Failure | None = None
    """What keeps it from going on, where somebody has to do something; it goes on by itself afterwards."""
    again_seconds: float | None = None
    """When to look again, though nothing may have happened."""


def pods_of(observed: Observed, job: JobView) -> list[PodView]:
    """The Job's pods, the newest first."""
    return sorted((p for p in observed.pods if p.owner_uid == job.uid), key=lambda p: (p.created, p.name), reverse=True)


def result(pods: list[PodView]) -> Message | None:
    """What a Job that succeeded left for us; None where its pod is gone, or left nothing that this release reads."""
    for pod in pods:
        for container in reversed(pod.containers):
            message = container.message
            if message is not None and (message.resolved is not None or message.published is not None) and container.exit_code == 0:
                return message
    return None


def failure(job: JobView, pods: list[PodView]) -> Failure:
    """Why a Job failed: in its step's own words where it left some."""
    for pod in pods:
        found = _failure_of_pod(pod)
        if found is not None:
            return found
    return Failure(Reason.JobFailed, f"Job {job.name} failed ({job.reason or 'no reason given'}) and its pods are gone: {job.text}".rstrip(": "))


def _failure_of_pod(pod: PodView) -> Failure | None:
    if pod.reason == "DeadlineExceeded":
        step = next((c.name for c in pod.containers if c.name not in SIDECARS and not _is_done(c)), None)
        return Failure(
            Reason.DeadlineExceeded, f"{step or 'the pipeline'} was ended when the time for all steps was over; raise spec.jobs.deadline", step
        )
    if pod.reason == "Evicted":
        return Failure(Reason.StepKilled, f"the kubelet evicted the pod: {pod.text}; give the node or the limits more room")
    out_of_memory = next((c for c in pod.containers if c.reason == "OOMKilled" and c.exit_code != 0), None)
    if out_of_memory is not None:
        cure = _MEMORY_FIELDS.get(out_of_memory.name, SHARED_STORE)
        return Failure(Reason.OutOfMemory, f"{out_of_memory.name} exceeded its memory limit and was killed; {cure}", out_of_memory.name)
    for container in pod.containers:
        if container.state == "terminated" and container.exit_code not in (0, None) and container.name not in SIDECARS:
            return _failure_of_container(container)
    return None


def _failure_of_container(container: ContainerView) -> Failure:
    if container.message is not None and container.message.failure is not None:
        told = container.message.failure
        return Failure(told.reason, f"{told.field}: {told.message}" if told.field else told.message, container.name)
    if (container.exit_code or 0) > 128:
        signal = (container.exit_code or 0) - 128
        return Failure(Reason.StepKilled, f"{container.name} was ended by signal {signal} from outside; its pod's log may tell more", container.name)
    return Failure(
        Reason.InternalError, f"{container.name} ended with exit code {container.exit_code} and left no reason; its pod's log has it", container.name
    )


def progress(job: JobView, pods: list[PodView], now: datetime) -> Progress:
    """How far an active Job is."""
    if job.is_suspended:
        return Progress("queued (the Job is suspended, by Kueue or by hand)")
    pod = next((p for p in pods if not p.is_deleting and p.phase in ("Pending", "Running")), None)
    if pod is None and any(p.phase in ("Succeeded", "Failed") for p in pods[:1]):
        return Progress("ending")
    if pod is None:
        return Progress("waiting for a node", _not_admitted(job))
    if pod.unschedulable:
        patience = _PATIENCE_SECONDS - (now - pod.created).total_seconds()
        if patience > 0:
            return Progress("waiting for a node", again_seconds=patience)
        return Progress("waiting for a node", Failure(Reason.NoMatchingNode, _unschedulable(pod)))
    return container_progress(pod)


def container_progress(pod: PodView) -> Progress:
    """How far a pod that has a node is."""
    if not pod.containers:  # the kubelet has not reported yet
        return Progress("starting")
    for container in pod.containers:
        if _is_done(container) or (container.name in SIDECARS and container.state == "running"):
            continue
        if container.state == "waiting" and container.reason not in _STARTING:
            return Progress(container.name, blocked(container))
        if container.name == names.STEP_WITH_NEWS and container.state == "running":
            return Progress(f"{container.name}: {pod.news}" if pod.news else container.name, again_seconds=NEWS_SECONDS)
        return Progress(container.name)
    return Progress("ending")


def blocked(container: ContainerView) -> Failure:
    """Why a container that waits doesn't start, in the kubelet's words."""
    words = f"{container.name}: {container.reason}: {container.text}".rstrip(": ")
    if container.message is not None and container.message.failure is not None:
        told = container.message.failure
        return Failure(told.reason, told.message, container.name)
    if container.reason in _NOT_PULLABLE:
        return Failure(Reason.ImageNotPullable, f"{words}; correct the image in the chart's values, or the pull Secret", container.name)
    if container.reason == "CreateContainerConfigError" and "secret" in container.text.lower():
        return Failure(Reason.SecretNotFound, f"{words}; make the Secret, the pod goes on by itself", container.name)
    return Failure(Reason.PodNotStarted, words, container.name)


def waited_too_long(job: JobView, pods: list[PodView], limit_seconds: float, now: datetime) -> float | None:
    """Seconds that an active Job may still wait for a node; 0 or less when its time is over. None once it has a node, or is suspended."""
    if job.is_suspended or any(not p.is_deleting and (p.phase != "Pending" or not p.unschedulable) for p in pods):
        return None
    since = max(job.started or job.created, *(p.created for p in pods), job.created)  # the time in which it was suspended doesn't count
    return (since + timedelta(seconds=limit_seconds) - now).total_seconds()


def lacks_room(pod: PodView) -> bool:
    """True where a node would do if something else left it."""
    return _NO_ROOM in pod.unschedulable


def _unschedulable(pod: PodView) -> str:
    return f"no node takes the pod: {pod.unschedulable}"


def _not_admitted(job: JobView) -> Failure | None:
    return Failure(Reason.PodNotAdmitted, f"the apiserver takes no pod of Job {job.name}: {job.text}") if job.text else None


def _is_done(container: ContainerView) -> bool:
    return container.state == "terminated" and container.exit_code == 0
