"""Faults on a real cluster: the model ends as one does without the fault, or says what is wrong, and what serves is never touched."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from installation import CLUSTER, EXAMPLES, Installation, Space, condition, converted, digits, is_ready, is_stalled, output
from traffic import Overload, infer

PIPELINE = ("--selector", "burnish.dev/component=pipeline")
SERVER = ("--selector", "burnish.dev/component=server")
SMALL_CPU = "250m"
"""A server that is easily overloaded, and a Job that takes half a minute."""
CRITICAL = "system-cluster-critical"
"""PriorityClass of what the kubelet never evicts."""


def published(name: str = "digits", **spec: Any) -> dict[str, Any]:
    """The same, and nothing is served."""
    return converted(name, serving={"mode": "PublishOnly"}, **spec)


@pytest.fixture(scope="module")
def served(installation: Installation) -> Space:
    """A namespace with a model that is ready: without a fault, and untouched by those of others."""
    space = installation.space("without-fault")
    model = converted()
    model["spec"]["targets"][0]["resources"] |= {"cpu": SMALL_CPU}
    model["spec"]["targets"][0]["pods"] = {"priorityClassName": CRITICAL}
    space.apply(model)
    space.wait("digits", is_ready, 600)
    return space


@pytest.fixture
def space(space: Space) -> Space:
    """Nothing is known in it: a cluster that is kept remembers an earlier run."""
    space.kubectl("delete", "om", "--all")
    space.empty_store()
    return space


@pytest.fixture(autouse=True)
def untouched(served: Space) -> Iterator[None]:
    """Whatever happens to another model, this one is neither restarted nor rolled."""
    before = _state(served)
    yield
    assert _state(served) == before


def _state(space: Space) -> dict[str, Any]:
    pods = space.get("pods", "", *SERVER)
    restarts = {p["metadata"]["name"]: [s["restartCount"] for s in _statuses(p)] for p in pods}
    return {"versions": space.versions("jobs", "services", "networkpolicies"), "pods": restarts}


def _statuses(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod["status"].get("initContainerStatuses", ()), *pod["status"].get("containerStatuses", ())]


def _artifact(space: Space, name: str = "digits") -> str:
    return str(space.model(name)["status"]["targets"][0]["artifact"]["digest"])


def _pod(space: Space, is_it: Callable[[dict[str, Any]], bool], seconds: float = 90) -> dict[str, Any]:
    """The first pipeline pod that is as wanted."""
    end = time.monotonic() + seconds
    while True:
        for pod in space.get("pods", "", *PIPELINE):
            if is_it(pod):
                return dict(pod)
        assert time.monotonic() < end, "there is no such pod"
        time.sleep(0.2)


def _works(pod: dict[str, Any]) -> bool:
    """A step runs, and it isn't the first."""
    return any(s["name"] == "export" and s["state"].get("running", s["state"].get("terminated")) for s in _statuses(pod))


def test_candidate_that_triton_does_not_load_is_refused(space: Space, installation: Installation) -> None:
    """Its file is cut on the node, after the build and before the server looks at it; the baseline is measured all the same."""
    model = digits(serving={"mode": "PublishOnly"}, passes=[{"type": "Quantize", "quantize": {"precision": "INT8", "mode": "Dynamic"}}])
    space.apply(model)
    pod = _pod(space, lambda _: True)
    steps = Path(installation.kubeconfig).parent / "kubelet/pods" / pod["metadata"]["uid"] / "volumes/kubernetes.io~empty-dir/work/steps"
    while not (steps / "05-build/record.json").exists():
        time.sleep(0.01)
    file = steps / "05-build/repository/dynamic/1/model.onnx"
    content = file.read_bytes()
    file.unlink()  # it may be a hard link to the artifact's
    file.write_bytes(content[: len(content) // 2])
    found = space.wait("digits", is_stalled)
    assert (found["status"]["phase"], found["status"]["lastFailure"]["reason"]) == ("Refused", "CandidateNotLoadable")
    target = found["status"]["targets"][0]
    assert "model.onnx" in target["candidates"][0]["message"]
    assert target["measurements"][0]["rounds"] >= 40
    assert "artifact" not in target


def test_evicted_job_goes_on_in_another_pod(space: Space, served: Space) -> None:
    """The Eviction API, as `kubectl drain` uses it: not a failure, and not one of the retries (there are none)."""
    space.apply(published(jobs={"backoffLimit": 0}))
    pod = _pod(space, _works)["metadata"]
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod["name"], "namespace": space.name}}
    space.kubectl("create", "--raw", f"/api/v1/namespaces/{space.name}/pods/{pod['name']}/eviction", "-f", "-", text=json.dumps(eviction))
    space.kubectl("wait", "--for=delete", f"pod/{pod['name']}", "--timeout=20s")  # and not when its grace of 30 s is over
    space.wait("digits", is_ready)
    assert _pod(space, lambda p: p["status"]["phase"] == "Succeeded")["metadata"]["uid"] != pod["uid"]
    (job,) = space.get("jobs", "", *PIPELINE)
    assert [owner["uid"] for owner in pod["ownerReferences"]] == [job["metadata"]["uid"]]
    assert _artifact(space) == _artifact(served)
    assert len(space.get("jobs")) == 2


