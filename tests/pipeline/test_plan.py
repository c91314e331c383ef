"""`burnish plan`: it promises what `burnish run` then does, and changes nothing."""

from __future__ import annotations

import shutil

import onnx
import pytest
import yaml
from tests.pipeline.conftest import EXAMPLES

pytestmark = pytest.mark.alone


def plan_of(project, manifest, store=None, **more):
    ran = project.burnish("plan", manifest, "--store", store or project.store, "-o", "json", **more)
    assert ran.code == 0, ran.stderr
    return ran.object


@pytest.fixture
def changed(digits, project, copy_of):
    """Writes the digits manifest with one part changed, beside what the first run left in the store."""
    copy_of(digits.project)

    def write(change):
        whole = yaml.safe_load(digits.manifest.read_text())
        for data in (whole["spec"]["source"], *whole["spec"]["datasets"].values()):
            data["uri"] = f"file:{digits.manifest.parent / data['uri'].removeprefix('file:')}"
        change(whole["spec"])
        path = project.path / "digits.yaml"
        path.write_text(yaml.safe_dump(whole))
        return path

    return write


def contents(folder):
    return {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in folder.rglob("*")}


def test_nothing_is_known_of_an_empty_store_and_nothing_is_made_there(digits, project):
    found = plan_of(project, digits.manifest)
    (target,) = found["targets"]
    assert (target["plan"], target["verdict"], target["candidates"]) == ("Build", None, None)
    assert {s["state"] for s in target["steps"]} == {"run"}
    assert not any(s["stored"] for s in found["sources"])
    assert not project.store.exists()


def test_what_was_run_is_known_with_its_verdict(digits):
    before = contents(digits.project.store)
    found = plan_of(digits.project, digits.manifest)
    (target,) = found["targets"]
    assert target["plan"] == "Nothing"
    assert {s["state"] for s in target["steps"]} == {"cached"}
    assert target["verdict"]["state"] == digits.first.target["state"]
    assert target["candidates"] == [c["name"] for c in digits.first.target["candidates"]]
    assert all(s["stored"] for s in found["sources"])
    assert found["sources"][0]["digest"] == digits.first.status["source"]["digest"]
    assert contents(digits.project.store) == before


def test_other_loads_are_measured_and_nothing_is_built(project, changed):
    (target,) = plan_of(project, changed(lambda spec: spec.update(measurement={"loads": [{"name": "other", "concurrency": 3}]})))["targets"]
    assert target["plan"] == "Measure"
    assert [s["name"] for s in target["steps"] if s["state"] == "run"] == ["stage", "measure", "publish"]
    assert target["verdict"] is None


def test_changed_limit_is_judged_from_the_record(project, changed):
    manifest = changed(lambda spec: spec["constraints"]["score"].update(maxDrop="0.3"))
    (target,) = plan_of(project, manifest)["targets"]
    assert target["plan"] == "Nothing"
    assert project.run(manifest).target["state"] == target["verdict"]["state"]


def test_swept_artifact_is_built_again(project, changed):
    manifest = changed(lambda spec: None)
    shutil.rmtree(project.store / "local" / "default" / "blobs")
    found = plan_of(project, manifest)
    assert [t["plan"] for t in found["targets"]] == ["Build"]
    assert not any(s["stored"] for s in found["sources"])


@pytest.mark.parametrize("is_pinned", [True, False], ids=["with a digest", "without"])
def test_remote_source_is_not_reached(is_pinned, digits, project, changed, site):
    digest = digits.first.status["source"]["digest"]

    def change(spec):
        spec["source"] = {"uri": site.uri("ok/model.onnx?signature=hunter2"), **({"digest": digest} if is_pinned else {})}

    site.seen.clear()
    manifest = changed(change)
    found = plan_of(project, manifest, env=site.environment)
    (target,) = found["targets"]
    assert site.seen == []
    assert (found["sources"][0]["digest"], found["sources"][0]["stored"]) == (digest if is_pinned else None, False)
    assert target["plan"] == ("Nothing" if is_pinned else "Unknown")  # its digest is all that a key is made of
    table = project.burnish("plan", manifest, "--store", project.store, env=site.environment)
    assert ("only fetching it tells" in table.stdout) is not is_pinned
    assert "hunter2" not in table.stdout + table.stderr


def test_wrong_manifest_is_refused_as_by_a_run(project, changed):
    manifest = changed(lambda spec: spec["source"].update(uri="http://h/model.onnx"))
    ran = project.burnish("plan", manifest, "--store", project.store)
    assert ran.code == 2
    assert "https" in ran.stderr
    manifest = changed(lambda spec: spec["source"].update(uri="file:none.onnx"))
    ran = project.burnish("plan", manifest, "--store", project.store)
    assert "SourceNotFound: spec.source.uri" in ran.stderr
    newer = onnx.load(EXAMPLES / "digits" / "model.onnx")
    newer.opset_import[0].version = 99
    onnx.save(newer, project.path / "newer.onnx")
    ran = project.burnish("plan", changed(lambda spec: spec["source"].update(uri="file:newer.onnx")), "--store", project.store)
    assert ran.code == 2
    assert "UnsupportedOpset: spec.source.uri: the model has opset 99" in ran.stderr and "export the model with an older opset" in ran.stderr
