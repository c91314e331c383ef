"""What does a cluster add: to the work, to the first answer, and to each request?

On the local cluster (e2e/cluster, one node, all on this machine's CPUs), through kubectl's own API:
pipeline    examples/cluster/digits.yaml with an empty store, from apply until it is published, against `burnish run` of the same example with an
            empty store, in turns; and where the seconds go.
first       The same manifest under another name once all is in the store: from apply to the first answer through the Service.
requests    What serves, through the Service from this machine, against a bare ONNX Runtime session of the same file held to as many CPUs as the
            server has threads: closed loops of 1, 4 and 16, in turns. digits as published (INT8), and ocr as it came, for a model that computes more.
BURNISH_E2E_CLUSTER=N uses (and keeps) the cluster of that number; without it one is made and ended.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml

import example
import figures
import machine
from burnish import names
from burnish.controller import apiserver
from burnish.measurement import client
from burnish.measurement.statistics import paired_ratio
from burnish.plugins.runtimes import _onnxruntime_session as ort

sys.path.insert(0, str(machine.ROOT / "e2e"))
sys.path.insert(0, str(machine.ROOT / "tests/cluster"))
import control_plane

from installation import Installation, Space, example_files

CLUSTER = "7"
OVERLAYS = machine.ROOT / "examples/cluster"
STEPS = ("stage", "export", "compress", "build", "measure", "publish")
CONCURRENCIES = (1, 4, 16)
BLOCK_SECONDS, REQUESTS_PER_WORKER = 0.5, 2
POLL_SECONDS = 0.05

Body = dict[str, Any]


def overlay(name: str, **spec: object) -> Body:
    """An example for the cluster, with parts of its spec replaced."""
    made: Body = yaml.safe_load((OVERLAYS / f"{name}.yaml").read_text())
    made["spec"].update(spec)
    return made


@contextlib.contextmanager
def installed() -> Iterator[tuple[Installation, control_plane.ControlPlane]]:
    """A cluster with Burnish in it, and a client of its apiserver that costs less than kubectl."""
    kept = os.environ.get("BURNISH_E2E_CLUSTER")
    found = Installation(kept or CLUSTER)
    try:
        found.start(models=("digits", "ocr"))
        yield found, control_plane.ControlPlane(found.number)
    finally:
        if kept is None:
            found.stop()


@contextlib.contextmanager
def namespace(installation: Installation, name: str) -> Iterator[Space]:
    """One that is gone afterwards; with a namespace of its own goes a store of its own."""
    space = installation.space(name)
    try:
        yield space
    finally:
        space.remove()


class Cluster:
    """The objects of one namespace."""

    def __init__(self, api: control_plane.ControlPlane, space: Space) -> None:
        self.api, self.space = api, space

    def objects(self, resource: apiserver.Resource, model: str) -> list[Body]:
        """Of a model."""
        found: list[Body] = self.api.request("GET", resource.path(self.space.name), labelSelector=f"{names.LABEL_MODEL}={model}").body["items"]
        return found

    def apply(self, body: Body) -> float:
        """When it was there, on `time.monotonic`'s clock."""
        answer = self.api.create_model(self.space.name, body)
        if answer.status != 201:
            raise SystemExit(f"{body['metadata']['name']} was refused: {answer.message}")
        return time.monotonic()

    def state(self, model: str) -> str:
        """Of the first target."""
        status = self.api.request("GET", self.api.models(self.space.name, model)).body.get("status", {})
        target = next(iter(status.get("targets", ())), {})
        if target.get("state") in ("Refused", "Undecided", "Failed"):
            raise SystemExit(f"{model} is {target['state']}: {target.get('message')}")
        return str(target.get("state", ""))

    def wait(self, is_true: Callable[[], Any], what: str) -> float:
        """When it became true."""
        end = time.monotonic() + 600
        while not is_true():
            if time.monotonic() > end:
                raise SystemExit(f"{what}: not within 10 minutes")
            time.sleep(POLL_SECONDS)
        return time.monotonic()

    def published(self, model: str) -> float:
        """When the status said so."""
        return self.wait(lambda: self.state(model) in ("Published", "Serving"), f"{model} published")


