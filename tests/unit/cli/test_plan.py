"""`burnish plan`: what it prints, and how it refuses; what it promises is held to a run in tests/pipeline."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from burnish.cli.main import main
from burnish.errors import ExitCode

HEAD = b"\x08\x09\x12\x04test"
"""How an ONNX file begins."""


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """Writes a manifest of this source."""
    (tmp_path / "model.onnx").write_bytes(HEAD)

    def made(uri: str = "file:model.onnx") -> Path:
        spec = {"source": {"uri": uri}, "targets": [{"name": "cpu", "runtime": "ONNXRuntime"}]}
        path = tmp_path / "digits.yaml"
        path.write_text(json.dumps({"apiVersion": "burnish.dev/v1alpha1", "kind": "OptimizedModel", "metadata": {"name": "digits"}, "spec": spec}))
        return path

    return made


def test_yaml_json_and_table_tell_the_same(write: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["plan", str(write()), "--store", str(tmp_path / "store")]
    told = {}
    for form in ("yaml", "json", "table"):
        assert main([*arguments, "-o", form]) == ExitCode.OK
        told[form] = capsys.readouterr().out
    digest = f"sha256:{hashlib.sha256(HEAD).hexdigest()}"
    steps = ["stage", "export", "compress", "build", "measure", "publish"]
    assert yaml.safe_load(told["yaml"]) == {
        "name": "digits",
        "sources": [{"field": "spec.source.uri", "uri": "file:model.onnx", "digest": digest, "stored": False}],
        "targets": [
            {
                "name": "cpu",
                "plan": "Build",
                "passes": [],
                "steps": [{"name": step, "state": "run"} for step in steps],
                "artifact": "Miss",
                "measurement": "Miss",
                "candidates": None,
                "verdict": None,
            }
        ],
    }
    assert told["yaml"].startswith("name: digits\nsources:\n- field: spec.source.uri\n")  # in this order, for people
    assert json.loads(told["json"]) == yaml.safe_load(told["yaml"])
    assert told["table"].splitlines() == [
        f"spec.source.uri: file:model.onnx: {digest}, to be put into the store",
        "digits/cpu: Build",
        "  " + "  ".join(f"{step}: run" for step in steps),
        "  candidates: known once the model is converted (no passes)",
        "  verdict: known once it is measured",
    ]
    assert not (tmp_path / "store").exists()


def test_remote_source_that_nobody_fetched_is_unknown(write: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(write("s3://models/model.onnx")), "--store", str(tmp_path / "store"), "-o", "yaml"]) == ExitCode.OK
    found = yaml.safe_load(capsys.readouterr().out)
    assert (found["sources"][0]["digest"], found["targets"][0]["plan"], found["targets"][0]["steps"]) == (None, "Unknown", [])


@pytest.mark.parametrize("command", ["plan", "run"])
@pytest.mark.parametrize(
    ("uri", "words"),
    [
        (
            "pvc://models/model.onnx",
            "spec.source.uri: pvc://models/model.onnx is a volume of a cluster; on this machine use file:, s3:, gs:, az:, hf: or https:",
        ),
        ("ftp://models/model.onnx", "spec.source.uri: ftp: is not supported; use s3:"),
        ("http://h/model.onnx", "spec.source.uri: http://h/model.onnx is not encrypted"),
        ("model.onnx", "write file:model.onnx"),
    ],
)
def test_source_that_this_machine_can_not_read_is_refused(
    command: str, uri: str, words: str, write: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, str(write(uri)), "--store", str(tmp_path / "store")]) == ExitCode.INVALID
    told = capsys.readouterr().err
    assert "InvalidManifest: " in told
    assert words in told
    assert "Traceback" not in told


@pytest.mark.parametrize(
    ("store", "words"),
    [
        ("pvc://burnish-store/x", "--store: a store at pvc: is a volume of a cluster, which the chart's store.volume names; here name a directory"),
        ("pvc:burnish-store", "--store: a store at pvc: is a volume of a cluster"),
        ("gs://bucket/x", "--store: a store at gs: is not supported; here name a directory"),
        ("s3:bucket/x", "--store: an s3 store is s3://bucket/prefix"),
    ],
)
def test_store_that_this_machine_can_not_reach_is_refused(
    store: str, words: str, write: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plan", str(write()), "--store", store]) == ExitCode.INVALID
    assert f"burnish: InvalidManifest: {words}" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digits.yaml", "model.onnx"]