@pytest.fixture
def unimportant(installation: Installation) -> Iterator[str]:
    """Name of a PriorityClass; a pod of it is evicted before any other, and the operator, like the model that has to stay untouched, not at all."""
    name = "unimportant"
    installation.apply({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}, "value": -1})
    installation.install(priorityClassName=CRITICAL)
    yield name
    installation.install()
    installation.kubectl("delete", "priorityclass", name)


@pytest.mark.long
def test_job_evicted_by_the_kubelet_goes_on_in_another_pod(space: Space, served: Space, installation: Installation, unimportant: str) -> None:
    """The node is short of something, and the kubelet ends the pod: not a failure either, and not one of the retries.

    The kubelet looks every 10 s and evicts at its second look, so the Job has to take longer than that.
    """
    model = published(jobs={"backoffLimit": 0})
    model["spec"]["targets"][0]["resources"] |= {"cpu": SMALL_CPU}
    model["spec"]["targets"][0]["pods"] = {"priorityClassName": unimportant}
    space.apply(model)
    pod = _pod(space, lambda _: True)["metadata"]
    with installation.pressure():
        evicted = _pod(space, lambda p: p["status"]["phase"] == "Failed")
    assert (evicted["metadata"]["uid"], evicted["status"]["reason"]) == (pod["uid"], "Evicted")
    assert (condition(evicted, "DisruptionTarget")["status"], condition(evicted, "DisruptionTarget")["reason"]) == ("True", "TerminationByKubelet")
    space.wait("digits", is_ready)
    assert _pod(space, lambda p: p["status"]["phase"] == "Succeeded")["metadata"]["uid"] != pod["uid"]
    (job,) = space.get("jobs", "", *PIPELINE)
    assert [owner["uid"] for owner in pod["ownerReferences"]] == [job["metadata"]["uid"]]
    assert _artifact(space) == _artifact(served)
    assert len(space.get("jobs")) == 2


def test_deadline_is_told_apart_from_waiting(space: Space) -> None:
    """The deadline counts from a pod's start on a node; a Job that waits for one longer than that waits on, for as long as its own limit says."""
    space.apply(digits("late", jobs={"deadline": "14s", "backoffLimit": 0}))
    queued = published("queued", jobs={"deadline": "25s", "queueTimeout": "27s"})
    queued["spec"]["targets"][0]["accelerator"] = {"nodeLabels": [{"name": "example.org/none", "value": "yes"}]}
    space.apply(queued)
    late = space.wait("late", is_stalled)["status"]["lastFailure"]
    assert (late["reason"], late["target"]) == ("DeadlineExceeded", "cpu")
    assert late["step"] in ("stage", "export", "compress", "build", "measure")
    assert "spec.jobs.deadline" in late["message"]
    waited = space.wait("queued", is_stalled)["status"]["lastFailure"]
    assert waited["reason"] == "QueueTimeout"
    assert "spec.jobs.queueTimeout" in waited["message"]
    assert "node" in waited["message"]


@pytest.fixture
def small_store(space: Space, installation: Installation) -> Path:
    """The space's own store, on a file system of 5 MiB, which is mounted there."""
    endpoint = output(CLUSTER, "s3", "--number", installation.number, "--size", "5m")
    installation.files(endpoint).call_s3("create_bucket", Bucket="burnish")
    space.secret("burnish-store", endpoint)
    return Path(installation.kubeconfig).parent / "s3-small"


def _remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)


def test_full_store_is_told_and_nothing_is_published(space: Space, served: Space, small_store: Path) -> None:
    """A store with room for the source and none for the artifact; once there is room, a new look at the source is all that it takes."""
    space.apply(published(jobs={"backoffLimit": 0}))
    found = space.wait("digits", is_stalled)
    failure = found["status"]["lastFailure"]
    assert (failure["reason"], failure["step"]) == ("StoreFull", "publish")
    assert "free some space" in failure["message"]
    assert "artifact" not in found["status"]["targets"][0]
    assert {f.parent.name for f in small_store.rglob("records/*/*.json")} == {"sources", "resolutions"}
    _remount(small_store, "size=64m")
    model = published(jobs={"backoffLimit": 0})
    model["spec"]["source"]["refresh"] = "there is room"
    space.apply(model)
    space.wait("digits", is_ready)
    assert _artifact(space) == _artifact(served)


