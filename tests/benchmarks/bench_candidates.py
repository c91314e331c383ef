"""Are Burnish's candidates as good as what onnxruntime.quantization gives somebody who calls it by hand?

For each example whose data is there: every candidate that `burnish run` built, its hand-made peers (by_hand.py: same source, same calibration
data) and the FP32 baseline, bare in ONNX Runtime, one thread, interleaved blocks in one process on one CPU, paired ratios with 99 % intervals;
scores on the evaluation data; and the speedup over FP32 at the client, from the run's own record.
Target, against each peer: its score is not shown to be better (paired, 95 %), and the candidate has at least 0.97 of its speed, unless its score
is shown to be worse: a fast wrong answer is no peer.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import bare
import by_hand
import example
import figures
import machine
from burnish import names
from burnish.api.job_contract import BuildStepRecord, ExportRecord, PipelineRequest, StepName
from burnish.measurement import scoring, statistics
from burnish.pipeline import samples
from burnish.pipeline.samples import Samples
from burnish.plugins.base import Session
from burnish.plugins.runtimes import _onnxruntime_session as ort

EXAMPLES = ("digits", "magika", "ocr")
SPEED_TARGET = 0.97
VARIANTS: dict[str, dict[str, Sequence[str] | None]] = {
    "static": {"all types": None, "weighted types": by_hand.WEIGHTED},
    "static-ends": {"all types": None, "weighted types": by_hand.WEIGHTED},
    "dynamic": {"MatMul, Gemm, Gather": None},
}
"""Candidate -> the ways in which it is made by hand -> operator types."""


def compare(name: str, folder: Path, rounds: int) -> list[dict[str, Any]]:
    """One row per candidate of an example."""
    run = example.run(name, folder)
    print(f"{name}: burnish run took {run.seconds:.0f} s", flush=True)
    request = run.work.load_request()
    data = samples.open_datasets(run.work, request, run.work.load(StepName.export, ExportRecord).signature)
    built = {m.name: m for m in run.work.load(StepName.build, BuildStepRecord).models if m.directory is not None}
    files = {candidate: run.work.path(model.directory or "") / "model" / "model.onnx" for candidate, model in built.items()}
    candidates = [candidate for candidate in built if candidate != names.BASELINE]
    peers = make_peers(candidates, next(run.work.input.glob("source/*.onnx")), folder, data)
    files |= {peer.key: peer.file for peer in peers if not peer.failure}
    with machine.kept_to([max(os.sched_getaffinity(0))]):
        sessions: dict[str, Session] = {key: ort.open_session(path, threads=1) for key, path in files.items()}
        print(f"{name}: measuring {len(sessions)} models in {rounds} rounds", flush=True)
        medians = bare.measure(sessions, data.feeds(bare.FEEDS), rounds)
        scores = score(sessions, data, request)
    summary = run.record.measurement.summary
    return [
        {
            "example": name,
            "candidate": candidate,
            "bytes": built[candidate].size_bytes,
            "fp32Bytes": built[names.BASELINE].size_bytes,
            "score": _mean(scores[candidate]),
            "fp32Score": _mean(scores[names.BASELINE]),
            "samples": len(scores[candidate]),
            "metric": request.datasets.evaluation.metric.value if request.datasets.evaluation else "",
            "bareSpeedup": bare.interval(statistics.paired_ratio(medians[names.BASELINE], medians[candidate])),
            "clientSpeedup": _inverse(summary.candidates[candidate].speeds[0].ratio.model_dump()),
            "verdict": _verdict(run, candidate),
            "peers": [_against(peer, medians, scores) for peer in peers if peer.candidate == candidate],
        }
        for candidate in candidates
    ]


@dataclasses.dataclass(frozen=True)
class Peer:
    """A candidate made by hand, or why it could not be: tools that fail are a finding."""

    candidate: str
    variant: str
    file: Path
    failure: str = ""

    @property
    def key(self) -> str:
        """Beside the candidates' names."""
        return f"{self.candidate} by hand, {self.variant}"


def make_peers(candidates: Sequence[str], source: Path, folder: Path, data: Samples) -> list[Peer]:
    """Every way by hand, each loaded and run once. Where all of them fail, one more without fused nodes, as somebody would try next."""
    feeds = data.calibration.feeds(1) if data.calibration else []
    fused, unfused = folder / "fused.onnx", folder / "unfused.onnx"
    by_hand.prepare(source, fused)
    by_hand.prepare(source, unfused, fuse=False)
    peers: list[Peer] = []
    for candidate in candidates:
        made = [make_peer(candidate, variant, fused, feeds, op_types) for variant, op_types in VARIANTS[candidate].items()]
        if all(peer.failure for peer in made):
            made.append(make_peer(candidate, "weighted types, not fused", unfused, feeds, by_hand.WEIGHTED))
        peers += made
    return peers


