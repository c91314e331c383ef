"""What every benchmark leaves: a table for the reader, and one small JSON file from which `render.py` makes docs/benchmarks.md.

Only full runs write into `results/`, which is committed; what `--quick` finds shows that a benchmark works, and is nothing to quote.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
WORK = HERE / ".work"
"""Ignored by git: progress of interrupted runs, results of quick ones."""


def parser(doc: str) -> argparse.ArgumentParser:
    """A command line with what all benchmarks have."""
    found = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--quick", action="store_true", help="a few repetitions, to see that it works; results/ is left alone")
    return found


def save(name: str, figures: Mapping[str, Any], *, quick: bool) -> None:
    """Write `<name>.json`; lists of plain values stay on one line, so that a change is readable."""
    path = (WORK / "quick" if quick else RESULTS) / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_json(figures, 0) + "\n")
    print(f"\nwrote {path.relative_to(HERE.parents[1])}")


def load(folder: Path) -> dict[str, Any]:
    """Name -> figures, of every benchmark that has left some."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as they need to be."""
    widths = [max(len(str(row[i])) for row in (headers, *rows)) for i in range(len(headers))]
    print()
    for row in (headers, ["-" * width for width in widths], *rows):
        print("  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def interval(value: Mapping[str, float], unit: str = "") -> str:
    """`2.85x (2.80x to 2.91x)`, with no more digits than the interval carries: two of its width (JCGM 100:2008, 7.2.6)."""
    width = value["high"] - value["low"]
    places = min(4, max(0, 1 - math.floor(math.log10(width)))) if width > 0 else 2
    estimate, low, high = (f"{value[key]:.{places}f}{unit}" for key in ("estimate", "low", "high"))
    return f"{estimate} ({low} to {high})"


def _json(value: Any, depth: int) -> str:
    if isinstance(value, Mapping) and any(isinstance(v, (Mapping, list)) for v in value.values()):
        inner = ",\n".join(f"{'  ' * (depth + 1)}{json.dumps(k)}: {_json(v, depth + 1)}" for k, v in value.items())
        return f"{{\n{inner}\n{'  ' * depth}}}"
    if isinstance(value, list) and any(isinstance(v, (Mapping, list)) for v in value):
        inner = ",\n".join(f"{'  ' * (depth + 1)}{_json(v, depth + 1)}" for v in value)
        return f"[\n{inner}\n{'  ' * depth}]"
    return json.dumps(value, sort_keys=False)
