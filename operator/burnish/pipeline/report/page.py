"""Puts the report together: one HTML file without scripts, links to load, or fonts to fetch."""

from __future__ import annotations

from importlib import resources
from typing import NamedTuple

from burnish.pipeline.report import chain, plot_latency, plot_quality, tables, wording
from burnish.pipeline.report.inputs import ReportInput


class Figure(NamedTuple):
    """A figure with what to look for in it."""

    title: str
    svg: str
    caption: str


def render(data: ReportInput) -> str:
    """The report of one target as HTML. Equal input gives equal bytes.

    Everything that comes from outside (names, messages, versions) is escaped by the template.
    """
    import jinja2
    import markupsafe

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(resources.files(__package__).joinpath("page.html.j2").read_text())
    figures = [Figure(figure.title, markupsafe.Markup(figure.svg), figure.caption) for figure in build_figures(data)]  # noqa: S704  # matplotlib escapes text
    return template.render(
        data=data,
        title=f"{data.model} / {data.target.name}",
        headline=wording.headline(data),
        explanations=wording.explanations(data),
        tiles=tables.tiles(data),
        columns=tables.columns(data),
        rows=tables.rows(data),
        limits=tables.limits(data),
        chain_heads=chain.HEADS,
        chain=chain.rows(data),
        figures=figures,
        environment=tables.environment(data),
        method=tables.method(data),
        keys=tables.keys(data),
    )


def build_figures(data: ReportInput) -> list[Figure]:
    """The figures for which there is data, in the order of the questions they answer."""
    first = data.record.loads[0] if data.record.loads else None
    has_rounds = first is not None and first.rounds > 0
    is_compared = first is not None and len(set(data.sides) & set(first.sides)) > 1
    candidates = [
        ("Is it faster?", plot_latency.speedups(data), "Right of 1 is faster. A limit holds when the whole bar lies on its good side."),
        ("Is it still right?", plot_quality.drops(data), "Left is better. The limit holds when the bar's right end does not pass it."),
        (
            "Was the comparison fair?" if is_compared else "How steady was the machine?",
            plot_latency.rounds(data, first) if first and has_rounds else None,
            "All blocks of a round met the same machine. Where the lines move together the machine moved; the speedups below stay, and the band is their interval."
            if is_compared
            else "One block of requests per round.",
        ),
        (
            "How are latencies distributed?",
            plot_latency.distribution(data, first) if first and has_rounds else None,
            "Every request at the first load point. Dots mark p50, p95 and p99.",
        ),
        (
            "How far are outputs from the baseline's?",
            plot_quality.agreement(data),
            "One point per sample, worst first; each line up is one more nine. minCosine is judged on the worst.",
        ),
        ("What does each load cost?", plot_latency.load_points(data), "Every load point is measured apart, with its own batch size and concurrency."),
        (
            "What did each training pass do?",
            chain.figure(data),
            "Left is smaller. A lone step that only moves the first line makes nothing faster. On the right the score's drop against the original, on the evaluation samples.",
        ),
        ("How large is it?", plot_quality.sizes(data), "Loadable files, uncompressed; the paler bar is what the store holds."),
    ]
    return [Figure(title, svg, caption) for title, svg, caption in candidates if svg]
