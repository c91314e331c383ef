"""Brings what training has reached into the store, and back for the next attempt: the only part of training that holds the store's credentials.

That is the last checkpoint of each pass, and the steps that are finished: the export, and training itself.

On a cluster it runs beside the steps as a sidecar of its own (`python3 -m burnish.pipeline.keep`); without one the runner does it after each epoch.
What it reads was written by a process that runs a model's code, so only regular files of a bounded size are taken, and they are never opened as
anything but bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import stat
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from burnish.api import numbers
from burnish.api.job_contract import Checkpoint, CheckpointRecord, ExportRecord, FinishedStep, PipelineRequest, Record, StepName, TrainRecord
from burnish.errors import BurnishError
from burnish.pipeline import store_options
from burnish.pipeline.progress import emit
from burnish.pipeline.workdir import WorkDir
from burnish.store import trees
from burnish.store.keys import canonical_json
from burnish.store.store import Store

CHECKPOINTS = "checkpoints"
"""Kind of the records, and the folder of a step."""
POLL_S = 2.0
MAX_BYTES = 16 * 2**30
"""Largest checkpoint that is taken, and largest folder of a step."""
MAX_POSITIONS = 16
KEPT: Mapping[StepName, type[Record]] = {StepName.export: ExportRecord, StepName.train: TrainRecord}
"""Steps that are kept when they are finished, in their order. What follows takes seconds, or is measured anew."""
_NOT_NEEDED = (CHECKPOINTS, "scratch", "student", "rank-*", "log.txt", "reproduce.sh")
"""What no later step reads."""
_CHUNK = 2**20


def file_name(position: int) -> str:
    """Of the checkpoint of a pass; what describes it stands beside it and ends in .json."""
    return f"pass-{position:02d}.pt"


class Keeper:
    """Files the checkpoints and finished steps of one work directory as they come."""

    def __init__(self, work: WorkDir, store: Store) -> None:
        request = work.load_request()
        self._work, self._folder, self._store = work, work.folder(StepName.train) / CHECKPOINTS, store
        self._key, self._request = request.plan.artifact_key, request_digest(request)
        record = store.get_record(CHECKPOINTS, self._key, CheckpointRecord)
        self._filed = {c.position: c for c in record.files} if record else {}
        self._finished = {s.step: s for s in record.steps} if record and record.request == self._request else {}
        self._tried: set[StepName] = set()

    def file_new(self) -> list[str]:
        """File what is complete and not filed yet; returns what that was, in words.

        Raises:
            BurnishError: StoreFull, StoreNotWritable.
        """
        checkpoints, steps = self._file_checkpoints(), self._file_steps()
        if checkpoints or steps:
            files = tuple(self._filed[position] for position in sorted(self._filed))
            record = CheckpointRecord(files=files, request=self._request, steps=tuple(self._finished.values()))
            self._store.put_record(CHECKPOINTS, self._key, record, replace=True)
        return ([numbers.counted(checkpoints, "checkpoint")] if checkpoints else []) + [f"step {step.value}" for step in steps]

    def _file_steps(self) -> list[StepName]:
        """One that can't be filed is tried once: it only has to be done again after a kill."""
        new = []
        for step in KEPT:
            if step in self._tried or not (self._work.folder(step) / "usage.json").exists():  # the last that a step leaves
                continue
            self._tried.add(step)
            try:
                tree = trees.put_tree(self._store, self._work.folder(step), max_bytes=MAX_BYTES, leave_out=_NOT_NEEDED)
            except BurnishError as error:
                emit(f"what {step.value} left is not kept for another attempt: {error}", warning=True)
                continue
            finished = FinishedStep(step=step, tree=tree)
            if self._finished.get(step) != finished:
                self._finished[step] = finished
                new.append(step)
        return new

    def _file_checkpoints(self) -> int:
        new = 0
        for position in range(MAX_POSITIONS):
            digest = _described((self._folder / file_name(position)).with_suffix(".json"))
            known = self._filed.get(position)
            if digest is None or (known is not None and known.digest == digest):
                continue
            blob = self._put(self._folder / file_name(position), digest)
            if blob is None:
                continue  # the next one replaced it meanwhile
            self._filed[position] = Checkpoint(position=position, digest=blob)
            new += 1
        return new

    def end(self) -> None:
        """Where the work is done, forget what was filed while `publish` was forgetting."""
        if self._work.has(StepName.publish):
            forget(self._key, self._store)

    def _put(self, path: Path, digest: str) -> str | None:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:
            return None
        with os.fdopen(descriptor, "rb") as file:
            facts = os.fstat(descriptor)
            if not stat.S_ISREG(facts.st_mode) or facts.st_size > MAX_BYTES or f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}" != digest:
                return None
            file.seek(0)
            return self._store.put_stream(file)


