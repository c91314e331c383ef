"""Local mode: drives the steps as child processes over work directories on this machine, with a real tritonserver.

The cluster runs the same step processes as containers of a Job. What the kubelet does there is done here by hand: order, time and memory
limits, the sidecar server, and cleaning up after Ctrl-C.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, cast

from burnish.api import requests
from burnish.api.job_contract import Plan, ResolveRecord, Result, StepName, TargetPlan, Warned
from burnish.api.scalars import duration_seconds, quantity_value
from burnish.api.v1alpha1 import status as api
from burnish.api.v1alpha1.optimized_model import OptimizedModel, Target
from burnish.errors import BurnishError, ExitCode, Reason
from burnish.pipeline import cpu_limit, machine, publish, status, turns
from burnish.pipeline.ahead import plugin_of
from burnish.pipeline.confined_process import Limits
from burnish.pipeline.keep import Keeper
from burnish.pipeline.processes import child_environment, end_all
from burnish.pipeline.progress import Event
from burnish.pipeline.sidecar import measuring_server
from burnish.pipeline.step_process import DISK_FULL, StepError, StepProcess, leave_reproduce_script, started
from burnish.pipeline.workdir import WorkDir
from burnish.serving import images
from burnish.store.store import open_store
from burnish.toolchains import environments

MAX_ATTEMPTS = 2
"""Of a target whose build was superseded by a concurrent run: the second attempt finds the winner's and measures it."""


class Listener(Protocol):
    """Who is told what happens, as it happens."""

    def plan(self, target: str, steps: tuple[StepName, ...]) -> None:
        """A target's remaining steps are known; none = everything is in the store."""

    def step_started(self, target: str, step: StepName) -> None:
        """A step's process starts."""

    def event(self, target: str, step: StepName | None, event: Event) -> None:
        """News from a step, or from the runner itself."""

    def step_ended(self, target: str, step: StepName, seconds: float, error: BurnishError | None) -> None:
        """A step's process ended."""


@dataclasses.dataclass(frozen=True)
class Options:
    """How to run, as opposed to what."""

    store: str
    work: Path
    """A fresh directory; one folder per target is made in it."""
    step_memory_bytes: int
    """Memory limit of each step's process."""
    lock: Path = dataclasses.field(default_factory=lambda: environments.cache_directory() / turns.FILE)
    """Who holds it measures; all runs of a machine's user share it."""


@dataclasses.dataclass
class Outcome:
    """What came of a run."""

    model: OptimizedModel
    """With status."""
    exit_code: ExitCode
    results: dict[str, Result]
    """Target -> what publish left."""


def run(model: OptimizedModel, base: Path, options: Options, listener: Listener) -> Outcome:
    """Run the whole pipeline of one manifest.

    Every error that concerns the user is in the returned status, and so is Ctrl-C, after which no process is left. A server that did its work
    may still be stopping: `processes.end_all` waits for it.

    Args:
        base: directory that relative `file:` URIs start from.
    """
    return _Run(model, base, options, listener).run()


