"""Do models of PyTorch pay on both CPU runtimes, and does Burnish convert them as well, as quickly and in as little memory as by hand?

MiniLM (HuggingFace) and ResNet-18 (a state dict), each with the candidates that `burnish run` published, bare in their runtimes, one thread,
interleaved blocks in one process on one CPU, paired ratios with 99 % intervals. ResNet-18's static INT8 stands beside what onnxruntime.quantization
and NNCF give somebody who calls them by hand (bare_runtimes.py), and beside the latter under OpenVINO's own benchmark_app, in turns. Export and build
alone, as processes of their own, against scripts that do the same by hand (convert_by_hand.py), in turns: seconds, and peak memory.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import statistics as medians_of
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

import bare
import example
import figures
import machine
from burnish import names
from burnish.api.job_contract import BuildStepRecord, StepName
from burnish.measurement import statistics
from burnish.pipeline.exported import MODEL
from burnish.pipeline.workdir import WorkDir
from burnish.toolchains import environments

HERE = Path(__file__).parent
COSINE = 0.99
BY_HAND = 0.97
OVER_SHARE, OVER_SECONDS = 0.1, 2.0
SOURCES = {"minilm": ".work/minilm/model", "resnet": ".work/resnet/model.safetensors", "keras": "keras/model.keras"}
"""Example -> its source, in the folder of the examples."""
EXPORTERS = {"minilm": "torch", "resnet": "torch", "keras": "tensorflow"}
"""Example -> the toolchain that exports it."""
TARGETS = {"ort": "ONNXRuntime", "openvino": "OpenVINO"}
BASELINES = {target: f"{target} {names.BASELINE}" for target in TARGETS}
MINILM = (("openvino", "openvino", 2.2), ("openvino", "ort", 3.0), ("ort", "ort", 1.7))
"""INT8 of which target, FP32 of which one, and how many times as fast it has to be."""
INT4 = "int4"
"""The candidate of weights alone in four bits, which is smaller and is told beside INT8 for information."""
PEERS = {"ort": ("onnxruntime.quantization, all types", "onnxruntime.quantization, weighted types"), "openvino": ("NNCF",)}


@dataclasses.dataclass(frozen=True)
class Measured:
    """An example's models, bare."""

    name: str
    models: Mapping[str, Mapping[str, Any]]

    def ratio(self, slow: str, fast: str) -> dict[str, float]:
        """How many times as fast the second one is."""
        return bare.interval(statistics.paired_ratio(*(np.array(self.models[key]["medians"]) for key in (slow, fast))))

    def fastest(self, target: str) -> str:
        """The INT8 candidate of a target with the lowest median, of those that keep the vectors' direction on average; of all, where none does."""
        found = [key for key in self.models if key.split()[0] == target and key not in (BASELINES[target], f"{target} {INT4}")]
        good = [key for key in found if self.models[key]["cosine"] >= COSINE] or found
        return min(good, key=lambda key: medians_of.median(self.models[key]["medians"]))


def run_example(name: str, folder: Path) -> dict[str, WorkDir]:
    """Target -> the work directory that `burnish run` left."""
    run = example.run(name, folder)
    print(f"{name}: burnish run took {run.seconds:.0f} s", flush=True)
    return {target: WorkDir(run.work.root.parent / target) for target in TARGETS}


def variant(name: str, folder: Path, **changes: Any) -> str:
    """An example with other fields of `spec`, measured for a second, as `run_example` takes it."""
    spec = yaml.safe_load((example.EXAMPLES / f"{name}.yaml").read_text())
    spec["spec"] |= {"constraints": {}, "measurement": {"timeout": "1s"}, **changes}
    spec["spec"]["targets"] = [{"name": t, "runtime": r, "resources": {"cpu": "1", "memory": "2Gi"}} for t, r in TARGETS.items()]
    for entry in (spec["spec"]["source"], *spec["spec"]["datasets"].values()):
        entry["uri"] = f"file:{example.EXAMPLES / entry['uri'].removeprefix('file:')}"
    folder.mkdir(exist_ok=True)
    manifest = folder / f"{name}.yaml"
    manifest.write_text(yaml.safe_dump(spec))
    return str(manifest.with_suffix(""))


