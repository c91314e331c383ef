"""`burnish plan`: what a run of a manifest would do, and what it would find done."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from burnish.api import manifest
from burnish.cli import locations, output
from burnish.cli.terminal import plain
from burnish.pipeline import forecast, machine
from burnish.pipeline.forecast import Forecast, Pinned, TargetForecast
from burnish.serving import images
from burnish.store.store import open_store

DESCRIPTION = """Tell what `burnish run` would do with a manifest on this machine: what is in the store, which steps would run, and the verdict where
it is known. Files are read to find their digest; nothing is fetched, built, measured or written."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the subcommand."""
    parser = commands.add_parser("plan", help="tell what a run would do, and what is in the store", description=DESCRIPTION)
    parser.add_argument("manifest", type=Path, help="OptimizedModel, YAML or JSON")
    locations.add_store_option(parser)
    output.add_option(parser)
    parser.set_defaults(function=main)


def main(options: argparse.Namespace) -> int:
    """Plan; returns the exit code."""
    model = manifest.load(options.manifest)
    store = open_store(options.store, namespace=model.metadata.namespace, is_tidied=False)
    base = options.manifest.resolve().parent
    found = forecast.make(model, base, store, machine.hardware_class(), serving_image=images.LOCAL_CPU.name)
    if options.output == "table":
        print("\n".join(plain(line) for line in _lines(model.metadata.name, found)))
    else:
        output.dump(_document(model.metadata.name, found), options.output)
    return 0


def _document(name: str, found: Forecast) -> dict[str, Any]:
    return {
        "name": name,
        "sources": [{"field": s.field, "uri": s.uri, "digest": s.seen.digest, "stored": s.seen.is_stored} for s in found.sources],
        "targets": [_target(target) for target in found.targets],
    }


def _target(target: TargetForecast) -> dict[str, Any]:
    plan, decision = target.plan, target.decision
    return {
        "name": target.name,
        "plan": plan.plan.value if plan else "Unknown",
        "passes": list(target.passes),
        "steps": [{"name": step.value, "state": "run" if runs else "cached"} for step, runs in target.steps.items()],
        "artifact": plan.artifact.value if plan else None,
        "measurement": plan.measurement.value if plan else None,
        "candidates": [c.name for c in plan.build.candidates] if plan and plan.build else None,
        "verdict": {"state": decision.state.value, "reason": decision.reason.value, "message": decision.message} if decision else None,
    }


def _lines(name: str, found: Forecast) -> list[str]:
    return [*(_source_line(s) for s in found.sources), *(line for target in found.targets for line in _target_lines(name, target))]


def _source_line(source: Pinned) -> str:
    seen = source.seen
    if seen.digest is None:
        state = "not looked at yet: only fetching it tells what it holds (a digest beside the uri would tell now)"
    else:
        state = f"{seen.digest}, {'in the store' if seen.is_stored else 'to be put into the store'}"
    return f"{source.field}: {source.uri}: {state}"


def _target_lines(name: str, target: TargetForecast) -> list[str]:
    passes = f"passes {', '.join(target.passes)}" if target.passes else "no passes"
    if target.plan is None:
        return [f"{name}/{target.name}: unknown until the sources are fetched ({passes})"]
    steps = "  ".join(f"{step.value}: {'run' if runs else 'cached'}" for step, runs in target.steps.items())
    build, decision = target.plan.build, target.decision
    candidates = ", ".join(c.name for c in build.candidates) or "none" if build else f"known once the model is converted ({passes})"
    verdict = f"{decision.state.value}: {decision.message}" if decision else "known once it is measured"
    return [f"{name}/{target.name}: {target.plan.plan.value}", f"  {steps}", f"  candidates: {candidates}", f"  verdict: {verdict}"]
