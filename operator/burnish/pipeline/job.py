"""The steps as containers of a cluster's Jobs: where their request comes from, and what they leave for the controller.

A Job's first step gets a `JobRequest` as a file; its pod's other steps get the work directory. The controller sees no store, so a step's end is
told in its termination message (`burnish.api.messages`). The steps themselves are those of a local run.
"""

from __future__ import annotations

from pathlib import Path

from burnish.api import messages, requests
from burnish.api.job_contract import (
    Failure,
    JobRequest,
    Message,
    Plan,
    PublishMessage,
    ResolveMessage,
    ResolveRecord,
    Result,
    StageRecord,
    StepName,
    TargetMessage,
    TargetPlan,
    Warned,
)
from burnish.api.scalars import format_bytes
from burnish.api.v1alpha1 import status as api
from burnish.errors import BurnishError, Reason
from burnish.pipeline import machine, publish, records, resolve, stage
from burnish.pipeline.fetch import Access
from burnish.pipeline.progress import emit
from burnish.pipeline.workdir import WorkDir
from burnish.store.store import Store

CONTAINERS = {StepName.resolve: 1}
"""Step -> containers of its pod, which share the room for termination messages."""
PIPELINE_CONTAINERS = 9
"""Seven steps at most, Triton, and what keeps checkpoints."""
REPEAT = " (to repeat it on a machine of your own: kubectl get om {name} -n {namespace} -o yaml > {name}.yaml; burnish run {name}.yaml)"


def load_request(path: Path) -> JobRequest:
    """Read what the Job was made for.

    Raises:
        BurnishError: InternalError, where it was written by another release.
    """
    try:
        return JobRequest.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise BurnishError(
            Reason.InternalError, f"the Job's request can't be read ({type(error).__name__}); was it made by another release?"
        ) from error


def run_resolve(job: JobRequest, store: Store, access: Access) -> tuple[ResolveRecord, Message]:
    """Pin and look up; file what was found for the pipeline Jobs of the run, and judge what needs none.

    Raises:
        BurnishError: as `resolve.run`, and as the store.
    """
    request = job.resolve
    record = resolve.run(request, store, access)
    store.put_record(records.RESOLUTIONS, job.run_key, record, replace=True)
    found, warnings = [], list(record.warnings)
    for target, plan in zip(request.targets, record.targets, strict=True):
        status = api.TargetStatus(name=target.name, state=api.State.Pending, cache=api.Cache(artifact=plan.artifact, measurement=plan.measurement))
        if plan.plan is Plan.Nothing:
            result = publish.conclude_known(request, target, plan, store)
            status, warnings = result.status, [*warnings, *result.warnings]
        found.append(TargetMessage(plan=plan.plan, status=status))
    builds = [plan.build.source_format for plan in record.targets if plan.build]
    source = api.SourceStatus(
        digest=record.source.tree.digest, size=format_bytes(record.source.tree.size_bytes), format=[*builds, record.detected or "unknown"][0]
    )
    return record, Message(resolved=ResolveMessage(source=source, targets=tuple(found), warnings=_distinct(warnings)))


def run_stage(job: JobRequest, work: WorkDir, store: Store) -> StageRecord:
    """Make the work directory of a pipeline's pod, and put into it what the next steps read.

    What the target needs is looked up again, for the hardware that this pod runs on: `resolve` may have run elsewhere, and another Job may have
    published meanwhile. Where nothing is needed any more, every later step finds that in the request and ends at once.

    Raises:
        BurnishError: as `stage.run`; NotInStore, where `resolve` left nothing.
    """
    target = next(t for t in job.resolve.targets if t.name == job.target)
    resolved = store.get_record(records.RESOLUTIONS, job.run_key, ResolveRecord)
    if resolved is None:
        raise BurnishError(Reason.NotInStore, "the store has no record of this run's resolve Job; change spec.source.refresh to start again")
    hardware_class = machine.hardware_class()
    plan = resolve.plan_target(job.resolve, resolved, target, store, hardware_class)
    for step in StepName:
        work.folder(step).mkdir(parents=True, exist_ok=True)  # each is mounted writable into its own container
    for step in (StepName.stage, StepName.build):
        (work.folder(step) / "repository").mkdir(exist_ok=True)  # Triton is told both, and refuses what isn't there
    work.save_request(requests.pipeline_request(job.resolve, resolved, target, plan, hardware_class=hardware_class))
    emit(f"{hardware_class}: {_words(plan)}")
    if plan.plan is Plan.Nothing:
        return StageRecord(source="")
    return stage.run(work, store)


def is_needed(step: StepName, work: WorkDir) -> bool:
    """Whether a step of a pipeline's pod has anything to do."""
    return step in requests.steps((request := work.load_request()).plan.plan, request.passes)


def run_publish(work: WorkDir, store: Store) -> tuple[Result, Message]:
    """Publish what was measured, or judge what was found to be known.

    Raises:
        BurnishError: as `publish.run`.
    """
    request = work.load_request()
    result = publish.conclude_known(request, request.target, request.plan, store) if request.plan.plan is Plan.Nothing else publish.run(work, store)
    return result, Message(
        published=PublishMessage(status=result.status, source_format=result.build.source_format, warnings=_distinct(list(result.warnings)))
    )


def leave_message(path: Path, step: StepName, message: Message) -> None:
    """Write a step's termination message within its share of the pod's room."""
    write_message(path, message, CONTAINERS.get(step, PIPELINE_CONTAINERS))


def write_message(path: Path, message: Message, containers: int) -> None:
    """Write a termination message of a pod with so many containers."""
    path.write_text(messages.encode(message, messages.budget(containers)))


def failure_message(failure: Failure, *, name: str, namespace: str) -> Message:
    """How a failed step is told: its reason, and how to repeat it elsewhere."""
    text = failure.message + REPEAT.format(name=name, namespace=namespace)
    return Message(failure=failure.model_copy(update={"message": text}))


def _distinct(warnings: list[Warned]) -> tuple[Warned, ...]:
    return tuple({w.message: w for w in warnings}.values())


def _words(plan: TargetPlan) -> str:
    return {Plan.Nothing: "built and measured before", Plan.Measure: "built before, measuring", Plan.Build: "building and measuring"}[plan.plan]
