"""The keys under which a target's build and measurement are filed, computed the same way by `resolve` and by `measure`."""

from __future__ import annotations

from collections.abc import Sequence

from burnish.api import requests
from burnish.api.job_contract import BuildRecord, PassEntryJson, ResolveRecord
from burnish.api.v1alpha1.optimized_model import Datasets, DynamicBatching, Input, Load, Target
from burnish.plugins import base as plugins
from burnish.plugins import order, registry
from burnish.plugins.base import HardwareClass
from burnish.serving import images
from burnish.store import keys
from burnish.toolchains import environments


def artifact_key(
    resolved: ResolveRecord,
    *,
    options: plugins.SourceOptions,
    inputs: Sequence[Input],
    datasets: Datasets,
    passes: Sequence[PassEntryJson],
    target: Target,
    image: str,
) -> str:
    """The artifact key of one target (DESIGN.md section 4)."""
    wanted = requests.parsed(passes)
    reads_answers = any(registry.passes()[r.name].reads_answers(r.config) for r in wanted)
    runtime = registry.runtimes()[target.runtime.value]
    exporter = registry.exporter(resolved.detected, runtime.name).toolchain
    golden = resolved.calibration or resolved.evaluation
    trains = bool(order.training_part(wanted))
    calibration = resolved.calibration if any(registry.passes()[r.name].reads_calibration(r.config) for r in wanted) else None
    student = resolved.students.get(target.name)
    return keys.artifact_key(
        source_digest=resolved.source.tree.digest,
        format=resolved.format,
        inputs=inputs,
        passes=requests.relocated(passes, "", None),
        calibration_digest=calibration.tree.digest if calibration else None,
        calibration_samples=datasets.calibration.samples if calibration and datasets.calibration else None,
        decoding=datasets.evaluation if reads_answers or trains else None,
        golden_digest=golden.tree.digest if golden else None,
        training=datasets.training if trains else None,
        training_digest=resolved.training.tree.digest if trains and resolved.training else None,
        student_digest=student.source.tree.digest if student else None,
        trainer=environments.identity(order.TRAINER) if trains else None,
        runtime=target.runtime.value,
        toolchain=environments.identity(runtime.toolchain),
        exporter=environments.identity(exporter) if exporter != runtime.toolchain else None,
        options=options,
        image=images.image(image),
        preprocess=datasets.preprocess,
    )


def measurement_key(
    resolved: ResolveRecord,
    build: BuildRecord,
    *,
    datasets: Datasets,
    loads: Sequence[Load],
    batching: DynamicBatching | None,
    target: Target,
    hardware_class: HardwareClass,
    image: str,
) -> str:
    """The measurement key of one target (DESIGN.md section 4); limits and time-outs are not part of it."""
    return keys.measurement_key(
        baseline=build.baseline,
        candidates={c.name: c.artifact for c in build.candidates if c.artifact is not None},
        evaluation_digest=resolved.evaluation.tree.digest if resolved.evaluation else None,
        calibration_digest=resolved.calibration.tree.digest if resolved.calibration else None,
        calibration_samples=datasets.calibration.samples if datasets.calibration else None,
        evaluation=datasets.evaluation,
        triton=images.triton_identity(images.image(image), environments.identity("triton")),
        hardware_class=hardware_class,
        resources=target.resources,
        loads=loads,
        batching=batching,
        preprocess=datasets.preprocess,
    )