# --- the pipeline -----------------------------------------------------------------------------------------------------------------------


def pipeline(installation: Installation, api: control_plane.ControlPlane, folder: Path, number: int) -> Body:
    """One run each, the first of the two in turn."""
    found: Body = {}

    def local() -> None:
        run = example.run("digits", folder / f"run-{number}")
        found["local"] = {"seconds": round(run.seconds, 2), "steps": run.steps}

    def remote() -> None:
        with namespace(installation, f"bench-pipeline-{number}") as space:
            cluster = Cluster(api, space)
            started = cluster.apply(overlay("digits"))
            seconds = cluster.published("digits") - started
            found["cluster"] = {"seconds": round(seconds, 2), "parts": parts(cluster, "digits", seconds)}

    for side in (local, remote) if number % 2 else (remote, local):
        side()
    found["loadAverage"] = machine.load_average()
    return found


def parts(cluster: Cluster, model: str, seconds: float) -> dict[str, float]:
    """Where the seconds went, from the times that the kubelet noted, which are whole seconds."""
    jobs = {job["metadata"]["labels"][names.LABEL_COMPONENT]: job for job in cluster.objects(apiserver.JOB, model)}
    (pod,) = [p for p in cluster.objects(apiserver.POD, model) if p["metadata"]["labels"][names.LABEL_COMPONENT] == names.COMPONENT_PIPELINE]
    statuses = pod["status"]["initContainerStatuses"] + pod["status"]["containerStatuses"]
    ended = {s["name"]: s["state"]["terminated"] for s in statuses if s["name"] in STEPS}
    spans = [(_time(ended[step]["startedAt"]), _time(ended[step]["finishedAt"])) for step in STEPS]
    job = jobs[names.COMPONENT_PIPELINE]
    resolve = jobs[names.COMPONENT_RESOLVE]
    found = {
        "resolve Job": _time(resolve["status"]["completionTime"]) - _time(resolve["metadata"]["creationTimestamp"]),
        "pod's start": spans[0][0] - _time(job["metadata"]["creationTimestamp"]),
        **{step: end - start for step, (start, end) in zip(STEPS, spans, strict=True)},
        "between steps": sum(after[0] - before[1] for before, after in itertools.pairwise(spans)),
        "pod's end": _time(job["status"]["completionTime"]) - spans[-1][1],
    }
    return {**found, "the rest": round(seconds - sum(found.values()), 1)}


