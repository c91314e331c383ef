import dataclasses
import inspect
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.api.job_contract import ArtifactRef, PassEntryJson
from burnish.api.v1alpha1.optimized_model import Decode, DynamicBatching, Evaluation, Input, Load, Loss, Resources, TrainingData
from burnish.api.v1alpha1.preprocess import Preprocess, Resize
from burnish.plugins.base import DataType, HardwareClass, ServingImage, SourceOptions
from burnish.store import keys

DIGEST = "sha256:" + "a" * 64
OTHER = "sha256:" + "b" * 64

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(st.characters(exclude_categories=("Cs",))),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(exclude_categories=("Cs",)), max_size=8), inner, max_size=4),
    max_leaves=20,
)


def shuffled(value: Any) -> Any:
    """The same value with the members of every object in the opposite order."""
    if isinstance(value, dict):
        return {k: shuffled(v) for k, v in reversed(value.items())}
    return [shuffled(v) for v in value] if isinstance(value, list) else value


def told_apart(value: Any) -> Any:
    """Python holds 1 == 1.0 == True and 0.0 == -0.0; JSON does not."""
    if isinstance(value, dict):
        return {k: told_apart(v) for k, v in value.items()}
    return [told_apart(v) for v in value] if isinstance(value, list) else (type(value).__name__, repr(value))


@given(json_values)
def test_canonical_json_is_json_and_independent_of_member_order(value: Any) -> None:
    text = keys.canonical_json(value)
    assert told_apart(json.loads(text)) == told_apart(value)
    assert keys.canonical_json(shuffled(value)) == text


@given(json_values, json_values)
def test_canonical_json_differs_where_values_differ(one: Any, other: Any) -> None:
    assert (keys.canonical_json(one) == keys.canonical_json(other)) == (told_apart(one) == told_apart(other))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1: "a"}, {"a": {None: 1}}, {"a": object()}, b"bytes"])
