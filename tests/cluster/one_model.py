"""One model in one namespace, the node that runs its pods, and operators that come and go."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import yaml
from control_plane import MERGE, ROOT, ControlPlane, wait_until
from node import Node

from burnish import names
from burnish.controller import apiserver
from burnish.controller.apiserver import ApiError, ApiServer
from burnish.controller.operator import Operator
from burnish.manifests.settings import Settings

MODEL = yaml.safe_load((ROOT / "examples/cluster/digits.yaml").read_text())
SETTLE_SECONDS = 60
WRITES = ("POST", "PATCH", "DELETE")


def settings(namespace: str, **changes: Any) -> Settings:
    return Settings.model_validate(
        {
            "images": {"burnish": "b:1", "optimizers": {"onnx": "o:1"}, "triton": "t:1"},
            "store": {"uri": "s3://b/x"},
            "watchNamespaces": [namespace],
            "leaseNamespace": namespace,
            "drain": "1s",
            "resync": "200ms",  # lists instead of watches: what a fault does must not depend on when an event comes
            **changes,
        }
    )


class Killed(BaseException):
    """The process is gone."""


class Recorder(ApiServer):
    """An apiserver connection that keeps what was written, and dies when it is told to."""

    def __init__(self, inner: ApiServer, *, dies_after: int | None, fails: Callable[[str], bool] | None) -> None:
        self._inner, self._left, self._fails = inner, dies_after, fails
        self.written: list[tuple[str, str]] = []

    async def request(self, method: str, path: str, **facts: Any) -> dict[str, Any]:
        if self._fails is not None and self._fails(method):
            raise ApiError(409, "Conflict", "the object has been modified")
        answer = await self._inner.request(method, path, **facts)
        if method in WRITES and "/events" not in path:
            name = f"{path}/{facts['body']['metadata']['name']}" if method == "POST" else path
            self.written.append((method, name))
            if self._left is not None:
                self._left -= 1
                if self._left == 0:
                    raise Killed
        return answer


@contextlib.asynccontextmanager
async def connected(api: ControlPlane) -> AsyncIterator[ApiServer]:
    os.environ["KUBECONFIG"] = str(api.kubeconfig)
    async with apiserver.connect() as found:
        yield found


class World:
    """One model in one namespace, its node, and operators that come and go."""

    def __init__(self, api: ControlPlane, namespace: str) -> None:
        self.api, self.namespace = api, namespace
        self.node = Node(api, namespace)
        self.model = copy.deepcopy(MODEL)
        self.model["metadata"] = {"name": "digits", "namespace": namespace}

    def create(self) -> None:
        assert self.api.create_model(self.namespace, self.model).status == 201

    def edit(self, percent: int = 7) -> None:
        """A limit that makes another run, and another artifact."""
        answer = self.api.request("PATCH", self.path(), {"spec": {"constraints": {"maxSlowdownPercent": percent}}}, content_type=MERGE)
        assert answer.status == 200, answer.message

    def delete(self) -> None:
        self.api.request("DELETE", self.path())

    def path(self) -> str:
        return self.api.models(self.namespace, "digits")

    def seen(self) -> dict[str, Any]:
        return self.api.request("GET", self.path()).body

    def children(self) -> dict[str, list[str]]:
        """Names, by kind."""
        selector = names.MANAGED_SELECTOR
        found = {}
        for resource in (apiserver.JOB, apiserver.DEPLOYMENT, apiserver.SERVICE):
            answer = self.api.request("GET", resource.path(self.namespace), labelSelector=selector)
            found[resource.kind] = sorted(o["metadata"]["name"] for o in answer.body["items"])
        return found

    def is_settled(self) -> bool:
        """Ready for its newest generation, or gone with all that was its own."""
        body = self.seen()
        if body.get("kind") == "Status":
            return not any(self.children().values())
        status = body.get("status", {})
        conditions = {c["type"]: c["status"] for c in status.get("conditions", ())}
        is_current = status.get("observedGeneration") == body["metadata"]["generation"]
        return is_current and conditions.get("Ready") == "True" and conditions.get("RolloutComplete") == "True"

    async def run(
        self, *, dies_after: int | None = None, fails: Callable[[str], bool] | None = None, until: Callable[[], bool] | None = None, **changes: Any
    ) -> list[tuple[str, str]]:
        """Run an operator until all is settled, or it is killed. Returns what it wrote."""
        async with connected(self.api) as connection:
            recorder = Recorder(connection, dies_after=dies_after, fails=fails)
            operator = Operator(recorder, settings(self.namespace, **changes))
            working = asyncio.ensure_future(operator.work())
            try:
                await self.settle(working.done, until or self.is_settled)
            finally:
                working.cancel()
                with contextlib.suppress(BaseException):
                    await working
            return recorder.written

    async def settle(self, has_ended: Callable[[], bool], is_over: Callable[[], bool]) -> None:
        """Play the node until `is_over` has held for three looks in a row, or the operator has ended."""
        end = asyncio.get_running_loop().time() + SETTLE_SECONDS
        calm = 0
        while calm < 3:
            assert asyncio.get_running_loop().time() < end, f"not settled: {self.seen().get('status')} {self.children()}"
            await asyncio.to_thread(self.node.step)
            if has_ended():
                return
            calm = calm + 1 if await asyncio.to_thread(is_over) else 0
            await asyncio.sleep(0.1)

    def wait_for_operator(self) -> None:
        """Until a process holds the lease."""
        path = apiserver.LEASE.path(self.namespace, "burnish-controller")
        wait_until(lambda: self.api.request("GET", path).body.get("spec", {}).get("holderIdentity"), "the lease is held")

    def outline(self) -> dict[str, Any]:
        """What it came to, without what is particular to one resource."""
        status = self.seen().get("status", {})
        conditions = {c["type"]: (c["status"], c["reason"]) for c in status.get("conditions", ())}
        return {"conditions": conditions, "children": {kind: len(found) for kind, found in self.children().items()}}


@contextlib.asynccontextmanager
async def process(kubeconfig: Path, folder: Path, namespace: str, **changes: Any) -> AsyncIterator[asyncio.subprocess.Process]:
    """The operator as the chart starts it, with its watches and its lease; ended with the context.

    Args:
        folder: for its settings.
        changes: of the settings. Without any it lists everything once, and then has only the watches.
    """
    file = folder / "settings.yaml"
    chosen = settings(namespace, **({"resync": "1h"} | changes))
    file.write_text(yaml.safe_dump(chosen.model_dump(mode="json", by_alias=True)))
    command = [sys.executable, "-m", "burnish.controller", "--settings", file, "--port", "0", "--metrics-port", "0", "--host", "127.0.0.1"]
    running = await asyncio.create_subprocess_exec(*command, env=os.environ | {"KUBECONFIG": str(kubeconfig), "POD_NAME": "operator-0"})
    try:
        yield running
    finally:
        with contextlib.suppress(ProcessLookupError):
            running.terminate()
        await asyncio.wait_for(running.wait(), 30)


def service_account(api: ControlPlane, namespace: str, folder: Path) -> Path:
    """A kubeconfig of the namespace's service account, which may do everything there by RBAC: an admin's certificate is asked nothing."""
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
    subject = {"kind": "ServiceAccount", "name": "default", "namespace": namespace}
    binding = {"metadata": {"name": "operator"}, "roleRef": role, "subjects": [subject]}
    assert api.request("POST", f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings", binding).status == 201
    asked = api.request("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts/default/token", {"spec": {"expirationSeconds": 3600}})
    config = yaml.safe_load(api.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": asked.body["status"]["token"]}
    file = folder / "kubeconfig"
    file.write_text(yaml.safe_dump(config))
    return file


def comparable(written: list[tuple[str, str]], world: World) -> list[tuple[str, str]]:
    """Writes of children, sorted, without what is particular to one resource: its namespace, and hashes that hold its uid. Progress in the status
    depends on when one looks.
    """
    jobs = {name: f"job-{index}" for index, name in enumerate(dict.fromkeys(n for _, n in written if "/jobs/" in n))}
    revisions = {name: f"deployment-{index}" for index, name in enumerate(dict.fromkeys(n for _, n in written if "/deployments/" in n))}
    relative = [(method, jobs.get(name) or revisions.get(name) or name.replace(world.namespace, "NS")) for method, name in written]
    return sorted(w for w in relative if not w[1].endswith("/status"))
