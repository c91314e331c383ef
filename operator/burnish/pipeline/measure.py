"""Step `measure`: ask the server that will serve. Load, golden answer, score, equivalence, then latency in interleaved rounds.

Exits well whatever the verdict: a verdict is a result. Candidates that don't load or don't answer are findings; a baseline that doesn't is an
error, because nothing can be compared.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from burnish import names
from burnish.api import numbers, requests
from burnish.api.job_contract import (
    ArtifactRef,
    BuildRecord,
    BuildStepRecord,
    CandidateBuild,
    CompressRecord,
    Environment,
    ExportRecord,
    LoadTrace,
    MeasurementRecord,
    MeasureStepRecord,
    PipelineRequest,
    Plan,
    SideFacts,
    StepName,
    TrainRecord,
    Warned,
)
from burnish.api.scalars import duration_seconds
from burnish.api.v1alpha1.optimized_model import Load
from burnish.errors import BurnishError, Reason
from burnish.measurement import equivalence, limits, rounds, summary
from burnish.measurement.client import ModelError, ServerUnreachableError, TritonClient
from burnish.measurement.statistics import paired_ratio
from burnish.pipeline import cpu_limit, lookup, machine, pairs, prepare, samples, server
from burnish.pipeline.datasets import overlap
from burnish.pipeline.evaluation import Evaluation, evaluate
from burnish.pipeline.progress import emit
from burnish.pipeline.workdir import WorkDir
from burnish.serving import images
from burnish.store.artifacts import put_artifact
from burnish.store.store import open_store

READY_SECONDS = 120.0
FIRST_LOAD_SHARE = 0.6
"""Of the time for all rounds, where there are several load points: speed is judged on the first."""
ESTIMATE_EVERY = 5
"""Rounds between two looks of the progress display at the intervals."""
REQUESTS = 16
"""Different requests that a load point cycles through."""


def run(work: WorkDir, *, url: str, server_pid: int | None, cpu_enforcement: str) -> MeasureStepRecord:
    """Measure the baseline and every candidate in one server.

    Args:
        url: Triton's HTTP endpoint; the server has loaded, or tried to load, the repository that `build` or `stage` wrote.
        server_pid: Triton's process where it can be seen, for memory figures.
        cpu_enforcement: how the server is held to its CPU limit, for the record.

    Raises:
        BurnishError: BaselineNotLoadable, BaselineFailed, ServerLost, ServerNotReady.
    """
    facts = machine.facts()  # before this process leaves CPUs to the server
    _leave_cpus_to_the_server(server_pid)
    request = work.load_request()
    build, folder = _build_record(work, request)
    prepare.run_apart(work)
    measurement = _Measurement(work, request, build, folder, TritonClient(url, signature=build.signature), server_pid)
    record = measurement.run(facts, cpu_enforcement)
    return MeasureStepRecord(build=build, measurement=record)


class _Measurement:
    """One run of the step."""

    def __init__(
        self, work: WorkDir, request: PipelineRequest, build: BuildRecord, folder: Path, client: TritonClient, server_pid: int | None
    ) -> None:
        self.request, self.build, self.client, self.server_pid = request, build, client, server_pid
        self.folder = folder
        """Holds `<model>/golden.npz` for every model."""
        self.refs: dict[str, ArtifactRef] = {names.BASELINE: build.baseline}
        self.refs |= {c.name: c.artifact for c in build.candidates if c.artifact is not None}
        self.identical = {name for name, ref in self.refs.items() if name != names.BASELINE and ref.content_digest == build.baseline.content_digest}
        self.data = samples.open_datasets(work, request, build.signature)
        self.failed: dict[str, str] = {}
        self.not_loaded: dict[str, str] = {}

    def run(self, facts: machine.MachineFacts, cpu_enforcement: str) -> MeasurementRecord:
        self._check_loaded()
        for name in self._alive():
            self._attempt(name, self._check_golden)
        found = self._evaluate()
        loads = self._measure_loads()
        sides = {name: self._facts(name) for name in self.refs}
        return MeasurementRecord(
            measurement_key=lookup.measurement_key(
                self.request.resolved,
                self.build,
                datasets=self.request.datasets,
                loads=self.request.measurement.loads,
                batching=self.request.serving.dynamic_batching,
                target=self.request.target,
                hardware_class=self.request.hardware_class,
                image=self.request.serving_image,
            ),
            environment=self._environment(facts, cpu_enforcement),
            sides=sides,
            loads=tuple(loads),
            evaluated=found.evaluated,
            baseline_scores=found.baseline_scores,
            equivalence=found.equivalence,
            equivalence_samples=found.samples,
            measured_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            decided_for=self.request.constraints,
            allowed_seconds=duration_seconds(self.request.measurement.timeout),
            summary=summary.summarize(sides, loads, found.evaluated, found.baseline_scores, found.equivalence),
            warnings=self._warnings(),
        )

    def _alive(self) -> list[str]:
        return [name for name in self.refs if name not in self.failed and name not in self.not_loaded]

    def _check_loaded(self) -> None:
        """Read Triton's own index, waiting until no model is still loading."""
        until = time.monotonic() + READY_SECONDS
        while True:
            try:
                index = self.client.repository_index()
                if all(name in index and index[name].state in ("READY", "UNAVAILABLE") for name in self.refs):
                    break
            except ServerUnreachableError as error:
                if time.monotonic() > until:
                    raise BurnishError(Reason.ServerNotReady, f"Triton did not answer within {READY_SECONDS:.0f} s: {error}") from error
            if time.monotonic() > until:
                raise BurnishError(Reason.ServerNotReady, f"Triton was still loading models after {READY_SECONDS:.0f} s")
            time.sleep(0.2)
        self.not_loaded = {name: index[name].reason for name in self.refs if index[name].state != "READY"}
        if names.BASELINE in self.not_loaded:
            raise BurnishError(Reason.BaselineNotLoadable, f"Triton does not load the baseline: {self.not_loaded[names.BASELINE]}")
        for name, reason in self.not_loaded.items():
            emit(f"Triton does not load {name}: {reason}", warning=True)

    def _attempt(self, name: str, action: Callable[[str], None]) -> None:
        """Do something with a model; a candidate that fails is a finding, the baseline's failure and a lost server are errors."""
        try:
            action(name)
        except ModelError as error:
            self._drop(name, str(error))
        except BurnishError as error:
            if error.reason is not Reason.OutputsDiffer:
                raise
            self._drop(name, error.message)
        except ServerUnreachableError as error:
            raise BurnishError(Reason.ServerLost, f"Triton was lost while {name} answered: {error}") from error

    def _drop(self, name: str, message: str) -> None:
        if name == names.BASELINE:
            raise BurnishError(Reason.BaselineFailed, f"the baseline does not answer as it should: {message}")
        self.failed[name] = message
        emit(f"{name} is left out: {message}", warning=True)

    def _check_golden(self, name: str) -> None:
        """The server's answer to the golden request must be the one that `build` saw."""
        feed, expected = pairs.load_pair(self.folder / name / "golden.npz")
        differences = equivalence.compare(expected, self.client.infer(name, feed), batched=False)
        violation = equivalence.preserving_violation(differences)
        if violation:
            self._drop(name, f"Triton answers the golden request differently than the build did: {violation}")

    def _evaluate(self) -> Evaluation:
        """Scores and differences of everybody who answers, on the same samples; identical models need no second answer."""
        batch = max(load.batch_size for load in self.request.measurement.loads)
        models = [name for name in self._alive() if name not in self.identical]
        return evaluate(self.client, models, self.data, self.request, batch=batch, drop=self._drop)

    def _measure_loads(self) -> list[LoadTrace]:
        loads = self.request.measurement.loads
        started, budget = time.monotonic(), duration_seconds(self.request.measurement.timeout)
        traces: list[LoadTrace] = []
        for number, load in enumerate(loads):
            share = FIRST_LOAD_SHARE if number == 0 and len(loads) > 1 else 1 / (len(loads) - number)
            left = started + budget - time.monotonic()
            traces.append(self._measure_load(load, traces, time.monotonic() + max(0.0, left) * share))
        return traces

    def _measure_load(self, load: Load, before: Sequence[LoadTrace], deadline: float) -> LoadTrace:
        models = [name for name in self._alive() if name not in self.identical]
        feeds = self.data.feeds(REQUESTS, load.batch_size)
        prepared = {name: [self.client.prepare(name, feed) for feed in feeds] for name in models}
        candidates = [name for name in models if name != names.BASELINE]

        def decided(trace: LoadTrace) -> bool:
            return limits.is_decided([*before, trace], candidates, self.request.constraints)

        progress = _Progress(candidates, deadline)
        throttled_before = self._throttled_periods()
        found = rounds.measure_load(self.client, load, prepared, decided=decided, deadline=deadline, progress=progress.show)
        throttled = self._throttled_periods()
        for name, message in found.failed.items():
            self._drop(name, message)
        emit(f"{load.name}: {found.trace.rounds} rounds, ended by {found.trace.ended}")
        if throttled is None or throttled_before is None:
            return found.trace
        # Under a fractional limit throttling is part of what is served: kept, and reported.
        return found.trace.model_copy(update={"throttled_periods": throttled - throttled_before})

    def _throttled_periods(self) -> int | None:
        """CFS periods in which the server was throttled so far; None where no quota holds it (whole CPUs are held by affinity)."""
        group = cpu_limit.quota_group(self.server_pid) if self.server_pid else None
        return cpu_limit.throttled_periods(group) if group else None

    def _facts(self, name: str) -> SideFacts:
        peak = server.peak_memory_bytes(self.server_pid, name) if self.server_pid else None
        message = self.not_loaded.get(name) or self.failed.get(name) or ""
        return SideFacts(
            artifact=self.refs[name], loaded=name not in self.not_loaded, message=message, failed=name in self.failed, peak_memory_bytes=peak
        )

    def _environment(self, facts: machine.MachineFacts, cpu_enforcement: str) -> Environment:
        image, resources = images.image(self.request.serving_image), self.request.target.resources
        return Environment(
            node=facts.node,
            hardware_class=self.request.hardware_class,
            cpu_model=facts.cpu_model,
            cpus=facts.cpus,
            kernel=facts.kernel,
            memory_bytes=facts.memory_bytes,
            triton=f"{image.name} (Triton {image.triton})",
            versions=dict(image.versions),
            threads=resources.threads,
            cpu_limit=resources.cpu,
            cpu_enforcement=cpu_enforcement,
            memory_limit=resources.memory,
        )

    def _warnings(self) -> tuple[Warned, ...]:
        calibration, evaluation = self.data.calibration, self.data.evaluation
        shared = overlap(calibration, evaluation) if calibration and evaluation else 0
        if not shared:
            return ()
        message = (
            f"{shared} of {len(evaluation or ())} evaluation samples also stand in the calibration data; the score flatters, use disjoint samples"
        )
        emit(message, warning=True)
        return (Warned(reason=Reason.SamplesOverlap, message=message),)


