"""The bare client that the operator is compared with: Kopf's events, a queue, 16 workers, and for each resource one Job and one status.

    KUBECONFIG=... bare_client.py NAMESPACE SETTINGS

It decides nothing, looks at nothing that it made, and tells nobody: what an operator that does more can't be faster than.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import kopf
import yaml

from burnish import names
from burnish.api import manifest
from burnish.api.v1alpha1.optimized_model import OptimizedModel
from burnish.controller import apiserver
from burnish.controller.apiserver import ApiServer
from burnish.controller.operator import Operator
from burnish.manifests import jobs
from burnish.manifests.settings import Settings
from burnish.reconcile import runs


async def main(namespace: str, settings: Settings) -> None:
    """Handle each resource once, until ended."""
    registry = kopf.OperatorRegistry()
    queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    seen: set[str] = set()

    @kopf.on.login(registry=registry)
    def login(settings: kopf.OperatorSettings, **_: Any) -> kopf.ConnectionInfo:
        return apiserver.login(settings)

    @kopf.on.event(names.GROUP, names.VERSION, names.PLURAL, registry=registry)
    async def model(body: Any, **_: Any) -> None:
        if body["metadata"]["uid"] not in seen:
            seen.add(body["metadata"]["uid"])
            queue.put_nowait(dict(body))

    @kopf.on.event("batch", "v1", "jobs", registry=registry)
    async def job(**_: Any) -> None:
        pass

    async def worker(api: ApiServer) -> None:
        while True:
            await handle(api, namespace, settings, await queue.get())

    async with apiserver.connect() as api, asyncio.TaskGroup() as group:
        for _ in range(settings.workers):
            group.create_task(worker(api))
        group.create_task(kopf.operator(registry=registry, settings=Operator.kopf_settings(), standalone=True, namespaces=[namespace]))


async def handle(api: ApiServer, namespace: str, settings: Settings, body: dict[str, Any]) -> None:
    """A Job and a status."""
    model: OptimizedModel = manifest.parse({**body, "apiVersion": names.API_VERSION, "kind": names.KIND})
    uid, name = body["metadata"]["uid"], body["metadata"]["name"]
    await api.create(apiserver.JOB, namespace, jobs.build_resolve(model, runs.current(model, uid, settings).key, settings, uid=uid))
    written = {"apiVersion": names.API_VERSION, "kind": names.KIND, "metadata": {"name": name, "namespace": namespace, "uid": uid}}
    await api.apply_status(apiserver.MODEL, namespace, name, {**written, "status": {"phase": "Running", "observedGeneration": 1}})


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Settings.model_validate(yaml.safe_load(Path(sys.argv[2]).read_text()))))
