"""The work directory: the only thing that the steps of one target share.

    request.json            what is wanted (`PipelineRequest`)
    input/                  source and datasets, put there by `stage`
    steps/<nn>-<name>/      one folder per step, written by that step alone: record.json and usage.json, or failure.json, and its files

A step reads other folders and writes its own. Readers open regular files below the root and follow no link, so that a step which runs a
model's code cannot make a later step, one that holds credentials, read something else.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TypeVar, overload

from pydantic import ValidationError

from burnish.api.job_contract import Failure, PipelineRequest, Record, StageRecord, StepName, StepUsage, Usage, step_folder
from burnish.errors import BurnishError, Reason

R = TypeVar("R", bound=Record)

MAX_RECORD_BYTES = 256 * 2**20


class WorkDir:
    """One target's work directory."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def input(self) -> Path:
        """Where `stage` puts source and datasets."""
        return self.root / "input"

    def folder(self, step: StepName) -> Path:
        """The folder that `step` writes."""
        return self.root / step_folder(step)

    def log(self, step: StepName) -> Path:
        """What the step's process printed."""
        return self.folder(step) / "log.txt"

    def save_request(self, request: Record) -> None:
        """Write `request.json`."""
        _write(self.root / "request.json", request)

    @overload
    def load_request(self) -> PipelineRequest: ...

    @overload
    def load_request(self, kind: type[R]) -> R: ...

    def load_request(self, kind: type[Record] = PipelineRequest) -> Record:
        """Read `request.json`: of a target's pipeline, or the kind that is asked for."""
        return _read(self.root / "request.json", kind)

    def save(self, step: StepName, record: Record) -> None:
        """Leave the step's record."""
        _write(self.folder(step) / "record.json", record)

    def has(self, step: StepName) -> bool:
        """True once the step is done."""
        return (self.folder(step) / "record.json").exists()

    def is_finished(self, step: StepName) -> bool:
        """True where an earlier attempt has done the step, and `stage` brought what it left."""
        return self.has(StepName.stage) and step in self.load(StepName.stage, StageRecord).finished

    def load(self, step: StepName, kind: type[R]) -> R:
        """Read the record that an earlier step left."""
        return _read(self.folder(step) / "record.json", kind)

    def save_usage(self, step: StepName, usage: Usage) -> None:
        """Leave what the step took."""
        _write(self.folder(step) / "usage.json", StepUsage(usage=usage))

    def load_usage(self, step: StepName) -> Usage | None:
        """What an earlier step took, if it left that."""
        path = self.folder(step) / "usage.json"
        return _read(path, StepUsage).usage if path.is_file() else None

    def save_failure(self, failure: Failure) -> None:
        """Leave why the step ended without a record."""
        _write(self.folder(StepName(failure.step)) / "failure.json", failure)

    def load_failure(self, step: StepName) -> Failure | None:
        """The failure that a step left, if it left one."""
        path = self.folder(step) / "failure.json"
        return _read(path, Failure) if path.is_file() else None

    def path(self, relative: str) -> Path:
        """A file or directory below the root that another step wrote.

        Raises:
            BurnishError: InternalError if the path leaves the root or passes a link.
        """
        path = self.root / relative
        inside = Path(os.path.normpath(path)).is_relative_to(self.root)
        if not inside or any(p.is_symlink() for p in (path, *path.parents) if p.is_relative_to(self.root) and p != self.root):
            raise BurnishError(Reason.InternalError, f"{relative} leads out of the work directory")
        return path


def _write(path: Path, record: Record) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    # A request may hold a URI with a signature: what is in a work directory is its owner's alone.
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(record.model_dump_json(by_alias=True, exclude_none=True))
    partial.replace(path)


def _read(path: Path, kind: type[R]) -> R:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb") as file:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > MAX_RECORD_BYTES:
            raise BurnishError(Reason.InternalError, f"{path.name} is no regular file of at most {MAX_RECORD_BYTES} bytes")
        try:
            return kind.model_validate_json(file.read())
        except ValidationError as error:
            raise BurnishError(
                Reason.InternalError,
                f"{path.name} was written by another release of Burnish ({error.error_count()} differences); start with an empty work directory",
            ) from error
