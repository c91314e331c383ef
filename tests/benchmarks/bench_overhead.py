"""What does `burnish run` add to the work itself?

`burnish run examples/digits.yaml` with a fresh store, against a script that does the same work by hand (hand_run.py: the same candidates, the same
tritonserver and configs, as many evaluation requests, as many rounds of the same length), in turns; medians. Then the same run again, with
everything in the store.
Target: at most 3 s or 5 % more than by hand; at most 2 s when all is known.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import example
import figures
import machine
from burnish.api.job_contract import StepName
from burnish.pipeline import cpu_limit, triton_installation
from burnish.toolchains import environments

EXAMPLE = "digits"
OVERHEAD_TARGET_S, OVERHEAD_TARGET_SHARE, CACHED_TARGET_S = 3.0, 0.05, 2.0


def write_plan(run: example.Run, folder: Path) -> Path:
    """What the script by hand has to do to have done the same work as `run`."""
    request, load = run.work.load_request(), run.record.measurement.loads[0]
    assert request.datasets.calibration is not None
    triton = triton_installation.find(environments.ensure("triton", print).python)
    triton.lay_out_backends(folder / "backends", triton_installation.OUR_BACKENDS)
    repository = run.work.folder(StepName.build) / "repository"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server_cpus = sorted(os.sched_getaffinity(0))[-request.target.resources.threads :]
    plan = {
        "source": str(next(run.work.input.glob("source/*.onnx"))),
        "calibration": str(next(run.work.input.glob("calibration/*.npz"))),
        "calibrationSamples": request.datasets.calibration.samples,
        "evaluation": str(next(run.work.input.glob("evaluation/*.npz"))),
        "inputs": [t.name for t in run.record.build.signature.inputs],
        "configs": {path.parent.name: path.read_text() for path in sorted(repository.glob("*/config.pbtxt"))},
        "rounds": load.rounds + load.voided_rounds,
        "blockSeconds": load.block_seconds,
        "serverCpus": server_cpus,
        "clientCpus": cpu_limit.client_cpus(tuple(server_cpus)),
        "port": port,
        "command": [
            str(triton.program),
            "--model-control-mode=none",
            "--disable-auto-complete-config",
            "--exit-timeout-secs=5",
            f"--backend-directory={folder / 'backends'}",
            "--http-address=127.0.0.1",
            "--allow-grpc=false",
            "--allow-metrics=false",
        ],
        "environment": {
            "PATH": f"{triton.bin}:/usr/bin:/bin",
            "LD_LIBRARY_PATH": ":".join(str(path) for path in triton.libraries),
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "CUDA_VISIBLE_DEVICES": "",
            "ORT_DISABLE_TELEMETRY": "1",
        },
    }
    path = folder / "plan.json"
    path.write_text(json.dumps(plan))
    return path


def run_by_hand(plan: Path) -> tuple[float, dict[str, Any]]:
    """Seconds of the whole script, and what it says of itself."""
    started = time.perf_counter()
    script = Path(__file__).with_name("hand_run.py")
    done = subprocess.run([sys.executable, str(script), str(plan)], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"the script by hand failed:\n{done.stderr}")
    return seconds, json.loads(done.stdout.splitlines()[-1])


def repeat(folder: Path, cached_runs: int) -> dict[str, Any]:
    """One repetition: fresh, by hand, and a few times from the store."""
    run = example.run(EXAMPLE, folder / "fresh")
    (folder / "hand").mkdir()
    by_hand, told = run_by_hand(write_plan(run, folder / "hand"))
    cached = [example.run(EXAMPLE, folder / f"cached-{i}", store=folder / "fresh" / "store").seconds for i in range(cached_runs)]
    return {
        "burnish": round(run.seconds, 2),
        "byHand": round(by_hand, 2),
        "cached": [round(seconds, 2) for seconds in cached],
        "rounds": run.record.measurement.loads[0].rounds,
        "steps": run.steps,
        "parts": told["parts"],
        "loadAverage": machine.load_average(),
    }


def main() -> None:
    """Run, print, save."""
    options = figures.parser(__doc__).parse_args()
    machine.end_cleanly_on_sigterm()
    about, repetitions = machine.describe(), []
    with tempfile.TemporaryDirectory(prefix="burnish-overhead-") as folder:
        example.run(EXAMPLE, Path(folder) / "warm-up")  # files into the page cache, environments made
        for number in range(1 if options.quick else 5):
            repetitions.append(repeat(Path(folder) / str(number), 2 if options.quick else 3))
            print(json.dumps(repetitions[-1]), flush=True)
    burnish, by_hand, overhead = (
        statistics.median(values)
        for values in (
            [r["burnish"] for r in repetitions],
            [r["byHand"] for r in repetitions],
            [r["burnish"] - r["byHand"] for r in repetitions],
        )
    )
    cached = statistics.median([seconds for r in repetitions for seconds in r["cached"]])
    summary = {
        "burnish": round(burnish, 2),
        "byHand": round(by_hand, 2),
        "overhead": round(overhead, 2),
        "overheadMet": overhead <= max(OVERHEAD_TARGET_S, OVERHEAD_TARGET_SHARE * by_hand),
        "cached": round(cached, 2),
        "cachedMet": cached <= CACHED_TARGET_S,
    }
    figures.print_table(
        ["what", "seconds (median)", "target", "met"],
        [
            ["burnish run, fresh store", f"{burnish:.1f}", "", ""],
            ["the same work by hand", f"{by_hand:.1f}", "", ""],
            ["overhead (paired)", f"{overhead:.1f}", "at most 3 s or 5 %", "yes" if summary["overheadMet"] else "NO"],
            ["burnish run, all in the store", f"{cached:.2f}", "at most 2 s", "yes" if summary["cachedMet"] else "NO"],
        ],
    )
    figures.save("overhead", {"machine": about, "summary": summary, "repetitions": repetitions}, quick=options.quick)


if __name__ == "__main__":
    main()
