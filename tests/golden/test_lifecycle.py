"""The table of docs/lifecycle.md is what the planner says: each row is a life driven in memory to the situation it names.

`python -m tests.golden.test_lifecycle --write` writes the table anew; every changed cell is a change that users see.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from tests.unit.reconcile.world import World, published

from burnish import names
from burnish.api.job_contract import Failure, Message
from burnish.api.v1alpha1 import status as api
from burnish.api.v1alpha1.optimized_model import OptimizedModel
from burnish.api.v1alpha1.status import State
from burnish.errors import Reason
from burnish.manifests.settings import Settings
from burnish.reconcile.observed import Conflict, ContainerView, DeploymentView, JobView, PodView, Refusal

DOCUMENT = Path(__file__).parents[2] / "docs" / "lifecycle.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
HEADER = ("Situation", "phase", "Ready", "Reconciling", "Stalled", "ServingReady", "RolloutComplete", "Runs", "Serves")
SETTINGS = Settings.model_validate(
    {"images": {"burnish": "b:1", "optimizers": {"onnx": "o:1"}, "triton": "t:1"}, "store": {"uri": "s3://models/store"}}
)
OTHER_IMAGE = SETTINGS.model_copy(update={"images": SETTINGS.images.model_copy(update={"triton": "t:2"})})
OTHER = "s3://models/other.onnx"


def make_model(source: str = "s3://models/digits.onnx", targets: tuple[str, ...] = ("cpu",), **spec: object) -> OptimizedModel:
    written = [{"name": t, "runtime": "ONNXRuntime", "resources": {"cpu": "2", "memory": "1Gi"}} for t in targets]
    metadata = {"name": "digits", "namespace": "models", "generation": 1, "uid": "uid-1"}
    return OptimizedModel.model_validate({"metadata": metadata, "spec": {"source": {"uri": source}, "targets": written} | spec})


def new(**spec: object) -> World:
    return World(make_model(**spec), SETTINGS)


def served(**spec: object) -> World:
    world = new(**spec)
    world.settle()
    return world


def edited(source: str = OTHER, **spec: object) -> World:
    world = served()
    world.edit(make_model(source, **spec))
    world.answer = lambda target: published(target, "b")
    return world


def with_other_image() -> World:
    """Whoever runs Burnish changes the Triton that serves; the artifact stays what it is."""
    world = served()
    world.settings = OTHER_IMAGE
    return world


def until_job(world: World, component: str) -> World:
    """Until this Job runs; the ones before end well."""
    for _ in range(10):
        world.reconcile()
        active = [j for j in world.observed.jobs if j.state == "active"]
        if any(j.labels[names.LABEL_COMPONENT] == component for j in active):
            world.reconcile()
            return world
        for job in active:
            world.finish(job)
    raise AssertionError(f"{component} never ran")


def until_rollout(world: World) -> World:
    """Until the new revision is there and doesn't answer yet; what serves goes on."""
    before = {d.uid for d in world.observed.deployments}
    for _ in range(10):
        world.reconcile()
        if {d.uid for d in world.observed.deployments} - before:
            world.reconcile()
            return world
        for job in [j for j in world.observed.jobs if j.state == "active"]:
            world.finish(job)
    raise AssertionError("nothing to roll out")


def told(world: World, state: State, reason: Reason, *targets: str) -> World:
    """The pipeline ends with this verdict."""

    def answer(target: str) -> api.TargetStatus:
        if targets and target not in targets:
            return published(target, "a")
        return api.TargetStatus(name=target, state=state, reason=reason, message="the numbers")

    world.answer = answer
    world.settle()
    return world


def accepted(world: World, reason: Reason | None = None) -> World:
    """The pipeline publishes, for this reason where it has one."""
    world.answer = lambda target: published(target, "b").model_copy(update={"reason": reason})
    world.settle()
    return world


def failed(world: World, *, reason: str = "Error", pod_reason: str = "", code: int = 3, only: str | None = None) -> World:
    """The pipeline Job fails in its build step."""

    def step(world: World) -> None:
        for job in [j for j in world.observed.jobs if j.state == "active"]:
            pipeline = job.labels[names.LABEL_COMPONENT] == names.COMPONENT_PIPELINE
            if pipeline and only in (None, job.labels[names.LABEL_TARGET]):
                container = ContainerView(name="build", state="terminated", reason=reason, exit_code=code)
                world.end(job, "failed", container, reason=pod_reason)
        world.work()

    world.settle(step)
    return world


