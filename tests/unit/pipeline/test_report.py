"""The report of every kind of result, from records as a measurement leaves them: drifting machine, noisy blocks, rare slow requests."""

from __future__ import annotations

import dataclasses
import html as html_module
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish import names
from burnish.api import numbers
from burnish.api.job_contract import (
    ArtifactConfig,
    ArtifactRef,
    BuildRecord,
    CandidateBuild,
    Environment,
    Estimate,
    Evaluated,
    LoadTrace,
    MeasurementIndex,
    MeasurementRecord,
    ModelFacts,
    Result,
    SideFacts,
    SideTrace,
    TargetPlan,
    TensorDifference,
    TrainedPass,
    Usage,
    Warned,
)
from burnish.api.job_contract import Plan as PlanKind
from burnish.api.v1alpha1.optimized_model import Constraints, Load
from burnish.api.v1alpha1.status import Lookup, State
from burnish.errors import Reason
from burnish.measurement.summary import summarize
from burnish.pipeline import card, publish, records, status, verdict
from burnish.pipeline.report import chain, page
from burnish.pipeline.report.__main__ import main as report_main
from burnish.pipeline.report.inputs import ReportInput
from burnish.plugins.base import DataType, GraphFacts, HardwareClass, Signature, Tensor
from burnish.store.store import Store, open_store

HARDWARE = HardwareClass(architecture="x86-64", vendor="GenuineIntel", isa=("AVX2", "AVX512-VNNI"))
DIGEST = "sha256:" + "ab" * 32
ROUNDS, REQUESTS = 40, 25
BYTES = {names.BASELINE: 412_233, "static": 118_402, "dynamic": 240_100, "static-ends": 131_072}


def artifact(name: str) -> ArtifactRef:
    size = BYTES.get(name, 100_000)
    content = "sha256:" + name.encode().hex().ljust(64, "0")[:64]
    return ArtifactRef(digest=content, size_bytes=size, stored_bytes=int(size * 0.83), content_digest=content)


def trace(rng: np.random.Generator, load: Load, speed: dict[str, float], rounds: int = ROUNDS) -> LoadTrace:
    """Interleaved blocks on a machine that drifts by a third and now and then stalls a request."""
    drift = 1 + 0.25 * np.sin(np.linspace(0, 7, rounds)) + np.cumsum(rng.normal(0, 0.02, rounds))
    scale = 2.0 * load.batch_size**0.8 * load.concurrency**0.9
    sides = {}
    for name, factor in speed.items():
        blocks = scale * factor * np.clip(drift, 0.5, 2)[:, None] * rng.lognormal(0, 0.06, (rounds, REQUESTS))
        blocks *= np.where(rng.random((rounds, REQUESTS)) < 0.02, rng.uniform(1.5, 4, (rounds, REQUESTS)), 1)
        rates = load.batch_size * load.concurrency * 1000 / blocks.mean(axis=1)
        sides[name] = SideTrace(
            latencies_ms=tuple(map(tuple, blocks.tolist())), throughput_per_second=tuple(rates.tolist()), compute_us=800 * scale * factor
        )
    return LoadTrace(load=load, rounds=rounds, voided_rounds=2, block_seconds=0.05, sides=sides)


def evaluated(rng: np.random.Generator, lost: int, gained: int, samples: int = 899) -> Evaluated:
    baseline = np.ones(samples)
    baseline[:17] = 0
    candidate = baseline.copy()
    candidate[17 : 17 + lost] = 0
    candidate[:gained] = 1
    order = rng.permutation(samples)
    return Evaluated(
        metric="Accuracy", decode="ArgMax", output="logits", baseline=tuple(baseline[order].tolist()), candidate=tuple(candidate[order].tolist())
    )


def difference(rng: np.random.Generator, noise: float, samples: int = 899) -> TensorDifference:
    cosine = 1 - noise * rng.lognormal(0, 1, samples)
    return TensorDifference(
        output="logits",
        cosine=tuple(cosine.tolist()),
        max_absolute_error=tuple((20 * np.sqrt(1 - cosine)).tolist()),
        reference_max=(14.0,) * samples,
    )