def measure(name: str, works: Mapping[str, WorkDir], more: Mapping[str, WorkDir], folder: Path, peers: Sequence[str], rounds: int) -> Measured:
    """Everything that was built, by a second run too, and the peers, in one process of the toolchain."""
    built = {
        f"{target} {model.name}": (TARGETS[target], str(work.path(model.directory) / "model"))
        for target, work in (*more.items(), *works.items())
        for model in work.load(StepName.build, BuildStepRecord).models
        if model.directory is not None
    }
    request = works["ort"].load_request()
    inputs = [i.name for i in works["ort"].load(StepName.build, BuildStepRecord).inputs]
    stage = works["ort"].input
    plan = {
        "models": built,
        "peers": list(peers),
        "source": str(works["ort"].folder(StepName.export) / MODEL),
        "calibration": str(next(stage.glob("calibration/**/*.npz"))),
        "evaluation": str(next(stage.glob("evaluation/**/*.npz"))),
        "inputs": inputs,
        "reference": BASELINES["ort"],
        "rounds": rounds,
    }
    assert request.datasets.calibration is not None, "the examples have calibration data"
    path = folder / "plan.json"
    path.write_text(json.dumps(plan))
    done = subprocess.run([_python("onnx"), HERE / "bare_runtimes.py", path], capture_output=True, text=True, check=False, env=_environment())
    if done.returncode != 0:
        raise SystemExit(done.stderr[-3000:])
    return Measured(name, json.loads(done.stdout.splitlines()[-1]))


def minilm_rows(found: Measured) -> list[dict[str, Any]]:
    """INT8 against FP32, on the same runtime and on the other one; INT4 of weights against both, for information."""
    rows = []
    for target, against, wanted in MINILM:
        key, peer = found.fastest(target), BASELINES[against]
        speed, model = found.ratio(peer, key), found.models[key]
        is_right = model["cosine"] >= COSINE
        rows.append(_row(found, key, peer, speed, f"at least {wanted}", speed["estimate"] >= wanted and is_right))
    for target in TARGETS:
        for peer in (BASELINES[target], found.fastest(target)):
            key = f"{target} {INT4}"
            rows.append(_row(found, key, peer, found.ratio(peer, key), "for information", None))
    return rows


def resnet_rows(found: Measured) -> list[dict[str, Any]]:
    """Static INT8 against the libraries by hand, and against FP32 for information."""
    rows = []
    for target, peers in PEERS.items():
        key = f"{target} static"
        for peer in peers:
            speed = found.ratio(peer, key)
            is_right = found.models[key]["accuracy"] >= found.models[peer]["accuracy"] - 0.01
            rows.append(_row(found, key, peer, speed, f"at least {BY_HAND}", speed["estimate"] >= BY_HAND and is_right))
        rows.append(_row(found, key, BASELINES[target], found.ratio(BASELINES[target], key), "for information", None))
    return rows


def _row(found: Measured, key: str, peer: str, speed: dict[str, float], target: str, met: bool | None) -> dict[str, Any]:
    model = found.models[key]
    return {
        "example": found.name,
        "candidate": key,
        "against": peer,
        "speed": speed,
        **{name: round(model[name], 4) for name in ("cosine", "worstCosine", "accuracy") if name in model},
        "size": round(model["bytes"] / found.models[peer]["bytes"], 3),
        "target": target,
        "met": met,
    }


def benchmark_app_row(found: Measured, repetitions: int, seconds: int) -> dict[str, Any]:
    """OpenVINO's own tool on Burnish's IR and on NNCF's, in turns; latencies are its medians, the ratio is of pairs."""
    files = {key: Path(found.models[key]["directory"]) / "model.xml" for key in ("openvino static", "NNCF")}
    times: dict[str, list[float]] = {key: [] for key in files}
    for repetition in range(repetitions):
        for key in sorted(files, reverse=bool(repetition % 2)):
            times[key].append(_benchmark_app(files[key], seconds))
    speed = statistics.paired_ratio(np.array(times["NNCF"]), np.array(times["openvino static"]))
    row = _row(found, "openvino static", "NNCF", bare.interval(speed), f"at least {BY_HAND}", speed.estimate >= BY_HAND)
    return row | {"against": "NNCF, by benchmark_app"}


