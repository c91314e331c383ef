"""Do pruning, quantization-aware training, factorization and weight sharing pay, and how exactly, over several seeds?

Each case is an example's manifest with other passes, run as `burnish run` does, once per seed; the ONNX files that it published are then measured bare in ONNX
Runtime, one thread, interleaved blocks in one process on one CPU, at the case's batch size, against the FP32 baseline of the same run: paired ratios with 99 %
intervals. Scores are those of all evaluation samples, with the paired one-sided 95 % bound of the drop; the table shows the mean over seeds and their range. ResNet-18, pruned by half, stands
beside Torch-Pruning called by hand on the same network (compress_by_hand.py), and its gain beside that of its multiply-accumulates.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

import bare
import example
import figures
import machine
from bench_candidates import score
from burnish import names
from burnish.api.job_contract import BuildStepRecord, ExportRecord, StepName, TrainRecord
from burnish.measurement import statistics
from burnish.pipeline import samples
from burnish.plugins.base import Session
from burnish.plugins.runtimes import _onnxruntime_session as ort
from burnish.toolchains import environments

MAX_DROP = 0.01


@dataclasses.dataclass(frozen=True)
class Case:
    """One list of passes on one model."""

    name: str
    example: str
    passes: tuple[Mapping[str, Any], ...]
    candidate: str
    """Whose figures count."""
    faster: float | None = None
    """What it has to reach, as a multiple of the baseline's speed."""
    smaller: float | None = None
    """Largest share of the baseline's bytes."""
    batch: int = 1
    seeds: int = 1
    """Trainings, with as many seeds."""
    beside: str = ""
    """Another case, run before with the same seed, whose candidate is measured in the same turns."""
    by_hand: str = ""
    """An ONNX file in the folder of what was made by hand: the same model, compressed so."""
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Of the manifest's spec."""


def _pass(kind: str, **options: Any) -> dict[str, Any]:
    return {"type": kind, kind[0].lower() + kind[1:]: options}


TRAINING = {"epochs": 4, "distill": {"alpha": "0.5"}}
PRUNE = _pass("Prune", sparsityPercent=50, finetune=TRAINING)
QAT = _pass("QuantizeAwareTrain", epochs=2, distill={"alpha": "0.5"})
FACTORIZE = _pass("Factorize", macsPercent=30, finetune=TRAINING)
SHARE = _pass("ShareWeights", clusters=16)
DISTILL = _pass("Distill", epochs=6, learningRate="0.002", compareSeeds=0)
PROGRAM = {
    "source": {"uri": "file:MADE/cnn.pt2", "trusted": True},
    "datasets": {"evaluation": {"uri": "file:digits/evaluation.npz", "metric": "Accuracy", "decode": "ArgMax"}},
}
"""The same network, as `torch.export` saves it."""
FLOORS = (
    ("structured pruning", PRUNE, "prune", 3.0, 0.30),
    ("quantization-aware training", QAT, "qat", 2.5, None),
    ("SVD", FACTORIZE, "factorize", 1.7, None),
    ("16 clusters", SHARE, "shared", None, 0.30),
)
"""Of the digits CNN."""
CASES = (
    *(Case(name, "prune", (entry,), candidate, faster, smaller, seeds=3) for name, entry, candidate, faster, smaller in FLOORS),
    Case("pruning, then quantization-aware training", "prune", (PRUNE, QAT), "qat", seeds=3, beside="quantization-aware training"),
    Case("pruning, distillation, quantization-aware training", "prune", (PRUNE, DISTILL, QAT), "qat", beside="quantization-aware training"),
    *(
        Case(f"as .pt2: {name}", "prune", (entry,), candidate, faster, smaller, seeds=3, changes=PROGRAM)
        for name, entry, candidate, faster, smaller in FLOORS
    ),
    *(
        Case(f"timm test_resnet: {name}", "pytorch", (entry,), candidate, changes={"datasets": {"training": {"uri": "file:digits/training.npz"}}})
        for name, entry, candidate, _, _ in FLOORS
    ),
    *(
        Case(f"{model}: {name}", "prune" if model == "MLP" else "keras", (entry,), candidate, changes=changes)
        for model, changes in (
            ("MLP", {"source": {"uri": "file:MADE/mlp.onnx"}}),
            ("Keras CNN", {"datasets": {"training": {"uri": "file:digits/training.npz"}}}),
        )
        for name, entry, candidate in (
            ("pruning", PRUNE, "prune"),
            ("training for integers", QAT, "qat"),
            ("SVD", FACTORIZE, "factorize"),
            ("16 clusters", SHARE, "shared"),
        )
    ),
    Case(
        "ResNet-18: structured pruning",
        "resnet",
        (PRUNE,),
        "prune",
        batch=16,
        by_hand="resnet-by-hand.onnx",
        changes={
            "datasets": {"training": {"uri": "file:MADE/resnet-training.npz"}},
            "targets": [{"name": "ort", "runtime": "ONNXRuntime", "resources": {"cpu": "1", "memory": "2Gi"}}],
        },
    ),
)
BY_HAND = 0.97
"""Of the speed by hand."""
MACS_SHARE = 0.5
"""Of the gain in multiply-accumulates, that has to be a gain in speed."""