def make_peer(candidate: str, variant: str, prepared: Path, feeds: Sequence[by_hand.Feed], op_types: Sequence[str] | None) -> Peer:
    """One way by hand."""
    peer = Peer(candidate, variant, prepared.with_name(f"{candidate}-{variant.replace(' ', '')}.onnx"))
    try:
        by_hand.quantize(candidate, prepared, peer.file, feeds, op_types=op_types)
        ort.open_session(peer.file, threads=1).infer(feeds[0])
    except Exception as error:  # whatever the tools or the runtime raise
        peer = dataclasses.replace(peer, failure=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
        print(f"{peer.key}: {peer.failure}", flush=True)
    return peer


def score(sessions: Mapping[str, Session], data: Samples, request: PipelineRequest) -> dict[str, tuple[float, ...]]:
    """Session -> per-sample scores on all evaluation samples, by the manifest's metric."""
    spec, evaluation = request.datasets.evaluation, data.evaluation
    assert spec is not None and evaluation is not None, "the examples have evaluation data"
    scored = scoring.scoring(spec, evaluation.labels, len(evaluation))
    kept: dict[str, list[scoring.Kept]] = {name: [] for name in sessions}
    for number, feed in enumerate(evaluation.feeds(1)):
        for name, session in sessions.items():
            outputs = session.infer(feed)
            output = spec.output or next(iter(outputs))
            kept[name] += scored.keep(outputs[output], number, output)
    return {name: scored.scores(found, kept[names.BASELINE]) for name, found in kept.items()}


def _against(peer: Peer, medians: Mapping[str, np.ndarray], scores: Mapping[str, tuple[float, ...]]) -> dict[str, Any]:
    if peer.failure:
        return {"variant": peer.variant, "failure": peer.failure, "met": True}
    speed = statistics.paired_ratio(medians[peer.key], medians[peer.candidate])
    drop = statistics.score_drop(scores[peer.key], scores[peer.candidate])
    is_better, is_worse = drop.low > 0, drop.high < 0
    return {
        "variant": peer.variant,
        "bytes": peer.file.stat().st_size,
        "score": _mean(scores[peer.key]),
        "speed": bare.interval(speed),
        "scoreDrop": bare.interval(drop),
        "met": not is_better and (speed.estimate >= SPEED_TARGET or is_worse),
    }


def _verdict(run: example.Run, candidate: str) -> str:
    from burnish.measurement import limits

    record = run.record.measurement
    return limits.judge(record.sides[candidate], record.summary, candidate, run.work.load_request().constraints).verdict.value


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 4)


def _inverse(ratio: Mapping[str, float]) -> dict[str, float]:
    return {"estimate": round(1 / ratio["estimate"], 4), "low": round(1 / ratio["high"], 4), "high": round(1 / ratio["low"], 4)}


def _cells(row: Mapping[str, Any], peer: Mapping[str, Any]) -> list[str]:
    is_first = peer is row["peers"][0]
    bare, client = (figures.interval(row[key], "x") for key in ("bareSpeedup", "clientSpeedup"))
    ours = [row["example"], row["candidate"], f"{row['score']:.4f}", f"{row['fp32Score']:.4f}", bare, client, row["verdict"]]
    theirs = ["-", peer["failure"][:50]] if "failure" in peer else [f"{peer['score']:.4f}", figures.interval(peer["speed"])]
    return [*(ours if is_first else [""] * len(ours)), peer["variant"], *theirs, "yes" if peer["met"] else "NO"]


def main() -> None:
    """Run, print, save."""
    parser = figures.parser(__doc__)
    parser.add_argument("examples", nargs="*", default=EXAMPLES, help=f"which ones (default: {' '.join(EXAMPLES)})")
    options = parser.parse_args()
    machine.end_cleanly_on_sigterm()
    about, rows, skipped, load = machine.describe(), [], {}, []
    for name in options.examples:
        if missing := example.missing_data(name):
            skipped[name] = f"{missing[0]} is missing: make examples"
            print(f"{name}: skipped, {skipped[name]}")
            continue
        print(f"{name} ...", flush=True)
        with tempfile.TemporaryDirectory(prefix="burnish-candidates-") as folder:
            rows += compare(name, Path(folder), 20 if options.quick else 150)
        load.append(machine.load_average())
    figures.print_table(
        [
            "example",
            "candidate",
            "score",
            "FP32",
            "over FP32, bare",
            "over FP32, client",
            "verdict",
            "made by hand",
            "score",
            "our speed / its",
            "met",
        ],
        [_cells(row, peer) for row in rows for peer in row["peers"]],
    )
    if options.quick or tuple(options.examples) == EXAMPLES:
        figures.save("candidates", {"machine": about, "loadAverage": load, "skipped": skipped, "rows": rows}, quick=options.quick)


if __name__ == "__main__":
    main()
