"""Every source format on every runtime, through `burnish run` and a real server; writes docs/matrix.md from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.pipeline import framework_sources
from tests.pipeline.matrix import PAGE, Entry, cells, render
from tests.pipeline.real_inputs import RUNTIMES, example_spec, on_every_runtime

from burnish.api.job_contract import Result, StepName
from burnish.pipeline.workdir import WorkDir
from burnish.plugins import registry

pytestmark = [pytest.mark.long, pytest.mark.alone]

MIB = 2**20
CALIBRATION, EVALUATION = 32, 64
Spec = dict[str, Any]


def example(name: str, **source: Any) -> Callable[[Path], Spec]:
    """An example's model; `source` replaces fields of it."""

    def make(_: Path) -> Spec:
        spec = example_spec(name, calibration=CALIBRATION, evaluation=EVALUATION)
        spec["source"] |= source
        return spec

    return make


def program(file: str) -> Callable[[Path], Spec]:
    """The network of examples/pytorch; see `framework_sources.programs`."""

    def make(folder: Path) -> Spec:
        framework_sources.programs(folder)
        return example_spec("pytorch", calibration=CALIBRATION, evaluation=EVALUATION) | {"source": {"uri": f"file:{folder / file}", "trusted": True}}

    return make


def keras(code: str, file: str) -> Callable[[Path], Spec]:
    """The network of examples/keras as Keras saves it otherwise; see `framework_sources.keras`."""

    def make(folder: Path) -> Spec:
        framework_sources.keras(code, folder / file)
        return example_spec("keras", calibration=CALIBRATION, evaluation=EVALUATION) | {"source": {"uri": f"file:{folder / file}"}}

    return make


FIXTURES: Mapping[str, tuple[str, str, Callable[[Path], Spec]]] = {
    "ONNX": ("ONNX", "digits CNN", example("digits")),
    "StateDict": ("StateDict", "torchvision ResNet-18", example("resnet")),
    "HuggingFace": ("HuggingFace", "all-MiniLM-L6-v2", example("minilm")),
    "ExportedProgram": ("ExportedProgram", "timm test_resnet", program("digits.pt2")),
    "TorchScript": ("TorchScript", "timm test_resnet", program("digits.script.pt")),
    "Keras": ("Keras", "digits CNN of Keras", example("keras")),
    "Keras, .h5": ("Keras", "digits CNN of Keras", keras("model.save(file)", "model.h5")),
    "SavedModel": ("SavedModel", "digits CNN of Keras", keras("model.export(file)", "saved")),
}
"""Row -> its format, a real model of it, and its spec, made in a folder."""

_entries: dict[str, list[Entry]] = {}


def test_every_format_has_a_model_here():
    assert {source_format for source_format, _, _ in FIXTURES.values()} == set(registry.formats()), "add a model of it to FIXTURES"


@pytest.mark.parametrize("name", FIXTURES)
def test_a_format_is_served_on_every_runtime_as_its_framework_answers(project, name: str):
    source_format, model, make = FIXTURES[name]
    manifest = project.write(on_every_runtime(make(project.path)), name="matrix")
    ran = project.run(manifest, "--work", project.path / "work", timeout=550)
    assert ran.code == 0, ran.stderr
    assert ran.status["source"]["format"] == source_format
    (folder,) = (project.path / "work").iterdir()
    results = [WorkDir(folder / target["name"]).load(StepName.publish, Result) for target in ran.status["targets"]]
    _entries[name] = [Entry(name, model, runtime, result) for runtime, result in zip(RUNTIMES, results, strict=True)]
    for entry in _entries[name]:
        check(entry)


def check(entry: Entry) -> None:
    """Bounds that hold on any machine."""
    assert 0 <= entry.worst_error < 1e-2, entry
    build = entry.result.build
    assert set(build.usage) == {"export", "compress", "build"}
    for usage in (*build.usage.values(), *(candidate.usage for candidate in entry.measured)):
        assert usage is not None and usage.peak_memory_bytes is not None
        assert 0 < usage.seconds < 300
        assert 50 * MIB < usage.peak_memory_bytes < 4096 * MIB
    sizes = [candidate.artifact.size_bytes / build.baseline.size_bytes for candidate in entry.measured if candidate.artifact]
    assert sizes and min(sizes) < 0.5, "INT8 has a candidate that is worth it for each of these models"
    assert max(sizes) < 1.05, "where a pass finds little to do, its own nodes take some room"
    for candidate in entry.measured:
        found = entry.result.measurement.summary.candidates[candidate.name]
        assert found.equivalence is not None and (found.equivalence.worst_cosine or 0) > 0.7, candidate.name
        assert 0.1 < 1 / found.speeds[0].ratio.estimate < 20


def test_page_tells_of_every_format_runtime_and_candidate():
    if set(_entries) != set(FIXTURES):
        pytest.skip("only some were run")
    page = render([entry for name in sorted(FIXTURES) for entry in _entries[name]])
    before = PAGE.read_text()
    PAGE.write_text(page)
    assert cells(before) == cells(page), "it was out of date, and is written anew: commit it"