class _Progress:
    """Shows how the estimates narrow while rounds go on."""

    def __init__(self, candidates: Sequence[str], deadline: float) -> None:
        self.candidates, self.started, self.deadline = candidates, time.monotonic(), deadline
        self.medians_ms: dict[str, list[float]] = {}
        self.estimates = ""

    def show(self, now: rounds.RoundProgress) -> None:
        """Tell about one more round; the intervals are worked out anew every few rounds."""
        for name, median in now.medians_ms.items():
            self.medians_ms.setdefault(name, []).append(median)
        if now.rounds % ESTIMATE_EVERY == 0:
            self.estimates = "".join(f", {name} {self._speedup(name)}" for name in self.candidates if name in now.medians_ms)
        baseline_ms = statistics.median(self.medians_ms[names.BASELINE])
        planned = min(1.0, now.rounds / rounds.Schedule.first_look)
        spent = 1 - now.seconds_left / max(1e-9, self.deadline - self.started)
        emit(f"{now.load}: round {now.rounds}, baseline {baseline_ms:.2f} ms{self.estimates}", done=max(planned * 0.95, min(1.0, spent)))

    def _speedup(self, name: str) -> str:
        found = paired_ratio(self.medians_ms[names.BASELINE], self.medians_ms[name])
        return f"{numbers.times(numbers.center(found))} ({numbers.between(found)})"


