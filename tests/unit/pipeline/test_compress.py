"""What is a finding about a candidate, and what is the machine's trouble."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from burnish.api.job_contract import StepName
from burnish.errors import BurnishError, Reason
from burnish.pipeline import compress
from burnish.pipeline.workdir import WorkDir
from burnish.plugins import base


class Runtime:
    """A runtime whose every step ends the same way."""

    model_file = "model.onnx"

    def __init__(self, reason: Reason) -> None:
        self.reason = reason

    def apply(self, *_: object, **__: object) -> None:
        raise BurnishError(self.reason, "so it is")


def make(folder: Path, reason: Reason) -> Any:
    (folder / StepName.compress.value).mkdir()
    recipe = base.Recipe("int8", "", (base.Step("dynamic"),))
    return compress._make(WorkDir(folder), cast("base.Runtime", Runtime(reason)), recipe, folder, (), lambda outputs: ())


def test_candidate_that_can_not_be_built_is_a_finding(tmp_path: Path) -> None:
    found = make(tmp_path, Reason.CandidateNotBuildable)
    assert (found.file, found.reason, found.message) == (None, Reason.CandidateNotBuildable, "so it is")


@pytest.mark.parametrize("reason", [Reason.DiskFull, Reason.OutOfMemory, Reason.PassNotApplicable])
def test_anything_else_ends_the_step(tmp_path: Path, reason: Reason) -> None:
    with pytest.raises(BurnishError) as caught:
        make(tmp_path, reason)
    assert caught.value.reason is reason