def make_input(
    *,
    speed: dict[str, float],
    scores: dict[str, tuple[int, int]] | None = None,
    noise: dict[str, float] | None = None,
    limits: dict[str, object] | None = None,
    loads: tuple[Load, ...] = (Load(name="single"),),
    unbuilt: dict[str, str] | None = None,
    unloaded: dict[str, str] | None = None,
    warnings: tuple[Warned, ...] = (),
    model: str = "digits",
    versions: dict[str, str] | None = None,
    rounds: int = ROUNDS,
) -> ReportInput:
    """A result as `publish` concludes it from a measurement.

    Args:
        speed: model -> latency relative to the baseline; the baseline is added.
        scores: candidate -> (answers lost, answers gained).
        noise: candidate -> typical 1 - cosine.
        unbuilt, unloaded: candidate -> message.
    """
    rng = np.random.default_rng(7)
    unloaded, unbuilt = unloaded or {}, unbuilt or {}
    speed = {names.BASELINE: 1.0, **speed}
    traces = tuple(trace(rng, load, {n: f for n, f in speed.items() if n not in unloaded}, rounds) for load in loads)
    scored = {name: evaluated(rng, *counts) for name, counts in (scores or {}).items()}
    differences = {name: (difference(rng, size),) for name, size in (noise or {}).items()}
    sides = {
        name: SideFacts(artifact=artifact(name), loaded=name not in unloaded, message=unloaded.get(name, ""), peak_memory_bytes=96 * 2**20)
        for name in (*speed, *unloaded)
    }
    baseline_scores = next((e.baseline for e in scored.values()), ())
    constraints = Constraints.model_validate(limits or {})
    record = MeasurementRecord(
        measurement_key="m" * 64,
        environment=Environment(
            node="worker-7",
            hardware_class=HARDWARE,
            cpu_model="Intel(R) Xeon(R) Platinum 8488C",
            cpus=16,
            kernel="6.8.0",
            memory_bytes=64 * 2**30,
            triton="2.64.0",
            versions=versions or {"onnxruntime": "1.32.0", "numpy": "1.26.4"},
            threads=1,
            cpu_limit="1",
            cpu_enforcement="affinity",
            memory_limit="1Gi",
        ),
        sides=sides,
        loads=traces,
        evaluated=scored,
        baseline_scores=baseline_scores,
        equivalence=differences,
        equivalence_samples=899 if differences else 0,
        measured_at="2026-11-23T20:15:00Z",
        decided_for=constraints,
        summary=summarize(sides, traces, scored, baseline_scores, differences),
    )
    candidates = [name for name in sides if name != names.BASELINE]
    build = BuildRecord(
        artifact_key="a" * 64,
        hardware_class=HARDWARE,
        baseline=artifact(names.BASELINE),
        candidates=(
            *(CandidateBuild(name=name, summary=f"{name} INT8 of Conv, Gemm", artifact=artifact(name)) for name in candidates),
            *(CandidateBuild(name=name, reason=Reason.CandidateNotBuildable, message=text) for name, text in unbuilt.items()),
        ),
        signature=Signature(
            inputs=(Tensor(name="image", data_type=DataType.FP32, shape=(-1, 1, 8, 8)),),
            outputs=(Tensor(name="logits", data_type=DataType.FP32, shape=(-1, 10)),),
        ),
        graph=GraphFacts(opset=17, op_counts={"Conv": 4}, weighted_ops={"Conv": 4}, parameters=100_000),
        source_format="ONNX",
        created_at="2026-11-23T20:14:00Z",
    )
    index = MeasurementIndex(
        measurement_key=record.measurement_key,
        environment=record.environment,
        sides=record.sides,
        summary=record.summary,
        rounds={t.load.name: t.rounds for t in traces},
        record=DIGEST,
        measured_at=record.measured_at,
        decided_for=constraints,
    )
    plan = TargetPlan(target="cpu", plan=PlanKind.Build, artifact_key=build.artifact_key, artifact=Lookup.Miss, measurement=Lookup.Miss)
    decision = verdict.decide(index, build, constraints)
    target = status.target_status("cpu", plan, build, index, decision, constraints, uri="store/local/default")
    return ReportInput(
        model=model, target=target, record=record, build=build, constraints=constraints, judgements=decision.judgements, warnings=warnings
    )


STRICT = {"score": {"maxDrop": "0.01"}, "equivalence": {"minCosine": "0.98"}}


