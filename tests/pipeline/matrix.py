"""docs/matrix.md: every format on every runtime, as one run of each found it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from burnish.api import numbers
from burnish.api.job_contract import CandidateBuild, Result, Usage

PAGE = Path(__file__).parents[2] / "docs" / "matrix.md"

_HEAD = """# Formats and runtimes

What `burnish run` made of one model of each source format on each runtime. `make test-long` runs all of them again, holds them to the page's structure and
to bounds, and writes this page; `make matrix` does that alone (it takes minutes). The models are small and the measurements short: the page shows that
each way works and what it takes, [benchmarks.md](benchmarks.md) what is claimed about speed. Peak memory is the step's own process, its libraries included.
"""

_CONVERSIONS = """## Converted

*Worst error* is the largest difference of the FP32 artifact from what the source's own framework answers, over all outputs and samples that are compared.
"""

_CANDIDATES = """## Compressed

INT8, `mode: Auto`: every candidate, and what its passes took. *Worst cosine* is of the sample that differs most from the FP32 artifact; *speedup* is at the
client of a real Triton, batch 1, with its 99 % interval.
"""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One format on one runtime."""

    format: str
    model: str
    runtime: str
    result: Result

    @property
    def worst_error(self) -> float:
        """Of the baseline, against the source's framework."""
        return max(error for difference in self.result.build.export for error in difference.max_absolute_error)

    @property
    def measured(self) -> list[CandidateBuild]:
        """Candidates that were built and measured."""
        known = self.result.measurement.summary.candidates
        return [candidate for candidate in self.result.build.candidates if candidate.name in known and known[candidate.name].speeds]


def render(entries: Sequence[Entry]) -> str:
    """The page."""
    environment = entries[0].result.measurement.environment
    versions = ", ".join(f"{name} {version}" for name, version in sorted(environment.versions.items()))
    where = f"*{entries[0].result.measurement.measured_at[:10]}: {environment.cpu_model}, {environment.cpus} CPUs, one thread per model; {environment.triton}, {versions}.*\n"
    conversions = [
        [
            e.format,
            e.model,
            e.runtime,
            *(_took(e.result.build.usage.get(step)) for step in ("export", "build")),
            f"{e.worst_error:.1e}",
            numbers.size(e.result.build.baseline.size_bytes),
        ]
        for e in entries
    ]
    candidates = [_candidate(e, c) for e in entries for c in e.measured]
    return "\n".join(
        [
            _HEAD,
            _CONVERSIONS,
            _table(["format", "model", "runtime", "export", "build, all candidates", "worst error", "size"], conversions),
            _CANDIDATES,
            _table(["format", "runtime", "candidate", "passes", "size", "worst cosine", "speedup"], candidates),
            where,
        ]
    )


def cells(page: str) -> list[tuple[str, ...]]:
    """What of a page doesn't depend on the machine: the cells of words in each row."""
    rows = [tuple(cell.strip() for cell in line.strip("|\n").split("|")) for line in page.splitlines() if line.startswith("|")]
    return sorted(row[:3] for row in rows)


def _candidate(entry: Entry, candidate: CandidateBuild) -> list[str]:
    assert candidate.artifact is not None, "it was measured"
    found = entry.result.measurement.summary.candidates[candidate.name]
    ratio, cosine = found.speeds[0].ratio, found.equivalence.worst_cosine if found.equivalence else None
    size = candidate.artifact.size_bytes / entry.result.build.baseline.size_bytes
    return [
        entry.format,
        entry.runtime,
        candidate.name,
        _took(candidate.usage),
        f"{size:.2f}",
        "" if cosine is None else f"{cosine:.4f}",
        f"{1 / ratio.estimate:.2f}x ({1 / ratio.high:.2f} to {1 / ratio.low:.2f})",
    ]


def _took(usage: Usage | None) -> str:
    if usage is None:
        return "-"
    return f"{usage.seconds:.1f} s" + (f", {usage.peak_memory_bytes / 2**20:.0f} MiB" if usage.peak_memory_bytes else "")


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (headers, ["---"] * len(headers), *rows)) + "\n"