class _Run:
    def __init__(self, model: OptimizedModel, base: Path, options: Options, listener: Listener) -> None:
        self.model, self.base, self.options, self.listener = model, base, options, listener
        self.hardware_class = machine.hardware_class()
        self.image = images.LOCAL_CPU
        self.resolved: ResolveRecord | None = None
        self.results: dict[str, Result] = {}
        self.failure: api.LastFailure | None = None

    def run(self) -> Outcome:
        targets: list[api.TargetStatus] = []
        exit_code = ExitCode.OK
        try:
            with _disk_errors():
                self.resolved = self._resolve()
            for target in self.model.spec.targets:
                found, code = self._target(target)
                targets.append(found)
                exit_code = max(exit_code, code)
        except BurnishError as error:  # of the resolve step: a target keeps its own
            self._note(error, None)
            targets = self._unfinished(targets, error)
            exit_code = error.exit_code
        except KeyboardInterrupt:  # what was published before is in the store, and stays so in the status
            end_all()
            self._note(_INTERRUPTION, None)
            targets = self._unfinished(targets, _INTERRUPTION)
            exit_code = ExitCode.INTERRUPTED
        return Outcome(self._with_status(targets), exit_code, self.results)

    def _unfinished(self, finished: list[api.TargetStatus], error: BurnishError) -> list[api.TargetStatus]:
        """What finished, and the others as failed."""
        return finished + [status.failed_target(t.name, error) for t in self.model.spec.targets[len(finished) :]]

    def _target(self, target: Target) -> tuple[api.TargetStatus, ExitCode]:
        plan = self._plan_of(target)
        try:
            with _disk_errors():
                result = self._result(target, plan)
        except BurnishError as error:
            self._note(error, target.name)
            if not isinstance(error, StepError):  # which the listener knows of
                self.listener.event(target.name, None, {"text": f"{error.reason.value}: {error}", "warning": True})
            return status.failed_target(target.name, error, plan), error.exit_code
        self.results[target.name] = result
        found = result.status
        if found.state is api.State.Published:
            return found, ExitCode.OK
        self.failure = status.last_failure(
            found.reason or Reason.InternalError, found.message, now=_now(), target=target.name, step=StepName.measure.value
        )
        return found, ExitCode.UNDECIDED if found.state is api.State.Undecided else ExitCode.REFUSED

    def _result(self, target: Target, plan: TargetPlan) -> Result:
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                if plan.plan is Plan.Nothing:
                    self.listener.plan(target.name, ())
                    store = open_store(self.options.store, namespace=self.model.metadata.namespace)
                    return publish.conclude_known(self.request, target, plan, store)
                return self._pipeline(target, plan, attempt)
            except BurnishError as error:
                if error.reason is not Reason.Superseded or attempt == MAX_ATTEMPTS:
                    raise
                self.listener.event(target.name, None, {"text": "another run published this build first; measuring that one"})
                self.resolved = self._resolve()
                plan = self._plan_of(target)
        raise AssertionError("unreachable")

    def _resolve(self) -> ResolveRecord:
        self.request = requests.resolve_request(self.model, base=str(self.base), hardware_class=self.hardware_class, serving_image=self.image.name)
        work = WorkDir(_fresh(self.options.work / "resolve"))
        work.save_request(self.request)
        deadline = time.monotonic() + duration_seconds(self.request.jobs.deadline)
        with self._told("", StepName.resolve), self._process(work, "", StepName.resolve, deadline) as process:
            process.run(self._tell("", StepName.resolve))
        return work.load(StepName.resolve, ResolveRecord)

    def _plan_of(self, target: Target) -> TargetPlan:
        assert self.resolved is not None  # noqa: S101  # targets run after resolve
        return next(p for p in self.resolved.targets if p.target == target.name)

    def _pipeline(self, target: Target, plan: TargetPlan, attempt: int) -> Result:
        assert self.resolved is not None  # noqa: S101
        if target.accelerator.gpus:
            raise BurnishError(
                Reason.ResourcesNotEnforceable,
                f"target {target.name} asks for a GPU, and a run without a cluster measures on CPUs; apply the manifest to a cluster that has one",
                field="spec.targets[].accelerator",
            )
        cpu_limit.prepare(quantity_value(target.resources.cpu)).remove()  # what can't be held is said now, not after an hour's work
        work = WorkDir(_fresh(self.options.work / (target.name if attempt == 1 else f"{target.name}-{attempt}")))
        work.save_request(requests.pipeline_request(self.request, self.resolved, target, plan, hardware_class=self.hardware_class))
        steps = requests.steps(plan.plan, self.request.passes[target.name])
        self.listener.plan(target.name, steps)
        deadline = time.monotonic() + duration_seconds(self.request.jobs.deadline)
        with contextlib.ExitStack() as processes:  # a step that failed leaves the next one waiting
            ahead = keeper = None
            for step, following in itertools.zip_longest(steps, steps[1:]):
                if step is StepName.measure:
                    deadline += self._measure(work, target, deadline)
                    continue
                if step is StepName.train:
                    keeper = self._keeper(work)
                with self._told(target.name, step):
                    process = ahead or processes.enter_context(self._process(work, target.name, step, deadline))
                    ahead = self._ahead(work, target.name, following, deadline, processes)
                    process.run(self._tell(target.name, step, keeper))
        return work.load(StepName.publish, Result)

    def _ahead(self, work: WorkDir, target: str, step: StepName | None, deadline: float, processes: contextlib.ExitStack) -> StepProcess | None:
        """The next step's process, loading while the one before works; None where it has little to load, or would load beside a measurement.

        Nothing is installed for it beside another's work either.
        """
        if step not in requests.OFFLINE_STEPS or environments.find(plugin_of(step, work.load_request()).toolchain) is None:
            return None
        return processes.enter_context(self._process(work, target, step, deadline))

    def _measure(self, work: WorkDir, target: Target, deadline: float) -> float:
        """Run the step when it is our turn; returns the seconds that were waited for other runs to measure, which count against no deadline."""

        def tell(text: str, *, warning: bool = False) -> None:
            self.listener.event(target.name, StepName.measure, {"text": text, "warning": True} if warning else {"text": text})

        end_all()  # the server of the target before
        with (
            self._told(target.name, StepName.measure),
            self._repeatable(work, target.name, StepName.measure),
            turns.turn(self.options.lock, tell) as waited,
        ):
            self._measure_beside_server(work, target, deadline + waited)
        return waited

    def _measure_beside_server(self, work: WorkDir, target: Target, deadline: float) -> None:
        """Run the step with the server beside it, as a Job does."""
        progress = self._say(target.name, StepName.measure)
        with (
            self._process(work, target.name, StepName.measure, deadline) as process,  # loads while the server does
            measuring_server(work, work.load_request(), deadline=deadline, progress=progress) as server,
        ):
            reach = ["--server-url", server.url, "--server-pid", str(server.pid), "--cpu-enforcement", server.enforcement]
            try:
                process.run(self._tell(target.name, StepName.measure), reach)
            except BurnishError:
                server.raise_if_ended()  # e.g. OutOfMemory explains a lost connection better than the client can
                raise
            server.leave()  # it takes two seconds to stop, and nothing that follows has to wait for that

    def _process(self, work: WorkDir, target: str, step: StepName, deadline: float) -> contextlib.AbstractContextManager[StepProcess]:
        """A step's process, which waits to be told to run."""
        command = self._command(work, target, step)
        limits = Limits(memory_bytes=self.options.step_memory_bytes, deadline_s=max(1.0, deadline - time.monotonic()))
        environment = child_environment(downloads=step is StepName.resolve, uses_store=step in requests.STORE_STEPS)
        return started(work, step, command, env=environment, limits=limits)

    def _tell(self, target: str, step: StepName, keeper: Keeper | None = None) -> Callable[[dict[str, Any]], None]:
        def tell(event: dict[str, Any]) -> None:
            self.listener.event(target, step, cast(Event, event))
            if keeper is not None:  # of an epoch: its checkpoint is there; of the next step: the one before is finished
                keeper.file_new()

        return tell

    def _keeper(self, work: WorkDir) -> Keeper:
        """What keeps checkpoints and finished steps of one that trains, which holds no credentials."""
        return Keeper(work, open_store(self.options.store, namespace=self.model.metadata.namespace))

    def _command(self, work: WorkDir, target: str, step: StepName) -> list[str]:
        """What runs a step, from its work directory alone."""
        command = [str(self._python(work, target, step)), "-m", "burnish.pipeline", step.value, "--work", str(work.root)]
        if step in requests.STORE_STEPS:
            command += ["--store", self.options.store, "--namespace", self.model.metadata.namespace]
        return command

    @contextlib.contextmanager
    def _repeatable(self, work: WorkDir, target: str, step: StepName) -> Iterator[None]:
        """Leave a script that repeats the step also where it failed before its own process ran."""
        try:
            yield
        except BurnishError as error:
            if not isinstance(error, StepError):
                leave_reproduce_script(work, step, self._command(work, target, step))
            raise

    @contextlib.contextmanager
    def _told(self, target: str, step: StepName) -> Iterator[None]:
        """Tell the listener of a step's start and end; whatever goes wrong in between becomes a StepError."""
        self.listener.step_started(target, step)
        started, error = time.monotonic(), None
        try:
            yield
        except BurnishError as found:
            error = found
            raise StepError(step, found) from found
        except KeyboardInterrupt:
            error = BurnishError(Reason.Interrupted, "ended by Ctrl-C")
            raise
        finally:
            self.listener.step_ended(target, step, time.monotonic() - started, error)

    def _python(self, work: WorkDir, target: str, step: StepName) -> Path:
        """The interpreter of the step's toolchain; light steps run in our own."""
        if step in requests.STORE_STEPS:
            return Path(sys.executable)
        return environments.ensure(plugin_of(step, work.load_request()).toolchain, self._say(target, step)).python

    def _say(self, target: str, step: StepName) -> Callable[[str], None]:
        return lambda text: self.listener.event(target, step, {"text": text})

    def _note(self, error: BurnishError, target: str | None) -> None:
        step = error.step.value if isinstance(error, StepError) else None
        self.failure = status.last_failure(error.reason, str(error), now=_now(), target=target, step=step)

    def _with_status(self, targets: list[api.TargetStatus]) -> OptimizedModel:
        warnings: dict[str, Warned] = {w.message: w for r in self.results.values() for w in r.warnings}
        source_format = next((r.build.source_format for r in self.results.values()), None)
        found = status.overall(
            targets,
            resolved=self.resolved,
            source_format=source_format,
            failure=self.failure,
            warnings=warnings.values(),
            generation=self.model.metadata.generation,
            now=_now(),
        )
        return self.model.model_copy(update={"status": found})