def with_pod(world: World, owner: JobView | DeploymentView, *containers: ContainerView, unschedulable: str = "") -> World:
    """The owner's pod is there and pending."""
    pod = PodView(
        name=f"{owner.name}-p", labels=owner.labels, phase="Pending", owner_uid=owner.uid,
        created=world.now, containers=containers, unschedulable=unschedulable,
    )  # fmt: skip
    world.observed = dataclasses.replace(world.observed, pods=(*world.observed.pods, pod))
    world.reconcile()
    return world


def waiting(reason: str, text: str) -> World:
    world = until_job(new(), names.COMPONENT_PIPELINE)
    return with_pod(world, active_job(world), ContainerView(name="stage", state="waiting", reason=reason, text=text))


def active_job(world: World) -> JobView:
    return next(j for j in world.observed.jobs if j.state == "active")


def newest(world: World) -> DeploymentView:
    return world.observed.deployments[-1]


def no_node_yet(world: World) -> World:
    until_job(world, names.COMPONENT_PIPELINE)
    return with_pod(world, active_job(world), unschedulable="0/1 nodes: didn't match node affinity")


def no_node(world: World) -> World:
    no_node_yet(world)
    world.now += timedelta(seconds=world.plan().requeue_seconds or 0)
    world.reconcile()
    return world


def queue_timeout() -> World:
    world = no_node(new())
    for _ in range(4):
        world.now += timedelta(seconds=world.plan().requeue_seconds or 0)
        world.reconcile()
    return world


def never_ready() -> World:
    world = until_rollout(edited())
    world.now += timedelta(minutes=11)
    for _ in range(3):
        world.reconcile()
    return world


def refused_server(reason: Reason) -> World:
    world = until_rollout(edited())
    message = Message(failure=Failure(step="probe", reason=reason, message="what the probe saw"))
    with_pod(world, newest(world), ContainerView(name="probe", state="waiting", reason="CrashLoopBackOff", message=message))
    for _ in range(2):
        world.reconcile()
    return world


def no_room() -> World:
    world = until_rollout(edited())
    with_pod(world, newest(world), unschedulable="0/1 nodes: Insufficient cpu")
    world.now += timedelta(seconds=11)
    for _ in range(2):
        world.reconcile()
    return world


def conflict() -> World:
    world = new()
    world.observed = dataclasses.replace(world.observed, conflicts=(Conflict("Job", "digits-resolve"),))
    world.reconcile()
    world.observed = dataclasses.replace(world.observed, jobs=())  # the name is somebody else's
    return world


def not_admitted() -> World:
    world = new()
    world.observed = dataclasses.replace(world.observed, refusals=(Refusal("Job", "digits-resolve", "exceeded quota: jobs"),))
    world.reconcile()
    world.observed = dataclasses.replace(world.observed, jobs=())  # refused
    return world


def conflict_beside_a_job() -> World:
    """The second target's Job can't be made, the first one's runs."""
    world = until_job(new(targets=("cpu", "small")), names.COMPONENT_PIPELINE)
    theirs = next(j for j in world.observed.jobs if j.labels.get(names.LABEL_TARGET) == "small")
    others = tuple(j for j in world.observed.jobs if j.uid != theirs.uid)
    world.observed = dataclasses.replace(world.observed, jobs=others, conflicts=(Conflict("Job", theirs.name),))
    return world


def conflict_beside_a_job_done() -> World:
    world = conflict_beside_a_job()
    world.finish(active_job(world))
    for _ in range(4):
        world.reconcile()
        others = tuple(j for j in world.observed.jobs if j.state != "active")
        world.observed = dataclasses.replace(world.observed, jobs=others)  # the name is still somebody else's
        world.work()
    return world


def conflict_beside_a_rollout() -> World:
    world = until_rollout(edited())
    world.observed = dataclasses.replace(world.observed, conflicts=(Conflict("Service", "digits"),))
    return world


