"""How figures look, and how they become SVG inside the page.

Colors are written as marks that are no real colors and replaced by CSS variables, so that one figure serves light and dark. Text stays text:
it can be selected, searched, read aloud, and takes the page's font. The salt of the identifiers is fixed, so equal input gives equal bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from burnish.api.job_contract import Estimate

INK, MUTED, GRID, CARD, LIMIT, GOOD, BAD = "#010101", "#020202", "#030303", "#040404", "#050505", "#060606", "#070707"
SIDES = tuple(f"#0a00{number:02d}" for number in range(9))
"""The baseline's color, then the candidates'."""
HALO = {"facecolor": CARD, "edgecolor": "none", "boxstyle": "square,pad=0.12"}
"""Behind text that may cross a line."""
WIDTH = 5.6
"""Inches of every figure: at the page's column width its 8.5 points of text look like 12 pixels."""

_VARIABLES = {INK: "ink", MUTED: "muted", GRID: "line", CARD: "card", LIMIT: "limit", GOOD: "good", BAD: "bad"} | {
    mark: f"side{number}" for number, mark in enumerate(SIDES)
}
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.size": 8.5,
    "axes.labelsize": 8.5,
    "axes.titlesize": 9.0,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "legend.fontsize": 8.0,
    "legend.frameon": False,
    "legend.handlelength": 1.2,
    "legend.columnspacing": 1.2,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0.0,
    "ytick.major.size": 0.0,
    "xtick.minor.size": 0.0,
    "ytick.minor.size": 0.0,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "text.parse_math": False,
    "path.simplify_threshold": 0.2,
}


def draw(name: str, height: float, plot: Callable[[Any], None], label: str, *, columns: int = 1, rows: int = 1) -> str:
    """One figure as an SVG element.

    Args:
        name: unique in the page; salts the identifiers.
        height: inches.
        plot: gets the axes (an array of them where there are several) and draws.
        label: what the figure shows, for readers who don't see it.
        columns: axes side by side.
        rows: axes one below the other, with one x axis.
    """
    with _matplotlib(name) as pyplot:
        figure, axes = pyplot.subplots(rows, columns, figsize=(WIDTH, height), layout="constrained", sharex=rows > 1)
        try:
            plot(axes)
            target = io.StringIO()
            figure.savefig(target, format="svg", metadata={"Date": None, "Creator": None})
        finally:
            pyplot.close(figure)
    return _inline(target.getvalue(), label)


def interval(axes: Any, value: Estimate, position: float, color: str) -> None:
    """A horizontal interval with ends and the estimate marked, visible also where it is as narrow as a line."""
    axes.plot([value.low, value.high], [position, position], color=color, linewidth=5, solid_capstyle="butt", alpha=0.45)
    axes.plot([value.low, value.high], [position, position], "|", color=color, markersize=9, markeredgewidth=1.2)
    axes.plot(value.estimate, position, "o", color=color, markersize=4)


def load() -> Any:
    """Matplotlib's pyplot, for files only; the first time it takes most of a second."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    return pyplot


@contextmanager
def _matplotlib(name: str) -> Iterator[Any]:
    pyplot = load()
    import matplotlib as mpl

    defaults: Any = mpl.rcParamsDefault  # the user's own matplotlibrc must not change the report
    settings: Any = {**defaults, **_STYLE, "backend": "svg", "svg.hashsalt": f"burnish-{name}"}
    with mpl.rc_context(settings):
        yield pyplot


def _inline(svg: str, label: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\s(?:xmlns(?::\w+)?|version|width|height)="[^"]*"', "", svg[: svg.index(">")]) + svg[svg.index(">") :]
    svg = re.sub(r"font(?:-family)?: ?([\d.]+px)? ?'[^;\"]*", lambda found: f"font-size: {found[1]}" if found[1] else "", svg)
    svg = re.sub(r"#0[0-9a-f]{5}", lambda found: f"var(--{_VARIABLES[found[0]]})" if found[0] in _VARIABLES else found[0], svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{_attribute(label)}"', 1)


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
