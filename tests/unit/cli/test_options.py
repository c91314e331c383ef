"""Options that every command takes alike, and usage errors that argparse has to find."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from burnish.api.v1alpha1.status import ArtifactStatus, Served
from burnish.cli import locations
from burnish.cli.main import main
from burnish.store.store import open_store


def parsed(*arguments: str) -> str:
    parser = argparse.ArgumentParser()
    locations.add_store_option(parser)
    store: str = parser.parse_args(arguments).store
    return store


def test_store_is_absolute_because_every_step_works_in_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parsed("--store", "here/store") == str(tmp_path / "here" / "store")
    assert parsed("--store=~nobody-of-that-name/store") == str(tmp_path / "~nobody-of-that-name" / "store")
    assert Path(parsed("--store=~/store")) == Path("~/store").expanduser()
    assert parsed("--store", "file:///srv/store") == "file:///srv/store"
    assert Path(parsed()).is_absolute()


@pytest.mark.parametrize("text", ["", " ", "x" * 1000])
def test_store_that_names_no_usable_place_is_a_usage_error(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["report", "m", "--store", text])
    assert ended.value.code == 2
    assert "--store" in capsys.readouterr().err


def test_longest_store_still_has_room_for_an_artifacts_uri() -> None:
    longest = locations.store_location("/" + "x" * (locations.MAX_STORE_LENGTH - 1))
    digest = "sha256:" + "0" * 64
    uri = f"{open_store(longest, namespace='n' * 63).location}@{digest}"
    assert ArtifactStatus(digest=digest, uri=uri, size="1", served=Served.Baseline).uri == uri


@pytest.mark.parametrize("action", ["list", "install"])
def test_unknown_toolchain_is_a_usage_error_that_lists_the_known(action: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["toolchain", action, "bogus"])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert "bogus" in told
    assert "triton" in told


def test_toolchains_are_listed_where_none_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["toolchain", "list"]) == 0
    assert "onnx: " in capsys.readouterr().out
