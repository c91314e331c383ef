"""The report of a run that only looked up: left alone where it would come out the same, written again where it would not."""

from __future__ import annotations

import os

import pytest
import yaml

pytestmark = pytest.mark.alone

LONG_AGO_S = 1_000_000_000


@pytest.fixture
def page(digits, copy_of):
    """A page about a store of the test's own: where the store is stands in it."""
    project = copy_of(digits.project)
    assert project.run(digits.manifest, "--report", project.path / "report.html").target["cache"] == {"artifact": "Hit", "measurement": "Hit"}
    return project.path / "report.html"


def test_report_is_left_alone_when_nothing_changed(digits, project, page):
    before = page.read_bytes()
    os.utime(page, (LONG_AGO_S, LONG_AGO_S))
    project.run(digits.manifest, "--report", page)
    assert (page.stat().st_mtime, page.read_bytes()) == (LONG_AGO_S, before)


def test_report_is_written_again_when_it_was_cut_off(digits, project, page):
    whole = page.read_bytes()
    page.write_bytes(whole[: len(whole) // 2])
    project.run(digits.manifest, "--report", page)
    assert page.read_bytes() == whole


def test_report_is_written_again_when_a_limit_changed(digits, project, page):
    before = page.read_bytes()
    spec = yaml.safe_load(digits.manifest.read_text())["spec"]
    for entry in (spec["source"], *spec["datasets"].values()):
        entry["uri"] = f"file:{digits.manifest.parent / entry['uri'].removeprefix('file:')}"
    spec["constraints"]["score"]["maxDrop"] = "0.02"
    again = project.run(project.write(spec, "digits"), "--report", page)
    assert again.target["cache"]["measurement"] == "Hit"
    assert "0.02" in page.read_text()
    assert page.read_bytes() != before
