"""The operator against a real apiserver, with faults: killed after any write, events lost, two at once, objects of others in its way.

The oracle of each is the run without the fault: the same end, and the same writes.
"""

from __future__ import annotations

import asyncio
import copy
from typing import Any

import pytest
from control_plane import MERGE, ControlPlane
from node import Node, failed
from one_model import WRITES, World, comparable, settings

from burnish import names
from burnish.api import manifest
from burnish.controller import apiserver
from burnish.reconcile import runs


def _scenario(action: str, world: World) -> None:
    """Bring the world to just before `action` with an operator that nothing happens to, then do it."""
    if action in ("edit", "delete"):
        world.create()
        asyncio.run(world.run())
    getattr(world, action)()


def _count(api: ControlPlane, namespace: str, action: str) -> tuple[list[tuple[str, str]], dict[str, Any]]:
    world = World(api, namespace)
    _scenario(action, world)
    written = asyncio.run(world.run())
    return comparable(written, world), world.outline()


def _killed_at(api: ControlPlane, action: str, number: int, expected: tuple[list[tuple[str, str]], dict[str, Any]]) -> bool:
    """One kill; False where there is no such write."""
    namespace = api.create_namespace(f"{action}-{number}")
    world = World(api, namespace)
    try:
        _scenario(action, world)
        before = asyncio.run(world.run(dies_after=number))
        if len(before) < number:
            return False
        after = asyncio.run(world.run())
        assert comparable(before + after, world) == expected[0], f"killed after write {number} of {action}: {before} | {after}"
        assert world.outline() == expected[1]
        assert world.seen().get("kind") == "Status" or world.is_settled()
        return True
    finally:
        api.delete_namespace(namespace)


@pytest.mark.parametrize(("action", "number"), [("create", 1), ("create", 3), ("edit", 2), ("edit", 5)])
def test_killed_after_a_write_it_goes_on(api: ControlPlane, namespace: str, action: str, number: int) -> None:
    assert _killed_at(api, action, number, _count(api, namespace, action))


@pytest.mark.long
@pytest.mark.parametrize("action", ["create", "edit"])
def test_killed_after_any_write_it_goes_on(api: ControlPlane, namespace: str, action: str) -> None:
    expected = _count(api, namespace, action)
    number = 1
    while _killed_at(api, action, number, expected):
        number += 1
    assert number > 5


def test_restart_with_settled_models_writes_nothing(api: ControlPlane, namespace: str) -> None:
    world = World(api, namespace)
    world.create()
    assert asyncio.run(world.run())
    assert asyncio.run(world.run()) == []


def test_edited_three_times_and_deleted_while_it_is_down(api: ControlPlane, namespace: str) -> None:
    world = World(api, namespace)
    world.create()
    asyncio.run(world.run())
    for percent in (4, 5, 6):
        api.request("PATCH", world.path(), {"spec": {"constraints": {"maxSlowdownPercent": percent}}}, content_type=MERGE)
    written = asyncio.run(world.run())
    made = [name for method, name in written if method == "POST" and "/jobs/" in name]
    assert len(made) == 2  # of the last edit only: one that resolves, one pipeline
    world.delete()
    assert asyncio.run(world.run()) == []
    assert not any(world.children().values())


def test_deleted_and_made_again_trusts_nothing_of_before(api: ControlPlane, namespace: str) -> None:
    world = World(api, namespace)
    world.create()
    asyncio.run(world.run())
    before = world.children()["Job"]
    world.delete()
    world.create()
    asyncio.run(world.run())
    assert not set(before) & set(world.children()["Job"])
    assert world.is_settled()


def test_two_operators_at_once_come_to_the_same(api: ControlPlane, namespace: str) -> None:
    world = World(api, namespace)
    world.create()

    async def both() -> list[list[tuple[str, str]]]:
        return await asyncio.gather(world.run(), world.run())

    first, second = asyncio.run(both())
    made = [name for method, name in first + second if method == "POST"]
    assert len(made) == len(set(made))  # the other's POST is refused
    assert world.is_settled()
    assert len(world.children()["Deployment"]) == 1