def accepted() -> ReportInput:
    return make_input(
        speed={"static": 0.42, "dynamic": 0.78},
        scores={"static": (2, 1), "dynamic": (0, 0)},
        noise={"static": 4e-4, "dynamic": 3e-5},
        limits={**STRICT, "minSpeedup": "1.2", "latency": [{"load": "single", "percentile": "P99", "max": "12ms"}]},
    )


def refused_by_score() -> ReportInput:
    return make_input(speed={"static": 0.42}, scores={"static": (60, 3)}, noise={"static": 8e-2}, limits=STRICT)


def slower() -> ReportInput:
    return make_input(
        speed={"static": 1.48, "dynamic": 1.21},
        scores={"static": (1, 1), "dynamic": (1, 0)},
        noise={"static": 2e-3, "dynamic": 1e-3},
        limits={**STRICT, "onInfeasible": "ServeBaseline"},
    )


def undecided() -> ReportInput:
    return make_input(speed={"static": 0.42}, scores={"static": (5, 1)}, noise={"static": 2e-3}, limits={"score": {"maxDrop": "0.008"}})


def not_loadable() -> ReportInput:
    return make_input(
        speed={},
        unloaded={"static": "failed to load 'static' version 1: Internal: onnx runtime error 9: QLinearConv is not implemented"},
        unbuilt={"dynamic": "onnxruntime could not quantize node head/MatMul"},
        limits=STRICT,
    )


def convert_only() -> ReportInput:
    return make_input(speed={}, limits={"latency": [{"load": "single", "percentile": "P50", "max": "9ms"}]})


def several_loads() -> ReportInput:
    return make_input(
        speed={"static": 0.42, "dynamic": 0.78, "static-ends": 0.47},
        scores={"static": (14, 1), "dynamic": (0, 0), "static-ends": (2, 1)},
        noise={"static": 2e-2, "dynamic": 3e-5, "static-ends": 1e-3},
        limits={**STRICT, "latency": [{"load": "b8", "percentile": "P95", "max": "20ms"}]},
        loads=(Load(name="single"), Load(name="b8", batch_size=8), Load(name="busy", concurrency=4)),
        warnings=(Warned(reason=Reason.SamplesOverlap, message="3 samples of the calibration data are also in the evaluation data"),),
    )


def no_evaluation() -> ReportInput:
    return make_input(speed={"static": 0.42}, noise={"static": 2e-3})


KINDS = {kind.__name__: kind for kind in (accepted, refused_by_score, slower, undecided, not_loadable, convert_only, several_loads, no_evaluation)}
PAGES: dict[str, str] = {}


def html(kind: str) -> str:
    if kind not in PAGES:
        PAGES[kind] = page.render(KINDS[kind]())
    return PAGES[kind]


class Collector(HTMLParser):
    """Tags with their attributes, text, and whether every tag that was opened is closed in order."""

    VOID = frozenset({"meta", "br", "hr", "img", "link", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += f"{data} "


def words(text: str) -> str:
    return re.sub(r"\s+", " ", Collector(text).text)


@pytest.mark.parametrize(
    ("kind", "state", "headline"),
    [
        (
            "accepted",
            State.Published,
            r"static is served: 2\.\d+× faster \(2\.\d+–2\.\d+\), 3\.48× smaller, accuracy 0\.9811 → 0\.9800 \(drop ≤ 0\.0061\)",
        ),
        ("refused_by_score", State.Refused, "Nothing is served: no candidate holds every limit"),
        ("slower", State.Published, "The uncompressed baseline is served: no candidate holds every limit"),
        ("undecided", State.Undecided, "Nothing is served: the measurement could not decide"),
        ("not_loadable", State.Refused, "Nothing is served: no candidate holds every limit"),
        ("convert_only", State.Published, "The converted model is served: no passes were asked for"),
        ("several_loads", State.Published, r"static-ends is served: 2\.\d+× faster .*"),
        ("no_evaluation", State.Published, r"static is served: 2\.\d+× faster \(2\.\d+–2\.\d+\), 3\.48× smaller"),
    ],
)
def test_report_says_the_verdict_in_one_sentence(kind: str, state: State, headline: str) -> None:
    assert KINDS[kind]().target.state is state
    found = re.search(r'<p class="headline">(.*?)</p>', html(kind))
    assert found
    assert re.fullmatch(headline, found[1])


def test_report_names_what_accuracy_control_put_back_in_float() -> None:
    data = accepted()
    told = "static INT8; 98.4% of the calibration's answers stay; in float: conv1, encoder/layers.0/attn<0>"
    first, *others = data.build.candidates
    controlled = data.build.model_copy(update={"candidates": (first.model_copy(update={"summary": told}), *others)})
    assert f" {told} " in words(page.render(dataclasses.replace(data, build=controlled)))


@pytest.mark.parametrize("kind", KINDS)
def test_report_needs_nothing_from_outside(kind: str) -> None:
    text = html(kind)
    assert "://" not in text
    assert "//cdn" not in text
    assert "@import" not in text
    for tag, attributes in Collector(text).tags:
        assert tag not in {"script", "link", "iframe", "object", "embed", "img", "base", "form"}
        assert not {"src", "srcset", "action", "background"} & set(attributes)
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#")
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))


