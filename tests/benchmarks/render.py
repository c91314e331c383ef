"""Writes docs/benchmarks.md from the figures in `results/`, and from nothing else: equal figures, equal page."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import figures

PAGE = figures.HERE.parents[1] / "docs" / "benchmarks.md"

Figures = Mapping[str, Any]

_HEAD = """# Benchmarks

What we claim about speed and about verdicts, and how it was measured. `make bench` measures everything again and writes this page from
`tests/benchmarks/results/`; `tests/benchmarks/bench_*.py --help` explains each. All figures are ratios or counts within one run: seconds of another
machine say little. Intervals of ratios are 99 %, paired over interleaved rounds, as in the product; of shares 95 % (Clopper and Pearson). CPU only:
what never ran stands in [limits.md](limits.md).
"""

_GATE = """## Does the gate tell the truth?

Verdicts about copies whose difference is known, on a real tritonserver held to 1 CPU, by the product's own engine, early stop and limits: the digits
CNN against a copy that differs in a doc string (*same*: each refusal is a false one), and against a copy that a backend slows down by real arithmetic
in each request (*slowed*). Every {per_server} experiments get a fresh server.
"""

_GATE_HONEST = """The experiments ran one after the other on one machine, and those on one server share its luck, so they are not entirely independent. The load
average while they ran was {median} (median) and {largest} (largest) on {cpus} CPUs; the load generator and the server alone make about 1, the rest was
other work. The experiments ran at nice level {niceness} (0 is ordinary, below it they go before the other work).
Refusing a 5 % slowdown at margin 0 says that the gate sees it; at margin 0 an *identical* model would stay Undecided, which is why the default margin is 3 %.
"""

_CANDIDATES = """## Are the candidates as good as hand-made ones?

Every candidate that `burnish run` built, against `onnxruntime.quantization` called by hand on the same source with the same calibration data
(tests/benchmarks/by_hand.py: U8/S8, per channel, MinMax, QDQ; dynamic without Conv), bare in ONNX Runtime, one thread, interleaved in one process.
*Our speed / its* is above 1 where ours is faster. A peer whose score is shown to be lower (paired, 95 %) sets no speed to reach.
Target: at least 0.97 of the peer's speed and no lower score.
"""

_CANDIDATES_FP32 = """Against FP32, which is what a user gains. At the client is through Triton, over HTTP, batch 1: transport costs both sides the same, so the
ratio is smaller than bare.
"""

_RUNTIMES = """## Do PyTorch's models pay on both CPU runtimes?

all-MiniLM-L6-v2 (a sentence-transformers directory; 64 tokens) and ResNet-18 (a state dict; 64x64 pixels), with the candidates that `burnish run` published, bare in their
runtimes, one thread, interleaved blocks in one process, batch 1. Of MiniLM the fastest one of each runtime whose vectors keep a mean cosine of .99. ResNet-18's static INT8
stands beside `quantize_static` and `nncf.quantize` called by hand on the same ONNX file with the same data, the latter also under OpenVINO's own `benchmark_app`, in turns.
"""

_COMPRESSION = """## Do pruning, training for integers, factorizing and sharing weights pay?

The digits CNN (0.77 M parameters, from ONNX and from a .pt2, which both go through ONNX to PyTorch), each list of passes as `burnish run` does it, then bare in ONNX Runtime, one thread,
interleaved in one process, batch 1, against the FP32 baseline of the same run; chains beside their single passes. timm's test_resnet (a state dict, trained as it is), an MLP and a Keras
CNN of 32 thousand parameters, and ResNet-18 at batch 16. Speeds and drops are means over seeds with the smallest and the largest, of a single seed its 99 % and 95 % intervals; a target of the score counts each seed's own one-sided
95 % bound.
"""

_CONVERSIONS = """Export and build alone, each a process of its own from start to end, against scripts that do the same by hand (tests/benchmarks/convert_by_hand.py), {count} times in
turns, medians. Burnish's export also reads the datasets, runs the source's framework on eight samples and keeps its answers; its build compares the artifact with them.
Target: at most 10 % or 2 s slower, and at most 10 % more memory at the peak. About 20 MiB of a build on OpenVINO are the same whatever the model is: pydantic, OpenSSL for the
digests, and Burnish's own modules. A model of a megabyte, whose build by hand takes less than 100 MiB, can't hide them.
"""

_OVERHEAD = """## What does Burnish add to the work itself?

