"""Does the gate tell the truth? Verdicts on a real Triton about copies whose difference is known.

  same        200 experiments, a copy that differs in a doc string, margin 3 %: at most 5 refused, at most 10 % Undecided
  slowed      100 experiments, a copy slowed by 5 % through real work in the backend, margin 0: at least 93 refused
  same, c4    40 experiments, as the first at concurrency 4, for information

A fresh server every few experiments: what one start does to one copy (where its memory lies) would else be in all of them. An interrupted run
goes on where it was, unless the code that measures has changed meanwhile. Takes about an hour; the machine must have nothing else to do.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import statistics
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import example
import figures
import gate_rig
import machine

PER_SERVER = 10
SLOWDOWN = 0.05
FIRST_GUESS = 600
"""Units of extra work."""
TARGETS = {
    "same": "at most 5 of 200 refused, at most 10 % Undecided",
    "slowed": "at least 93 of 100 refused",
    "same-c4": "for information",
}


@dataclasses.dataclass(frozen=True)
class Kind:
    """A series of equal experiments."""

    name: str
    copy: str
    margin_percent: int
    concurrency: int
    count: int
    about_seconds: float
    """Per experiment, for the first estimate."""


FULL = (
    Kind("same", gate_rig.SAME, 3, 1, 200, 9),
    Kind("slowed", gate_rig.SLOWED, 0, 1, 100, 7),
    Kind("same-c4", gate_rig.SAME, 3, 4, 40, 12),
)


class Progress:
    """Finished experiments, one line of JSON each, so that an interrupted run can go on."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        whole = path.read_text().rpartition("\n")[0] if path.exists() else ""  # a killed run may have left half a line
        lines = [json.loads(line) for line in whole.splitlines()]
        self.known: dict[str, Any] = {}
        self.done: dict[tuple[str, int], dict[str, Any]] = {}
        if lines and lines[0] == settings:
            self.known = {key: value for line in lines[1:] if "kind" not in line for key, value in line.items()}
            self.done = {(line["kind"], line["number"]): line for line in lines[1:] if "kind" in line}
            print(f"going on with {len(self.done)} experiments of an interrupted run ({path.name}; remove it to start anew)")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(settings) + "\n")

    def add(self, line: dict[str, Any]) -> None:
        """Keep something that took long."""
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        if "kind" in line:
            self.done[line["kind"], line["number"]] = line
        else:
            self.known |= line


def calibrate(rig: gate_rig.Rig, progress: Progress, *, quick: bool) -> int:
    """Find the extra work that raises the client's p50 by 5 %, and show by a measurement of its own that it does."""
    units, tries = FIRST_GUESS, 1 if quick else 4
    for number in range(tries + 1):
        found = slowdown(rig, units, 1000 + number, quick=quick)
        print(f"calibration: {units} units of work make p50 {figures.interval(found)} times the baseline's ({found['rounds']} rounds)", flush=True)
        if number and (abs(found["estimate"] - 1 - SLOWDOWN) <= 0.003 or number == tries):
            break
        units = max(1, round(units * SLOWDOWN / max(found["estimate"] - 1, 0.005)))
    progress.add({"units": units, "before": found})
    return units


def slowdown(rig: gate_rig.Rig, units: int, seed: int, *, quick: bool) -> dict[str, Any]:
    """What so much extra work makes of the client's p50, in a measurement far longer than an experiment."""
    width, most = (0.02, 200) if quick else (0.003, 1500)
    with rig.serve(units) as session:
        return session.ratio(gate_rig.SLOWED, half_width=width, max_rounds=most, seed=seed)


def plan(kinds: Iterable[Kind]) -> list[tuple[Kind, int]]:
    """All experiments, the kinds spread evenly over the whole time."""
    return sorted(((kind, number) for kind in kinds for number in range(kind.count)), key=lambda e: ((e[1] + 0.5) / e[0].count, e[0].name))


def run_experiments(rig: gate_rig.Rig, progress: Progress, kinds: Sequence[Kind], units: int, per_server: int) -> None:
    """What is not done yet."""
    todo = [(kind, number) for kind, number in plan(kinds) if (kind.name, number) not in progress.done]
    for start in range(0, len(todo), per_server):
        server = 1 + max((line["server"] for line in progress.done.values()), default=-1)
        with rig.serve(units) as session:
            for position, (kind, number) in enumerate(todo[start : start + per_server], start):
                seed = kinds.index(kind) * 10_000 + number
                found = session.judge(kind.copy, margin_percent=kind.margin_percent, concurrency=kind.concurrency, seed=seed)
                progress.add({"kind": kind.name, "number": number, "server": server, **dataclasses.asdict(found)})
                left = sum(_seconds(k, progress) for k, _ in todo[position + 1 :]) / 60
                ratio = f"{found.ratio:.3f} ({found.low:.3f} to {found.high:.3f})"
                print(
                    f"{kind.name} {number + 1}/{kind.count}: {found.verdict:9} ratio {ratio}, {found.rounds} rounds, {found.seconds:.0f} s; about {left:.0f} min left",
                    flush=True,
                )


def _seconds(kind: Kind, progress: Progress) -> float:
    seen = [line["seconds"] for line in progress.done.values() if line["kind"] == kind.name]
    return statistics.mean(seen) if seen else kind.about_seconds