@pytest.mark.parametrize("kind", ["Job", "Deployment", "Service"])
def test_object_of_somebody_else_is_left_alone(api: ControlPlane, namespace: str, kind: str) -> None:
    world = World(api, namespace)
    resource = apiserver.BY_KIND[kind]
    world.create()
    if kind == "Job":  # of the run that this very resource will want
        uid = world.seen()["metadata"]["uid"]
        name = runs.current(manifest.parse(world.model), uid, settings(namespace)).resolve_job
        template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "c:1"}]}}
        spec: dict[str, Any] = {"template": template}
    else:
        asyncio.run(world.run())
        selector = f"{names.LABEL_MODEL}=digits"
        mine = api.request("GET", resource.path(namespace), labelSelector=selector).body["items"][0]
        world.delete()
        asyncio.run(world.run())
        world.create()
        name, spec = mine["metadata"]["name"], {k: v for k, v in mine["spec"].items() if k in ("selector", "template", "ports", "replicas")}
    labels = {"whose": "theirs"}
    foreign = {"apiVersion": resource.api_version, "kind": kind, "metadata": {"name": name, "labels": labels}, "spec": spec}
    answer = api.request("POST", resource.path(namespace), foreign)
    assert answer.status == 201, answer.message
    theirs = answer.body

    def is_told() -> bool:
        conditions = {c["type"]: c for c in world.seen().get("status", {}).get("conditions", ())}
        return conditions.get("Stalled", {}).get("reason") == "NameConflict"

    asyncio.run(world.run(until=is_told))
    still = api.request("GET", resource.path(namespace, theirs["metadata"]["name"])).body
    assert still["metadata"]["uid"] == theirs["metadata"]["uid"]
    assert still["spec"].get("selector") == theirs["spec"].get("selector")
    assert "whose" in still["metadata"]["labels"]
    api.request("DELETE", resource.path(namespace, theirs["metadata"]["name"]))


def test_network_policy_follows_the_settings(api: ControlPlane, namespace: str) -> None:
    world = World(api, namespace)
    world.create()
    asyncio.run(world.run())
    world.edit()
    store = {"uri": "s3://b/x", "egressPorts": [9000]}
    written = asyncio.run(world.run(store=store))
    path = apiserver.NETWORK_POLICY.path(namespace, "burnish-pipeline")
    assert [w for w in written if "networkpolicies" in w[1]] == [("PATCH", path)]
    assert api.request("GET", path).body["spec"]["egress"][1]["ports"] == [{"port": 9000, "protocol": "TCP"}]


def test_job_deleted_by_hand_is_made_again(api: ControlPlane, namespace: str) -> None:
    world = World(api, namespace)
    world.node.fates.pop(names.COMPONENT_PIPELINE)  # it runs for ever
    world.create()

    def jobs() -> list[str]:
        return [j for j in world.children()["Job"] if "-cpu-" in j]

    asyncio.run(world.run(until=lambda: bool(jobs())))
    api.request("DELETE", apiserver.JOB.path(namespace, jobs()[0]), {"propagationPolicy": "Background"})
    world.node = Node(api, namespace)
    asyncio.run(world.run())
    assert world.is_settled()


@pytest.mark.parametrize(
    ("container", "exit_code", "reason", "expected"),
    [("compress", 137, "OOMKilled", "OutOfMemory"), ("measure", 1, "Error", "InternalError"), ("build", 143, "Error", "StepKilled")],
)
def test_failed_job_is_told_with_its_step(
    api: ControlPlane, namespace: str, container: str, exit_code: int, reason: str, expected: str
) -> None:  # fmt: skip
    world = World(api, namespace)
    world.node.fates[names.COMPONENT_PIPELINE] = lambda pod: failed(pod, container, exit_code, reason)
    world.model["spec"]["jobs"] = {"backoffLimit": 0}
    world.create()

    def is_stalled() -> bool:
        return any(c["type"] == "Stalled" and c["status"] == "True" for c in world.seen().get("status", {}).get("conditions", ()))

    asyncio.run(world.run(until=is_stalled))
    failure = world.seen()["status"]["lastFailure"]
    assert (failure["reason"], failure["step"], failure["target"]) == (expected, container, "cpu")
    assert world.children()["Deployment"] == []


