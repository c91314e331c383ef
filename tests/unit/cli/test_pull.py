"""`burnish pull`: all of an artifact or nothing of it, wherever it is asked for."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from burnish.cli import pull
from burnish.cli.main import main
from burnish.errors import ExitCode
from burnish.store.store import Store

FILES = ["CARD.md", "artifact.json", "manifest.json", "model/model.onnx"]


def files(directory: Path) -> list[str]:
    return sorted(str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file())


@pytest.fixture
def arguments(artifact: str, tmp_path: Path) -> list[str]:
    return ["pull", artifact, "--store", str(tmp_path / "store"), "-n", "vision", "-o"]


@pytest.mark.parametrize("there", [True, False], ids=["into an empty directory", "into a new one"])
def test_pull_writes_an_artifact_and_nothing_beside_it(there: bool, arguments: list[str], tmp_path: Path) -> None:
    target = tmp_path / "pulled" / "here"
    if there:
        target.mkdir(parents=True)
    assert main([*arguments, str(target)]) == ExitCode.OK
    assert files(target) == FILES
    assert [p.name for p in target.parent.iterdir()] == ["here"]
    assert target.stat().st_mode == (tmp_path / "made").stat().st_mode


def test_pull_into_the_current_directory_leaves_it_the_current_directory(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert main([*arguments, "."]) == ExitCode.OK
    assert files(Path.cwd()) == FILES


def test_pull_takes_the_uri_of_a_status_whatever_the_store_option_says(artifact: str, store: Store, tmp_path: Path) -> None:
    uri = f"{store.location}@{artifact}"
    assert main(["pull", uri, "--store", str(tmp_path / "other"), "-o", str(tmp_path / "pulled")]) == ExitCode.OK
    assert files(tmp_path / "pulled") == FILES


@pytest.mark.parametrize("place", ["/proc/x", "afile", "afile/sub", "full"])
def test_pull_to_where_nothing_can_be_made_is_told_with_its_option(
    place: str, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "afile").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "theirs").touch()
    assert main([*arguments, str(tmp_path / place)]) == ExitCode.INVALID
    told = capsys.readouterr().err
    assert told.startswith("burnish: InvalidManifest: --output: ")
    assert str(tmp_path / place) in told
    assert (tmp_path / "afile").read_text() == "mine"


@pytest.mark.parametrize("there", [True, False], ids=["into an empty directory", "into a new one"])
def test_pull_that_ctrl_c_ends_leaves_nothing_and_can_be_repeated(
    there: bool, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "pulled" / "here"
    if there:
        target.mkdir(parents=True)

    def press_ctrl_c(*_: object) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(pull.card, "render", press_ctrl_c)  # the last thing that is made
        assert main([*arguments, str(target)]) == ExitCode.INTERRUPTED
    assert [p.name for p in target.parent.iterdir()] == (["here"] if there else [])
    assert main([*arguments, str(target)]) == ExitCode.OK
    assert files(target) == FILES


def test_pull_of_a_digest_that_is_not_there_makes_no_directory(arguments: list[str], tmp_path: Path) -> None:
    arguments[1] = "sha256:" + "1" * 64
    assert main([*arguments, str(tmp_path / "pulled")]) == ExitCode.FAILED
    assert not (tmp_path / "pulled").exists()


def test_pull_looks_in_the_named_store_for_a_name() -> None:
    options = argparse.Namespace(artifact="m/cpu", store="/nowhere", namespace="vision")
    store, reference = pull._open(options)
    assert (store.location, reference) == ("/nowhere/local/vision", "m/cpu")
