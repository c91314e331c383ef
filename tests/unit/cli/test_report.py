"""`burnish report`: where pages go, and what is said where they can't."""

from __future__ import annotations

from pathlib import Path

import pytest

from burnish.cli import report
from burnish.errors import BurnishError, Reason


@pytest.mark.parametrize(
    ("wanted", "several", "path"),
    [
        (None, False, "/reports/m-cpu.html"),
        (None, True, "/reports/m-cpu.html"),
        ("nodir/x.html", False, "nodir/x.html"),
        ("nodir/x.html", True, "nodir/x-cpu.html"),
    ],
)
def test_page_path_of_one_target_is_the_wanted_one_and_of_several_names_them(wanted: str | None, several: bool, path: str) -> None:
    assert report.page_path(Path(wanted) if wanted else None, Path("/reports"), "m", "cpu", several=several) == Path(path)


@pytest.mark.parametrize("wanted", [".", "/", "/proc"])
@pytest.mark.parametrize("several", [True, False])
def test_page_path_that_is_a_directory_is_refused(wanted: str, several: bool) -> None:
    with pytest.raises(BurnishError) as caught:
        report.page_path(Path(wanted), Path(), "m", "cpu", several=several)
    assert caught.value.reason is Reason.InvalidManifest


def test_render_to_where_nothing_can_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "afile").touch()
    for path in (tmp_path / "afile" / "x.html", Path("/proc/nothing/x.html")):
        with report.Drawing(str(tmp_path), "default") as drawing, pytest.raises(BurnishError) as caught:
            report.render(drawing, "m.cpu", path)
        assert caught.value.reason is Reason.InvalidManifest
        assert str(path) in str(caught.value)


def test_render_makes_the_directory_and_leaves_no_page_when_it_fails(tmp_path: Path) -> None:
    with report.Drawing(str(tmp_path / "store"), "default") as drawing:
        for _ in range(2):  # the process that draws goes on after a failure
            with pytest.raises(BurnishError, match="has no result m"):
                report.render(drawing, "m.cpu", tmp_path / "nodir" / "x.html")
    assert list((tmp_path / "nodir").iterdir()) == []


def test_drawing_that_was_killed_is_told(tmp_path: Path) -> None:
    with report.Drawing(str(tmp_path), "default") as drawing:
        drawing.start_if_possible()
        assert drawing._process is not None
        drawing._process.kill()
        with pytest.raises(BurnishError, match="its process ended") as caught:
            report.render(drawing, "m.cpu", tmp_path / "x.html")
    assert caught.value.reason is Reason.InternalError
