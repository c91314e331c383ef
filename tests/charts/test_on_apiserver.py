"""The charts at a real apiserver: everything is admitted, the CRD outlives its release, and the controller's account is enough for the controller.

There is no node, so no pod starts; the controller runs here as a process, with the account and the settings that its pod would have.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from control_plane import ROOT, ControlPlane, wait_until

CHARTS = ROOT / "charts"
MODEL = {
    "apiVersion": "burnish.dev/v1alpha1",
    "kind": "OptimizedModel",
    "metadata": {"name": "digits"},
    "spec": {"source": {"uri": "s3://models/digits/model.onnx"}, "targets": [{"name": "cpu", "runtime": "ONNXRuntime"}]},
}


def dry_run(api: ControlPlane, namespace: str, documents: list[dict[str, Any]]) -> subprocess.CompletedProcess[str]:
    """Apply without doing it; what names no namespace goes into `namespace`, as helm does it."""
    text = "\n---\n".join(json.dumps(d | {"metadata": {"namespace": namespace} | d["metadata"]}) for d in documents)
    return api.kubectl("apply", "--dry-run=server", "--validate=strict", "--filename", "-", text=text, check=False)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"watchNamespaces": "{default}"},
        {"images__servingImage": "nvidia-25.10", "images__triton": "registry.example/nvidia/tritonserver:25.10-py3", "images__pullSecrets": "{ngc}"},
        {"store__uri": "", "store__volume__enabled": "true"},
        {
            "tolerations[0].key": "system",
            "tolerations[0].operator": "Exists",
            "nodeSelector.disk": "ssd",
            "priorityClassName": "system-cluster-critical",
        },
        {"sweep__schedule": "0 3 * * 0", "sweep__namespaces": "{NAMESPACE}"},
        {"sweep__schedule": "@daily", "sweep__namespaces": "{NAMESPACE}", "store__uri": "", "store__volume__enabled": "true"},
    ],
    ids=["default", "namespaced", "nvidia", "volume", "placed", "sweep", "sweep-volume"],
)
def test_every_object_is_admitted_in_a_restricted_namespace(helm, api: ControlPlane, restricted: str, values: dict[str, str]) -> None:
    rendered = helm.template(restricted, **{name: value.replace("NAMESPACE", restricted) for name, value in values.items()})
    done = dry_run(api, restricted, rendered)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(rendered)
    assert "Warning" not in done.stderr  # the profile warns of a Deployment, and refuses its pods only

    templates = [d["spec"]["template"] for d in rendered if d["kind"] == "Deployment"]
    templates += [d["spec"]["jobTemplate"]["spec"]["template"] for d in rendered if d["kind"] == "CronJob"]
    for template in templates:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "probe"}, "spec": template["spec"] | {"serviceAccountName": "default"}}
        done = dry_run(api, restricted, [pod])
        assert done.returncode == 0, done.stderr


def test_a_pod_that_is_not_restricted_would_not_have_been_admitted(helm, api: ControlPlane, restricted: str) -> None:
    """The test above can fail."""
    template = next(d for d in helm.template(restricted) if d["kind"] == "Deployment")["spec"]["template"]
    del template["spec"]["containers"][0]["securityContext"]["capabilities"]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "probe"}, "spec": template["spec"] | {"serviceAccountName": "default"}}
    assert "unrestricted capabilities" in dry_run(api, restricted, [pod]).stderr


def test_crd_and_models_outlive_the_release(helm, api: ControlPlane, restricted: str) -> None:
    arguments = ["burnish-crds", CHARTS / "burnish-crds", "--namespace", restricted]
    assert api.create_model(restricted, MODEL).status == 201
    try:
        done = helm("install", *arguments, "--take-ownership", api=api)
        assert done.returncode == 0, done.stderr
        assert "Uninstalling this release keeps the CRD" in done.stdout
        done = helm("uninstall", "burnish-crds", "--namespace", restricted, api=api)
        assert done.returncode == 0, done.stderr
        assert "kept due to the resource policy" in done.stdout
        assert api.request("GET", api.models(restricted, "digits")).status == 200
        done = helm("install", *arguments, api=api)  # what was kept is taken up again
        assert done.returncode == 0, done.stderr
    finally:
        helm("uninstall", "burnish-crds", "--namespace", restricted, api=api)


@contextlib.contextmanager
def installed(helm: Any, api: ControlPlane, namespace: str, flags: list[str]) -> Iterator[None]:
    done = helm("install", "burnish", CHARTS / "burnish", "--namespace", namespace, *flags, api=api)
    assert done.returncode == 0, done.stderr
    try:
        yield
    finally:
        helm("uninstall", "burnish", "--namespace", namespace, api=api)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def controller(api: ControlPlane, namespace: str, folder: Path) -> Iterator[Path]:
    """The controller with its own account and settings, as a process here; yields its log."""
    token = api.kubectl("create", "token", "burnish-controller", "--namespace", namespace).stdout.strip()
    config = yaml.safe_load(api.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": token}
    (folder / "kubeconfig").write_text(yaml.safe_dump(config))
    settings = json.loads(api.kubectl("get", "configmap", "burnish-controller", "--namespace", namespace, "--output", "json").stdout)
    (folder / "settings.yaml").write_text(settings["data"]["settings.yaml"])
    port = free_port()
    command = [sys.executable, "-m", "burnish.controller", "--settings", folder / "settings.yaml", "--host", "127.0.0.1"]
    log = folder / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [*command, "--port", str(port), "--metrics-port", str(free_port()), "--log-level", "info"],
            env=os.environ | {"KUBECONFIG": str(folder / "kubeconfig"), "POD_NAME": "burnish-controller-test"},
            stderr=file,
        )
        try:
            wait_until(lambda: answers(port) or process.poll() is not None, "controller's /healthz")
            assert process.poll() is None, log.read_text()
            yield log
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0, log.read_text()


def answers(port: int) -> bool:
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"http://127.0.0.1:{port}/healthz", timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


MODES = {
    "cluster-wide": {},
    "namespaced": {"watchNamespaces": "{NAMESPACE}"},
    "volume": {"store__uri": "", "store__volume__enabled": "true", "store__volume__accessMode": "ReadWriteOnce"},
    "volume-namespaced": {"store__uri": "", "store__volume__enabled": "true", "watchNamespaces": "{NAMESPACE}"},
}


@pytest.mark.parametrize("mode", MODES)
def test_the_controllers_account_is_enough_for_it(helm, flags, api: ControlPlane, restricted: str, tmp_path: Path, mode: str) -> None:
    tenant = api.create_namespace("tenant")
    values = {name: value.replace("NAMESPACE", tenant) for name, value in MODES[mode].items()}
    with installed(helm, api, restricted, flags(**values)), controller(api, restricted, tmp_path) as log:
        assert api.create_model(tenant, MODEL).status == 201
        told = wait_until(lambda: api.request("GET", api.models(tenant, "digits")).body.get("status"), "status")
        if mode == "volume":  # not shared, and there is no node: it says so, and starts nothing
            assert told["conditions"]
        else:
            jobs = f"/apis/batch/v1/namespaces/{tenant}/jobs"
            (job,) = wait_until(lambda: api.request("GET", jobs).body["items"], "resolve Job")
            assert job["metadata"]["labels"]["burnish.dev/component"] == "resolve"
            assert api.request("GET", f"/apis/networking.k8s.io/v1/namespaces/{tenant}/networkpolicies").body["items"]
            claims = api.request("GET", f"/api/v1/namespaces/{tenant}/persistentvolumeclaims").body["items"]
            assert len(claims) == (1 if mode.startswith("volume") else 0)
        events = f"/apis/events.k8s.io/v1/namespaces/{tenant}/events"
        wait_until(lambda: [e for e in api.request("GET", events).body["items"] if e["regarding"]["kind"] == "OptimizedModel"], "event")
        api.kubectl("patch", "optimizedmodel", "digits", "--namespace", tenant, "--type", "merge", "--patch", '{"spec": {"suspend": true}}')
        wait_until(lambda: not api.request("GET", f"/apis/batch/v1/namespaces/{tenant}/jobs").body["items"], "suspended: no Job")
        assert "cannot" not in log.read_text()  # "User ... cannot list resource ...": what the apiserver says of a right that is missing
    api.delete_namespace(tenant)


@pytest.mark.parametrize("mode", MODES)
def test_the_controllers_account_can_do_no_more(helm, flags, api: ControlPlane, restricted: str, mode: str) -> None:
    tenant, other = api.create_namespace("tenant"), api.create_namespace("other")
    values = {name: value.replace("NAMESPACE", tenant) for name, value in MODES[mode].items()}
    account = f"system:serviceaccount:{restricted}:burnish-controller"

    def can(verb: str, resource: str, namespace: str) -> bool:
        done = api.kubectl("auth", "can-i", verb, resource, "--as", account, "--namespace", namespace, check=False)
        return done.stdout.strip() == "yes"

    with installed(helm, api, restricted, flags(**values)):
        for namespace in (tenant, other, restricted, "kube-system"):
            for verb in ("get", "list", "watch"):
                assert not can(verb, "secrets", namespace), (verb, namespace)
        for verb, resource in (
            ("create", "pods"),
            ("create", "pods/exec"),
            ("update", "optimizedmodels.burnish.dev"),
            ("delete", "optimizedmodels.burnish.dev"),
            ("delete", "persistentvolumeclaims"),
            ("delete", "networkpolicies.networking.k8s.io"),
            ("create", "roles.rbac.authorization.k8s.io"),
            ("get", "configmaps"),
        ):
            assert not can(verb, resource, tenant), (verb, resource)
        assert can("create", "jobs.batch", tenant)
        assert can("create", "jobs.batch", other) == (not mode.endswith("namespaced"))
    for namespace in (tenant, other):
        api.delete_namespace(namespace)


def test_people_with_the_usual_roles_may_use_models(helm, api: ControlPlane, restricted: str) -> None:
    done = helm("install", "burnish-crds", CHARTS / "burnish-crds", "--namespace", restricted, "--take-ownership", api=api)
    assert done.returncode == 0, done.stderr
    try:
        for role in ("edit", "view"):
            api.kubectl("create", "rolebinding", role, "--clusterrole", role, "--user", f"{role}or", "--namespace", restricted)

        def can(user: str, verb: str) -> bool:
            arguments = ["auth", "can-i", verb, "optimizedmodels.burnish.dev", "--as", user, "--namespace", restricted]
            return api.kubectl(*arguments, check=False).stdout.strip() == "yes"

        wait_until(lambda: can("editor", "create") and can("viewor", "watch"), "aggregated roles")
        assert can("editor", "delete")
        assert not can("viewor", "create")
    finally:
        helm("uninstall", "burnish-crds", "--namespace", restricted, api=api)
