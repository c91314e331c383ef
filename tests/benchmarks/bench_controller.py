"""Does the operator keep up with a thousand models?

On a real apiserver without nodes (e2e/cluster --control-plane-only, etcd without fsync, all on this machine's CPUs). The operator's own process, against
a bare client in the same run (bare_client.py: Kopf's events, 16 workers, for each resource a Job and a status, and nothing else). Then: what a resource costs in
memory, what a restart costs with all of them settled, and how long it takes from a Job's end to what the operator does next.
Targets: at least 70 % of the bare client's rate; at most 48 KiB per resource with its pod; no write at a restart, which takes at most 5 times a bare
LIST; from a Job's end to the next action at most 2 s (p99).
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import kopf
import yaml

import figures
import machine
from burnish import names
from burnish.controller import apiserver
from burnish.controller.apiserver import ApiServer

sys.path.insert(0, str(machine.ROOT / "tests/cluster"))
import control_plane
from node import Node

RATE_TARGET, MEMORY_TARGET_KIB, RESTART_TARGET, REACTION_TARGET_S = 0.7, 48, 5.0, 2.0
MODEL = yaml.safe_load((machine.ROOT / "examples/cluster/digits.yaml").read_text())
WORKERS = 16
METRICS_PORT, HEALTH_PORT = 19191, 19181


def settings(namespace: str) -> dict[str, Any]:
    """Of an installation that watches one namespace."""
    return {
        "images": {"burnish": "b:1", "optimizers": {"onnx": "o:1"}, "triton": "t:1"},
        "store": {"uri": "s3://b/x"},
        "watchNamespaces": [namespace],
        "leaseNamespace": namespace,
        "workers": WORKERS,
    }


class Operator:
    """The operator's process."""

    def __init__(self, folder: Path, namespace: str, kubeconfig: Path) -> None:
        path = folder / f"{namespace}.yaml"
        path.write_text(yaml.safe_dump(settings(namespace)))
        command = [sys.executable, "-m", "burnish.controller", "--settings", str(path), "--host", "127.0.0.1", "--log-level", "warning"]
        command += ["--port", str(HEALTH_PORT), "--metrics-port", str(METRICS_PORT)]
        self._process = subprocess.Popen(command, env=os.environ | {"KUBECONFIG": str(kubeconfig), "MALLOC_ARENA_MAX": "1"})  # as the chart sets it

    def memory_kib(self) -> int:
        """Resident."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))

    def metric(self, name: str) -> float:
        """A sample, or the sum of all of its name."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        text = opener.open(f"http://127.0.0.1:{METRICS_PORT}/metrics", timeout=10).read().decode()
        found = [float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.split("{")[0].split(" ")[0] == name]
        return sum(found)

    def end(self) -> None:
        """Politely."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(30)


@contextlib.contextmanager
def operator(folder: Path, namespace: str, kubeconfig: Path) -> Iterator[Operator]:
    """One that has begun to work."""
    found = Operator(folder, namespace, kubeconfig)
    try:
        control_plane.wait_until(lambda: _quiet(lambda: found.metric("burnish_leader")) == 1, "the operator leads")
        yield found
    finally:
        found.end()


def _quiet(call: Any) -> Any:
    try:
        return call()
    except OSError:
        return None


async def create_all(api: ApiServer, namespace: str, count: int) -> None:
    """Make the resources, as fast as it goes."""

    async def create(number: int) -> None:
        body = copy.deepcopy(MODEL)
        body["metadata"] = {"name": f"m{number}", "namespace": namespace}
        await api.create(apiserver.MODEL, namespace, body)

    await _each(range(count), create)


async def _each(items: Any, work: Any) -> None:
    left = iter(items)

    async def worker() -> None:
        for item in left:
            await work(item)

    await asyncio.gather(*(worker() for _ in range(WORKERS)))


async def all_told(namespace: str, count: int) -> None:
    """Wait until each resource has a phase. By one watch: lists of everything would keep the apiserver busy."""
    info = apiserver.login(kopf.OperatorSettings())
    told: set[str] = set()
    query = {"watch": "1", "resourceVersion": "0"}
    connector = aiohttp.TCPConnector(ssl=info.as_ssl_context())
    async with (
        aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=600), read_bufsize=2**20) as session,
        session.get(info.server.rstrip("/") + apiserver.MODEL.path(namespace), params=query, headers=dict(info.as_http_headers())) as answer,
    ):
        async for line in answer.content:
            changed = json.loads(line)["object"]
            if "phase" in changed.get("status", {}):
                told.add(changed["metadata"]["name"])
            if len(told) >= count:
                return


@contextlib.contextmanager
def bare_client(folder: Path, namespace: str, kubeconfig: Path) -> Iterator[None]:
    """The peer's process: see bare_client.py."""
    path = folder / f"{namespace}.yaml"
    path.write_text(yaml.safe_dump(settings(namespace)))
    command = [sys.executable, str(Path(__file__).parent / "bare_client.py"), namespace, str(path)]
    process = subprocess.Popen(command, env=os.environ | {"KUBECONFIG": str(kubeconfig)}, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


async def list_all(api: ApiServer, namespace: str) -> float:
    """Seconds of a bare LIST of all that the operator looks at."""
    started = time.monotonic()
    for resource in (apiserver.MODEL, *apiserver.WATCHED):
        await api.list(resource, namespace)
    return time.monotonic() - started


def rate(api: control_plane.ControlPlane, folder: Path, count: int) -> dict[str, Any]:
    """Both from nothing, one after the other, each in a namespace of its own; then memory and restart of the operator with all of them."""
    bare, ours = api.create_namespace("bench-bare"), api.create_namespace("bench-ours")

    async def prepare() -> None:
        async with apiserver.connect() as connection:
            for namespace in (bare, ours):
                await create_all(connection, namespace, count)

    asyncio.run(prepare())
    started = time.monotonic()
    with bare_client(folder, bare, api.kubeconfig):
        asyncio.run(all_told(bare, count))
        bare_seconds = time.monotonic() - started
    wait_for_pods(api, bare, count)
    api.delete_namespace(bare)
    wait_until_gone(api, bare)
    with empty_operator(api, folder) as rest_kib:
        pass
    started = time.monotonic()
    found = Operator(folder, ours, api.kubeconfig)
    try:
        asyncio.run(all_told(ours, count))
        seconds = time.monotonic() - started
        wait_for_pods(api, ours, count)
        settle(found)
        after_kib = found.memory_kib()
    finally:
        found.end()
    restart = restart_of(api, folder, ours, count)
    return {
        "count": count,
        "bareSeconds": round(bare_seconds, 2),
        "seconds": round(seconds, 2),
        "share": round(bare_seconds / seconds, 2),
        "restKiB": rest_kib,
        "afterCreatingAllKiB": after_kib,
        "settledKiB": restart["settledKiB"],
        "perModelKiB": round((restart["settledKiB"] - rest_kib) / count, 1),
        "restart": restart,
        "namespace": ours,
    }


@contextlib.contextmanager
def empty_operator(api: control_plane.ControlPlane, folder: Path) -> Iterator[int]:
    """Memory of one with nothing to do, in KiB."""
    namespace = api.create_namespace("bench-empty")
    with operator(folder, namespace, api.kubeconfig) as found:
        time.sleep(3)
        yield found.memory_kib()
    api.delete_namespace(namespace)


def settle(found: Operator) -> None:
    """Nothing waits, and nothing was reconciled for a while."""
    before = -1.0
    while (now := found.metric("burnish_reconciles_total")) != before or found.metric("burnish_queue_depth"):
        before = now
        time.sleep(3)


def wait_for_pods(api: control_plane.ControlPlane, namespace: str, count: int) -> None:
    """The Job controller has made all pods."""
    path = apiserver.POD.path(namespace)
    control_plane.wait_until(lambda: len(api.request("GET", path, resourceVersion="0").body["items"]) >= count, "all pods", 600)


def wait_until_gone(api: control_plane.ControlPlane, namespace: str) -> None:
    """It is deleted, with all that was in it; pods have no kubelet that would end them."""

    def is_gone() -> bool:
        for pod in api.request("GET", apiserver.POD.path(namespace)).body.get("items", []):
            api.request("DELETE", apiserver.POD.path(namespace, pod["metadata"]["name"]), {"gracePeriodSeconds": 0})
        return api.request("GET", f"/api/v1/namespaces/{namespace}").status == 404

    control_plane.wait_until(is_gone, f"{namespace} gone", 600)


def restart_of(api: control_plane.ControlPlane, folder: Path, namespace: str, count: int) -> dict[str, Any]:
    """A new process, with nothing to do for any resource."""

    def versions() -> list[str]:
        return sorted(
            o["metadata"]["resourceVersion"]
            for resource in (apiserver.MODEL, apiserver.JOB, apiserver.NETWORK_POLICY)
            for o in api.request("GET", resource.path(namespace)).body["items"]
        )

    async def listed() -> float:
        async with apiserver.connect() as connection:
            return min([await list_all(connection, namespace) for _ in range(3)])

    list_seconds = asyncio.run(listed())
    before = versions()
    empty = api.create_namespace("bench-empty")
    started = time.monotonic()
    with operator(folder, empty, api.kubeconfig):
        start_seconds = time.monotonic() - started
    started = time.monotonic()
    with operator(folder, namespace, api.kubeconfig) as found:
        while found.metric("burnish_reconciles_total") < count or found.metric("burnish_queue_depth"):
            time.sleep(0.02)
        seconds = time.monotonic() - started - start_seconds
        settle(found)
        time.sleep(12)  # it tidies up 10 s after it has listed everything
        settled_kib = found.memory_kib()
    return {
        "settledKiB": settled_kib,
        "listSeconds": round(list_seconds, 3),
        "seconds": round(seconds, 3),
        "writes": len(set(versions()) - set(before)),
    }


def reaction(api: control_plane.ControlPlane, folder: Path, count: int) -> list[float]:
    """Seconds from the end of a resolve Job, as the apiserver shows it, to its pipeline Job."""
    namespace = api.create_namespace("bench-reaction")

    async def prepare() -> None:
        async with apiserver.connect() as connection:
            await create_all(connection, namespace, count)

    asyncio.run(prepare())
    ended: dict[str, float] = {}
    began: dict[str, float] = {}
    node = Node(api, namespace)
    node.fates.pop(names.COMPONENT_PIPELINE)
    with operator(folder, namespace, api.kubeconfig):
        wait_for_pods(api, namespace, count)
        node.step()
        end = time.monotonic() + 300
        while len(began) < count and time.monotonic() < end:
            now = time.monotonic()
            for job in api.request("GET", apiserver.JOB.path(namespace), resourceVersion="0").body["items"]:
                model, component = (job["metadata"]["labels"][label] for label in (names.LABEL_MODEL, names.LABEL_COMPONENT))
                if component == names.COMPONENT_PIPELINE:
                    began.setdefault(model, now)
                elif any(c["type"] == "Complete" for c in job["status"].get("conditions", ())):
                    ended.setdefault(model, now)
            time.sleep(0.02)
    api.delete_namespace(namespace)
    return sorted(round(max(0.0, began[m] - ended[m]), 3) for m in began)


def main() -> None:
    """Run, print, save."""
    options = figures.parser(__doc__).parse_args()
    machine.end_cleanly_on_sigterm()
    about = machine.describe()
    count, reactions = (100, 20) if options.quick else (1000, 100)
    with tempfile.TemporaryDirectory(prefix="burnish-bench-") as folder, control_plane.running(9) as api:
        os.environ["KUBECONFIG"] = str(api.kubeconfig)
        api.install_crd()
        found = rate(api, Path(folder), count)
        api.delete_namespace(found.pop("namespace"))
        waits = reaction(api, Path(folder), reactions)
    p99 = waits[min(len(waits) - 1, int(0.99 * len(waits)))]
    restart = found["restart"]
    times_list = restart["seconds"] / restart["listSeconds"]
    rows = [
        ["from nothing, of the bare client's rate", f"{found['share']:.2f}", f"at least {RATE_TARGET}", found["share"] >= RATE_TARGET],
        [
            "memory per resource with its pod",
            f"{found['perModelKiB']:.0f} KiB",
            f"at most {MEMORY_TARGET_KIB}",
            found["perModelKiB"] <= MEMORY_TARGET_KIB,
        ],
        ["restart, times a bare LIST", f"{times_list:.1f}", f"at most {RESTART_TARGET:g}", times_list <= RESTART_TARGET],
        ["writes at a restart", str(restart["writes"]), "none", restart["writes"] == 0],
        ["from a Job's end to the next action, p99", f"{p99:.2f} s", f"at most {REACTION_TARGET_S:g} s", p99 <= REACTION_TARGET_S],
    ]
    figures.print_table(["what", "found", "target", "met"], [[*row[:3], "yes" if row[3] else "NO"] for row in rows])
    print(json.dumps({**found, "reactionMedian": statistics.median(waits)}))
    summary = [{"what": row[0], "found": row[1], "target": row[2], "met": row[3]} for row in rows]
    figures.save("controller", {"machine": about, **found, "reactions": waits, "summary": summary}, quick=options.quick)


if __name__ == "__main__":
    main()