def _benchmark_app(model: Path, seconds: int) -> float:
    """Median latency, milliseconds."""
    program = _python("onnx").with_name("benchmark_app")
    arguments = [
        "-m",
        model,
        "-d",
        "CPU",
        "-api",
        "sync",
        "-hint",
        "none",
        "-nthreads",
        "1",
        "-nstreams",
        "1",
        "-infer_precision",
        "f32",
        "-t",
        str(seconds),
    ]
    shape = ["-data_shape", "[1,3,64,64]"]
    done = subprocess.run([_python("onnx"), program, *arguments, *shape], capture_output=True, text=True, check=False, env=_environment())
    latency = re.search(r"Median:\s+([0-9.]+) (ms|us)", done.stdout)
    if latency is None:
        raise SystemExit(f"benchmark_app told no latency:\n{done.stdout[-500:]}{done.stderr[-1500:]}")
    return float(latency[1]) / {"ms": 1, "us": 1000}[latency[2]]


# --- export and build ---------------------------------------------------------------------------------------------------------------------


def conversion_rows(name: str, source: Path, folder: Path, repetitions: int) -> list[dict[str, Any]]:
    """Export, and the build for each runtime: convert only, so that both sides do the same."""
    works = run_example(variant(name, folder, passes=[]), folder)
    found: dict[str, list[tuple[tuple[float, float], tuple[float, float]]]] = {"export": [], **{f"build-{target}": [] for target in TARGETS}}
    for number in range(repetitions):
        scratch = folder / f"{name}-{number}"
        scratch.mkdir()
        exported = scratch / "model.onnx"
        ours = {target: _fresh(work, scratch / target) for target, work in works.items()}
        exporter = EXPORTERS[name]
        found["export"].append((_step(ours["ort"], StepName.export, exporter), _by_hand(f"export-{name}", source, exported, exporter)))
        _step(ours["openvino"], StepName.export, exporter)
        for target, work in ours.items():
            _step(work, StepName.compress, "onnx")
            (scratch / f"{target}-hand").mkdir()
            built = _step(work, StepName.build, "onnx")
            found[f"build-{target}"].append((built, _by_hand(f"build-{target}", exported, scratch / f"{target}-hand", "onnx")))
    return [_conversion_row(name, part, pairs) for part, pairs in found.items()]


def _fresh(work: WorkDir, folder: Path) -> WorkDir:
    """A copy in which nothing after `stage` was done."""
    shutil.copytree(work.root, folder, ignore=lambda _, found: [n for n in found if n[:3] in ("02-", "03-", "04-", "05-", "06-")])
    return WorkDir(folder)


def _step(work: WorkDir, step: StepName, toolchain: str) -> tuple[float, float]:
    return _timed([_python(toolchain), "-m", "burnish.pipeline", step.value, "--work", work.root])


def _by_hand(way: str, source: Path, target: Path, toolchain: str) -> tuple[float, float]:
    return _timed([_python(toolchain), HERE / "convert_by_hand.py", way, source, target])


def _timed(command: Sequence[object]) -> tuple[float, float]:
    """Seconds, and MiB of memory at most, of a process from its start to its end."""
    with tempfile.TemporaryFile() as log:
        started = time.perf_counter()
        process = subprocess.Popen([str(part) for part in command], stdout=log, stderr=log, env=_environment())
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)  # so that nobody waits for it again
        if process.returncode != 0:
            log.seek(0)
            raise SystemExit(f"{command[2:]} ended with {process.returncode}:\n{log.read().decode()[-3000:]}")
    return seconds, usage.ru_maxrss / 1024


