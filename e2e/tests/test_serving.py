"""What a user of the cluster sees, on a real one: a model gets ready, stays served through edits that fail, and rolls without losing a request."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from burnish.store.store import open_store
from installation import Installation, Space, condition, converted, digits, is_ready, is_stalled
from traffic import Traffic, infer, read

WRITTEN = ("om", "jobs", "deployments", "services", "networkpolicies")
"""Kinds of all that the operator writes."""


@pytest.fixture(scope="module")
def served(installation: Installation) -> Space:
    """A namespace with a model that is ready; tests leave it ready."""
    space = installation.space("served")
    space.apply(digits())
    space.wait("digits", is_ready, 600)
    return space


def test_status_tells_the_truth(served: Space) -> None:
    model = served.model("digits")
    target = model["status"]["targets"][0]
    revision = served.get("deployment", f"digits-cpu-{target['revision']}")
    pods = served.get("pods", "", "--selector", "burnish.dev/component=server")
    assert (target["state"], target["replicas"], target["readyReplicas"]) == ("Serving", 1, 1)
    assert revision["metadata"]["annotations"]["burnish.dev/artifact"] == target["artifact"]["digest"]
    assert [p["metadata"]["labels"]["burnish.dev/revision"] for p in pods] == [target["revision"]]
    assert (model["status"]["replicas"], model["status"]["phase"]) == (1, "Ready")
    assert served.get("service", "digits")["spec"]["selector"]["burnish.dev/revision"] == target["revision"]
    assert model["status"]["selector"] == ",".join(f"{k}={v}" for k, v in sorted(served.get("service", "digits")["spec"]["selector"].items()))
    assert target["measurements"][0]["speedup"]["p50"]
    assert infer(served.address("digits"), "digits") == infer(served.address("digits-cpu"), "digits")
    columns = served.kubectl("get", "om", "digits").splitlines()[1].split()
    assert columns[:3] == ["digits", "True", "Ready"]


def test_settled_model_is_left_alone(served: Space) -> None:
    before = served.versions(*WRITTEN)
    served.apply(digits())
    time.sleep(5)
    assert served.versions(*WRITTEN) == before


def test_failing_edit_leaves_the_old_revision_serving(served: Space) -> None:
    revision = served.model("digits")["status"]["targets"][0]["revision"]
    with Traffic(served.address("digits"), "digits") as traffic:
        served.apply(digits(constraints={"minSpeedup": "50"}))
        refused = served.wait("digits", is_stalled)
        assert refused["status"]["lastFailure"]["reason"] == "SpeedupBelowLimit"
        assert refused["status"]["phase"] == "Refused"
        assert refused["status"]["targets"][0]["revision"] == revision
        assert condition(refused, "ServingReady")["status"] == "True"
        served.apply(digits(constraints={"minSpeedup": "50", "onInfeasible": "KeepCurrent"}))
        kept = served.wait("digits", is_ready)
        assert condition(kept, "Ready")["reason"] == "CurrentKept"
        served.apply(digits())
        served.wait("digits", lambda m: is_ready(m) and condition(m, "Ready")["reason"] == "Serving")
    assert traffic.failures == []
    assert served.model("digits")["status"]["targets"][0]["revision"] == revision


def test_rolls_there_and_back_lose_no_request(served: Space) -> None:
    first = served.model("digits")["status"]["targets"][0]["revision"]
    other = digits()
    other["spec"]["targets"][0]["pods"] = {"tolerations": [{"key": "example.org/other", "operator": "Exists"}]}
    with Traffic(served.address("digits"), "digits") as traffic:
        for manifest in (other, digits()):
            served.apply(manifest)
            served.wait("digits", is_ready)
            time.sleep(2)
    assert traffic.failures == []
    assert min(traffic.counts.values()) > 100
    assert served.model("digits")["status"]["targets"][0]["revision"] == first
    assert len(served.get("deployments")) == 1


def test_dead_backend_is_noticed_and_started_again(served: Space) -> None:
    revision = served.model("digits")["status"]["targets"][0]["revision"]
    pods = served.get("pods", "", "--selector", f"burnish.dev/revision={revision}")
    pod = next(p["metadata"]["name"] for p in pods if "deletionTimestamp" not in p["metadata"])  # that of the roll before may still be draining
    served.kubectl("exec", pod, "-c", "triton", "--", "python3", "-c", KILL_STUBS)
    deadline = time.monotonic() + 90
    while _restarts(served, pod) == 0:
        assert time.monotonic() < deadline, "the container was not restarted"
        time.sleep(1)
    served.kubectl("wait", "--for=condition=Ready", f"pod/{pod}", "--timeout=90s")
    infer(served.address("digits"), "digits")


KILL_STUBS = """
import os, signal
for pid in filter(str.isdigit, os.listdir("/proc")):
    if open(f"/proc/{pid}/cmdline", "rb").read().split(b"\\0")[0].endswith(b"triton_python_backend_stub"):
        os.kill(int(pid), signal.SIGKILL)
