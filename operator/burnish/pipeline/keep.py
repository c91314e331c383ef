"""Brings what training has reached into the store, and back for the next attempt: the only part of training that holds the store's credentials.

On a cluster it runs beside the steps as a sidecar of its own (`python3 -m burnish.pipeline.keep`); without one the runner does it after each epoch.
What it reads was written by a process that runs a model's code, so only regular files of a bounded size are taken, and they are never opened as
anything but bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import stat
import sys
import threading
import traceback
from pathlib import Path

from burnish.api import numbers
from burnish.api.job_contract import Checkpoint, CheckpointRecord, StepName
from burnish.errors import BurnishError
from burnish.pipeline import store_options
from burnish.pipeline.progress import emit
from burnish.pipeline.workdir import WorkDir
from burnish.store.store import Store

CHECKPOINTS = "checkpoints"
"""Kind of the records, and the folder of a step."""
POLL_S = 2.0
MAX_BYTES = 16 * 2**30
"""Largest checkpoint that is taken."""
MAX_POSITIONS = 16
_CHUNK = 2**20


def file_name(position: int) -> str:
    """Of the checkpoint of a pass; what describes it stands beside it and ends in .json."""
    return f"pass-{position:02d}.pt"


class Keeper:
    """Files the checkpoints of one work directory as they come."""

    def __init__(self, work: WorkDir, artifact_key: str, store: Store) -> None:
        self._work, self._folder, self._key, self._store = work, work.folder(StepName.train) / CHECKPOINTS, artifact_key, store
        record = store.get_record(CHECKPOINTS, artifact_key, CheckpointRecord)
        self._filed = {c.position: c for c in record.files} if record else {}

    def file_new(self) -> int:
        """File what is complete and not filed yet; returns how many checkpoints that were.

        Raises:
            BurnishError: StoreFull, StoreNotWritable.
        """
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
        if new:
            files = tuple(self._filed[position] for position in sorted(self._filed))
            self._store.put_record(CHECKPOINTS, self._key, CheckpointRecord(files=files), replace=True)
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


def bring(work: WorkDir, artifact_key: str, store: Store) -> str | None:
    """Put the checkpoints of an earlier attempt into the work directory; where they are, relative to it, or None where there are none.

    One that was swept or damaged is left out: then the work starts over.
    """
    record = store.get_record(CHECKPOINTS, artifact_key, CheckpointRecord)
    target = work.folder(StepName.stage) / CHECKPOINTS
    for found in record.files if record else ():
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


def forget(artifact_key: str, store: Store) -> None:
    """Refer to no checkpoint any more, so that a sweep takes them: the work is done."""
    record = store.get_record(CHECKPOINTS, artifact_key, CheckpointRecord)
    if record is not None and record.files:
        store.put_record(CHECKPOINTS, artifact_key, CheckpointRecord(), replace=True)


def main(arguments: list[str] | None = None) -> int:
    """File checkpoints until SIGTERM, and once more then."""
    parser = argparse.ArgumentParser(prog="python -m burnish.pipeline.keep", description="File a training step's checkpoints in the store.")
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
                keeper = Keeper(work, work.load_request().plan.artifact_key, store_options.open_from(options))
            if filed := keeper.file_new():
                emit(f"filed {numbers.counted(filed, 'checkpoint')}")
            if last:
                keeper.end()
        except (BurnishError, OSError) as error:  # training goes on: without the store it only has to start over after a kill
            emit(f"checkpoints can't be filed: {error}", warning=True)
        except Exception:  # a bug: the traceback belongs into the log, and nothing depends on this process
            traceback.print_exc()
        if last:
            return 0


if __name__ == "__main__":
    sys.exit(main())