def test_store_that_refuses_writes_is_asked_again(space: Space, served: Space, small_store: Path) -> None:
    """What may pass is a retry of the Job, and here it has passed by then."""
    _remount(small_store, "size=64m")
    space.apply(published())
    _pod(space, _works)
    _remount(small_store, "ro")
    failed = _pod(space, lambda p: p["status"]["phase"] == "Failed")
    _remount(small_store, "rw")
    (publish,) = failed["status"]["containerStatuses"]
    assert (publish["name"], publish["state"]["terminated"]["exitCode"]) == ("publish", 75)
    assert "StoreNotWritable" in space.kubectl("logs", failed["metadata"]["name"], "-c", "publish")
    space.wait("digits", is_ready)
    assert _artifact(space) == _artifact(served)


def test_upgrade_with_a_job_in_flight_starts_nothing_again(space: Space, served: Space, installation: Installation) -> None:
    """Another reference of the operator's image, which is in every Job and server that it would make now."""
    space.apply(published())
    pod = _pod(space, _works)["metadata"]
    before = space.names("jobs")
    reference = installation.alias(installation.references["burnish"], "upgraded")
    try:
        installation.install(images__burnish=reference)
        space.wait("digits", is_ready)
        assert space.names("jobs") == before
        assert [p["metadata"]["uid"] for p in space.get("pods", "", *PIPELINE)] == [pod["uid"]]
        assert _artifact(space) == _artifact(served)
    finally:
        installation.install()


@pytest.mark.parametrize("seconds", [20, pytest.param(300, marks=[pytest.mark.long, pytest.mark.timeout(1200)])])
def test_overload_restarts_nothing(served: Space, seconds: float) -> None:
    """Three times as many requests as it answers. They wait, and no longer than the number of those that wait asks for; afterwards all is as before."""
    address = served.address("digits")
    overload = Overload(address, "digits")
    overload.run(5)
    overload.run(seconds, times=3)
    assert overload.offered > 1.5 * overload.answered  # a busy machine finds too small a capacity
    assert overload.failures == []
    assert overload.answered > 0.5 * overload.capacity
    assert overload.latency_seconds(0.99) < 3 * overload.waiting / overload.capacity
    started = time.monotonic()
    infer(address, "digits")
    assert time.monotonic() - started < 2
    assert condition(served.model("digits"), "ServingReady")["status"] == "True"
    assert all(s["restartCount"] == 0 for pod in served.get("pods", "", *SERVER) for s in _statuses(pod))


def _put_on_volume(space: Space, claim: str, file: Path) -> None:
    """Into the volume's folder on the node, which is this machine."""
    volume = json.loads(space.kubectl("get", "pv", space.get("pvc", claim)["spec"]["volumeName"], "-o", "json"))["spec"]
    folder = Path((volume.get("hostPath") or volume["local"])["path"]) / "sources"
    folder.mkdir()
    shutil.copy(file, folder)


def test_store_on_a_volume_from_apply_to_serving(space: Space, served: Space, installation: Installation) -> None:
    """Of the cluster's own storage class, which one node can mount: there is one."""
    volume = {"store__volume__enabled": "true", "store__volume__size": "1Gi", "store__volume__accessMode": "ReadWriteOnce"}
    try:
        installation.install(store__uri="", **volume)
        space.apply(converted())
        space.wait("digits", is_ready)
        assert _artifact(space) == _artifact(served)
        assert space.model("digits")["status"]["targets"][0]["artifact"]["uri"].startswith("/store/")
        assert space.get("pvc", "burnish-store")["status"]["phase"] == "Bound"
        assert "ownerReferences" not in space.get("pvc", "burnish-store")["metadata"]
        infer(space.address("digits"), "digits")
        _put_on_volume(space, "burnish-store", EXAMPLES / "digits/model.onnx")
        space.apply(published("claimed", source={"uri": "pvc://burnish-store/sources/model.onnx", "secretRef": {"name": "models"}}))
        claimed = space.wait("claimed", is_ready)
        assert claimed["status"]["source"]["digest"] == space.model("digits")["status"]["source"]["digest"]
    finally:
        installation.install()
