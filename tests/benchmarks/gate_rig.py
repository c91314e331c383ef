"""Three copies of one model on a real Triton, and verdicts about them by the product's own code.

`baseline` is the digits example's baseline artifact. `same` differs from it in a doc string, so that every difference found is false;
`slowed` is served by a backend that does extra arithmetic in each request, so that the difference is known.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import machine
from burnish import names
from burnish.api.job_contract import ExportRecord, LoadTrace, SideFacts, StepName
from burnish.api.scalars import duration_seconds
from burnish.api.v1alpha1.optimized_model import Constraints, Load, Measurement, Resources
from burnish.measurement import limits, rounds, summary
from burnish.measurement.client import PreparedRequest, TritonClient
from burnish.pipeline import measure, samples, triton_installation
from burnish.pipeline.server import TritonServer
from burnish.pipeline.workdir import WorkDir
from burnish.plugins import registry
from burnish.serving.config import ServingOptions
from burnish.serving.repository import ARTIFACT_FILE, write_repository
from burnish.toolchains import environments

SAME, SLOWED = "same", "slowed"
RESOURCES = Resources(cpu="1", memory="2Gi")
READY_SECONDS = 120.0
_OWN_BACKENDS = Path(__file__).parent / "backends"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One experiment."""

    verdict: str
    rounds: int
    seconds: float
    """From the first warm-up request to the verdict."""
    ratio: float
    """p50 of the copy / p50 of the baseline."""
    low: float
    high: float
    load_average: float


class Rig:
    """The artifacts, made once."""

    def __init__(self, work: WorkDir, folder: Path) -> None:
        """Args:
        work: of a `burnish run examples/digits.yaml`.
        folder: an empty one, for copies and servers.
        """
        self.folder = folder
        baseline = work.folder(StepName.build) / "artifacts" / names.BASELINE
        self.artifacts = {names.BASELINE: baseline, SAME: _copy(baseline, folder / SAME), SLOWED: _copy(baseline, folder / SLOWED, backend=SLOWED)}
        self.sides = {name: SideFacts(artifact=measure.describe(path, folder), loaded=True) for name, path in self.artifacts.items()}
        assert self.sides[SAME].artifact.content_digest != self.sides[names.BASELINE].artifact.content_digest, "identical bytes are not measured"
        signature = work.load(StepName.export, ExportRecord).signature
        self.feeds = samples.open_datasets(work, work.load_request(), signature).feeds(measure.REQUESTS)
        self.backends = folder / "backends"
        for source in (triton_installation.OUR_BACKENDS, _OWN_BACKENDS):
            shutil.copytree(source, self.backends, dirs_exist_ok=True)
        self.starts = 0

    @contextlib.contextmanager
    def serve(self, units: int) -> Iterator[Session]:
        """A fresh server with all three; `slowed` does `units` units of extra work per request."""
        self.starts += 1
        repository = self.folder / f"repository-{self.starts}"
        parameters = {**registry.runtimes()["ONNXRuntime"].parameters(RESOURCES.threads), "extra_work_units": str(units)}
        write_repository(repository, self.artifacts, ServingOptions(threads=RESOURCES.threads, parameters=parameters))
        server = TritonServer.start(
            repository,
            toolchain_python=environments.ensure("triton", print).python,
            resources=RESOURCES,
            log=self.folder / "triton.log",
            scratch=self.folder / f"server-{self.starts}",
            backends=self.backends,
        )
        with server, machine.kept_to(server.client_cpus):
            server.wait_ready(READY_SECONDS)
            client = TritonClient(server.url)
            not_ready = {name: state.reason for name, state in client.repository_index().items() if state.state != "READY"}
            assert not not_ready, not_ready
            yield Session(client, {name: [client.prepare(name, feed) for feed in self.feeds] for name in self.artifacts}, self.sides)


@dataclasses.dataclass(frozen=True)
class Session:
    """A running server."""

    client: TritonClient
    requests: Mapping[str, Sequence[PreparedRequest]]
    sides: Mapping[str, SideFacts]

    def judge(self, copy: str, *, margin_percent: int, concurrency: int, seed: int) -> Verdict:
        """One experiment: measure as long as `measure` would for this limit, then judge as `publish` would."""
        load = Load(name="single", concurrency=concurrency)
        constraints = Constraints(max_slowdown_percent=margin_percent)
        started = time.monotonic()
        trace = self._measure(copy, load, seed, lambda so_far: limits.is_decided([so_far], [copy], constraints))
        found = summary.summarize({name: self.sides[name] for name in (names.BASELINE, copy)}, [trace], {}, (), {})
        verdict = limits.judge(self.sides[copy], found, copy, constraints).verdict
        seconds = time.monotonic() - started
        ratio = found.candidates[copy].speeds[0].ratio
        return Verdict(
            verdict=verdict.value,
            rounds=trace.rounds,
            seconds=round(seconds, 1),
            ratio=round(ratio.estimate, 4),
            low=round(ratio.low, 4),
            high=round(ratio.high, 4),
            load_average=machine.load_average(),
        )

    def ratio(self, copy: str, *, half_width: float, max_rounds: int, seed: int) -> dict[str, Any]:
        """The copy's p50 / the baseline's, measured until the 99 % interval is narrow enough: estimate, low, high, rounds; and the baseline's p50."""

        def is_narrow(so_far: LoadTrace) -> bool:
            ratio = summary.summarize_speed(so_far, copy).ratio
            return (ratio.high - ratio.low) / 2 <= half_width

        trace = self._measure(copy, Load(name="single"), seed, is_narrow, rounds.Schedule(max_rounds=max_rounds))
        p50 = summary.summarize_latency(trace, names.BASELINE).p50.estimate
        return {**summary.summarize_speed(trace, copy).ratio.model_dump(), "rounds": trace.rounds, "baselineP50Ms": round(p50, 3)}

    def _measure(self, copy: str, load: Load, seed: int, decided: Callable[[LoadTrace], bool], schedule: rounds.Schedule | None = None) -> LoadTrace:
        requests = {name: self.requests[name] for name in (names.BASELINE, copy)}
        budget = duration_seconds(Measurement().timeout)
        found = rounds.measure_load(self.client, load, requests, decided=decided, deadline=time.monotonic() + budget, seed=seed, schedule=schedule)
        assert not found.failed, found.failed
        return found.trace


def _copy(artifact: Path, target: Path, *, backend: str | None = None) -> Path:
    """The artifact with another doc string in its graph, served by another backend where one is named."""
    import onnx

    shutil.copytree(artifact, target)
    path = target / "model" / "model.onnx"
    model = onnx.load(path)
    model.doc_string = f"the same model as {artifact.name}"
    path.write_bytes(model.SerializeToString(deterministic=True))
    if backend is not None:
        config = json.loads((target / ARTIFACT_FILE).read_text())
        (target / ARTIFACT_FILE).write_text(json.dumps({**config, "backend": backend}))
    return target