`burnish run examples/digits.yaml` with an empty store, against one script that does the same work by hand (tests/benchmarks/hand_run.py: the same three
candidates, the same tritonserver and configs, as many evaluation requests, as many rounds of the same length), {count} times in turns, medians.
The script makes no report, checks no answer against the source, and files nothing.
"""


_CONTROLLER = """## Does the operator keep up with a thousand models?

On a real apiserver without nodes, etcd without fsync, everything on this machine's CPUs: the operator's own process against a bare client in the same run
(tests/benchmarks/bare_client.py: Kopf's watches, 16 workers, for each model a Job and a status, and nothing else). Both from their process's start
to the last model's first status. The operator looks at what it made as well, and tells events.
"""


_SERVING = """## What does a cluster add?

The local cluster (one node, everything on this machine's CPUs): to the work, until the first answer, and to each request.
"""

_SERVING_PIPELINE = """The example `digits` with an empty store: on the cluster from `kubectl apply` until it is published (S3 store and source), against `burnish run` (files), {count}
times in turns. The kubelet notes whole seconds, so a step's time is that much unsure, and holds the start of its container's Python.
"""

_SERVING_FIRST = """Another OptimizedModel of the same spec, with all in the store: no pipeline Job starts. Medians over {count}, from apply until each was seen; the 90th percentile
of the first answer is {p90:.1f} s.
"""

_SERVING_REQUESTS = """Requests of one sample through the Service from this machine (virtual Ethernet, kube-proxy), over kept-alive HTTP with binary tensors, in a closed loop of so many
workers, against a bare ONNX Runtime session of the same file, same threads, in the client's own process on as many CPUs. Triton runs in our image, with its Python-based
backend; the client shares the machine with it. Blocks of half a second in turns; *share* is Triton's throughput / the bare session's, paired, 99 %. Many Python threads
on one CPU cost the bare session too.
"""


def render(results: Mapping[str, Figures]) -> str:
    """The page.

    Args:
        results: name of the benchmark -> what it saved.
    """
    sections = {
        "gate": (_GATE, _gate),
        "candidates": (_CANDIDATES, _candidates),
        "runtimes": (_RUNTIMES, _runtimes),
        "compression": (_COMPRESSION, _compression),
        "overhead": (_OVERHEAD, _overhead),
        "controller": (_CONTROLLER, _controller),
        "serving": (_SERVING, _serving),
    }
    parts = [_HEAD]
    for name, (title, section) in sections.items():
        missing = f"{title.splitlines()[0]}\n\nNot measured yet: `.venv/bin/python tests/benchmarks/bench_{name}.py`.\n"
        parts.append(section(results[name]) if name in results else missing)
    return "\n".join(parts)


def _gate(found: Figures) -> str:
    series, slowdown, load = found["series"], found["slowdown"], found["loadAverage"]
    total = sum(s["count"] for s in series.values())
    rows = [
        [
            name,
            f"{s['marginPercent']} %",
            str(s["concurrency"]),
            str(s["count"]),
            str(s["accepted"]),
            f"{s['refused']} ({_percent(s['refusedShare']['low'])} to {_percent(s['refusedShare']['high'])})",
            str(s["undecided"]),
            f"{s['rounds']['median']} / {s['rounds']['p90']}",
            f"{s['seconds']['median']:.1f} / {s['seconds']['p90']:.1f}",
            f"{s['ratio']['p5']:.3f} / {s['ratio']['median']:.3f} / {s['ratio']['p95']:.3f}",
            s["target"],
            _met(s["met"]),
        ]
        for name, s in series.items()
    ]
    headers = [
        "series", "margin", "concurrency", "experiments", "accepted", "refused", "undecided", "rounds p50 / p90", "seconds per verdict p50 / p90",
        "ratio found p5 / p50 / p95", "target", "met",
    ]  # fmt: skip
    before, after = slowdown["before"], slowdown["after"]
    injected = (
        f"The injected slowdown, measured apart: p50 is {figures.interval(before)} times the baseline's before the experiments ({before['rounds']} rounds) "
        f"and {figures.interval(after)} times after them ({after['rounds']} rounds); the baseline's p50 was {before['baselineP50Ms']} ms and "
        f"{after['baselineP50Ms']} ms. Seconds per verdict hold the warm-up, not the server's start.\n"
    )
    honest = _GATE_HONEST.format(
        median=f"{load['median']:.1f}", largest=f"{load['max']:.1f}", niceness=found["niceness"], cpus=found["machine"]["cpus"]
    )
    return "\n".join(
        [_GATE.format(per_server=found["perServer"]), _table(headers, rows), injected, honest, _machine(found["machine"], f"{total} verdicts")]
    )


def _controller(found: Figures) -> str:
    rows = [[row["what"], row["found"], row["target"], _met(row["met"])] for row in found["summary"]]
    figures_of = (
        f"{found['count']} models: the bare client took {found['bareSeconds']} s, the operator {found['seconds']} s; a LIST of everything "
        f"{found['restart']['listSeconds']} s. Resident memory: {found['restKiB'] // 1024} MiB with nothing to do, {found['settledKiB'] // 1024} MiB "
        "after a restart with all of them.\n"
    )
    return "\n".join(
        [_CONTROLLER, _table(["what", "found", "target", "met"], rows), figures_of, _machine(found["machine"], f"{found['count']} models")]
    )


def _candidates(found: Figures) -> str:
    against_hand = [
        [
            row["example"],
            row["candidate"],
            peer["variant"],
            *(["-", f"fails: {_cell(peer['failure'])}", "-"] if "failure" in peer else _beside(row, peer)),
            _met(peer["met"]),
        ]
        for row in found["rows"]
        for peer in row["peers"]
    ]
    against_fp32 = [
        [
            row["example"],
            row["candidate"],
            figures.interval(row["bareSpeedup"], "x"),
            figures.interval(row["clientSpeedup"], "x"),
            f"{row['score']:.4f} ({row['fp32Score']:.4f})",
            f"{row['metric']}, {row['samples']}",
            f"{row['bytes'] / row['fp32Bytes']:.2f}",
            row["verdict"],
        ]
        for row in found["rows"]
    ]
    skipped = [f"{name} was not measured: {why}.\n" for name, why in found["skipped"].items()]
    hand_headers = ["example", "candidate", "by hand", "our speed / its", "score, ours and its", "size, ours / its", "met"]
    fp32_headers = ["example", "candidate", "speedup, bare", "speedup at the client", "score (FP32)", "metric, samples", "size / FP32", "verdict"]
    load = f"load average after each example {', '.join(map(str, found['loadAverage']))}"
    return "\n".join(
        [
            _CANDIDATES,
            _table(hand_headers, against_hand),
            _CANDIDATES_FP32,
            _table(fp32_headers, against_fp32),
            *skipped,
            _machine(found["machine"], load),
        ]
    )


def _beside(row: Figures, peer: Figures) -> list[str]:
    return [figures.interval(peer["speed"]), f"{row['score']:.4f}, {peer['score']:.4f}", f"{row['bytes'] / peer['bytes']:.2f}"]


def _compression(found: Figures) -> str:
    headers = ["passes", "seeds", "times as fast", "size / FP32", "drop of the score", "target", "met"]
    rows = []
    for row in found["rows"]:
        only = row["seeds"][0] if len(row["seeds"]) == 1 else row  # of a single training the intervals, of several the range
        cells = [row["case"], str(len(row["seeds"])), figures.interval(only["speed"], "x"), f"{row['size']:.2f}", figures.interval(only["drop"])]
        for position, target in enumerate(row["targets"] or [{"what": "-", "met": None}]):
            met = "-" if target["met"] is None else _met(target["met"])
            rows.append([*(cells if position == 0 else [""] * len(cells)), target["what"], met])
    counted = [f"{row['case']} {row['seeds'][0]['macs']:.2f}" for row in found["rows"] if "macs" in row["seeds"][0]]
    notes = f"Multiply-accumulates that are left, as a share of the original's: {', '.join(counted)}.\n"
    seeds = f"load average after each case {', '.join(map(str, found['loadAverage']))}"
    return "\n".join([_COMPRESSION, _table(headers, rows), notes, _machine(found["machine"], seeds)])


def _runtimes(found: Figures) -> str:
    speeds = [
        [
            row["example"],
            row["candidate"],
            row["against"],
            figures.interval(row["speed"], "x"),
            f"accuracy {row['accuracy']:.4f}" if "accuracy" in row else f"cosine {row['cosine']:.4f}, worst {row['worstCosine']:.4f}",
            f"{row['size']:.2f}",
            row["target"],
            _met(row["met"]),
        ]
        for row in found["rows"]
    ]
    conversions = [
        [
            row["example"],
            row["part"],
            f"{row['seconds']:.1f}",
            f"{row['secondsByHand']:.1f}",
            f"{row['over']:.1f}",
            f"{row['mib']} / {row['mibByHand']}",
            _met(row["met"]),
        ]
        for row in found["conversions"]
    ]
    speed_headers = ["model", "candidate", "against", "times as fast", "quality", "size / its", "target", "met"]
    conversion_headers = ["model", "part", "Burnish, s", "by hand, s", "paired difference, s", "peak MiB, Burnish / by hand", "met"]
    load = f"OpenVINO and NNCF {found['machine']['openvino']}; load average after each model {', '.join(map(str, found['loadAverage']))}"
    return "\n".join(
        [
            _RUNTIMES,
            _table(speed_headers, speeds),
            _CONVERSIONS.format(count=len(found["conversions"][0]["pairs"])),
            _table(conversion_headers, conversions),
            _machine(found["machine"], load),
        ]
    )


def _overhead(found: Figures) -> str:
    summary, repetitions = found["summary"], found["repetitions"]
    rows = [
        ["`burnish run`, fresh store", f"{summary['burnish']:.1f}", _range([r["burnish"] for r in repetitions]), "", ""],
        ["the same work by hand", f"{summary['byHand']:.1f}", _range([r["byHand"] for r in repetitions]), "", ""],
        [
            "overhead, paired",
            f"{summary['overhead']:.1f}",
            _range([r["burnish"] - r["byHand"] for r in repetitions]),
            "at most 3 s or 5 %",
            _met(summary["overheadMet"]),
        ],
        [
            "`burnish run`, all in the store",
            f"{summary['cached']:.2f}",
            _range([s for r in repetitions for s in r["cached"]]),
            "at most 2 s",
            _met(summary["cachedMet"]),
        ],
    ]
    steps = [f"{name} {_median([r['steps'][name] for r in repetitions]):.1f}" for name in repetitions[0]["steps"]]
    parts = [f"{name} {_median([r['parts'][name] for r in repetitions]):.1f}" for name in repetitions[0]["parts"]]
    detail = (
        f"Where the seconds go (medians): Burnish's steps {', '.join(steps)}, the rest is the command's own start and the report; "
        f"by hand {', '.join(parts)}.\n"
    )
    load = f"load average after each repetition {', '.join(str(r['loadAverage']) for r in repetitions)}"
    return "\n".join(
        [
            _OVERHEAD.format(count=len(repetitions)),
            _table(["what", "seconds", "smallest to largest", "target", "met"], rows),
            detail,
            _machine(found["machine"], load),
        ]
    )


def _serving(found: Figures) -> str:
    pairs, first, summary = found["pipeline"], found["first"], found["summary"]
    overheads = [pair["cluster"]["seconds"] - pair["local"]["seconds"] for pair in pairs]
    pipeline = [
        [what, f"{summary[key]:.1f}", _range(seconds)]
        for what, key, seconds in (
            ("apply to published, on the cluster", "cluster", [pair["cluster"]["seconds"] for pair in pairs]),
            ("`burnish run`", "local", [pair["local"]["seconds"] for pair in pairs]),
            ("overhead, paired", "overhead", overheads),
        )
    ]
    steps = pairs[0]["local"]["steps"]
    where = [
        [part, f"{_median([pair['cluster']['parts'][part] for pair in pairs]):.0f}", _steps_of_run(part, pairs, steps)]
        for part in pairs[0]["cluster"]["parts"]
    ]
    times = [[what, f"{_median([seen[what] for seen in first]):.1f}", _range([seen[what] for seen in first])] for what in first[0]]
    rows = [
        [
            row["model"],
            row["served"],
            str(row["concurrency"]),
            *(f"{row[side]['perSecond']:g}" for side in ("triton", "bare")),
            figures.interval(row["share"]),
            *(f"{row[side]['p50']:.3g} / {row[side]['p99']:.3g}" for side in ("triton", "bare")),
        ]
        for row in found["requests"]
    ]
    headers = ["model", "served", "workers", "Triton, /s", "bare, /s", "share", "Triton p50 / p99, ms", "bare p50 / p99, ms"]
    load = f"load average after each pair {', '.join(str(pair['loadAverage']) for pair in pairs)}"
    return "\n".join(
        [
            _SERVING,
            _SERVING_PIPELINE.format(count=len(pairs)),
            _table(["what", "seconds", "smallest to largest"], pipeline),
            _table(["where the seconds go (medians)", "on the cluster", "`burnish run`"], where),
            _SERVING_FIRST.format(count=len(first), p90=summary["firstP90"]),
            _table(["from apply until", "seconds", "smallest to largest"], times),
            _SERVING_REQUESTS,
            _table(headers, rows),
            _machine(found["machine"], load),
        ]
    )


def _steps_of_run(part: str, pairs: Sequence[Figures], steps: Figures) -> str:
    step = part.removesuffix(" Job")
    return f"{_median([pair['local']['steps'][step] for pair in pairs]):.1f}" if step in steps else ""


def _machine(about: Figures, more: str) -> str:
    return (
        f"*{about['date']}, revision {about['revision']}: {about['cpu']} ({', '.join(about['isa'])}), {about['cpus']} CPUs, {about['memoryGiB']} GiB, "
        f"Linux {about['kernel']}, Python {about['python']}, ONNX Runtime {about['onnxruntime']}, Triton {about['triton']}; {more}.*\n"
    )


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in (headers, ["---"] * len(headers), *rows)]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """The start of a message that came from elsewhere."""
    return text.replace("|", "/").replace("\n", " ")[:100]


def _met(met: bool | None) -> str:
    return {True: "yes", False: "**no**", None: "-"}[met]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.1f} to {max(values):.1f}"


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


def main() -> int:
    """Write the page, or with --check say whether it is what the figures give."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=figures.RESULTS, help="folder with the figures (default: the committed ones)")
    parser.add_argument("--output", type=Path, default=PAGE, help="page to write (default: docs/benchmarks.md)")
    parser.add_argument("--check", action="store_true", help="write nothing; fail where the page differs")
    options = parser.parse_args()
    text = render(figures.load(options.results))
    if options.check:
        if options.output.read_text() == text:
            return 0
        print(f"{options.output.name} is not what the figures give; run tests/benchmarks/render.py", file=sys.stderr)
        return 1
    options.output.write_text(text)
    print(f"wrote {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