_INTERRUPTION = BurnishError(Reason.Interrupted, "the run was interrupted; run again to go on, finished downloads are kept")


def interrupted(model: OptimizedModel) -> Outcome:
    """What a run that Ctrl-C ended comes to."""
    return not_run(model, _INTERRUPTION)


def not_run(model: OptimizedModel, error: BurnishError) -> Outcome:
    """What a run comes to that could not start, or not go on."""
    targets = [status.failed_target(t.name, error) for t in model.spec.targets]
    failure = status.last_failure(error.reason, str(error), now=_now())
    found = status.overall(targets, resolved=None, source_format=None, failure=failure, warnings=(), generation=model.metadata.generation, now=_now())
    code = ExitCode.INTERRUPTED if error.reason is Reason.Interrupted else error.exit_code
    return Outcome(model.model_copy(update={"status": found}), code, {})


@contextlib.contextmanager
def _disk_errors() -> Iterator[None]:
    """Requests and logs are files too: a full disk under them is told as it is by the steps.

    Raises:
        BurnishError: DiskFull.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise BurnishError(Reason.DiskFull, DISK_FULL) from error


def _fresh(directory: Path) -> Path:
    """Make a directory that is not there yet, if need be beside the one that is (a target may be named `resolve`): nothing is ever deleted.

    Raises:
        BurnishError: InvalidManifest: nothing can be made there.
    """
    try:
        for number in itertools.count(2):
            try:
                directory.mkdir(parents=True)
                break
            except FileExistsError:
                directory = directory.with_name(f"{directory.name.partition('.')[0]}.{number}")  # no target's name holds a dot
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise BurnishError(
            Reason.InvalidManifest, f"can't make a work directory: {error}; name one that can be written with --work", field="--work"
        ) from error
    return directory


def _step_of(reason: Reason | None) -> StepName:
    """Where a refusal was found."""
    return StepName.compress if reason is Reason.NoCandidate else StepName.measure


def _now() -> datetime:
    return datetime.now(UTC)
