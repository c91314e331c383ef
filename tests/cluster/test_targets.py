"""Several targets of one model, and another serving image, on a real apiserver: what runs beside what, what waits for what, and what goes on serving."""

from __future__ import annotations

import asyncio
import copy
import json
from typing import Any

from control_plane import ControlPlane
from node import digest, failed, published, succeeded
from one_model import World

from burnish import names
from burnish.api.job_contract import Message, Plan, PublishMessage, ResolveMessage, TargetMessage
from burnish.api.v1alpha1 import status as api_status
from burnish.controller import apiserver
from burnish.errors import Reason

TARGETS = ("cpu", "small", "ov")


def three(api: ControlPlane, namespace: str) -> World:
    """A model with a target more on ONNX Runtime, and one on OpenVINO."""
    world = World(api, namespace)
    (first,) = world.model["spec"]["targets"]
    small = copy.deepcopy(first) | {"name": "small", "resources": {"cpu": "500m", "memory": "512Mi"}}
    world.model["spec"]["targets"] = [first, small, copy.deepcopy(first) | {"name": "ov", "runtime": "OpenVINO"}]
    world.model["spec"]["jobs"] = {"backoffLimit": 0}
    world.node.fates[names.COMPONENT_RESOLVE] = resolved
    world.node.fates[names.COMPONENT_PIPELINE] = published_for_its_target
    return world


def resolved(pod: dict[str, Any]) -> dict[str, Any]:
    unknown = api_status.Cache(artifact=api_status.Lookup.Miss, measurement=api_status.Lookup.Miss)
    found = [
        TargetMessage(plan=Plan.Build, status=api_status.TargetStatus(name=name, state=api_status.State.Pending, cache=unknown)) for name in TARGETS
    ]
    source = api_status.SourceStatus(digest=digest("source"), size="3Mi", format="ONNX")
    return succeeded(pod, Message(resolved=ResolveMessage(source=source, targets=tuple(found))))


def published_for_its_target(pod: dict[str, Any]) -> dict[str, Any]:
    target = pod["metadata"]["labels"][names.LABEL_TARGET]
    artifact = api_status.ArtifactStatus(
        digest=digest(target), uri=f"s3://b/x@{digest(target)}", size="1Mi", served=api_status.Served.Candidate, candidate="static"
    )
    status = api_status.TargetStatus(name=target, state=api_status.State.Published, reason=Reason.Published, message="holds", artifact=artifact)
    return succeeded(pod, Message(published=PublishMessage(status=status, source_format="ONNX")))


def listed(world: World, resource: apiserver.Resource) -> list[dict[str, Any]]:
    found = world.api.request("GET", resource.path(world.namespace), labelSelector=names.MANAGED_SELECTOR).body["items"]
    return list(found)


def pipelines(world: World) -> dict[str, dict[str, Any]]:
    """The pipeline Jobs, by target."""
    labelled = ((job["metadata"]["labels"], job) for job in listed(world, apiserver.JOB))
    return {labels[names.LABEL_TARGET]: job for labels, job in labelled if names.LABEL_TARGET in labels}