def run(case: Case, seed: int, folder: Path, made: Path) -> example.Run:
    """The case's manifest, run as a user does."""
    whole = yaml.safe_load((example.EXAMPLES / f"{case.example}.yaml").read_text())
    spec = whole["spec"]
    for field, value in copy.deepcopy(dict(case.changes)).items():
        spec[field] = {**spec[field], **value} if isinstance(value, dict) and isinstance(spec.get(field), dict) else value
    for entry in (spec["source"], *spec["datasets"].values()):
        if "uri" in entry:
            file = entry["uri"].removeprefix("file:")
            entry["uri"] = f"file:{made / file.removeprefix('MADE/') if file.startswith('MADE/') else example.EXAMPLES / file}"
    spec["passes"] = [_seeded(entry, seed) for entry in copy.deepcopy(list(case.passes))]
    spec["constraints"] = {"maxSlowdownPercent": 1000}
    spec["measurement"] = {"timeout": "10s"}
    folder.mkdir(parents=True)
    path = folder / "case.yaml"
    path.write_text(yaml.safe_dump(whole, sort_keys=False))
    return example.run_manifest(path, folder)


def _seeded(entry: dict[str, Any], seed: int) -> dict[str, Any]:
    options = entry[entry["type"][0].lower() + entry["type"][1:]]
    (options.get("finetune") or options)["seed"] = seed
    return entry


def measure(case: Case, seed: int, folder: Path, made: Path, rounds: int, earlier: dict[tuple[str, int], Path]) -> dict[str, Any]:
    """One seed's figures.

    Args:
        earlier: case and seed -> the candidate's ONNX; this one is added.
    """
    ran = run(case, seed, folder, made)
    request = ran.work.load_request()
    data = samples.open_datasets(ran.work, request, ran.work.load(StepName.export, ExportRecord).signature)
    built = {m.name: m for m in ran.work.load(StepName.build, BuildStepRecord).models if m.directory is not None}
    files = {name: ran.work.path(model.directory or "") / "model" / "model.onnx" for name, model in built.items()}
    earlier[case.name, seed] = files[case.candidate]
    if case.beside:
        files[f"{case.beside} alone"] = earlier[case.beside, seed]
    with machine.kept_to([max(os.sched_getaffinity(0))]):
        sessions: dict[str, Session] = {name: ort.open_session(path, threads=1) for name, path in files.items()}
        scores = score(sessions, data, request)
        if case.by_hand:
            sessions["by hand"] = ort.open_session(made / case.by_hand, threads=1)
        medians = bare.measure(sessions, data.feeds(bare.FEEDS, case.batch), rounds)
    drop = statistics.score_drop(scores[names.BASELINE], scores[case.candidate])
    found = {
        "seed": seed,
        "speed": bare.interval(statistics.paired_ratio(medians[names.BASELINE], medians[case.candidate])),
        "size": round(built[case.candidate].size_bytes / built[names.BASELINE].size_bytes, 4),
        "score": round(float(np.mean(scores[case.candidate])), 4),
        "baselineScore": round(float(np.mean(scores[names.BASELINE])), 4),
        "drop": bare.interval(drop),
        "others": {
            name: {
                "speed": bare.interval(statistics.paired_ratio(medians[names.BASELINE], medians[name])),
                "score": round(float(np.mean(scores[name])), 4),
                "chainSpeed": bare.interval(statistics.paired_ratio(medians[name], medians[case.candidate])),
            }
            for name in sessions
            if name not in (names.BASELINE, case.candidate, "by hand")
        },
    }
    if "by hand" in sessions:
        found["overByHand"] = bare.interval(statistics.paired_ratio(medians["by hand"], medians[case.candidate]))
    folder_of_training = ran.work.folder(StepName.train) / "record.json"
    if folder_of_training.exists():
        trained = ran.work.load(StepName.train, TrainRecord)
        found["macs"] = round((trained.passes[-1].facts.macs or 0) / (trained.original.macs or 1), 4)
        found["trainingSeconds"] = round(sum(p.usage.seconds for p in trained.passes), 1)
    return found


