"""The examples with data from packages: each is run as the README says, and judged by kinds of reasons, not by which limit struck.

`make examples` makes their data. What INT8 does to them depends on the CPU, so no winner is pinned.
"""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from sklearn.metrics import f1_score

pytestmark = pytest.mark.alone

ROOT = Path(__file__).parents[2]
VERDICTS = {"ScoreBelowLimit", "OutputsDiffer", "SlowerThanBaseline", "SpeedupBelowLimit", "Undecided", "LimitsHeld"}


def run_example(name: str, tmp_path: Path) -> tuple[int, dict[str, Any], str]:
    """Exit code, object and report of one example."""
    report = tmp_path / "report.html"
    command = [
        sys.executable,
        "-m",
        "burnish.cli",
        "run",
        f"examples/{name}.yaml",
        "-o",
        "json",
        "--store",
        str(tmp_path / "store"),
        "--report",
        str(report),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert "Traceback" not in done.stderr, done.stderr[-2000:]
    return done.returncode, json.loads(done.stdout), report.read_text()


def check_evidence(target: dict[str, Any], report: str) -> None:
    """Every candidate stands in status and report, with its numbers and a reason."""
    assert {c["name"] for c in target["candidates"]} == {"static", "dynamic", "static-ends"}
    for candidate in target["candidates"]:
        assert candidate["reason"] in VERDICTS, candidate
        assert candidate["message"]
        assert float(candidate["speedup"]) > 0
        assert 0 <= float(candidate["score"]) <= 1
        assert candidate["name"] in report
    assert target["baseline"]["score"] == "1", "agreement with itself"


@pytest.mark.long
def test_ocr_refuses_every_candidate_and_serves_the_baseline(tmp_path: Path) -> None:
    code, found, report = run_example("ocr", tmp_path)
    (target,) = found["status"]["targets"]
    check_evidence(target, report)
    assert code == 0
    assert target["state"] == "Published"
    assert target["reason"] == "BaselineServed"
    assert target["artifact"]["served"] == "Baseline"
    assert target["artifact"]["digest"] == target["baseline"]["digest"]
    assert all(c["verdict"] in ("Refused", "Undecided") for c in target["candidates"])
    assert any(c["reason"] == "ScoreBelowLimit" for c in target["candidates"]), "INT8 loses whole lines"
    ready = next(c for c in found["status"]["conditions"] if c["type"] == "Ready")
    assert (ready["status"], ready["reason"]) == ("True", "BaselineServed")


@pytest.mark.long
def test_text_detection_is_judged_by_how_far_its_masks_overlap(tmp_path: Path) -> None:
    code, found, report = run_example("ocr-detection", tmp_path)
    (target,) = found["status"]["targets"]
    (candidate,) = target["candidates"]
    assert code == 0, target
    assert target["baseline"]["score"] == "1", "agreement with itself"
    assert 0.9 < float(candidate["score"]) < 1, "a mean overlap: some pixels change, most stay"
    assert target["score"]["samples"] == 32 and "static" in report


@pytest.mark.long
def test_direction_of_lines_is_scored_by_f1(tmp_path: Path) -> None:
    code, found, _ = run_example("ocr-direction", tmp_path)
    (target,) = found["status"]["targets"]
    with np.load(ROOT / "examples/.work/ocr/direction-evaluation.npz") as data:
        x, label = data["x"], data["label"]
    session = onnxruntime.InferenceSession(ROOT / "examples/.work/ocr/direction.onnx")
    expected = f1_score(label, session.run(None, {"x": x})[0].argmax(-1), average="macro")
    assert code == 0, target
    assert float(target["baseline"]["score"]) == pytest.approx(expected, abs=1e-4)
    (candidate,) = target["candidates"]
    assert candidate["reason"] in VERDICTS and float(candidate["score"]) == pytest.approx(expected, abs=0.05)


@pytest.mark.long
def test_accuracy_control_lifts_what_int8_costs_a_text_recogniser(tmp_path: Path) -> None:
    code, found, report = run_example("ocr-openvino", tmp_path)
    (target,) = found["status"]["targets"]
    candidates = {c["name"]: c for c in target["candidates"]}
    assert code == 0, target
    plain, controlled = candidates["static"], candidates["static-control"]
    assert float(plain["score"]) < float(controlled["score"]) - 0.03, "plain INT8 loses lines that control keeps"
    assert float(controlled["score"]) > 0.9
    kept = re.search(r"answers stay; in float: ([^<]+)", html.unescape(report))
    nodes = {node.name for node in onnx.load(ROOT / "examples/.work/ocr/model.onnx").graph.node}
    assert kept and set(kept[1].strip().split(", ")) <= nodes, "the report names what went back to float"


@pytest.mark.long
def test_magika_takes_integer_inputs_and_judges_agreement(tmp_path: Path) -> None:
    code, found, report = run_example("magika", tmp_path)
    (target,) = found["status"]["targets"]
    check_evidence(target, report)
    assert code == 0, target
    assert target["state"] == "Published"
    served = target["artifact"]["served"]
    accepted = [c["name"] for c in target["candidates"] if c["verdict"] == "Accepted"]
    assert (served == "Candidate") == bool(accepted)
    assert target["artifact"].get("candidate") in (accepted or [None])


@pytest.mark.parametrize(("name", "samples", "told"), [("images", 400, "folders' numbers: 0=0, 1=1"), ("text", 300, "preparing evaluation.jsonl")])
def test_images_and_text_are_judged_by_accuracy_as_they_lie_there(tmp_path: Path, name: str, samples: int, told: str) -> None:
    command = [sys.executable, "-m", "burnish.cli", "run", f"examples/{name}.yaml", "-o", "json", "--store", str(tmp_path / "store")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert told in done.stderr, done.stderr[-2000:]
    (target,) = json.loads(done.stdout)["status"]["targets"]
    assert float(target["baseline"]["score"]) >= 0.98, target
    assert target["reason"] in VERDICTS | {"BaselineServed", "Published"}, target
    (candidate,) = target["candidates"]
    assert float(candidate["score"]) >= 0.97, candidate
    assert target["score"]["samples"] == samples if "score" in target else True
