"""What makes two pieces of work the same: the keys under which results are looked up. Pure.

A key is the SHA-256 over canonical JSON of everything that decides the result, and of nothing else. One ingredient too few and somebody gets
another model's numbers; one too many and nothing is ever found. When an ingredient is added or its form changes, the number in the key's
name goes up, so that a new release never finds what an old one meant differently.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

from burnish import names
from burnish.api.job_contract import ArtifactRef, PassEntryJson
from burnish.api.scalars import quantity_bytes, quantity_value
from burnish.api.v1alpha1.optimized_model import DynamicBatching, Evaluation, Input, Load, Resources, TrainingData
from burnish.api.v1alpha1.preprocess import Preprocess
from burnish.plugins.base import HardwareClass, ServingImage, SourceOptions


def canonical_json(value: object) -> bytes:
    """The one UTF-8 text of a JSON value: members sorted by name, no spaces, nothing escaped that need not be.

    Close to RFC 8785, except that numbers are written as Python writes them and members sort by code point.

    Raises:
        TypeError: not a JSON value; member names that are not strings count as such.
        ValueError: NaN or infinity.
    """
    _check_names(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _check_names(value: object) -> None:
    if isinstance(value, dict):
        for name, member in value.items():
            if not isinstance(name, str):
                raise TypeError(f"{name!r} is not a member name; json would turn it into a string that another name may equal")
            _check_names(member)
    elif isinstance(value, (list, tuple)):
        for member in value:
            _check_names(member)


def source_key(uri: str, digest: str | None, refresh: str | None) -> str:
    """Key of what was found at a remote URI: hex, 64 digits. The URI as written, so a changed signature in a query looks again.

    Args:
        digest: the pin, if the manifest has one.
        refresh: `spec.source.refresh`.
    """
    return _key("source/1", {"uri": uri, "digest": digest, "refresh": refresh})


def artifact_key(
    *,
    source_digest: str,
    format: str | None,  # noqa: A002  # the field's name
    inputs: Sequence[Input],
    passes: Sequence[PassEntryJson],
    calibration_digest: str | None,
    calibration_samples: int | None,
    decoding: Evaluation | None,
    golden_digest: str | None,
    training: TrainingData | None = None,
    training_digest: str | None = None,
    student_digest: str | None = None,
    runtime: str,
    toolchain: str,
    exporter: str | None = None,
    trainer: str | None = None,
    options: SourceOptions | None = None,
    image: ServingImage | None = None,
    preprocess: Preprocess | None = None,
    seed: int = 0,
) -> str:
    """Key of what one target's build makes, apart from the hardware class: hex, 64 digits (DESIGN.md section 4).

    Args:
        source_digest: digest of the source's tree.
        format: as declared; None where it is detected, which the source digest decides.
        inputs: spec.inputs; their order does not matter.
        passes: as written, defaults filled in, without the place of what they start from; in order.
        calibration_digest: tree digest of the calibration data if a pass reads it, else None.
        calibration_samples: how many of it are read, else None.
        decoding: says how answers are decoded and from which output, if a pass reads answers; else None.
        golden_digest: tree digest of the data that the golden request is taken from; None where it is made up.
        training: how the training data is learned, if a pass trains, else None; its URI and pin do not count.
        training_digest: tree digest of it.
        student_digest: tree digest of the model of its own that one of the passes starts from, if one does; where it is does not count.
        runtime: name of the runtime.
        toolchain: identity of the toolchain: its lock and the plugins' code.
        exporter: identity of the toolchain that brings the source to ONNX, where it is another one.
        trainer: identity of the toolchain in which passes train, if any does.
        options: what the manifest says of the source beside where it is; whether it is trusted does not count.
        image: the serving image whose limits the artifact is capped to; its name and Triton do not count, what it loads does.
        preprocess: as written; what it takes from the source, the source digest decides.
        seed: of everything random in a pass.
    """
    return _key(
        "artifact/5",
        {
            "sourceDigest": source_digest,
            "format": format,
            "options": options.model_dump(mode="json", by_alias=True, exclude={"trusted"}) if options else None,
            "inputs": sorted((i.model_dump(mode="json", by_alias=True) for i in inputs), key=lambda i: str(i["name"])),
            "passes": [p.model_dump(mode="json", by_alias=True) for p in passes],
            "calibration": {"digest": calibration_digest, "samples": calibration_samples},
            "decoding": _decoding(decoding),
            "golden": golden_digest,
            "runtime": runtime,
            "seed": seed,
            "toolchain": toolchain,
            "exporter": exporter,
            **_preprocessing(preprocess),
            **_training(training, training_digest, trainer),
            **({"student": student_digest} if student_digest else {}),
            "loads": image
            and {
                "versions": dict(image.versions),
                "maxOpset": image.max_opset,
                "maxIrVersion": image.max_ir_version,
                "maxOpenvinoOpset": image.max_openvino_opset,
            },
        },
    )


def measurement_key(
    *,
    baseline: ArtifactRef,
    candidates: Mapping[str, ArtifactRef],
    evaluation_digest: str | None,
    evaluation: Evaluation | None,
    calibration_digest: str | None,
    calibration_samples: int | None,
    triton: str,
    hardware_class: HardwareClass,
    resources: Resources,
    loads: Sequence[Load],
    batching: DynamicBatching | None = None,
    preprocess: Preprocess | None = None,
    threads: int | None = None,
    instances: int = 1,
) -> str:
    """Key of one measurement: hex, 64 digits (DESIGN.md section 4). Limits and the time-out are not in it.

    Changed limits are judged again from the record, and more time only adds rounds to an undecided one.

    Args:
        baseline: its manifest digest counts, not its content digest: the manifest also fixes the input sizes that are measured.
        candidates: name -> artifact, of those that were built.
        evaluation_digest: tree digest of the evaluation data, if there is any.
        evaluation: how it is scored; its URI and pin do not count.
        calibration_digest: tree digest of the data that requests are drawn from where there is no evaluation data.
        calibration_samples: how many of it are read.
        triton: identity of the serving Triton.
        hardware_class: of the machine that measures.
        resources: `1` and `1000m` are the same.
        loads: load points in order; the first one decides when measuring stops.
        batching: Triton's dynamic batching, where the server has it.
        preprocess: as written; the baseline tells the source that it may take values from.
        threads: where they do not follow from `resources`.
        instances: model instances in the server.
    """
    scoring = {"samples": evaluation.samples, "metric": evaluation.metric.value, **(_decoding(evaluation) or {})} if evaluation else None
    return _key(
        "measurement/3",
        {
            "method": names.METHOD_VERSION,
            "baseline": baseline.digest,
            "candidates": {name: artifact.digest for name, artifact in candidates.items()},
            "evaluation": {"digest": evaluation_digest, "scoring": scoring},
            "calibration": {"digest": calibration_digest, "samples": calibration_samples},
            "triton": triton,
            "hardwareClass": hardware_class.model_dump(mode="json", by_alias=True) | {"isa": sorted(hardware_class.isa)},
            "resources": {"cpu": format(quantity_value(resources.cpu).normalize(), "f"), "memoryBytes": quantity_bytes(resources.memory)},
            "threads": threads,
            "instances": instances,
            **({"batching": batching.model_dump(mode="json", by_alias=True)} if batching else {}),
            **_preprocessing(preprocess),
            "loads": [load.model_dump(mode="json", by_alias=True) for load in loads],
        },
    )


def _decoding(evaluation: Evaluation | None) -> dict[str, object] | None:
    """How answers come of outputs, defaults filled in."""
    if evaluation is None:
        return None
    facts = evaluation.model_dump(mode="json", by_alias=True, include={"output", "threshold", "agreement_cosine"})
    return facts | {"decode": evaluation.decoding and evaluation.decoding.value}


def _preprocessing(preprocess: Preprocess | None) -> dict[str, object]:
    return {"preprocess": preprocess.model_dump(mode="json", by_alias=True)} if preprocess else {}


def _training(data: TrainingData | None, digest: str | None, trainer: str | None) -> dict[str, object]:
    if trainer is None:
        return {}
    facts = data.model_dump(mode="json", by_alias=True, include={"samples", "output", "loss"}) if data else None
    return {"training": {"digest": digest, "data": facts, "toolchain": trainer}}


def _key(kind: str, ingredients: dict[str, object]) -> str:
    return hashlib.sha256(canonical_json({"key": kind, **ingredients})).hexdigest()
