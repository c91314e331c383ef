"""Whole lives of a resource, driven through the planner."""

import dataclasses
from datetime import timedelta

import pytest
from tests.unit.reconcile.world import START, World, published

from burnish import names
from burnish.api.v1alpha1.optimized_model import OptimizedModel
from burnish.api.v1alpha1.status import Phase
from burnish.errors import Reason
from burnish.manifests.settings import Settings
from burnish.reconcile import jobs
from burnish.reconcile.observed import ContainerView, JobView, PodView

SETTINGS = Settings.model_validate(
    {"images": {"burnish": "b:1", "optimizers": {"onnx": "o:1"}, "triton": "t:1"}, "store": {"uri": "s3://models/store"}}
)


def make_model(uri: str = "s3://models/digits.onnx", **spec) -> OptimizedModel:
    target = {"name": "cpu", "runtime": "ONNXRuntime", "resources": {"cpu": "2", "memory": "1Gi"}}
    metadata = {"name": "digits", "namespace": "models", "generation": 1, "uid": "uid-1"}
    return OptimizedModel.model_validate({"metadata": metadata, "spec": {"source": {"uri": uri}, "targets": [target]} | spec})


def served() -> World:
    world = World(make_model(), SETTINGS)
    world.settle()
    return world


def edited() -> World:
    world = served()
    world.edit(make_model("s3://models/other.onnx"))
    world.answer = lambda target: published(target, "b")
    return world


def test_new_resource_ends_served_and_settled():
    world = served()
    assert world.observed.status.phase is Phase.Ready
    assert sorted(world.created) == ["Deployment", "Job", "Job", "NetworkPolicy", "NetworkPolicy", "Service", "Service"]
    assert world.plan().actions == ()
    assert world.plan().status == world.observed.status


def test_edit_keeps_the_old_revision_until_the_new_one_answers():
    world = edited()
    old = world.observed.deployments[0]

    def watch(world: World) -> None:
        world.work()
        names = {d.labels["burnish.dev/revision"] for d in world.observed.deployments if d.ready}
        assert all(s.selector["burnish.dev/revision"] in names for s in world.observed.services)

    world.settle(watch)
    assert world.observed.status.phase is Phase.Ready
    assert [d.name for d in world.observed.deployments] != [old.name]
    assert len(world.observed.deployments) == 1


def test_another_serving_image_is_measured_before_anything_of_it_rolls():
    """For one artifact: what it takes is not known of the new Triton."""
    world = served()
    world.settings = SETTINGS.model_copy(update={"images": SETTINGS.images.model_copy(update={"triton": "t:2"})})
    old = world.observed.deployments
    for _ in range(10):
        world.reconcile()
        active = [job for job in world.observed.jobs if job.state == "active"]
        if any(names.LABEL_TARGET in job.labels for job in active):
            break
        for job in active:
            world.finish(job)
    else:
        raise AssertionError("nothing is measured")
    for _ in range(3):
        world.reconcile()
        assert world.observed.deployments == old
    world.settle()
    assert [d.name for d in world.observed.deployments] != [d.name for d in old]
    assert len(world.observed.deployments) == 1 and world.observed.status.phase is Phase.Ready


@pytest.mark.parametrize("make", [lambda: World(make_model(), SETTINGS), edited], ids=["create", "edit"])
def test_killed_after_any_write_ends_the_same(make):
    whole = make()
    whole.settle()
    for rounds in range(12):
        for writes in range(8):
            world = make()
            for _ in range(rounds):
                world.now += timedelta(seconds=world.reconcile().requeue_seconds or 0)
                world.work()
            world.reconcile(writes)
            world.settle()
            assert world.summary() == whole.summary(), (rounds, writes)


@pytest.mark.parametrize(
    ("reason", "code", "pod_reason", "expected"),
    [
        ("OOMKilled", 137, "", Reason.OutOfMemory),
        ("Error", 143, "DeadlineExceeded", Reason.DeadlineExceeded),
        ("Error", 137, "Evicted", Reason.StepKilled),
        ("Error", 3, "", Reason.InternalError),
    ],
)
@pytest.mark.parametrize("failing", ["resolve", "pipeline"])
def test_failing_edit_leaves_the_old_revision_serving_and_keeps_its_reason(failing, reason, code, pod_reason, expected):
    world = edited()
    old = world.observed.deployments

    def fail(world: World) -> None:
        for job in [j for j in world.observed.jobs if j.state == "active"]:
            if job.labels["burnish.dev/component"] != failing:
                world.finish(job)
                continue
            world.end(job, "failed", ContainerView(name="build", state="terminated", reason=reason, exit_code=code), reason=pod_reason)

    world.settle(fail)
    told = world.observed.status
    assert (told.phase, told.last_failure.reason, world.observed.deployments) == (Phase.Failed, expected, old)
    assert world.observed.services[0].selector["burnish.dev/revision"] == old[0].labels["burnish.dev/revision"]
    failed = next(j for j in world.observed.jobs if j.state == "failed")
    world.observed = dataclasses.replace(world.observed, pods=tuple(p for p in world.observed.pods if p.owner_uid != failed.uid))  # collected
    assert world.plan().status == told