def scaling_refused_beside_a_job() -> World:
    world = until_job(edited(), names.COMPONENT_PIPELINE)
    world.observed = dataclasses.replace(world.observed, refusals=(Refusal("Scale", newest(world).name, "denied by a webhook"),))
    return world


def away() -> World:
    world = served()
    for source in ("s3://models/1.onnx", "s3://models/2.onnx", OTHER):
        world.edit(make_model(source))
    world.answer = lambda target: published(target, "b")
    world.settle()
    return world


def invalid() -> World:
    world = served()
    world.observed = dataclasses.replace(world.observed, model=None, invalid="spec.passes[0].name: unknown", generation=2)
    world.reconcile()
    return world


def suspended_while_new() -> World:
    world = new(suspend=True)
    world.settle()
    return world


def edit_suspended() -> World:
    world = edited(suspend=True)
    world.settle()
    return world


def changed(**spec: object) -> World:
    world = served()
    world.edit(make_model(**spec))
    world.settle()
    return world


def resumed() -> World:
    world = suspended_while_new()
    world.edit(make_model())
    world.settle()
    return world


def recreated() -> World:
    world = World(make_model(), SETTINGS, uid="uid-2")
    world.settle()
    return world


def one_failing() -> World:
    return failed(new(targets=("cpu", "small")), only="small")


def one_failed_early() -> World:
    world = until_job(new(targets=("cpu", "small")), names.COMPONENT_PIPELINE)
    job = next(j for j in world.observed.jobs if j.state == "active" and j.labels[names.LABEL_TARGET] == "small")
    world.end(job, "failed", ContainerView(name="build", state="terminated", reason="Error", exit_code=3))
    world.reconcile()
    return world


KEEP = {"constraints": {"onInfeasible": "KeepCurrent"}}
BASELINE = {"constraints": {"onInfeasible": "ServeBaseline"}}
ACCEPT = {"constraints": {"onUndecided": "Accept"}}
SITUATIONS: dict[str, Callable[[], World]] = {
    "new, nothing started": new,
    "resolving": lambda: until_job(new(), names.COMPONENT_RESOLVE),
    "optimizing": lambda: until_job(new(), names.COMPONENT_PIPELINE),
    "rolling out the first revision": lambda: until_rollout(new()),
    "ready": served,
    "edited while ready: optimizing": lambda: until_job(edited(), names.COMPONENT_PIPELINE),
    "edited while ready: rolling out": lambda: until_rollout(edited()),
    "edited while ready: done": lambda: accepted(edited()),
    "edit fails": lambda: failed(edited()),
    "edit is refused (onInfeasible: Fail)": lambda: told(edited(), State.Refused, Reason.ScoreBelowLimit),
    "edit is refused, KeepCurrent": lambda: told(edited(**KEEP), State.Refused, Reason.ScoreBelowLimit),
    "new is refused, KeepCurrent": lambda: told(new(**KEEP), State.Refused, Reason.ScoreBelowLimit),
    "refused, ServeBaseline": lambda: accepted(new(**BASELINE), Reason.BaselineServed),
    "undecided, onUndecided: Refuse": lambda: told(new(), State.Undecided, Reason.Undecided),
    "undecided, onUndecided: Accept": lambda: accepted(new(**ACCEPT)),
    "suspended while new": suspended_while_new,
    "suspended while ready": lambda: changed(suspend=True),
    "edited and suspended": edit_suspended,
    "resumed": resumed,
    "deleted and made again": recreated,
    "operator away, three edits meanwhile": away,
    "no node fits yet": lambda: no_node_yet(new()),
    "no node fits for 10 s (waiting)": lambda: no_node(new()),
    "queue timeout": queue_timeout,
    "image not pullable": lambda: waiting("ImagePullBackOff", "not found"),
    "Secret missing": lambda: waiting("CreateContainerConfigError", 'secret "s3" not found'),
    "name conflict": conflict,
    "apiserver refuses a Job": not_admitted,
    "two targets, one in conflict, one optimizing": conflict_beside_a_job,
    "two targets, one in conflict": conflict_beside_a_job_done,
    "edited while ready: rolling out, name conflict": conflict_beside_a_rollout,
    "edited while ready: optimizing, scaling refused": scaling_refused_beside_a_job,
    "Job out of memory": lambda: failed(new(), reason="OOMKilled", code=137),
    "Job over its deadline": lambda: failed(new(), pod_reason="DeadlineExceeded", code=143),
    "new revision never ready (taken back)": never_ready,
    "new revision answers wrongly": lambda: refused_server(Reason.WrongAnswer),
    "new revision on other hardware": lambda: refused_server(Reason.HardwareMismatch),
    "no room for both revisions (Recreate)": no_room,
    "two targets, one failed, one optimizing": one_failed_early,
    "two targets, one failed": one_failing,
    "PublishOnly": lambda: served(serving={"mode": "PublishOnly"}),
    "PublishOnly after serving": lambda: changed(serving={"mode": "PublishOnly"}),
    "serving image changed: measuring": lambda: until_job(with_other_image(), names.COMPONENT_PIPELINE),
    "serving image changed: rolling out": lambda: until_rollout(with_other_image()),
    "serving image changed: done": lambda: accepted(with_other_image()),
    "serving image changed: limit no longer holds": lambda: told(with_other_image(), State.Refused, Reason.LatencyAboveLimit),
    "scaled to zero": lambda: changed(serving={"replicas": 0}),
    "spec invalid for this release": invalid,
}


