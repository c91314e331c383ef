"""What training has reached, kept so that a killed run goes on from there.

A checkpoint belongs to one piece of work: its name is a digest of everything that decides the weights (the artifact key) and of the pass. So a changed
dataset or option never meets another's checkpoint. The file holds tensors and plain values and is read as such (`weights_only`); its SHA-256 stands in
a small file that is written last. One that is damaged is as good as none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from burnish.api.job_contract import PipelineRequest, StageRecord, StepName
from burnish.pipeline.keep import CHECKPOINTS, file_name
from burnish.pipeline.progress import emit
from burnish.pipeline.workdir import WorkDir


class Memory:
    """The checkpoints of one run of the step."""

    def __init__(self, work: WorkDir, request: PipelineRequest) -> None:
        self._own = work.folder(StepName.train) / CHECKPOINTS
        staged = work.load(StepName.stage, StageRecord).checkpoints
        self._earlier = work.path(staged) if staged else None
        self._work = request.plan.artifact_key
        self._told: set[int] = set()

    def save(self, position: int, state: Mapping[str, object]) -> None:
        """Keep the state of the pass at this position; atomically, the digest last."""
        import torch

        self._own.mkdir(parents=True, exist_ok=True)
        path = self._own / file_name(position)
        partial = path.with_suffix(".partial")
        torch.save(dict(state), partial)
        digest = _digest(partial)
        partial.replace(path)
        described = path.with_suffix(".json.partial")
        described.write_text(json.dumps({"work": self._work, "position": position, "sha256": digest, "bytes": path.stat().st_size}))
        described.replace(path.with_suffix(".json"))

    def load(self, position: int) -> Mapping[str, Any] | None:
        """What was kept of this pass, by this attempt or an earlier one of the same work; None where there is nothing that can be used."""
        import torch

        for folder in filter(None, (self._own, self._earlier)):
            path = folder / file_name(position)
            if not path.is_file() or path.is_symlink():
                continue
            try:
                described = json.loads(path.with_suffix(".json").read_text())
                if described["work"] != self._work or described["sha256"] != _digest(path):
                    raise ValueError("its digest is another")
                found: Mapping[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            except Exception as error:  # whatever a damaged file makes the library raise
                emit(f"a checkpoint can't be used and is left out: {' '.join(str(error).split())[:150]}", warning=True)
                continue
            if folder is self._earlier and position not in self._told:
                self._told.add(position)
                emit(f"going on from the checkpoint after epoch {len(found.get('losses', ()))}")
            return found
        return None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