def _described(path: Path) -> str | None:
    """The digest that a description names; None where there is none, or it is no description."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "rb") as file:
            found = json.loads(file.read(_CHUNK))["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return f"sha256:{found}" if isinstance(found, str) else None


class Reached(NamedTuple):
    """What an earlier attempt had reached, and `bring` put into the work directory."""

    checkpoints: str | None = None
    """Their folder, relative to the work directory; None where there are none."""
    finished: tuple[StepName, ...] = ()


def bring(work: WorkDir, request: PipelineRequest, store: Store) -> Reached:
    """Put what an earlier attempt at the same work had reached into the work directory.

    What was swept or damaged is left out: then that starts over.
    """
    record = store.get_record(CHECKPOINTS, request.plan.artifact_key, CheckpointRecord)
    if record is None:
        return Reached()
    steps = record.steps if record.request == request_digest(request) else ()
    return Reached(_bring_checkpoints(work, request.plan.artifact_key, record.files, store), _bring_finished(work, steps, store))


def _bring_checkpoints(work: WorkDir, artifact_key: str, files: Sequence[Checkpoint], store: Store) -> str | None:
    target = work.folder(StepName.stage) / CHECKPOINTS
    for found in files:
        path = target / file_name(found.position)
        try:
            target.mkdir(parents=True, exist_ok=True)
            store.copy_blob(found.digest, path)
        except BurnishError as error:
            emit(f"a checkpoint can't be read and is left out: {error}", warning=True)
            continue
        described = {"work": artifact_key, "position": found.position, "sha256": found.digest.removeprefix("sha256:")}
        path.with_suffix(".json").write_text(json.dumps(described))
    return target.relative_to(work.root).as_posix() if target.is_dir() else None


def _bring_finished(work: WorkDir, steps: Sequence[FinishedStep], store: Store) -> tuple[StepName, ...]:
    """The folders of steps; one that another release left is left out too, and what follows it."""
    found = {finished.step: finished.tree for finished in steps}
    brought: list[StepName] = []
    for step, kind in KEPT.items():
        if step not in found:
            break
        try:
            trees.materialize_tree(store, found[step], work.folder(step))
            work.load(step, kind)
        except (BurnishError, OSError) as error:
            emit(f"what {step.value} left can't be read, so it is done again: {error}", warning=True)
            shutil.rmtree(work.folder(step), ignore_errors=True)
            work.folder(step).mkdir(parents=True, exist_ok=True)
            break
        brought.append(step)
    return tuple(brought)


def request_digest(request: PipelineRequest) -> str:
    """Of everything that is asked for, and of what was found there; which generation of the manifest that is, and when it was fetched, matters to nobody."""
    found = request.resolved
    digests = [record.tree.digest if record else None for record in (found.source, found.calibration, found.evaluation, found.training)]
    asked = request.model_dump(mode="json", exclude={"generation", "resolved", "plan"})
    return f"sha256:{hashlib.sha256(canonical_json([request.plan.artifact_key, digests, asked])).hexdigest()}"


def forget(artifact_key: str, store: Store) -> None:
    """Refer to no checkpoint any more, so that a sweep takes them: the work is done."""
    record = store.get_record(CHECKPOINTS, artifact_key, CheckpointRecord)
    if record is not None and (record.files or record.steps):
        store.put_record(CHECKPOINTS, artifact_key, CheckpointRecord(), replace=True)


def main(arguments: list[str] | None = None) -> int:
    """File what training reaches until SIGTERM, and once more then."""
    parser = argparse.ArgumentParser(
        prog="python -m burnish.pipeline.keep", description="File checkpoints and finished steps of a pipeline that trains in the store."
    )
    parser.add_argument("--work", type=Path, required=True)
    store_options.add(parser)
    options = parser.parse_args(arguments)
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    work, keeper = WorkDir(options.work.resolve()), None
    while True:
        last = ended.wait(POLL_S)
        try:
            if keeper is None:
                keeper = Keeper(work, store_options.open_from(options))
            if filed := keeper.file_new():
                emit(f"filed {', '.join(filed)}")
            if last:
                keeper.end()
        except (BurnishError, OSError) as error:  # training goes on: without the store it only has to start over after a kill
            emit(f"what training reaches can't be filed: {error}", warning=True)
        except Exception:  # a bug: the traceback belongs into the log, and nothing depends on this process
            traceback.print_exc()
        if last:
            return 0


if __name__ == "__main__":
    sys.exit(main())