def test_targets_run_beside_each_other_each_with_its_own_job_revision_and_service(api: ControlPlane, namespace: str) -> None:
    world = three(api, namespace)
    held = world.node.fates.pop(names.COMPONENT_PIPELINE)
    world.create()

    def are_all_active() -> bool:
        return [j["status"].get("active") for j in pipelines(world).values()] == [1, 1, 1]

    asyncio.run(world.run(until=are_all_active))
    assert set(pipelines(world)) == set(TARGETS)
    asked = {name: json.loads(j["spec"]["template"]["metadata"]["annotations"][names.ANNOTATION_REQUEST]) for name, j in pipelines(world).items()}
    assert {name: request["target"] for name, request in asked.items()} == {name: name for name in TARGETS}

    world.node.fates[names.COMPONENT_PIPELINE] = held
    asyncio.run(world.run())
    status = {t["name"]: t for t in world.seen()["status"]["targets"]}
    assert {name: t["state"] for name, t in status.items()} == dict.fromkeys(TARGETS, "Serving")
    assert len({t["revision"] for t in status.values()}) == len({t["jobRef"]["name"] for t in status.values()}) == 3
    servers = {
        d["metadata"]["labels"][names.LABEL_TARGET]: d["metadata"]["labels"][names.LABEL_REVISION] for d in listed(world, apiserver.DEPLOYMENT)
    }
    assert servers == {name: t["revision"] for name, t in status.items()}
    behind = {s["metadata"]["name"]: s["spec"]["selector"][names.LABEL_REVISION] for s in listed(world, apiserver.SERVICE)}
    assert behind == {"digits": status["cpu"]["revision"], **{f"digits-{name}": revision for name, revision in servers.items()}}


def test_a_target_that_fails_says_so_and_leaves_the_others_serving(api: ControlPlane, namespace: str) -> None:
    world = three(api, namespace)

    def one_fails(pod: dict[str, Any]) -> dict[str, Any]:
        if pod["metadata"]["labels"][names.LABEL_TARGET] == "ov":
            return failed(pod, "compress", 137, "OOMKilled")
        return published_for_its_target(pod)

    world.node.fates[names.COMPONENT_PIPELINE] = one_fails
    world.create()

    def is_over() -> bool:
        status = world.seen().get("status", {})
        is_stalled = any(c["type"] == "Stalled" and c["status"] == "True" for c in status.get("conditions", ()))
        return is_stalled and all(t["state"] in ("Serving", "Failed") for t in status["targets"])

    asyncio.run(world.run(until=is_over))
    status = world.seen()["status"]
    assert {t["name"]: t["state"] for t in status["targets"]} == {"cpu": "Serving", "small": "Serving", "ov": "Failed"}
    assert (status["lastFailure"]["target"], status["lastFailure"]["reason"], status["lastFailure"]["step"]) == ("ov", "OutOfMemory", "compress")
    assert {c["type"]: c["status"] for c in status["conditions"]}["ServingReady"] == "True"
    assert sorted(d["metadata"]["labels"][names.LABEL_TARGET] for d in listed(world, apiserver.DEPLOYMENT)) == ["cpu", "small"]
    assert all(d["status"].get("readyReplicas") for d in listed(world, apiserver.DEPLOYMENT))
    assert "digits-ov" not in world.children()["Service"]


def test_another_serving_image_is_measured_before_anything_rolls(api: ControlPlane, namespace: str) -> None:
    world = World(api, namespace)
    world.create()
    asyncio.run(world.run())
    before = listed(world, apiserver.DEPLOYMENT)
    other = {"burnish": "b:1", "optimizers": {"onnx": "o:1"}, "triton": "t:2"}
    world.node.fates.pop(names.COMPONENT_PIPELINE)  # it measures on and on
    old_jobs = set(world.children()["Job"])

    def is_measuring() -> bool:
        return any(j["status"].get("active") for j in pipelines(world).values() if j["metadata"]["name"] not in old_jobs)

    written = asyncio.run(world.run(until=is_measuring, images=other))
    assert not any("/deployments" in path or "/services" in path for _, path in written)
    assert [d["metadata"]["uid"] for d in listed(world, apiserver.DEPLOYMENT)] == [before[0]["metadata"]["uid"]]
    assert "t:2" in json.dumps(pipelines(world)["cpu"]["spec"]["template"])

    world.node.fates[names.COMPONENT_PIPELINE] = published
    asyncio.run(world.run(images=other))
    (rolled,) = listed(world, apiserver.DEPLOYMENT)
    assert rolled["metadata"]["name"] != before[0]["metadata"]["name"]
    assert "t:2" in json.dumps(rolled["spec"]["template"]) and "t:1" not in json.dumps(rolled["spec"]["template"])
