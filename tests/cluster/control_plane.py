"""A real apiserver for tests, and a small client of it: kubectl where its answer matters, one HTTP call where only the apiserver's does.

`with control_plane.running() as api:` starts etcd, apiserver, controller-manager and scheduler of `e2e/cluster/cluster` (no node: pods stay Pending) in
five seconds, and ends them. BURNISH_TEST_CLUSTER=1 uses (and keeps) the cluster of that number; of several pytest-xdist workers each takes the next one.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import re
import secrets
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

import yaml

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "e2e/cluster/cluster"
CRD = ROOT / "crds/burnish.dev_optimizedmodels.yaml"
MODELS = "/apis/burnish.dev/v1alpha1"
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"


class Answer(NamedTuple):
    """What the apiserver says."""

    status: int
    body: dict[str, Any]
    warnings: tuple[str, ...] = ()

    @property
    def message(self) -> str:
        """Of a refusal."""
        return str(self.body.get("message", ""))


class ControlPlane:
    """A running one. `kubeconfig` is the admin's."""

    def __init__(self, number: str) -> None:
        self.number = number
        self.kubeconfig = Path(_output(CLUSTER, "kubeconfig", "--number", number))
        self._kubectl = program("kubectl")
        self._connect()

    def start(self) -> None:
        """Start what of it isn't running; returns when it answers."""
        _output(CLUSTER, "up", "--number", self.number, "--control-plane-only")

    def kubectl(self, *arguments: object, text: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run kubectl; `text` goes to its standard input."""
        command = [self._kubectl, *(str(argument) for argument in arguments)]
        done = subprocess.run(command, env=os.environ | {"KUBECONFIG": str(self.kubeconfig)}, input=text, capture_output=True, text=True, timeout=120)
        assert not check or done.returncode == 0, f"kubectl {' '.join(command[1:])}: {done.stderr}"
        return done

    def request(self, method: str, path: str, body: object = None, *, content_type: str = "application/json", **query: str) -> Answer:
        """One call, as the cluster's admin."""
        headers = {"Accept": "application/json", "Content-Type": content_type}
        path += f"?{urlencode(query)}" if query else ""
        connection = http.client.HTTPSConnection(self._host, self._port, timeout=30, context=self.tls)
        with contextlib.closing(connection):
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            response = connection.getresponse()
            content = response.read()
            warnings = tuple(response.msg.get_all("Warning") or ())
        try:
            return Answer(response.status, json.loads(content), warnings)
        except ValueError:  # some of its own refusals are plain text
            return Answer(response.status, {"message": content.decode(errors="replace")}, warnings)

    def models(self, namespace: str, name: str = "", subresource: str = "") -> str:
        """Path of a namespace's OptimizedModels, of one, or of a part of one."""
        return "/".join(filter(None, [f"{MODELS}/namespaces/{namespace}/optimizedmodels", name, subresource]))

    def create_model(self, namespace: str, manifest: dict[str, Any], **query: str) -> Answer:
        """POST an OptimizedModel, as kubectl does: unknown fields are refused."""
        return self.request("POST", self.models(namespace), manifest, **({"fieldValidation": "Strict"} | query))

    def create_namespace(self, prefix: str, labels: dict[str, str] | None = None) -> str:
        """Make one with a name of its own that begins with `prefix`; it is there for use when this returns."""
        stem = re.sub(r"[^a-z0-9]+", "-", prefix.lower()).strip("-")[:40].strip("-")
        name = f"{stem}-{secrets.token_hex(4)}"
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels or {}}}
        answer = self.request("POST", "/api/v1/namespaces", body)
        assert answer.status == 201, answer
        wait_until(lambda: self.request("GET", f"/api/v1/namespaces/{name}/serviceaccounts/default").status == 200, f"service account of {name}")
        return name

    def delete_namespace(self, name: str) -> None:
        """Begin to; the rest goes by itself."""
        self.request("DELETE", f"/api/v1/namespaces/{name}")

    def install_crd(self) -> None:
        """The CRD as it is in the tree now, ready for use."""
        manifest = yaml.safe_load(CRD.read_text())
        path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{manifest['metadata']['name']}"
        answer = self.request("PATCH", path, manifest, content_type=APPLY, fieldManager="tests", force="true")
        assert answer.status in (200, 201), answer.message
        wait_until(lambda: self.request("GET", f"{MODELS}/optimizedmodels").status == 200, "CRD served")

    def _connect(self) -> None:
        config = yaml.safe_load(self.kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        address = urlsplit(cluster["server"])
        self._host, self._port = str(address.hostname), address.port
        self.tls = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
        with tempfile.NamedTemporaryFile() as file:
            file.write(base64.b64decode(user["client-certificate-data"]) + b"\n" + base64.b64decode(user["client-key-data"]))
            file.flush()
            self.tls.load_cert_chain(file.name)


@contextlib.contextmanager
def running(number: int = 60) -> Iterator[ControlPlane]:
    """One that is up while the context lasts, and empty, unless the user named one: that one stays."""
    kept = os.environ.get("BURNISH_TEST_CLUSTER")
    mine = str(int(kept or number) + int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")))
    if kept is None:
        _output(CLUSTER, "down", "--number", mine)  # a run that was killed leaves its own
    _output(CLUSTER, "up", "--number", mine, "--control-plane-only")
    try:
        yield ControlPlane(mine)
    finally:
        if kept is None:
            _output(CLUSTER, "down", "--number", mine)


def program(name: str) -> str:
    """Path of kubectl, helm and the like; built if need be."""
    return _output(CLUSTER, "path", name)


def wait_until(is_true: Callable[[], Any], what: str, seconds: float = 60) -> Any:
    """The first true value of `is_true`, which is asked ten times a second; fails after `seconds`."""
    end = time.monotonic() + seconds
    while not (found := is_true()):
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(0.1)
    return found


def _output(*command: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout.strip()
