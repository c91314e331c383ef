"""The examples are what a newcomer tries first: their manifests are valid, and what is committed fits together."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnxruntime
import pytest
import yaml
from PIL import Image

from burnish.api.v1alpha1.optimized_model import Metric, OptimizedModel

EXAMPLES = Path(__file__).parents[3] / "examples"
MANIFESTS = sorted(EXAMPLES.glob("*.yaml"))
REQUIREMENTS = sorted(EXAMPLES.glob("*/requirements.txt"))


def load_manifest(path: Path) -> OptimizedModel:
    return OptimizedModel.model_validate(yaml.safe_load(path.read_text()))


def load_script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"make_{name}", EXAMPLES / name / "make.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(EXAMPLES / name))  # as for a script: it may have others beside it
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    return module


def test_examples_are_those_of_the_readme() -> None:
    linked = set(re.findall(r"\]\(([a-z-]+\.yaml)\)", (EXAMPLES / "README.md").read_text()))
    assert linked == {path.name for path in MANIFESTS}
    assert {"digits.yaml", "images.yaml", "keras.yaml", "magika.yaml", "ocr.yaml", "pytorch.yaml", "runtimes.yaml"} <= linked


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_manifest_is_valid_and_named_as_its_file(path: Path) -> None:
    model = load_manifest(path)
    assert model.metadata.name == path.stem
    assert model.spec.constraints.score is not None or model.spec.constraints.equivalence is not None
    data = model.spec.datasets
    assert data.evaluation is not None
    assert data.calibration is not None or data.training is not None or [p.type for p in model.spec.passes] == ["ShareWeights"]  # looks at no data


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_overlay_for_a_cluster_differs_only_in_where_the_files_are_and_in_reserved_cpu(path: Path) -> None:
    local, overlay = yaml.safe_load(path.read_text()), yaml.safe_load((EXAMPLES / "cluster" / path.name).read_text())
    spec = local["spec"]
    for entry in (spec["source"], *(spec["datasets"][name] for name in ("calibration", "evaluation", "training") if name in spec["datasets"])):
        file = Path(entry["uri"].removeprefix("file:"))
        end = "" if file.suffix else "/"  # of a directory
        entry["uri"] = f"s3://models/{file.parent.name}/{file.name}{end}"  # where e2e/installation.py puts them
    spec["source"]["secretRef"] = {"name": "models"}
    for target in spec["targets"]:
        target["resources"]["cpuRequest"] = "250m"
    assert overlay == local
    load_manifest(EXAMPLES / "cluster" / path.name)


def test_there_is_an_overlay_of_every_example_and_of_nothing_else() -> None:
    kinds = {path.name: yaml.safe_load(path.read_text())["kind"] for path in (EXAMPLES / "cluster").glob("*.yaml")}
    assert {name for name, kind in kinds.items() if kind == "OptimizedModel"} == {path.name for path in MANIFESTS}


@pytest.mark.parametrize("path", REQUIREMENTS, ids=lambda path: path.parent.name)
def test_requirements_are_hashed_and_name_no_index(path: Path) -> None:
    text = path.read_text()
    entries = re.findall(r"^[a-z0-9].*?(?=^[a-z0-9]|\Z)", text, flags=re.MULTILINE | re.DOTALL)
    assert entries and all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in text and "index-url" not in text
    pins = [line for line in path.with_name("requirements.in").read_text().splitlines() if line and not line.startswith("#")]
    assert all(any(entry.startswith(pin + " ") for entry in entries) for pin in pins)


def test_digits_data_fits_the_model_and_is_disjoint() -> None:
    calibration, evaluation = (np.load(EXAMPLES / "digits" / name) for name in ("calibration.npz", "evaluation.npz"))
    (image,) = onnxruntime.InferenceSession(EXAMPLES / "digits" / "model.onnx", providers=["CPUExecutionProvider"]).get_inputs()
    assert (image.name, image.type, image.shape) == ("image", "tensor(float)", ["batch", 1, 32, 32])
    assert calibration["image"].shape == (128, 1, 32, 32) and evaluation["image"].shape == (899, 1, 32, 32)
    assert calibration["image"].dtype == evaluation["image"].dtype == np.float32
    assert evaluation["label"].shape == (899,) and evaluation["label"].dtype == np.int64
    assert not {sample.tobytes() for sample in calibration["image"]} & {sample.tobytes() for sample in evaluation["image"]}


def test_digits_model_is_accurate_on_held_out_samples() -> None:
    evaluation = np.load(EXAMPLES / "digits" / "evaluation.npz")
    session = onnxruntime.InferenceSession(EXAMPLES / "digits" / "model.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": evaluation["image"]})
    assert (logits.argmax(axis=1) == evaluation["label"]).mean() >= 0.98
    assert load_manifest(EXAMPLES / "digits.yaml").spec.datasets.evaluation.metric is Metric.Accuracy  # type: ignore[union-attr]


def test_ocr_preprocess_orders_channels_scales_and_pads_as_rapidocr() -> None:
    line = load_script("ocr").preprocess(Image.new("RGB", (50, 24), (255, 0, 51)))
    assert line.shape == (3, 48, 320) and line.dtype == np.float32
    np.testing.assert_allclose(line[:, :, :100], np.broadcast_to(np.array([-0.6, -1, 1], np.float32)[:, None, None], (3, 48, 100)), atol=1e-6)
    assert not line[:, :, 100:].any()


def test_ocr_lines_are_distinct_and_repeatable() -> None:
    script = load_script("ocr")
    fonts = script.package_folder("matplotlib") / "mpl-data" / "fonts" / "ttf"
    texts, lines = script.make_lines(12, fonts)
    again, same = script.make_lines(12, fonts)
    assert texts == again and len(set(texts)) == 12
    np.testing.assert_array_equal(lines, same)
