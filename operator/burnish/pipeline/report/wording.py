"""The report's sentences and numbers. No number has more digits than its interval carries."""

from __future__ import annotations

from burnish import names
from burnish.api import numbers
from burnish.api.job_contract import Estimate, LatencySummary, ScoreSummary, SpeedSummary
from burnish.api.scalars import format_decimal
from burnish.api.v1alpha1.optimized_model import Constraints, Metric
from burnish.api.v1alpha1.status import Served, State, Verdict
from burnish.errors import Reason
from burnish.pipeline.report.inputs import ReportInput


def headline(data: ReportInput) -> str:
    """The verdict in one sentence."""
    target, artifact = data.target, data.target.artifact
    if target.state is State.Failed:
        return f"No verdict: {target.message}"
    if artifact is not None and artifact.served is Served.Candidate and artifact.candidate:
        facts = ", ".join(filter(None, (speed_phrase(data, artifact.candidate), size_phrase(data, artifact.candidate), _score_phrase(data))))
        return f"{artifact.candidate} is served: {facts}"
    if artifact is not None:
        why = "no candidate holds every limit" if target.reason is Reason.BaselineServed else "no passes were asked for"
        return f"The {'uncompressed baseline' if target.reason is Reason.BaselineServed else 'converted model'} is served: {why}"
    if target.state is State.Undecided:
        return "Nothing is served: the measurement could not decide"
    if not data.candidates:
        return f"Nothing is served: {target.message}"
    return "Nothing is served: no candidate holds every limit" if data.judgements else "Nothing is served: no candidate could be built"


def explanations(data: ReportInput) -> list[tuple[str, Verdict | None, str]]:
    """Why each candidate that is not served is not: (name, verdict or None where it was not measured, text)."""
    served = data.target.artifact.candidate if data.target.artifact else None
    found: list[tuple[str, Verdict | None, str]] = []
    for candidate in data.build.candidates:
        judgement = data.judgements.get(candidate.name)
        if candidate.name == served:
            continue
        if judgement is None:
            found.append((candidate.name, None, candidate.message or "was not built"))
        elif judgement.verdict is Verdict.Accepted:
            found.append((candidate.name, judgement.verdict, f"holds every limit, but {served} is faster" if served else "holds every limit"))
        else:
            limits = [limit for limit in judgement.limits if limit.verdict is not Verdict.Accepted]
            found.append((candidate.name, judgement.verdict, "; ".join(limit.message for limit in limits)))
    return found


def speed_phrase(data: ReportInput, candidate: str) -> str:
    """`2.41× faster (2.33–2.49)`, `as fast as the baseline (0.99–1.02)`."""
    if data.summary(candidate).identical:
        return "the same model as the baseline"
    speed = data.speed(candidate)
    if speed is None:
        return ""
    interval = speedup(speed)
    if interval.low > 1:
        return f"{numbers.times(numbers.center(interval))} faster ({numbers.between(interval)})"
    if interval.high < 1:
        slower = numbers.reciprocal(interval)
        return f"{numbers.times(numbers.center(slower))} slower ({numbers.between(slower)})"
    return f"as fast as the baseline ({numbers.between(interval)})"


def size_phrase(data: ReportInput, candidate: str) -> str:
    """`3.9× smaller`."""
    baseline = data.record.sides[names.BASELINE].artifact.size_bytes
    optimized = data.record.sides[candidate].artifact.size_bytes
    if not baseline or not optimized or abs(baseline - optimized) < 0.005 * baseline:
        return "of the same size"
    ratio = max(baseline, optimized) / min(baseline, optimized)
    return f"{numbers.times(ratio)} {'smaller' if optimized < baseline else 'larger'}"


def speedup(speed: SpeedSummary) -> Estimate:
    """Baseline p50 / candidate p50."""
    return numbers.reciprocal(speed.ratio)


def speedup_text(speed: SpeedSummary) -> str:
    """`2.41× (2.33–2.49)`."""
    interval = speedup(speed)
    return f"{numbers.times(numbers.center(interval))} ({numbers.between(interval)})"


def throughput_text(latency: LatencySummary) -> str:
    """Samples per second; its relative uncertainty is taken to be that of p50."""
    width = (latency.p50.high - latency.p50.low) / latency.p50.estimate
    rate = float(f"{latency.throughput_per_second:.{3 if width < 0.05 else 2}g}")
    return f"{format_decimal(rate, 1)} samples/s"


def drop_interval(score: ScoreSummary) -> Estimate:
    """The drop of a score; each end holds with 95 %."""
    return Estimate(estimate=score.drop, low=score.low, high=score.high)


def loss(score: ScoreSummary) -> str:
    """What getting worse is called: an error rises."""
    return "rise" if score.metric and Metric(score.metric).is_error else "drop"


def score_text(score: ScoreSummary) -> str:
    """`0.9800, drop 0.0011 (at most 0.0046)`."""
    drop = drop_interval(score)
    return (
        f"{numbers.text(score.candidate, drop, 2)}, {loss(score)} {numbers.text(drop.estimate, drop, 2)} (at most {numbers.text(drop.high, drop, 2)})"
    )


def limit_label(name: str, constraints: Constraints) -> str:
    """A limit as people say it: `score drop ≤ 0.005`."""
    if name.startswith("latency"):
        for limit in constraints.latency:
            if limit.load in name and str(limit.percentile) in name:
                return f"{limit.percentile} at {limit.load} ≤ {limit.max}"
    labels = {
        "candidate": "loads and answers",
        "baseline": "loads and answers",
        "outputs.finite": "outputs are finite",
        "maxSlowdownPercent": f"p50 at most {constraints.max_slowdown_percent} % slower",
        "minSpeedup": f"speedup ≥ {constraints.min_speedup}",
        "score.maxDrop": f"score drop ≤ {constraints.score.max_drop if constraints.score else ''}",
        "equivalence.minCosine": f"worst cosine ≥ {constraints.equivalence.min_cosine if constraints.equivalence else ''}",
    }
    return labels.get(name, name)


def metric_name(data: ReportInput) -> str:
    """The metric as it stands within a sentence; `score` where nothing was scored."""
    found = next(iter(data.record.evaluated.values()), None)
    return _METRICS.get(found.metric, found.metric) if found else "score"


def heading(text: str) -> str:
    """With a capital letter first."""
    return text[:1].upper() + text[1:]


_METRICS = {"Accuracy": "accuracy", "Agreement": "agreement", "CosineSimilarity": "cosine similarity"}
"""Those that are words, not abbreviations."""


def _score_phrase(data: ReportInput) -> str:
    score = data.summary(data.shown).score if data.shown else None
    if score is None:
        return ""
    drop, metric = drop_interval(score), metric_name(data)
    if score.metric == Metric.Agreement:
        return f"agreement {numbers.text(score.candidate, drop, 2)} (loss ≤ {numbers.text(drop.high, drop, 2)})"
    return f"{metric} {numbers.text(score.baseline, drop, 2)} → {numbers.text(score.candidate, drop, 2)} ({loss(score)} ≤ {numbers.text(drop.high, drop, 2)})"