def _build_record(work: WorkDir, request: PipelineRequest) -> tuple[BuildRecord, Path]:
    """The build that is measured, and the folder with its artifacts: what `build` just made, or what `stage` took from the store."""
    if request.plan.plan is not Plan.Build and request.plan.build is not None:
        return request.plan.build, work.folder(StepName.stage) / "artifacts"
    built, exported = work.load(StepName.build, BuildStepRecord), work.load(StepName.export, ExportRecord)
    scratch = work.folder(StepName.measure)
    refs = {m.name: describe(work.path(m.directory), scratch) for m in built.models if m.directory is not None}
    compressed = work.load(StepName.compress, CompressRecord).candidates
    passes, starts = {c.name: c.usage for c in compressed}, {c.name: c.start for c in compressed}
    learned = work.load(StepName.train, TrainRecord) if requests.trains(request.passes) else None
    passes |= {m.name: m.usage for m in learned.passes} if learned else {}
    candidates = tuple(
        CandidateBuild(
            name=m.name,
            summary=m.summary,
            artifact=refs.get(m.name),
            usage=passes.get(m.name),
            start=starts.get(m.name, ""),
            reason=m.reason,
            message=m.message,
        )
        for m in built.models
        if m.name != names.BASELINE
    )
    record = BuildRecord(
        artifact_key=request.plan.artifact_key,
        hardware_class=request.hardware_class,
        baseline=refs[names.BASELINE],
        candidates=candidates,
        signature=exported.signature,
        graph=exported.graph,
        source_format=exported.format,
        export=built.difference,
        usage={step.value: found for step in requests.OFFLINE_STEPS if (found := work.load_usage(step)) is not None},
        original=learned.original if learned else None,
        trained=learned.passes if learned else (),
        trained_with=learned.trained_with if learned else "",
        created_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )
    return record, work.folder(StepName.build) / "artifacts"


def describe(directory: Path, scratch: Path) -> ArtifactRef:
    """What `publish` will file an artifact directory as: packing is deterministic, so a store of our own in `scratch` tells."""
    with tempfile.TemporaryDirectory(dir=scratch) as store:
        return put_artifact(open_store(store), directory)


def _leave_cpus_to_the_server(server_pid: int | None) -> None:
    """Run on the CPUs that the server does not have, where there are any: the client's work must not be the server's latency."""
    if server_pid is not None:
        os.sched_setaffinity(0, cpu_limit.client_cpus(tuple(os.sched_getaffinity(server_pid))))