def test_canonical_json_refuses_what_is_not_json(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        keys.canonical_json(value)


# --- artifact key --------------------------------------------------------------------------------------------------------------------------

EVALUATION = Evaluation.model_validate({"uri": "file:eval.npz", "metric": "Agreement", "samples": 900})
DECODINGS = (
    {"decode": Decode.CTC},
    {"output": "logits"},
    {"decode": Decode.Threshold},
    {"decode": Decode.Threshold, "threshold": "0.3"},
    {"decode": Decode.Cosine, "agreement_cosine": "0.9"},
)
IMAGE = ServingImage(name="cpu", triton="2.64.0", versions={"onnxruntime": "1.32.0"}, max_opset=24, max_ir_version=11, max_openvino_opset=16)
ARTIFACT: dict[str, Any] = {
    "source_digest": DIGEST,
    "format": "ONNX",
    "inputs": (Input(name="image", data_type=DataType.FP32, shape=[-1, 3, 8, 8]), Input(name="mask")),
    "passes": (PassEntryJson(name="Quantize", config={"precision": "INT8", "mode": "Auto"}),),
    "calibration_digest": DIGEST,
    "calibration_samples": 256,
    "decoding": EVALUATION,
    "golden_digest": DIGEST,
    "runtime": "ONNXRuntime",
    "toolchain": "f00d",
    "exporter": None,
    "options": None,
    "image": IMAGE,
    "seed": 0,
}
IMAGES = Preprocess(resize=Resize(width=32, height=32))
OTHER_IMAGES = (Preprocess(resize=Resize(width=32, height=33)), Preprocess(mean=["0.5"], resize=Resize(width=32, height=32)))
ARTIFACT_CHANGES: dict[str, list[Any]] = {
    "source_digest": [OTHER],
    "format": [None, "SavedModel"],
    "inputs": [(), ARTIFACT["inputs"][:1], (Input(name="image", shape=[1, 3, 8, 8]), Input(name="mask"))],
    "passes": [
        (),
        ARTIFACT["passes"] * 2,
        (PassEntryJson(name="Quantize", config={"precision": "FP16", "mode": "Auto"}),),
        (PassEntryJson(name="Prune", config={"precision": "INT8", "mode": "Auto"}),),
    ],
    "calibration_digest": [None, OTHER],
    "calibration_samples": [None, 255],
    "decoding": [None, *(EVALUATION.model_copy(update=update) for update in DECODINGS)],
    "golden_digest": [None, OTHER],
    "runtime": ["OpenVINO"],
    "toolchain": ["beef"],
    "exporter": ["beef"],
    "options": [
        SourceOptions(architecture="torchvision.models.resnet18"),
        SourceOptions(architecture="torchvision.models.resnet18", architecture_args={"num_classes": 10}),
        SourceOptions(task="FillMask"),
        SourceOptions(signature="serve"),
    ],
    "image": [
        None,
        dataclasses.replace(IMAGE, max_opset=23),
        dataclasses.replace(IMAGE, max_ir_version=10),
        dataclasses.replace(IMAGE, versions={"onnxruntime": "1.31.0"}),
    ],
    "seed": [1],
    "preprocess": [IMAGES, *OTHER_IMAGES],
    "student_digest": [DIGEST, OTHER],
    "trainer": ["beef"],  # the other two count where something trains: see below
    "training": [],
    "training_digest": [],
}


def parameters(of: Any) -> set[str]:
    return set(inspect.signature(of).parameters)


def test_artifact_key_differs_for_every_ingredient() -> None:
    assert ARTIFACT_CHANGES.keys() == parameters(keys.artifact_key), "a new ingredient needs a row here"
    found = [keys.artifact_key(**ARTIFACT)]
    found += [keys.artifact_key(**ARTIFACT | {name: value}) for name, values in ARTIFACT_CHANGES.items() for value in values]
    assert len(set(found)) == len(found)


def test_artifact_key_ignores_what_makes_no_bytes() -> None:
    same = {
        "inputs": tuple(reversed(ARTIFACT["inputs"])),
        "passes": (PassEntryJson(name="Quantize", config={"mode": "Auto", "precision": "INT8"}),),
        "image": dataclasses.replace(IMAGE, name="another", triton="2.65.0"),
    }
    assert keys.artifact_key(**ARTIFACT | same) == keys.artifact_key(**ARTIFACT)


def test_artifact_key_has_the_training_data_where_something_trains() -> None:
    data = TrainingData(uri="file:training.npz")
    trained = {"trainer": "beef", "training": data, "training_digest": DIGEST}
    changes = [
        {"training_digest": OTHER},
        {"trainer": "f00d"},
        *({"training": data.model_copy(update=update)} for update in ({"samples": 9}, {"output": "logits"}, {"loss": Loss.MeanSquaredError})),
    ]
    found = {keys.artifact_key(**ARTIFACT, **trained | change) for change in ({}, *changes)}
    assert len(found) == 1 + len(changes)
    elsewhere = trained | {"training": TrainingData(uri="https://elsewhere/training.npz", digest=OTHER)}
    assert keys.artifact_key(**ARTIFACT, **elsewhere) in found


def test_artifact_key_format_is_stable() -> None:
    # If this changes on purpose, raise the number in the key's name; every store then builds again.
    assert keys.artifact_key(**ARTIFACT) == "a423bd08d20d96119cb81c52d36c7772c8c8247ceb242582e7dd1013b2765bde"


@given(st.permutations(list(ARTIFACT)), st.text(max_size=20), st.text(max_size=20))
def test_artifact_key_does_not_mix_up_neighbouring_texts(order: list[str], runtime: str, toolchain: str) -> None:
    given_ = {name: ARTIFACT[name] for name in order} | {"runtime": runtime, "toolchain": toolchain}
    swapped = given_ | {"runtime": toolchain, "toolchain": runtime}
    assert (keys.artifact_key(**given_) == keys.artifact_key(**swapped)) == (runtime == toolchain)
    assert keys.artifact_key(**given_) == keys.artifact_key(**ARTIFACT | {"runtime": runtime, "toolchain": toolchain})


# --- measurement key -----------------------------------------------------------------------------------------------------------------------


def artifact(digit: str) -> ArtifactRef:
    return ArtifactRef(digest="sha256:" + digit * 64, size_bytes=1, stored_bytes=1, content_digest=DIGEST)


HARDWARE = HardwareClass(architecture="x86-64", vendor="GenuineIntel", isa=("AVX2", "AVX512-VNNI"))
MEASUREMENT: dict[str, Any] = {
    "baseline": artifact("1"),
    "candidates": {"static-u8s8": artifact("2"), "dynamic": artifact("3")},
    "evaluation_digest": DIGEST,
    "evaluation": EVALUATION,
    "calibration_digest": DIGEST,
    "calibration_samples": 256,
    "triton": "cpu/2.64.0",
    "hardware_class": HARDWARE,
    "resources": Resources(cpu="1", memory="2Gi"),
    "loads": (Load(name="single"), Load(name="batched", batch_size=8, concurrency=2)),
    "threads": None,
    "instances": 1,
}
MEASUREMENT_CHANGES: dict[str, list[Any]] = {
    "baseline": [artifact("4")],
    "candidates": [{}, {"dynamic": artifact("2"), "static-u8s8": artifact("3")}, {"dynamic": artifact("3")}],
    "evaluation_digest": [None, OTHER],
    "evaluation": [None]
    + [
        Evaluation.model_validate({"uri": "file:eval.npz", "metric": "Agreement", "samples": 900} | change)
        for change in ({"metric": "Accuracy"}, {"samples": None}, {"samples": 901}, {"decode": "CTC"}, {"output": "logits"})
    ]
    + [EVALUATION.model_copy(update=update) for update in DECODINGS[2:]],
    "calibration_digest": [None, OTHER],
    "calibration_samples": [None, 128],
    "triton": ["cpu/2.65.0"],
    "hardware_class": [HARDWARE.model_copy(update={"isa": ("AVX2",)}), HARDWARE.model_copy(update={"vendor": "AuthenticAMD"})],
    "resources": [Resources(cpu="2", memory="2Gi"), Resources(cpu="1", memory="1Gi")],
    "loads": [
        MEASUREMENT["loads"][:1],
        MEASUREMENT["loads"][::-1],
        (Load(name="single"), Load(name="batched", batch_size=8, concurrency=3)),
        (Load(name="single"), Load(name="batched", batch_size=4, concurrency=2)),
    ],
    "threads": [1],
    "instances": [2],
    "batching": [DynamicBatching(), DynamicBatching(max_batch_size=4)],
    "preprocess": [IMAGES, *OTHER_IMAGES],
}


def test_measurement_key_differs_for_every_ingredient() -> None:
    assert MEASUREMENT_CHANGES.keys() == parameters(keys.measurement_key), "a new ingredient needs a row here"
    found = [keys.measurement_key(**MEASUREMENT)]
    found += [keys.measurement_key(**MEASUREMENT | {name: value}) for name, values in MEASUREMENT_CHANGES.items() for value in values]
    assert len(set(found)) == len(found)


def test_measurement_key_ignores_how_the_same_is_written() -> None:
    same = {
        "candidates": dict(reversed(MEASUREMENT["candidates"].items())),
        "evaluation": EVALUATION.model_copy(update={"uri": "https://elsewhere/eval.npz", "digest": OTHER}),
        "hardware_class": HARDWARE.model_copy(update={"isa": ("AVX512-VNNI", "AVX2")}),
        "resources": Resources(cpu="1000m", memory="2048Mi"),
    }
    assert keys.measurement_key(**MEASUREMENT | same) == keys.measurement_key(**MEASUREMENT)


def test_measurement_key_format_is_stable() -> None:
    # If this changes on purpose, raise the number in the key's name, or METHOD_VERSION if the method changed; every store then measures again.
    assert keys.measurement_key(**MEASUREMENT) == "eab2c5eaf2b46060980f4471a888195c614d59aac66b92ad77eb51e18160a81e"


def test_measurement_key_tells_the_method(monkeypatch: pytest.MonkeyPatch) -> None:
    before = keys.measurement_key(**MEASUREMENT)
    monkeypatch.setattr(keys.names, "METHOD_VERSION", 10_000)
    assert keys.measurement_key(**MEASUREMENT) != before


# --- source key ----------------------------------------------------------------------------------------------------------------------------

optional = st.none() | st.text(max_size=10)


@given(st.tuples(st.text(max_size=10), optional, optional), st.tuples(st.text(max_size=10), optional, optional))
def test_source_key_differs_where_an_ingredient_differs(one: tuple[str, str | None, str | None], other: tuple[str, str | None, str | None]) -> None:
    assert (keys.source_key(*one) == keys.source_key(*other)) == (one == other)


def test_source_key_format_is_stable() -> None:
    assert keys.source_key("https://host/m.onnx", None, "2026-11-23") == "13d08ec1971bfbcb589e5351c9a7c87c6df3d4826b8423e7e12058ab47de3dc5"


def test_keys_of_different_kinds_are_full_length_hex() -> None:
    found = {keys.artifact_key(**ARTIFACT), keys.measurement_key(**MEASUREMENT), keys.source_key("u", None, None)}
    assert len(found) == 3
    assert all(len(key) == 64 and int(key, 16) for key in found)
