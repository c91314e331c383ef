"""Rollouts over time: what serves at every moment, and how each way back goes."""

import dataclasses
from datetime import timedelta

import pytest
from tests.unit.reconcile.test_planning import SETTINGS, edited, make_model, served
from tests.unit.reconcile.world import World, published

from burnish import names
from burnish.api.v1alpha1.optimized_model import OptimizedModel
from burnish.api.v1alpha1.status import Phase
from burnish.errors import Reason
from burnish.reconcile.actions import Plan
from burnish.reconcile.observed import DeploymentView, PodView

OLD = served().observed.deployments[0].labels[names.LABEL_REVISION]


def selected(world: World) -> set[str]:
    return {s.selector[names.LABEL_REVISION] for s in world.observed.services}


def finish_jobs(world: World) -> None:
    for job in [j for j in world.observed.jobs if j.state == "active"]:
        world.finish(job)


def rolling() -> tuple[World, DeploymentView]:
    """An edit's new revision stands beside the old one and doesn't answer yet."""
    world = edited()
    while len(world.observed.deployments) < 2:
        world.reconcile()
        finish_jobs(world)
    return world, world.observed.deployments[-1]


def make_ready(world: World, uid: str) -> None:
    found = tuple(dataclasses.replace(d, ready=d.replicas, available=d.replicas) if d.uid == uid else d for d in world.observed.deployments)
    world.observed = dataclasses.replace(world.observed, deployments=found)


def lack_room(world: World, new: DeploymentView) -> None:
    labels = new.labels | {names.LABEL_COMPONENT: names.COMPONENT_SERVER}
    pod = PodView(name="p", labels=labels, phase="Pending", owner_uid="rs", created=world.now, unschedulable="0/1 nodes: Insufficient cpu")
    world.observed = dataclasses.replace(world.observed, pods=(*world.observed.pods, pod))


def test_revision_that_never_answers_is_taken_back_once_and_the_old_one_never_stops():
    world, _ = rolling()
    made = world.created.count("Deployment")
    world.now += timedelta(minutes=11)
    for _ in range(5):
        world.reconcile()
        assert [d.ready for d in world.observed.deployments if d.labels[names.LABEL_REVISION] == OLD] == [1]
        assert selected(world) == {OLD}
    assert len(world.observed.deployments) == 1
    assert world.created.count("Deployment") == made
    assert (world.observed.status.phase, world.observed.status.last_failure.reason) == (Phase.Failed, Reason.RolloutTimedOut)


def test_old_revision_makes_room_and_comes_back_where_the_new_one_does_not_answer():
    world, new = rolling()
    lack_room(world, new)
    world.reconcile()
    assert [d.replicas for d in world.observed.deployments] == [1, 1]  # the scheduler may still find room
    world.now += timedelta(seconds=11)
    world.reconcile()
    assert [d.replicas for d in world.observed.deployments] == [0, 1]
    deployments = tuple(dataclasses.replace(d, ready=0) if not d.replicas else d for d in world.observed.deployments)
    world.observed = dataclasses.replace(world.observed, deployments=deployments)
    world.reconcile()
    ready = next(c for c in world.observed.status.conditions if c.type == "ServingReady")
    assert (ready.status, ready.message) == ("False", "the revision before made room for the new one")
    world.now += timedelta(minutes=10)
    for _ in range(2):
        world.reconcile()
        world.observed = dataclasses.replace(world.observed, pods=())
    assert [(d.labels[names.LABEL_REVISION], d.replicas) for d in world.observed.deployments] == [(OLD, 1)]


def test_room_made_stays_made_until_the_new_revision_answers():
    world, new = rolling()
    lack_room(world, new)
    world.now += timedelta(seconds=11)
    world.reconcile()
    world.observed = dataclasses.replace(world.observed, pods=())
    world.reconcile()
    assert [d.replicas for d in world.observed.deployments] == [0, 1]
    make_ready(world, new.uid)
    world.reconcile()
    assert selected(world) == {new.labels[names.LABEL_REVISION]}


def test_old_revision_goes_when_the_drain_is_over_and_not_before():
    world, new = rolling()
    make_ready(world, new.uid)
    plan: Plan = world.reconcile()
    assert plan.requeue_seconds == 15
    world.now += timedelta(seconds=14)
    world.reconcile()
    assert len(world.observed.deployments) == 2
    world.now += timedelta(seconds=1)
    world.reconcile()
    assert [d.uid for d in world.observed.deployments] == [new.uid]


def two_targets(primary: str) -> OptimizedModel:
    targets = [{"name": n, "runtime": "ONNXRuntime", "resources": {"cpu": "2", "memory": "1Gi"}} for n in ("cpu", "small")]
    return make_model(targets=targets, serving={"primary": primary})


def test_front_service_follows_the_primary_without_a_new_job_or_server():
    world = World(two_targets("cpu"), SETTINGS)
    world.settle()
    made = list(world.created)
    world.edit(two_targets("small"))
    world.settle()
    front = next(s for s in world.observed.services if s.name == "digits")
    assert front.selector[names.LABEL_TARGET] == "small"
    assert world.created == made


def test_replicas_are_scaled_in_place():
    world = served()
    made = list(world.created)
    world.edit(make_model(serving={"replicas": 3}))
    world.settle()
    assert ([d.replicas for d in world.observed.deployments], world.observed.status.replicas) == ([3], 3)
    assert world.created == made


def test_publish_only_retires_every_server_and_service():
    world = served()
    world.edit(make_model(serving={"mode": "PublishOnly"}))
    world.settle()
    assert (world.observed.deployments, world.observed.services) == ((), ())


def test_publish_only_keeps_what_serves_until_its_own_result_is_published():
    world = served()
    world.edit(make_model("s3://models/other.onnx", serving={"mode": "PublishOnly"}))
    world.reconcile()
    assert len(world.observed.deployments) == 1


def test_queue_timeout_is_final_until_the_source_is_refreshed():
    world = World(make_model(), SETTINGS)
    world.reconcile()
    world.now += timedelta(days=30)
    for _ in range(3):
        world.reconcile()
    assert (world.observed.status.last_failure.reason, world.observed.jobs) == (Reason.QueueTimeout, ())
    world.edit(refreshed())
    world.settle()
    assert world.observed.status.phase is Phase.Ready


def refreshed() -> OptimizedModel:
    model = make_model()
    return model.model_copy(update={"spec": model.spec.model_copy(update={"source": model.spec.source.model_copy(update={"refresh": "again"})})})


@pytest.mark.parametrize("make", [served, lambda: rolling()[0]], ids=["served", "rolling"])
def test_nothing_is_done_to_a_resource_that_is_being_deleted(make):
    world = make()
    world.observed = dataclasses.replace(world.observed, is_deleting=True)
    assert world.plan() == Plan()


def test_targets_are_rolled_out_each_by_its_own_result():
    world = World(two_targets("cpu"), SETTINGS)
    world.answer = lambda target: published(target, "a" if target == "cpu" else "b")
    world.settle()
    assert len({d.labels[names.LABEL_REVISION] for d in world.observed.deployments}) == 2


def test_ready_says_that_nothing_runs_where_it_is_scaled_to_zero():
    world = served()
    world.edit(make_model(serving={"replicas": 0}))
    world.settle()
    ready = next(c for c in world.observed.status.conditions if c.type == "Ready")
    assert (ready.status, "scaled to zero" in ready.message) == ("True", True)