def row(name: str) -> tuple[str, ...]:
    """What a user sees in this situation."""
    world = SITUATIONS[name]()
    status = world.plan().status
    assert status is not None
    found = {c.type: f"{c.status}({c.reason})" for c in status.conditions}
    conditions = (found.get(t, "-") for t in HEADER[2:7])
    seen = world.observed
    running = sorted(j.labels[names.LABEL_COMPONENT] + " Job" for j in seen.jobs if j.state == "active")
    starting = [d for d in seen.deployments if d.ready < d.replicas]
    running += ["new revision"] * bool(starting)
    return (name, status.phase, *conditions, ", ".join(running) or "-", _serves(world))


def _serves(world: World) -> str:
    """Which revisions answer behind the Services, counted from the first."""
    selected = {s.selector.get(names.LABEL_REVISION) for s in world.observed.services}
    answering = [d for d in world.observed.deployments if d.ready and d.labels[names.LABEL_REVISION] in selected]
    if not answering:
        return "-"
    first = {d.labels[names.LABEL_REVISION] for d in served().observed.deployments}
    return ", ".join(
        f"{d.labels[names.LABEL_TARGET]}: {'old' if _is_edited(world) and d.labels[names.LABEL_REVISION] in first else 'result'}" for d in answering
    )


def _is_edited(world: World) -> bool:
    model = world.observed.model
    return (model is not None and model.spec.source.uri == OTHER) or world.settings is OTHER_IMAGE


def table() -> str:
    """The whole table."""
    rows = [HEADER, ("---",) * len(HEADER), *(row(name) for name in SITUATIONS)]
    return "\n".join("| " + " | ".join(r) + " |" for r in rows)


def documented() -> list[str]:
    """Lines of the table in the document."""
    return DOCUMENT.read_text().split(BEGIN)[1].split(END)[0].strip().splitlines()


@pytest.mark.parametrize("name", SITUATIONS)
def test_row_is_what_the_planner_says(name):
    assert "| " + " | ".join(row(name)) + " |" in documented()


def test_document_has_a_row_per_situation_and_no_other():
    assert [line.split(" | ")[0].removeprefix("| ") for line in documented()[2:]] == list(SITUATIONS)


@pytest.mark.parametrize("name", SITUATIONS)
def test_row_makes_sense(name):
    cells = dict(zip(HEADER, row(name), strict=True))
    reconciling, stalled, ready = (cells[c].startswith("True") for c in ("Reconciling", "Stalled", "Ready"))
    assert not (reconciling and stalled)
    assert not (ready and (reconciling or stalled))
    assert (cells["phase"] in ("Failed", "Refused")) == stalled
    assert (cells["phase"] == "Ready") == ready


def write() -> None:
    before, rest = DOCUMENT.read_text().split(BEGIN)
    DOCUMENT.write_text(f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__" and "--write" in sys.argv:
    write()