@pytest.mark.parametrize("kind", KINDS)
def test_report_references_in_figures_resolve(kind: str) -> None:
    text = html(kind)
    defined = {attributes["id"] for _, attributes in Collector(text).tags if attributes.get("id")}
    used = set(re.findall(r"url\(#([^)]*)\)", text)) | set(re.findall(r'xlink:href="#([^"]*)"', text))
    assert used
    assert used <= defined


@pytest.mark.parametrize("kind", KINDS)
def test_figures_take_their_colors_from_the_page(kind: str) -> None:
    text = html(kind)
    assert not re.findall(r"#0[0-9a-f]{5}\b", text.split("</style>", 1)[1])
    used, light = set(re.findall(r"var\(--(\w+)\)", text)), text.split("@media", 1)[0]
    assert {"side0", "ink", "muted", "line"} <= used
    assert all(f"--{name}:" in light for name in used)
    dark = text.split("prefers-color-scheme: dark", 1)[1].split("* {", 1)[0]
    assert all(f"--{name}:" in dark for name in used)


@pytest.mark.parametrize("kind", ["accepted", "convert_only"])
def test_report_is_equal_for_equal_input_whatever_the_settings(kind: str) -> None:
    import matplotlib as mpl

    with mpl.rc_context({"font.size": 33, "svg.hashsalt": None, "lines.linewidth": 9, "figure.figsize": (1, 1)}):
        assert page.render(KINDS[kind]()) == html(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_report_tells_every_limit_of_every_candidate(kind: str) -> None:
    data, text = KINDS[kind](), words(html(kind))
    assert data.judgements or kind == "convert_only"
    for judgement in data.judgements.values():
        for limit in judgement.limits:
            assert limit.message in text
    for candidate in data.build.candidates:
        assert candidate.name in text
        assert candidate.message in text


@pytest.mark.parametrize("kind", KINDS)
def test_report_tells_where_and_how_it_was_measured(kind: str) -> None:
    data, text = KINDS[kind](), words(html(kind))
    for expected in (
        *("Intel(R) Xeon(R) Platinum 8488C", "x86-64/GenuineIntel/AVX2,AVX512-VNNI", "1, held by affinity", "1Gi", "worker-7", "2.64.0"),
        *("onnxruntime 1.32.0", "40 rounds", "1000 requests per model", "2 more rounds were void", "2026-11-23T20:15:00Z"),
        *(data.build.artifact_key, data.record.measurement_key, data.build.baseline.digest),
    ):
        assert expected in text


@pytest.mark.parametrize(
    ("kind", "expected", "absent"),
    [
        ("accepted", ["Is it faster?", "Is it still right?", "Was the comparison fair?", "How far are outputs from the baseline's?"], []),
        ("convert_only", ["How steady was the machine?", "How large is it?"], ["Is it faster?", "Is it still right?", "How far are outputs"]),
        ("not_loadable", ["How steady was the machine?", "not loaded", "not built"], ["Is it faster?", "Is it still right?"]),
        ("no_evaluation", ["Is it faster?"], ["Is it still right?", "drop at most"]),
        ("several_loads", ["b8 batch 8 × 1", "busy batch 1 × 4", "SamplesOverlap", "P95 at b8 ≤ 20ms"], []),
    ],
)
def test_report_shows_what_there_is_and_nothing_else(kind: str, expected: list[str], absent: list[str]) -> None:
    text = words(html(kind))
    assert [part for part in expected if part not in text] == []
    assert [part for part in absent if part in text] == []


def test_report_of_baseline_served_speaks_of_the_baseline() -> None:
    assert KINDS["slower"]().shown is None
    assert "Of the baseline , at load single" in words(html("slower"))


def test_report_holds_the_baseline_to_absolute_limits() -> None:
    assert "P50 at single ≤ 9ms" in words(html("convert_only"))


def test_report_says_so_where_no_latency_was_measured() -> None:
    text = words(page.render(make_input(speed={}, loads=())))
    assert "No latency was measured" in text
    assert "How are latencies distributed?" not in text


def test_report_of_a_copy_of_the_baseline_says_so() -> None:
    data = make_input(speed={"static": 1.0})
    same = data.record.sides[names.BASELINE].artifact
    sides = {**data.record.sides, "static": data.record.sides["static"].model_copy(update={"artifact": same})}
    record = data.record.model_copy(update={"sides": sides, "summary": summarize(sides, data.record.loads, {}, (), {})})
    text = words(page.render(ReportInput(data.model, data.target, record, data.build, data.constraints, data.judgements)))
    assert "static is served: the same model as the baseline, of the same size" in text
    assert "the same model: not compared" in text


HOSTILE = """<script>alert(1)</script>"'><img src=x onerror=alert(2)>&amp;$x^2$</text></svg>"""


def test_report_escapes_hostile_text() -> None:
    data = make_input(
        speed={"static": 0.5},
        scores={"static": (2, 1)},
        noise={"static": 1e-3},
        unloaded={"dynamic": HOSTILE},
        unbuilt={"static-ends": HOSTILE},
        model=HOSTILE,
        versions={HOSTILE: HOSTILE},
        warnings=(Warned(reason=Reason.SamplesOverlap, message=HOSTILE),),
        limits=STRICT,
    )
    differences = {"static": tuple(d.model_copy(update={"output": HOSTILE}) for d in data.record.equivalence["static"])}
    record = data.record.model_copy(update={"equivalence": differences})
    text = page.render(ReportInput(data.model, data.target, record, data.build, data.constraints, data.judgements, data.warnings))
    parsed = Collector(text)
    assert not {"script", "img"} & {tag for tag, _ in parsed.tags}
    assert parsed.text.count(HOSTILE) >= 6  # head, explanations, table, warning, versions
    assert HOSTILE[:20] in parsed.text.split("Measured", 1)[1].split("Where these numbers hold", 1)[0]  # the figure's legend
    assert not [name for _, attributes in parsed.tags for name in attributes if name.startswith("on")]


@pytest.mark.parametrize(
    ("estimate", "low", "high", "shown"),
    [
        (2.4123, 2.331, 2.494, "2.41 (2.33–2.49)"),
        (1.283, 1.2711, 1.3022, "1.28 (1.27–1.30)"),
        (8.1349, 7.2, 9.9, "8 (7–10)"),
        (8.1349, 7.9, 9.9, "8.1 (7.9–9.9)"),
        (431.7, 402, 512, "432 (402–512)"),
        (0.00041, 0.000381, 0.00042, "0.00041 (0.00038–0.00042)"),
        (1, 1, 1, "1 (1–1)"),
        (-0.0001, -0.003, 0.002, "0.000 (-0.003–0.002)"),
    ],
)
def test_numbers_have_the_digits_that_their_interval_carries(estimate: float, low: float, high: float, shown: str) -> None:
    interval = Estimate(estimate=estimate, low=low, high=high)
    assert f"{numbers.center(interval)} ({numbers.between(interval)})" == shown


@given(st.floats(1e-4, 1e4), st.floats(1e-5, 2), st.sampled_from([1, 2]))
def test_numbers_never_show_more_than_three_digits_of_the_width(estimate: float, relative_width: float, digits: int) -> None:
    width = max(estimate * relative_width, 1e-6)
    interval = Estimate(estimate=estimate, low=estimate - width / 2, high=estimate + width / 2)
    shown = numbers.text(estimate, interval, digits)
    places = len(shown.partition(".")[2])
    assert places == 0 or 10**-places >= width / 100 * 0.999
    assert abs(float(shown) - estimate) <= 0.5 * 10**-places + 1e-12


def pruned_and_quantized() -> ReportInput:
    """`static` begins with what Prune left, `dynamic` with the original."""
    data = accepted()
    pruned = TrainedPass(
        type="Prune",
        name="prune",
        summary="half of the channels",
        config={},
        file="steps/03-train/prune/model.onnx",
        facts=ModelFacts(parameters=25_000, non_zeros=25_000, macs=400_000, size_bytes=101_000),
        graph=data.build.graph,
        usage=Usage(seconds=3.25, peak_memory_bytes=500_000_000),
        losses=(0.5, 0.25),
    )
    candidates = tuple(c.model_copy(update={"start": "prune" if c.name == "static" else ""}) for c in data.build.candidates)
    original = ModelFacts(parameters=100_000, non_zeros=100_000, macs=1_600_000, size_bytes=402_000)
    return dataclasses.replace(data, build=data.build.model_copy(update={"original": original, "trained": (pruned,), "candidates": candidates}))


def test_chain_tells_weights_and_multiply_accumulates_of_every_row() -> None:
    weights, macs = chain.HEADS.index("Weights"), chain.HEADS.index("Multiply-accumulates")
    found = {row.label: (row.cells[weights].text, row.cells[macs].text) for row in chain.rows(pruned_and_quantized())}
    whole, half = ("100,000", "1,600,000"), ("25,000", "400,000")
    assert found == {"original": whole, "prune": half, "static": half, "dynamic": whole}


def test_chain_is_drawn_with_what_the_runtime_made_of_it() -> None:
    drawn = chain.figure(pruned_and_quantized())
    assert drawn is not None
    share = BYTES["static"] / BYTES[names.BASELINE]
    assert f"static: weights that aren't zero 25 %, multiply-accumulates 25 %, bytes {100 * share:.3g} %" in html_module.unescape(drawn)


@pytest.mark.parametrize(
    ("trained_with", "operators", "said"),
    [
        ("1 process, no sockets", (), "give the same weights on this class of hardware"),
        ("1 process on a GPU, no sockets", (), "on a GPU of the same kind"),
        ("2 processes, a network namespace of its own with loopback only", (), "weights that are close, not equal"),
        (
            "1 process, no sockets",
            ("put_", "histc"),
            "PyTorch has no deterministic implementation of histc, put_, so another run gives weights that are close",
        ),
    ],
)
def test_card_says_whether_another_run_gives_the_same_weights(trained_with: str, operators: tuple[str, ...], said: str) -> None:
    build = pruned_and_quantized().build
    trained = (build.trained[0].model_copy(update={"undetermined": operators}),)
    config = ArtifactConfig.model_construct(steps=({"kind": "Prune"},))
    lines = card._trained(build.model_copy(update={"trained": trained, "trained_with": trained_with}), config)
    assert said in lines[-2]
    assert "- prune: half of the channels, loss 0.5 to 0.25 in 2 epochs" in lines


def publish_result(store: Store, data: ReportInput) -> None:
    index = publish.put_measurement(data.record, store)
    result = Result(status=data.target, build=data.build, measurement=index, constraints=data.constraints)
    store.put_record(records.RESULTS, records.result_name(data.model, "cpu"), result, replace=True)


def test_command_renders_a_result_of_the_store(tmp_path: Path) -> None:
    data = accepted()
    publish_result(open_store(tmp_path / "store"), data)
    target = tmp_path / "report.html"
    command = [sys.executable, "-m", "burnish.pipeline.report", "--store", str(tmp_path / "store")]
    wanted = json.dumps({"result": "digits.cpu", "output": str(target)})
    done = subprocess.run(command, input=f"{wanted}\n", capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "{}\n", "")
    assert target.read_text(encoding="utf-8") == html("accepted")


def test_command_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = json.dumps({"result": "nothing.cpu", "output": str(tmp_path / "report.html")})
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{wanted}\n"))
    assert report_main(["--store", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out) == {"error": "the store has no result nothing.cpu"}
    assert not (tmp_path / "report.html").exists()
