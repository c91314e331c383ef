"""docs/benchmarks.md: exactly what the committed figures give."""

import importlib
import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
MACHINE = {
    "date": "2026-11-23", "revision": "abc", "cpu": "CPU X", "isa": ["AVX2"], "cpus": 2, "memoryGiB": 8.0, "kernel": "6.1", "python": "3.11.7",
    "onnxruntime": "1.32.0", "triton": "2.51.0",
}  # fmt: skip
OVERHEAD = {
    "machine": MACHINE,
    "summary": {"burnish": 25.0, "byHand": 21.0, "overhead": 4.0, "overheadMet": False, "cached": 1.2, "cachedMet": True},
    "repetitions": [
        {"burnish": 25.0, "byHand": 21.0, "cached": [1.2], "rounds": 40, "steps": {"export": 0.8}, "parts": {"rounds": 9.0}, "loadAverage": 1.0}
    ],
}

SIDE = {"perSecond": 900.0, "p50": 1.1, "p99": 2.0}
SERVING = {
    "machine": MACHINE,
    "summary": {"firstMedian": 11.0, "firstP90": 12.5, "local": 20.0, "cluster": 32.0, "overhead": 13.0},
    "pipeline": [
        {
            "local": {"seconds": seconds, "steps": {"resolve": 0.4, "measure": 14.0}},
            "cluster": {"seconds": seconds + 13, "parts": {"resolve Job": 6.0, "pod's start": 1.0, "measure": 15.0}},
            "loadAverage": 1.0,
        }
        for seconds in (19.0, 20.0, 21.0)
    ],
    "first": [{"pod ready": 9.0, "first answer": 11.0}],
    "requests": [
        {
            "model": "digits",
            "served": "static",
            "concurrency": 4,
            "threads": 1,
            "share": {"estimate": 0.3, "low": 0.28, "high": 0.32},
            "triton": SIDE,
            "bare": SIDE,
        }
    ],
}

INT8 = {"speed": {"estimate": 2.5, "low": 2.4, "high": 2.6}, "size": 0.25, "met": True}
RUNTIMES = {
    "machine": MACHINE | {"openvino": "2026.4.1 3.4.0"},
    "loadAverage": [1.0, 1.0],
    "rows": [
        {"example": "minilm", "candidate": "ort dynamic", "against": "ort baseline", "cosine": 0.994, "worstCosine": 0.987, "target": "at least 1.7", **INT8},
        {"example": "resnet", "candidate": "ort static", "against": "ort baseline", "accuracy": 0.95, "target": "for information", **INT8, "met": None},
    ],
    "conversions": [
        {"example": "resnet", "part": "export", "seconds": 9.0, "secondsByHand": 8.0, "over": 1.0, "mib": 1200, "mibByHand": 1100, "met": True, "pairs": [[]]}
    ],
}  # fmt: skip


@pytest.fixture
def render(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("render")
    for name in ("render", "figures"):
        sys.modules.pop(name, None)


def test_page_is_what_the_committed_figures_give(render):
    assert render.PAGE.read_text() == render.render(render.figures.load(render.figures.RESULTS))


def test_page_names_what_was_not_measured(render):
    page = render.render({"overhead": OVERHEAD})
    assert "Not measured yet: `.venv/bin/python tests/benchmarks/bench_gate.py`" in page
    assert "bench_overhead.py`" not in page


def test_page_says_so_where_a_target_is_missed(render):
    lines = {line.split(" | ")[0]: line for line in render.render({"overhead": OVERHEAD}).splitlines()}
    assert lines["| overhead, paired"].endswith("| 4.0 | 4.0 to 4.0 | at most 3 s or 5 % | **no** |")
    assert lines["| `burnish run`, all in the store"].endswith("| at most 2 s | yes |")


def test_page_puts_the_clusters_seconds_beside_those_of_the_same_step_without_it(render):
    lines = {line.split(" | ")[0]: line for line in render.render({"serving": SERVING}).splitlines()}
    assert lines["| overhead, paired"].endswith("| 13.0 | 13.0 to 13.0 |")
    assert lines["| resolve Job"].endswith("| 6 | 0.4 |")
    assert lines["| pod's start"].endswith("| 1 |  |")
    assert lines["| digits"].endswith("| static | 4 | 900 | 900 | 0.300 (0.280 to 0.320) | 1.1 / 2 | 1.1 / 2 |")


def test_page_tells_of_each_runtime_what_it_was_held_to(render):
    lines = [line for line in render.render({"runtimes": RUNTIMES}).splitlines() if line.startswith(("| minilm", "| resnet"))]
    assert lines == [
        "| minilm | ort dynamic | ort baseline | 2.50x (2.40x to 2.60x) | cosine 0.9940, worst 0.9870 | 0.25 | at least 1.7 | yes |",
        "| resnet | ort static | ort baseline | 2.50x (2.40x to 2.60x) | accuracy 0.9500 | 0.25 | for information | - |",
        "| resnet | export | 9.0 | 8.0 | 1.0 | 1200 / 1100 | yes |",
    ]


def test_page_is_the_same_after_a_round_through_a_file(render, tmp_path):
    (tmp_path / "overhead.json").write_text(json.dumps(OVERHEAD))
    assert render.render(render.figures.load(tmp_path)) == render.render({"overhead": OVERHEAD})


def test_interval_has_no_more_digits_than_its_width_carries(render):
    assert render.figures.interval({"estimate": 2.8512, "low": 2.7941, "high": 2.9133}, "x") == "2.85x (2.79x to 2.91x)"
    assert render.figures.interval({"estimate": 1.05012, "low": 1.04733, "high": 1.05311}) == "1.0501 (1.0473 to 1.0531)"