def _conversion_row(name: str, part: str, pairs: Sequence[tuple[tuple[float, float], tuple[float, float]]]) -> dict[str, Any]:
    (our_seconds, our_mib), (their_seconds, their_mib) = (
        [medians_of.median(side[i] for side in found) for i in (0, 1)] for found in zip(*pairs, strict=True)
    )
    over = medians_of.median(ours[0] - theirs[0] for ours, theirs in pairs)
    is_quick = over <= max(OVER_SECONDS, OVER_SHARE * their_seconds)
    return {
        "example": name,
        "part": part,
        "seconds": round(our_seconds, 2),
        "secondsByHand": round(their_seconds, 2),
        "over": round(over, 2),
        "mib": round(our_mib),
        "mibByHand": round(their_mib),
        "met": is_quick and our_mib <= their_mib * (1 + OVER_SHARE),
        "pairs": [[[round(value, 2) for value in side] for side in pair] for pair in pairs],
    }


def _python(toolchain: str) -> Path:
    return environments.ensure(toolchain, print).python


def _environment() -> dict[str, str]:
    return {**os.environ, "ORT_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "2"}


def _cells(row: Mapping[str, Any]) -> list[str]:
    quality = f"{row['accuracy']:.4f} accuracy" if "accuracy" in row else f"cosine {row['cosine']:.4f}, worst {row['worstCosine']:.4f}"
    met = {True: "yes", False: "NO", None: "-"}[row["met"]]
    return [row["example"], row["candidate"], row["against"], figures.interval(row["speed"], "x"), quality, row["target"], met]


def speed_rows(name: str, rounds: int, *, quick: bool) -> list[dict[str, Any]]:
    """What was built, bare."""
    with tempfile.TemporaryDirectory(prefix="burnish-runtimes-") as temporary:
        folder = Path(temporary)
        peers = [] if name == "minilm" else [peer for found in PEERS.values() for peer in found]
        int4 = [{"type": "Quantize", "quantize": {"precision": "INT4"}}]
        more = run_example(variant(name, folder / INT4, passes=int4), folder / INT4) if name == "minilm" else {}
        measured = measure(name, run_example(name, folder), more, folder, peers, rounds)
        print(json.dumps({key: {k: v for k, v in model.items() if k != "medians"} for key, model in measured.models.items()}, indent=1))
        return minilm_rows(measured) if name == "minilm" else [*resnet_rows(measured), benchmark_app_row(measured, 2 if quick else 10, 3)]


def main() -> None:
    """Run, print, save."""
    parser = figures.parser(__doc__)
    parser.add_argument("examples", nargs="*", default=SOURCES, help=f"which ones (default: {' '.join(SOURCES)})")
    options = parser.parse_args()
    machine.end_cleanly_on_sigterm()
    for name in options.examples:
        if missing := example.missing_data(name):
            raise SystemExit(f"{missing[0]} is missing: make examples")
    about, rounds, repetitions = machine.describe(), 20 if options.quick else 150, 1 if options.quick else 5
    about["openvino"] = subprocess.run(
        [_python("onnx"), "-c", "from importlib.metadata import version; print(version('openvino'), version('nncf'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    rows, conversions, load = [], [], []
    for name in options.examples:
        if name != "keras":  # too small a network for figures of speed
            rows += speed_rows(name, rounds, quick=options.quick)
        with tempfile.TemporaryDirectory(prefix="burnish-convert-") as temporary:
            conversions += conversion_rows(name, example.EXAMPLES / SOURCES[name], Path(temporary), repetitions)
        load.append(machine.load_average())
    figures.print_table(["example", "candidate", "against", "times as fast", "quality", "target", "met"], [_cells(row) for row in rows])
    figures.print_table(
        ["example", "part", "Burnish, s", "by hand, s", "Burnish, MiB", "by hand, MiB", "met"],
        [
            [r["example"], r["part"], *(str(r[k]) for k in ("seconds", "secondsByHand", "mib", "mibByHand")), "yes" if r["met"] else "NO"]
            for r in conversions
        ],
    )
    if options.quick or set(options.examples) == set(SOURCES):
        figures.save("runtimes", {"machine": about, "loadAverage": load, "rows": rows, "conversions": conversions}, quick=options.quick)


if __name__ == "__main__":
    main()