def test_job_deleted_by_hand_is_made_again():
    world = World(make_model(), SETTINGS)
    world.reconcile()
    world.observed = dataclasses.replace(world.observed, jobs=())
    world.settle()
    assert world.observed.status.phase is Phase.Ready


def test_recreated_resource_trusts_nothing_of_its_predecessor():
    old, new = served(), World(make_model(), SETTINGS, uid="uid-2")
    new.settle()
    assert not {j.name for j in old.observed.jobs} & {j.name for j in new.observed.jobs}


def test_new_revision_with_no_servers_is_not_switched_to_while_some_are_wanted():
    world = edited()
    for _ in range(10):
        world.reconcile()
        for job in world.observed.jobs:
            if job.state == "active":
                world.finish(job)
    old, new = world.observed.deployments
    world.observed = dataclasses.replace(world.observed, deployments=(old, dataclasses.replace(new, replicas=0)))
    world.reconcile()
    assert all(s.selector["burnish.dev/revision"] == old.labels["burnish.dev/revision"] for s in world.observed.services)


def test_time_suspended_does_not_count_as_waiting():
    later = START + timedelta(hours=2)
    job = JobView(name="j", uid="u", labels={}, created=START, state="active", started=later)
    assert jobs.waited_too_long(job, [], 600, later) == 600


def test_pod_without_reports_is_starting():
    pod = PodView(name="p", labels={}, phase="Pending", owner_uid="u", created=START)
    assert jobs.container_progress(pod).step == "starting"


def test_first_revision_that_never_answers_is_looked_at_again_when_its_time_is_over():
    world = World(make_model(), SETTINGS)
    for _ in range(10):
        plan = world.reconcile()
        for job in [j for j in world.observed.jobs if j.state == "active"]:
            world.finish(job)
    assert plan.requeue_seconds is not None
    world.now += timedelta(seconds=plan.requeue_seconds)
    rollout = next(c for c in world.plan().status.conditions if c.type == "RolloutComplete")
    assert (rollout.status, rollout.reason) == ("False", Reason.RolloutTimedOut)


def torch_world(settings: Settings, **source: object) -> World:
    """A world whose resolve Job finds a program of PyTorch."""
    world = World(make_model(source={"uri": "s3://models/net.pt2", **source}), settings)
    world.source_format = "ExportedProgram"
    return world


def test_a_source_whose_toolchain_has_no_image_is_blocked_until_the_installation_has_one():
    trusting = SETTINGS.model_copy(update={"trusted_namespaces": ("models",)})
    world = torch_world(trusting, trusted=True)
    world.settle()
    failure = world.observed.status.last_failure
    assert failure.reason is Reason.ToolchainUnavailable
    assert "images.optimizers.torch" in failure.message
    assert not [j for j in world.observed.jobs if "cpu" in j.name]

    world.settings = trusting.model_copy(update={"images": trusting.images.model_copy(update={"optimizers": {"onnx": "o:1", "torch": "p:1"}})})
    world.settle()
    assert world.observed.status.phase is Phase.Ready


def test_trusted_counts_in_listed_namespaces_only():
    world = torch_world(SETTINGS, trusted=True)
    world.settle()
    assert world.observed.status.last_failure.reason is Reason.SourceNotTrusted
    assert "trustedNamespaces" in world.observed.status.last_failure.message
    assert world.observed.jobs == ()


def test_step_that_trains_tells_its_epoch_and_is_looked_at_again():
    done = ContainerView(name="stage", state="terminated", exit_code=0)
    running = [ContainerView(name=name, state="running", is_ready=True) for name in ("keep", "train")]
    pod = PodView(name="p", labels={}, phase="Pending", owner_uid="u", created=START, containers=(done, *running))
    assert jobs.container_progress(pod) == jobs.Progress("train", again_seconds=jobs.NEWS_SECONDS)
    told = dataclasses.replace(pod, news="Prune: epoch 2 of 4: loss 0.3")
    assert jobs.container_progress(told).step == "train: Prune: epoch 2 of 4: loss 0.3"


def test_passes_that_train_need_an_image_that_the_installation_may_not_have():
    world = World(make_model(passes=[{"type": "Prune"}], datasets={"training": {"uri": "s3://models/training.npz"}}), SETTINGS)
    plan = world.settle()
    assert plan.status.phase is Phase.Failed
    assert plan.status.last_failure.reason is Reason.ToolchainUnavailable
    assert "images.optimizers.torch" in plan.status.last_failure.message
    assert list(world.created) == ["NetworkPolicy", "Job"]