"""


def _restarts(space: Space, pod: str) -> int:
    statuses = space.get("pod", pod)["status"]["containerStatuses"]
    return next(int(s["restartCount"]) for s in statuses if s["name"] == "triton")


def test_wrong_byte_in_the_store_is_never_served(served: Space, installation: Installation) -> None:
    """The pod of a new revision never gets ready; what serves goes on."""
    model = served.model("digits")
    before = model["status"]["targets"][0]["revision"]
    files = installation.files()
    blobs = {f.rpartition("/")[2]: f for f in files.find("burnish/demo") if f"/{served.name}/" in f and "/blobs/sha256/" in f}
    manifest = json.loads(files.cat_file(blobs[model["status"]["targets"][0]["artifact"]["digest"].removeprefix("sha256:")]))
    largest = blobs[max(manifest["layers"], key=_size)["digest"].removeprefix("sha256:")]
    content = files.cat_file(largest)
    try:
        files.pipe_file(largest, content[:-1] + bytes([content[-1] ^ 1]))
        changed = digits()
        changed["spec"]["targets"][0]["pods"] = {"tolerations": [{"key": "example.org/corrupted", "operator": "Exists"}]}
        served.apply(changed)
        found = served.wait("digits", lambda m: condition(m, "RolloutComplete").get("reason") == "StoreCorrupted", 120)
        assert condition(found, "ServingReady")["status"] == "True"
        assert found["status"]["targets"][0]["revision"] == before
        infer(served.address("digits"), "digits")
    finally:
        files.pipe_file(largest, content)
        served.apply(digits())
    served.wait("digits", is_ready)


def _size(facts: dict[str, Any]) -> int:
    return int(facts["size"])


def test_suspend_and_scale(served: Space) -> None:
    served.kubectl("scale", "om", "digits", "--replicas=2")
    served.wait("digits", lambda m: m["status"]["targets"][0].get("readyReplicas") == 2 and is_ready(m))
    assert served.model("digits")["status"]["replicas"] == 2
    served.kubectl("scale", "om", "digits", "--replicas=1")
    served.wait("digits", lambda m: m["status"]["targets"][0].get("replicas") == 1 and is_ready(m))


def test_autoscaler_scales_the_model(served: Space) -> None:
    """The real HPA controller with metrics-server, on the resource's scale subresource."""
    target = {"apiVersion": "burnish.dev/v1alpha1", "kind": "OptimizedModel", "name": "digits"}
    cpu = {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 20}}}
    spec = {"scaleTargetRef": target, "minReplicas": 1, "maxReplicas": 2, "metrics": [cpu]}
    served.apply({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "digits"}, "spec": spec})
    try:
        with Traffic(served.address("digits"), "digits") as traffic:
            served.wait("digits", lambda m: m["status"]["targets"][0].get("readyReplicas") == 2, 180)
        assert traffic.failures == []
    finally:
        served.kubectl("delete", "hpa", "digits")
        served.kubectl("scale", "om", "digits", "--replicas=1")
    served.wait("digits", lambda m: m["status"]["targets"][0].get("replicas") == 1 and is_ready(m))


def test_metrics_of_the_operator(installation: Installation, served: Space) -> None:
    address = json.loads(installation.kubectl("get", "service", "-n", "burnish-system", "burnish-controller", "-o", "json"))["spec"]["clusterIP"]
    lines = read(f"http://{address}:9090/metrics").splitlines()
    assert "burnish_leader 1.0" in lines
    assert any(line.startswith('burnish_jobs_total{component="resolve",outcome="succeeded"}') for line in lines)
    latency = [line for line in lines if line.startswith("burnish_target_latency_seconds{") and 'namespace="served"' in line]
    assert {of for line in latency for of in ("baseline", "served") if f'of="{of}"' in line} == {"baseline", "served"}
    assert all(0 < float(line.rsplit(" ", 1)[1]) < 1 for line in latency)


