"""The model card that travels with a pulled artifact: what it is, how it was made, what was measured, and where that holds. Pure."""

from __future__ import annotations

from burnish.api import numbers
from burnish.api.job_contract import ArtifactConfig, BuildRecord, Result, TrainedPass
from burnish.api.v1alpha1.status import Served, TargetStatus
from burnish.plugins.base import Tensor


def render(config: ArtifactConfig, digest: str, result: Result | None, preprocess: str = "") -> str:
    """The card as Markdown.

    Args:
        digest: of the artifact's OCI manifest.
        result: the verdict under which it is served; None where it was pulled by digest.
        preprocess: how images became its input, as JSON; empty where the manifest says nothing of it.
    """
    lines = [
        f"# {config.name}: {config.summary}",
        "",
        f"- artifact: `{digest}`",
        f"- made from: `{config.source_digest}`",
        f"- runtime: {config.runtime}, Triton backend `{config.backend}`, file `model/{config.model_file}`",
        f"- steps: {', '.join(str(step['kind']) for step in config.steps) or 'none (converted only)'}",
        f"- hardware class: {config.hardware_class}",
        "",
        "## Inputs and outputs",
        "",
        *_tensors("input", config.signature.inputs),
        *_tensors("output", config.signature.outputs),
        "",
        *_preprocessed(preprocess),
        "`golden.npz` holds one request and this model's own answer (`input:<name>`, `output:<name>`).",
        "",
        "## What was measured",
        "",
        *(_measured(result.status) if result else ["Pulled by digest: no verdict was looked up. `burnish report NAME` has the numbers."]),
        "",
        *(_trained(result.build, config) if result else []),
        "## Where it holds",
        "",
        "Speed and accuracy hold for the hardware class above, this Triton and these resources; measure again elsewhere.",
        "",
    ]
    return "\n".join(lines)


def _trained(build: BuildRecord, config: ArtifactConfig) -> list[str]:
    """The training passes behind this artifact, and whether the same run gives the same weights."""
    behind = len([step for step in config.steps if any(step["kind"] == p.type for p in build.trained)])
    if not behind:
        return []
    lines = ["## How it was trained", "", *(f"- {p.name}: {_of_pass(p)}" for p in build.trained[:behind]), f"- by {build.trained_with}", ""]
    operators = sorted({name for p in build.trained[:behind] for name in p.undetermined})
    if operators:
        words = f"PyTorch has no deterministic implementation of {', '.join(operators)}, so another run gives weights that are close, not equal."
    elif build.trained_with.startswith("1 process on a GPU"):
        words = "The same data and options give the same weights on a GPU of the same kind with the same driver; another one sums in another order."
    elif build.trained_with.startswith("1 "):
        words = "The same data, options and number of CPUs give the same weights on this class of hardware; another number of threads sums in another order."
    else:
        words = "Several processes sum gradients in an order that may differ, so another run gives weights that are close, not equal."
    return [*lines, words, ""]


def _of_pass(done: TrainedPass) -> str:
    options = done.config.get("finetune")
    options = options if isinstance(options, dict) else done.config
    seed = f", seed {options['seed']}" if done.losses and "seed" in options else ""
    loss = f", loss {done.losses[0]:.3g} to {done.losses[-1]:.3g} in {numbers.counted(len(done.losses), 'epoch')}" if done.losses else ""
    return f"{done.summary}{loss}{seed}"


def _preprocessed(preprocess: str) -> list[str]:
    if not preprocess:
        return []
    text = (
        "Images were made into the input so, in this order: colour, resize, centre crop, scale, mean and std, layout (`companions/preprocess.json`):"
    )
    return [text, "", f"    {preprocess}", ""]


def _tensors(kind: str, tensors: tuple[Tensor, ...]) -> list[str]:
    return [f"- {kind} `{t.name}`: {t.data_type.value} {list(t.shape)}" for t in tensors]


def _measured(status: TargetStatus) -> list[str]:
    lines = [f"- verdict: {status.state.value}, {status.message}"]
    served = status.artifact.served if status.artifact else Served.Baseline
    lines += _candidate_lines(status) if served is Served.Candidate else _baseline_lines(status)
    if status.measured_on:
        lines.append(f"- on {status.measured_on.node}: {status.measured_on.hardware_class}, {status.measured_on.triton}")
    return lines


def _baseline_lines(status: TargetStatus) -> list[str]:
    lines = []
    if status.baseline:
        score = f", score {status.baseline.score}" if status.baseline.score else ""
        lines.append(f"- size {status.baseline.size}{score}")
    return lines + [f"- load {m.name}: p50 {m.baseline.p50}, p99 {m.baseline.p99}, {m.rounds} rounds" for m in status.measurements]


def _candidate_lines(status: TargetStatus) -> list[str]:
    lines = []
    if status.baseline and status.artifact:
        lines.append(f"- size: baseline {status.baseline.size}, this artifact {status.artifact.size}")
    if status.score:
        lines.append(
            f"- score: {status.score.value}; drop {status.score.drop}, at most {status.score.high} with 95 % on {status.score.samples} samples"
        )
    if status.equivalence:
        found = status.equivalence
        if found.worst_cosine is not None:
            lines.append(f"- cosine of outputs against the baseline: median {found.cosine}, worst {found.worst_cosine}")
        if found.exact_match is not None:
            lines.append(f"- share of elements equal to the baseline's, outputs that are not floats: {found.exact_match} in the worst sample")
    for m in status.measurements:
        if m.optimized and m.speedup:
            speedup = f"speedup {m.speedup.p50} ({m.speedup.low} to {m.speedup.high}, 99 %)"
            lines.append(f"- load {m.name}: p50 {m.baseline.p50} -> {m.optimized.p50}, {speedup}, {m.rounds} rounds")
    return lines