def sum_up(kind: Kind, lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Counts, and what a verdict costs."""
    counts = {verdict: sum(line["verdict"] == verdict for line in lines) for verdict in ("Accepted", "Refused", "Undecided")}
    refused = counts["Refused"] / len(lines)
    low, high = _share_interval(counts["Refused"], len(lines))
    ratios = sorted(line["ratio"] for line in lines)
    seconds = sorted(line["seconds"] for line in lines)
    used = sorted(line["rounds"] for line in lines)
    return {
        "marginPercent": kind.margin_percent,
        "concurrency": kind.concurrency,
        "count": len(lines),
        **{verdict.lower(): count for verdict, count in counts.items()},
        "refusedShare": {"estimate": round(refused, 4), "low": round(low, 4), "high": round(high, 4)},
        "rounds": {"median": _quantile(used, 0.5), "p90": _quantile(used, 0.9)},
        "seconds": {"median": _quantile(seconds, 0.5), "p90": _quantile(seconds, 0.9)},
        "ratio": {"median": _quantile(ratios, 0.5), "p5": _quantile(ratios, 0.05), "p95": _quantile(ratios, 0.95)},
        "servers": len({line["server"] for line in lines}),
        "target": TARGETS[kind.name],
        "met": _is_met(kind.name, counts, len(lines)),
    }


def _is_met(name: str, counts: dict[str, int], total: int) -> bool | None:
    if name == "same":
        return counts["Refused"] / total <= 5 / 200 and counts["Undecided"] / total <= 0.10
    return counts["Refused"] / total >= 0.93 if name == "slowed" else None


def _share_interval(count: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Clopper and Pearson's exact interval of a share (Biometrika 26, 1934)."""
    from scipy.stats import beta

    tail = (1 - confidence) / 2
    low = 0.0 if count == 0 else float(beta.ppf(tail, count, total - count + 1))
    high = 1.0 if count == total else float(beta.ppf(1 - tail, count + 1, total - count))
    return low, high


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _method() -> str:
    """Digest of the code that measures and judges: results of two versions are not mixed."""
    package = machine.ROOT / "operator" / "burnish"
    files = [*package.glob("measurement/*.py"), *package.glob("serving/**/*.py"), package / "pipeline" / "server.py"]
    files += [*Path(__file__).parent.glob("gate_rig.py"), *Path(__file__).parent.glob("backends/*/model.py")]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(files))).hexdigest()[:16]


def run(kinds: Sequence[Kind], progress: Progress, per_server: int, *, quick: bool) -> None:
    """All that is not done yet."""
    with tempfile.TemporaryDirectory(prefix="burnish-gate-") as temporary:
        folder = Path(temporary)
        (folder / "rig").mkdir()
        rig = gate_rig.Rig(example.run("digits", folder / "run").work, folder / "rig")
        units = progress.known["units"] if "units" in progress.known else calibrate(rig, progress, quick=quick)
        run_experiments(rig, progress, kinds, units, per_server)
        if "after" not in progress.known:
            progress.add({"after": slowdown(rig, units, 2000, quick=quick)})


def print_results(series: dict[str, dict[str, Any]], progress: Progress) -> None:
    """The table."""
    rows = [
        [
            name,
            f"{s['marginPercent']} %",
            *(str(s[key]) for key in ("accepted", "refused", "undecided")),
            str(s["rounds"]["median"]),
            f"{s['seconds']['median']:.1f}",
            ", ".join(f"{s['ratio'][key]:.3f}" for key in ("p5", "median", "p95")),
            s["target"],
            {True: "yes", False: "NO", None: "-"}[s["met"]],
        ]
        for name, s in series.items()
    ]
    headers = ["series", "margin", "accepted", "refused", "undecided", "rounds", "s/verdict", "ratio p5, p50, p95", "target", "met"]
    figures.print_table(headers, rows)
    for when in ("before", "after"):
        print(f"slowdown injected, measured {when} the experiments: p50 {figures.interval(progress.known[when])} times the baseline's")


def main() -> None:
    """Run, print, save."""
    options = figures.parser(__doc__).parse_args()
    machine.end_cleanly_on_sigterm()
    kinds = tuple(dataclasses.replace(kind, count=count) for kind, count in zip(FULL, (4, 4, 2), strict=True)) if options.quick else FULL
    per_server, about = 5 if options.quick else PER_SERVER, machine.describe()
    settings = {"method": _method(), "cpu": about["cpu"], "quick": options.quick}
    progress = Progress(figures.WORK / f"gate{'-quick' if options.quick else ''}.jsonl", settings)
    total, minutes = sum(kind.count for kind in kinds), sum(kind.count * kind.about_seconds for kind in kinds) / 60
    print(f"{total} experiments, {len(progress.done)} of them done; all together take about {minutes:.0f} minutes", flush=True)
    run(kinds, progress, per_server, quick=options.quick)
    lines = list(progress.done.values())
    series = {kind.name: sum_up(kind, [line for line in lines if line["kind"] == kind.name]) for kind in kinds}
    print_results(series, progress)
    load = [line["load_average"] for line in lines]
    columns = ("kind", "number", "server", "verdict", "rounds", "seconds", "ratio", "low", "high", "load_average")
    figures.save(
        "gate",
        {
            "machine": about,
            "niceness": os.getpriority(os.PRIO_PROCESS, 0),
            "loadAverage": {"median": statistics.median(load), "max": max(load)},
            "minutes": round(sum(line["seconds"] for line in lines) / 60),
            "perServer": per_server,
            "slowdown": {key: progress.known[key] for key in ("units", "before", "after")},
            "series": series,
            "columns": list(columns),
            "experiments": [[line[column] for column in columns] for line in lines],
        },
        quick=options.quick,
    )
    progress.path.unlink()


if __name__ == "__main__":
    main()
