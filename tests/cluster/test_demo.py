"""`make demo CONTEXT=...` on somebody's cluster: it says what it lacks, and leaves alone what it has not made."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import yaml
from control_plane import ROOT, ControlPlane, program

GIVEN = ("--images", "registry.example/burnish", "--s3", "s3://bucket/prefix")
CRD = "optimizedmodels.burnish.dev"
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "hunter2"}


def demo(api: ControlPlane, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    path = f"{os.path.dirname(program('helm'))}:{kept['PATH']}"  # noqa: PTH120
    return subprocess.run(
        [sys.executable, str(ROOT / "e2e/demo.py"), *arguments],
        env={**kept, "KUBECONFIG": str(api.kubeconfig), "PATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def context(api: ControlPlane) -> str:
    return str(yaml.safe_load(api.kubeconfig.read_text())["current-context"])


def namespaces(api: ControlPlane) -> set[str]:
    return {o["metadata"]["name"] for o in api.request("GET", "/api/v1/namespaces").body["items"]}


@pytest.fixture
def taken(api: ControlPlane) -> Iterator[str]:
    """A namespace of the demo's name that somebody else has made."""
    name = "burnish-demo"
    api.kubectl("create", "namespace", name)
    yield name
    api.kubectl("delete", "namespace", name)


def test_unknown_context_is_refused_and_the_known_are_named(api: ControlPlane) -> None:
    done = demo(api, "up", "--context", "nowhere")
    assert (done.returncode, done.stdout) == (2, "")
    assert "CONTEXT=nowhere: your kubeconfig has no such context" in done.stderr and context(api) in done.stderr


def test_every_missing_option_is_named_with_its_cure(api: ControlPlane) -> None:
    before = namespaces(api)
    done = demo(api, "up", "--context", context(api))
    assert done.returncode == 2
    for option in ("IMAGES=registry/prefix", "images/build --prefix", "S3=s3://bucket/prefix", *KEYS):
        assert option in done.stderr
    assert "optimizer-" not in done.stderr
    done = demo(api, "up", "--context", context(api), "--models", "digits", "resnet", "pytorch", "keras")
    assert done.stderr.count("`images/build optimizer-torch --prefix") == done.stderr.count("`images/build optimizer-tensorflow --prefix") == 1
    done = demo(api, "up", "--context", context(api), *GIVEN[:2], AWS_ACCESS_KEY_ID="key")
    assert "S3=" in done.stderr and "AWS_SECRET_ACCESS_KEY in" in done.stderr
    assert "IMAGES=" not in done.stderr and "AWS_ACCESS_KEY_ID in" not in done.stderr
    assert namespaces(api) <= before


def test_bucket_that_nobody_serves_is_named(api: ControlPlane) -> None:
    """Before anything is made; with the CRD of the session out of the way."""
    api.kubectl("annotate", "--overwrite", "crd", CRD, "meta.helm.sh/release-namespace=burnish-demo")
    before = namespaces(api)
    try:
        done = demo(api, "up", "--context", context(api), *GIVEN, **KEYS, AWS_ENDPOINT_URL="http://127.0.0.1:9")
    finally:
        api.kubectl("annotate", "crd", CRD, "meta.helm.sh/release-namespace-")
    assert (done.returncode, done.stdout) == (2, "")
    assert "demo: S3=s3://bucket/prefix: " in done.stderr and "at http://127.0.0.1:9" in done.stderr and "hunter2" not in done.stderr
    assert namespaces(api) <= before


@pytest.mark.parametrize("command", ["up", "down"])
def test_namespace_of_somebody_else_is_left_alone(api: ControlPlane, taken: str, command: str) -> None:
    done = demo(api, command, "--context", context(api), *GIVEN, **KEYS)
    assert done.returncode == 2
    assert f"has a namespace {taken} that the demo has not made" in done.stderr
    assert taken in namespaces(api) and "hunter2" not in done.stderr + done.stdout


@pytest.mark.parametrize("command", ["up", "down"])
def test_burnish_of_somebody_else_is_left_alone(api: ControlPlane, command: str) -> None:
    before = namespaces(api)
    done = demo(api, command, "--context", context(api), *GIVEN, **KEYS)
    assert done.returncode == 2
    assert "has Burnish already" in done.stderr
    assert namespaces(api) <= before
    assert api.kubectl("get", "crd", CRD).returncode == 0


def test_down_removes_what_the_demo_has_made_and_no_model_of_somebody_else(api: ControlPlane, namespace: str) -> None:
    for name in ("burnish-demo", "burnish-demo-models"):
        api.kubectl("create", "namespace", name)
        api.kubectl("label", "namespace", name, "burnish.dev/demo=true")
    api.kubectl("annotate", "--overwrite", "crd", CRD, "meta.helm.sh/release-namespace=burnish-demo")
    try:
        api.kubectl("apply", "--namespace", namespace, "-f", ROOT / "examples/cluster/digits.yaml")
        api.kubectl("apply", "--namespace", "burnish-demo-models", "-f", ROOT / "examples/cluster/digits.yaml")
        done = demo(api, "down", "--context", context(api))
        assert done.returncode == 0, done.stderr
        assert not namespaces(api) & {"burnish-demo", "burnish-demo-models"}
        assert f"the CRD {CRD} stays: there are OptimizedModels in {namespace}" in done.stdout and "its files stay in the bucket" in done.stdout
        assert api.kubectl("get", "om", "digits", "--namespace", namespace).returncode == 0
    finally:
        api.kubectl("annotate", "crd", CRD, "meta.helm.sh/release-namespace-")