def test_deleted_model_leaves_nothing(space: Space) -> None:
    space.apply(digits())
    space.wait("digits", is_ready)
    space.kubectl("delete", "om", "digits", "--wait=true")
    deadline = time.monotonic() + 60
    while any(space.get(kind) for kind in ("jobs", "deployments", "services", "pods")):
        assert time.monotonic() < deadline, "children are left"
        time.sleep(1)


def test_old_revision_makes_room_where_there_is_none_for_two(space: Space) -> None:
    """A server asks for more than half of what the node has left: the scheduler says so, the old one goes, the new one comes."""
    request = f"{round(space.free_cpu() * 600)}m"
    model = converted()
    model["spec"]["targets"][0]["resources"] |= {"cpu": request, "cpuRequest": request}
    space.apply(model)
    first = space.wait("digits", is_ready)["status"]["targets"][0]["revision"]
    model["spec"]["targets"][0]["pods"] = {"tolerations": [{"key": "example.org/other", "operator": "Exists"}]}
    space.apply(model)
    waits = space.wait("digits", lambda m: condition(m, "Ready")["reason"] == "NoMatchingNode", 60)
    assert "Insufficient cpu" in condition(waits, "Ready")["message"]
    space.wait("digits", lambda m: "made room" in condition(m, "ServingReady")["message"], 60)
    space.kubectl("wait", "--for=delete", "pod", "--selector", f"burnish.dev/revision={first}", "--timeout=20s")
    second = space.wait("digits", is_ready)["status"]["targets"][0]["revision"]
    assert first != second
    assert [d["metadata"]["name"] for d in space.get("deployments")] == [f"digits-cpu-{second}"]
    infer(space.address("digits"), "digits")


def test_sweep_of_the_chart_frees_the_store(space: Space, installation: Installation) -> None:
    store = open_store(installation.store, cluster="default", namespace=space.name, access=installation.credentials)
    garbage, young = store.put_blob(b"garbage"), store.put_blob(b"young")
    then = time.time() - 8 * 24 * 3600
    folder = Path(installation.kubeconfig).parent / "s3/data"  # the S3 server's files carry the objects' times
    os.utime(folder / store.location.removeprefix("s3://") / "blobs/sha256" / garbage.removeprefix("sha256:"), (then, then))
    installation.install(sweep__schedule="@yearly", sweep__namespaces=f"{{{space.name}}}")
    try:
        space.kubectl("create", "job", "--from=cronjob/burnish-sweep", "now")
        space.kubectl("wait", "--for=condition=complete", "job/now", "--timeout=60s")
        assert space.kubectl("logs", "job/now").splitlines() == [f"{garbage}  7", "deleted 1 blob, 7"]
        assert (store.has_blob(garbage), store.has_blob(young)) == (False, True)
    finally:
        installation.install()
    assert space.get("cronjobs") == []


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        ({"source": {"uri": "s3://models/digits/none.onnx", "secretRef": {"name": "models"}}}, "SourceNotFound", "s3://models/digits/none.onnx"),
        ({"source": {"uri": "s3://models/digits/model.onnx", "secretRef": {"name": "nosecret"}}}, "SecretNotFound", "kubectl create secret"),
        ({"source": {"uri": "s3://models/digits/evaluation.npz", "secretRef": {"name": "models"}}}, "UnsupportedFormat", ""),
        ({"source": {"uri": "https://PRIVATE/model.onnx"}}, "UnsafeSource", "private address"),
    ],
)
def test_bad_source_is_told_on_the_object(installation: Installation, served: Space, change: dict[str, Any], reason: str, words: str) -> None:
    space = installation.space("bad-sources")
    change["source"]["uri"] = change["source"]["uri"].replace("PRIVATE", installation.credentials.endpoint.removeprefix("http://"))
    space.apply(digits(reason.lower(), **change))
    found = space.wait(reason.lower(), is_stalled, 120)
    failure = found["status"]["lastFailure"]
    assert failure["reason"] == reason
    assert words in failure["message"]
    assert "demo-secret" not in json.dumps(found)
    assert space.get("deployments", "", "--selector", f"burnish.dev/model={reason.lower()}") == []
    assert condition(served.model("digits"), "Ready")["status"] == "True"


def test_no_secret_anywhere(installation: Installation, served: Space) -> None:
    """Events, status, and every log of the operator and of all Jobs."""
    told = [json.dumps(served.get("events")), json.dumps(served.get("om"))]
    told.append(installation.kubectl("logs", "--namespace", "burnish-system", "deployment/burnish-controller"))
    for pod in served.get("pods"):
        told.append(served.kubectl("logs", pod["metadata"]["name"], "--all-containers"))
    assert all("demo-secret" not in text for text in told)
