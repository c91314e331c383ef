"""The work directory: records come back as written, and no path leads out."""

from __future__ import annotations

from pathlib import Path

import pytest

from burnish.api.job_contract import Failure, StageRecord, StepName
from burnish.errors import BurnishError, Reason
from burnish.pipeline.workdir import WorkDir


def test_record_comes_back_as_saved(tmp_path: Path) -> None:
    work = WorkDir(tmp_path)
    work.save(StepName.stage, StageRecord(source="input/source/model.onnx"))
    assert work.load(StepName.stage, StageRecord) == StageRecord(source="input/source/model.onnx")
    assert not list(work.folder(StepName.stage).glob("*.partial"))


def test_failure_is_none_until_a_step_leaves_one(tmp_path: Path) -> None:
    work = WorkDir(tmp_path)
    assert work.load_failure(StepName.export) is None
    failure = Failure(step="export", reason=Reason.InvalidModel, message="no model")
    work.save_failure(failure)
    assert work.load_failure(StepName.export) == failure


def test_record_of_another_release_is_refused_by_name(tmp_path: Path) -> None:
    work = WorkDir(tmp_path)
    folder = work.folder(StepName.stage)
    folder.mkdir(parents=True)
    (folder / "record.json").write_text('{"contractVersion": 99, "source": "x"}')
    with pytest.raises(BurnishError) as caught:
        work.load(StepName.stage, StageRecord)
    assert "another release" in caught.value.message


def test_record_behind_a_link_is_not_read(tmp_path: Path) -> None:
    work = WorkDir(tmp_path / "work")
    secret = tmp_path / "secret.json"
    secret.write_text('{"source": "x"}')
    folder = work.folder(StepName.stage)
    folder.mkdir(parents=True)
    (folder / "record.json").symlink_to(secret)
    with pytest.raises(OSError):
        work.load(StepName.stage, StageRecord)


@pytest.mark.parametrize("relative", ["../outside", "steps/../../outside", "/etc/passwd"])
def test_path_outside_the_work_directory_is_refused(tmp_path: Path, relative: str) -> None:
    with pytest.raises(BurnishError):
        WorkDir(tmp_path / "work").path(relative)


def test_path_through_a_link_is_refused(tmp_path: Path) -> None:
    work = WorkDir(tmp_path / "work")
    work.root.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (work.root / "steps").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BurnishError):
        work.path("steps/model.onnx")