def test_storm_of_conflicts_ends_the_same(api: ControlPlane, namespace: str) -> None:
    world = World(api, namespace)
    world.create()

    left = 25

    def fails(method: str) -> bool:
        nonlocal left
        if method not in WRITES or left == 0:
            return False
        left -= 1
        return left % 3 != 0

    written = [name for method, name in asyncio.run(world.run(fails=fails)) if method == "POST"]
    assert len(written) == len(set(written))


def test_bad_neighbour_changes_nothing(api: ControlPlane, namespace: str) -> None:
    """A model that this release can't read is told so, and the one beside it goes its way."""
    world = World(api, namespace)
    other = copy.deepcopy(world.model)
    other["metadata"]["name"] = "neighbour"
    other["spec"]["source"]["uri"] = "s3://models/none"
    assert api.create_model(namespace, other).status == 201
    world.create()
    asyncio.run(world.run())
    assert world.is_settled()


def _ready(world: World) -> dict[str, Any]:
    conditions = world.seen().get("status", {}).get("conditions", ())
    return next((c for c in conditions if c["type"] == "Ready"), {})


def test_image_that_can_not_be_pulled_is_told_while_it_waits(api: ControlPlane, namespace: str) -> None:
    """It goes on by itself when the image is there: nothing is stalled, and the kubelet's words are in the status."""
    world = World(api, namespace)

    def waits(pod: dict[str, Any]) -> dict[str, Any]:
        container = pod["spec"]["containers"][0]
        waiting = {"reason": "ImagePullBackOff", "message": f'Back-off pulling image "{container["image"]}"'}
        state = {
            "name": container["name"],
            "image": container["image"],
            "imageID": "",
            "ready": False,
            "restartCount": 0,
            "state": {"waiting": waiting},
        }
        scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
        return {"phase": "Pending", "conditions": [scheduled], "containerStatuses": [state]}

    world.node.fates[names.COMPONENT_RESOLVE] = waits
    world.create()
    asyncio.run(world.run(until=lambda: _ready(world).get("reason") == "ImageNotPullable"))
    assert 'Back-off pulling image "b:1"' in _ready(world)["message"]
    assert "chart" in _ready(world)["message"]
    assert world.seen()["status"]["phase"] == "Running"
    world.node = Node(api, namespace)
    asyncio.run(world.run())
    assert world.is_settled()


def test_no_node_is_told_in_the_schedulers_words_and_time_runs_out(api: ControlPlane, namespace: str) -> None:
    world = World(api, namespace)
    world.node.fates.clear()  # there is no node, and nobody plays one
    world.model["spec"]["jobs"] = {"queueTimeout": "20s"}
    world.create()
    asyncio.run(world.run(until=lambda: _ready(world).get("reason") == "NoMatchingNode"))
    assert "no nodes available to schedule pods" in _ready(world)["message"]
    asyncio.run(world.run(until=lambda: _ready(world).get("reason") == "QueueTimeout"))
    assert "spec.jobs.queueTimeout" in _ready(world)["message"]
    assert world.children()["Job"] == []  # it holds no place in the queue any more
    answer = api.request("PATCH", world.path(), {"spec": {"source": {"refresh": "again"}}}, content_type=MERGE)
    assert answer.status == 200
    world.node = Node(api, namespace)
    asyncio.run(world.run())
    assert world.is_settled()


def test_pod_that_policy_forbids_is_told(api: ControlPlane, namespace: str) -> None:
    """A quota of no pods: the Job is there, and why it has none stands in its events only."""
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    assert api.request("POST", f"/api/v1/namespaces/{namespace}/resourcequotas", quota).status == 201
    world = World(api, namespace)
    world.create()
    asyncio.run(world.run(until=lambda: _ready(world).get("reason") == "PodNotAdmitted"))
    assert "exceeded quota" in _ready(world)["message"]
    api.request("DELETE", f"/api/v1/namespaces/{namespace}/resourcequotas/none")
    asyncio.run(world.run())
    assert world.is_settled()