def judge(case: Case, seeds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The case's row: means over seeds, and whether every target is met."""
    return {
        "case": case.name,
        "example": case.example,
        "passes": [p["type"] for p in case.passes],
        "batch": case.batch,
        "seeds": list(seeds),
        "speed": spread([s["speed"]["estimate"] for s in seeds]),
        "drop": spread([s["drop"]["estimate"] for s in seeds]),
        "size": seeds[0]["size"],
        "targets": [{"what": what, "met": bool(met)} for what, met in targets(case, seeds)],
    }


def targets(case: Case, seeds: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, bool]]:
    """What was to be reached, and whether it was; nothing for small networks, which may get slower: of them every figure stands there, and no floor."""
    speed = float(np.mean([s["speed"]["estimate"] for s in seeds]))
    if case.faster is not None:
        yield f"at least {case.faster}x", speed >= case.faster
    if case.smaller is not None:
        yield f"at most {case.smaller:.0%} of the bytes", all(s["size"] <= case.smaller for s in seeds)
    if len(case.passes) > 1:
        yield (
            "not slower than the faster of its parts, or the gate keeps that",
            all(o["chainSpeed"]["high"] >= 1 for s in seeds for o in s["others"].values()),
        )
    if "overByHand" in seeds[0]:
        yield f"at least {BY_HAND} of the speed by hand ({figures.interval(seeds[0]['overByHand'])})", seeds[0]["overByHand"]["estimate"] >= BY_HAND
        gain = MACS_SHARE / seeds[0]["macs"]
        yield f"at least {gain:.2f}x, half of the gain in multiply-accumulates", speed >= gain
    if case.seeds > 1:
        yield f"each seed within {MAX_DROP} of the score by its interval", all(s["drop"]["high"] <= MAX_DROP for s in seeds)


def make(folder: Path) -> None:
    """What compress_by_hand.py leaves."""
    folder.mkdir()
    python = environments.ensure("torch", print).python
    weights = example.EXAMPLES / ".work" / "resnet" / "model.safetensors"
    if not weights.exists():
        raise SystemExit("the resnet example is not there; `make examples` makes it")
    subprocess.run([python, Path(__file__).with_name("compress_by_hand.py"), folder, weights], check=True)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Mean over seeds, with the smallest and the largest."""
    return {"estimate": round(float(np.mean(values)), 4), "low": round(min(values), 4), "high": round(max(values), 4)}


def main() -> None:
    """Run, print, save."""
    parser = figures.parser(__doc__)
    options = parser.parse_args()
    machine.end_cleanly_on_sigterm()
    about, rows, load, earlier = machine.describe(), [], [], {}
    with tempfile.TemporaryDirectory(prefix="burnish-compression-") as folder:
        made = Path(folder) / "made"
        make(made)
        for number, case in enumerate(CASES):
            found = []
            for seed in range(1 if options.quick else case.seeds):
                print(f"{case.name}, seed {seed} ...", flush=True)
                found.append(measure(case, seed, Path(folder) / f"{number}-{seed}", made, 20 if options.quick else 150, earlier))
                print(json.dumps(found[-1]), flush=True)
            load.append(machine.load_average())
            rows.append(judge(case, found))
    figures.print_table(
        ["model", "passes", "speed, mean over seeds", "size", "drop of the score", "target", "met"],
        [
            [
                row["example"] if position == 0 else "",
                row["case"] if position == 0 else "",
                figures.interval(row["speed"], "x") if position == 0 else "",
                f"{row['size']:.2f}" if position == 0 else "",
                figures.interval(row["drop"]) if position == 0 else "",
                target["what"],
                "yes" if target["met"] else "NO",
            ]
            for row in rows
            for position, target in enumerate(row["targets"] or [{"what": "none", "met": True}])
        ],
    )
    figures.save("compression", {"machine": about, "loadAverage": load, "rows": rows}, quick=options.quick)


if __name__ == "__main__":
    main()