def _time(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


# --- the first answer -------------------------------------------------------------------------------------------------------------------


def first_answer(cluster: Cluster, name: str, model: str) -> dict[str, float]:
    """Seconds from apply until each thing was seen; the last is the answer. Nothing is built or measured: the store has it all."""
    body = copy.deepcopy(overlay("digits"))
    body["metadata"]["name"] = name
    request = _arrays(model)
    seen: dict[str, float] = {}
    started = cluster.apply(body)

    def look() -> bool:
        if "resolve Job done" not in seen:
            jobs = cluster.objects(apiserver.JOB, name)
            checks = {"resolve Job done": any(c["type"] == "Complete" for job in jobs for c in job["status"].get("conditions", ()))}
        else:
            pods = [p for p in cluster.objects(apiserver.POD, name) if p["metadata"]["labels"][names.LABEL_COMPONENT] == names.COMPONENT_SERVER]
            conditions = {c["type"]: c["status"] for pod in pods for c in pod["status"].get("conditions", ())}
            checks = {
                "server's pod made": bool(pods),
                "artifact pulled": conditions.get("Initialized") == "True",
                "pod ready": conditions.get("Ready") == "True",
                "first answer": "pod ready" in seen and _answers(cluster, name, request),
            }
        seen.update({what: round(time.monotonic() - started, 2) for what, is_so in checks.items() if is_so and what not in seen})
        return "first answer" in seen

    cluster.wait(look, f"first answer of {name}")
    components = [job["metadata"]["labels"][names.LABEL_COMPONENT] for job in cluster.objects(apiserver.JOB, name)]
    if names.COMPONENT_PIPELINE in components:
        raise SystemExit(f"{name} was not found in the store: a pipeline Job was started")
    cluster.api.request("DELETE", cluster.api.models(cluster.space.name, name))
    return seen


def _answers(cluster: Cluster, name: str, arrays: dict[str, Any]) -> bool:
    service = cluster.api.request("GET", apiserver.SERVICE.path(cluster.space.name, name))
    if service.status != 200:
        return False
    triton = client.TritonClient(f"http://{service.body['spec']['clusterIP']}:8000", timeout_s=5)
    try:
        triton.send(triton.prepare(name, arrays))
    except (client.ServerUnreachableError, client.ModelError):
        return False
    finally:
        triton.close()
    return True


def _arrays(model: str) -> dict[str, Any]:
    """The first sample of an example's evaluation data, as a batch of one."""
    with np.load(example_files(model)[-1]) as data:
        return {name: data[name][:1] for name in data.files if name != "label"}


# --- requests ---------------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Block:
    """One closed loop."""

    per_second: float
    latencies_ms: list[float]


def block(send: Callable[[], object], concurrency: int) -> Block:
    """So many workers, each waits for its answer."""
    start = time.perf_counter()

    def work(_: int) -> list[float]:
        latencies: list[float] = []
        while (before := time.perf_counter()) < start + BLOCK_SECONDS or len(latencies) < REQUESTS_PER_WORKER:
            send()
            latencies.append((time.perf_counter() - before) * 1e3)
        return latencies

    with ThreadPoolExecutor(concurrency) as pool:
        found = [latency for latencies in pool.map(work, range(concurrency)) for latency in latencies]
    return Block(len(found) / (time.perf_counter() - start), found)


def requests(cluster: Cluster, model: str, folder: Path, rounds: int) -> list[Body]:
    """One row per concurrency."""
    target = cluster.space.model(model)["status"]["targets"][0]
    arrays = _arrays(model)
    threads = int(overlay(model)["spec"]["targets"][0]["resources"]["cpu"])
    session = ort.open_session(pull(cluster.space.installation, target["artifact"]["uri"], folder), threads=threads)
    triton = client.TritonClient(f"http://{cluster.space.address(model)}:8000")
    request = triton.prepare(model, arrays)
    client.decode(triton.send(request))  # a real answer, not only a status
    own = sorted(os.sched_getaffinity(0))[-threads:]
    rows = []
    for concurrency in CONCURRENCIES:
        blocks: dict[str, list[Block]] = {"triton": [], "bare": []}
        for number in range(rounds + 1):  # the first warms up
            order = random.sample(sorted(blocks), k=2)
            for side in order:
                if side == "triton":
                    found = block(lambda: triton.send(request), concurrency)
                    triton.close()  # the workers' connections end with the workers
                else:
                    with machine.kept_to(own):
                        found = block(lambda: session.infer(arrays), concurrency)
                if number:
                    blocks[side].append(found)
        share = paired_ratio([b.per_second for b in blocks["triton"]], [b.per_second for b in blocks["bare"]])
        rows.append(
            {
                "model": model,
                "served": target["artifact"].get("candidate") or target["artifact"]["served"],
                "concurrency": concurrency,
                "threads": threads,
                "share": {key: round(value, 3) for key, value in dataclasses.asdict(share).items()},
                **{side: _summary(found) for side, found in blocks.items()},
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    return rows


def _summary(blocks: Sequence[Block]) -> dict[str, float]:
    latencies = [latency for b in blocks for latency in b.latencies_ms]
    p50, p99 = np.percentile(latencies, [50, 99])
    return {"perSecond": round(statistics.median(b.per_second for b in blocks), 1), "p50": round(float(p50), 3), "p99": round(float(p99), 3)}


def pull(installation: Installation, uri: str, folder: Path) -> Path:
    """The artifact's model, out of the cluster's store."""
    keys = installation.credentials
    environment = {
        "AWS_ACCESS_KEY_ID": keys.access_key,
        "AWS_SECRET_ACCESS_KEY": keys.secret_key,
        "AWS_ENDPOINT_URL": keys.endpoint,
        "AWS_REGION": keys.region,
    }
    command = [str(Path(sys.executable).parent / "burnish"), "pull", uri, "--output", str(folder)]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"burnish pull {uri} failed:\n{done.stderr}")
    return next(folder.rglob("*.onnx"))


def main() -> None:
    """Run, print, save."""
    options = figures.parser(__doc__).parse_args()
    machine.end_cleanly_on_sigterm()
    if missing := example.missing_data("ocr"):
        raise SystemExit(f"{', '.join(missing)}: not there; `make examples` makes them")
    about = machine.describe()
    with tempfile.TemporaryDirectory(prefix="burnish-serving-") as name, installed() as (installation, api):
        folder = Path(name)
        with namespace(installation, "bench-serving") as space:
            cluster = Cluster(api, space)
            cluster.apply(overlay("digits"))  # images and files into the page cache, and what is served later on
            example.run("digits", folder / "warm-up")
            cluster.wait(lambda: cluster.state("digits") == "Serving", "digits served")
            pairs = []
            for number in range(1 if options.quick else 3):
                pairs.append(pipeline(installation, api, folder, number))
                print(json.dumps(pairs[-1]), flush=True)
            first = []
            for number in range(2 if options.quick else 7):
                first.append(first_answer(cluster, f"again-{number}", "digits"))
                print(json.dumps(first[-1]), flush=True)
            cluster.apply(overlay("ocr", passes=[], constraints={}, datasets={}, measurement={"timeout": "20s"}))
            cluster.wait(lambda: cluster.state("ocr") == "Serving", "ocr served")
            rows = [row for model in ("digits", "ocr") for row in requests(cluster, model, folder / model, 3 if options.quick else 10)]
    answers = sorted(times["first answer"] for times in first)
    overheads = [pair["cluster"]["seconds"] - pair["local"]["seconds"] for pair in pairs]
    summary = {
        "firstMedian": round(statistics.median(answers), 2),
        "firstP90": round(float(np.percentile(answers, 90)), 2),
        "local": round(statistics.median(pair["local"]["seconds"] for pair in pairs), 2),
        "cluster": round(statistics.median(pair["cluster"]["seconds"] for pair in pairs), 2),
        "overhead": round(statistics.median(overheads), 2),
    }
    figures.print_table(
        ["what", "seconds"],
        [
            ["apply to first answer, all in the store, median", f"{summary['firstMedian']:.1f}"],
            ["the same, p90", f"{summary['firstP90']:.1f}"],
            ["burnish run, empty store", f"{summary['local']:.1f}"],
            ["apply to published, empty store", f"{summary['cluster']:.1f}"],
            ["overhead of the cluster, paired", f"{summary['overhead']:.1f}"],
        ],
    )
    figures.print_table(
        ["model", "workers", "Triton/s", "bare/s", "share", "Triton p50/p99 ms", "bare p50/p99 ms"],
        [
            [
                row["model"],
                str(row["concurrency"]),
                str(row["triton"]["perSecond"]),
                str(row["bare"]["perSecond"]),
                figures.interval(row["share"]),
                *(f"{row[side]['p50']} / {row[side]['p99']}" for side in ("triton", "bare")),
            ]
            for row in rows
        ],
    )
    figures.save("serving", {"machine": about, "summary": summary, "pipeline": pairs, "first": first, "requests": rows}, quick=options.quick)


if __name__ == "__main__":
    main()
