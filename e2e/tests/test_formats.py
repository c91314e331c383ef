"""Sources of PyTorch and TensorFlow on a real cluster. Their images have gigabytes, so they are built, loaded and installed here only."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from installation import EXAMPLES, EXPORTERS, ROOT, Installation, Space, is_ready, is_stalled

sys.path.insert(0, str(ROOT / "tests/pipeline"))
import framework_sources

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]


@pytest.mark.parametrize(("example", "source_format"), [("pytorch", "StateDict"), ("keras", "Keras")])
def test_a_source_waits_for_the_image_of_its_toolchain_and_is_then_served(
    installation: Installation, space: Space, example: str, source_format: str
) -> None:
    image = EXPORTERS[example]
    installation.upload(example)
    installation.apply_example(space, example)
    failure = space.wait(example, is_stalled)["status"]["lastFailure"]
    assert failure["reason"] == "ToolchainUnavailable"
    assert image.replace("optimizer-", "images.optimizers.") in failure["message"]

    installation.images(image)
    installation.install()
    model = space.wait(example, is_ready)
    assert model["status"]["source"]["format"] == source_format
    (target,) = model["status"]["targets"]
    assert target["artifact"]["served"] == "Candidate"
    (job,) = (j for j in space.get("jobs", "") if "resolve" not in j["metadata"]["name"])
    images = {c["name"]: c["image"] for c in job["spec"]["template"]["spec"]["initContainers"]}
    assert images["export"] == installation.references[image]
    assert images["build"] == images["measure"] == installation.references["optimizer-onnx"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The examples' networks as a program, a script, a SavedModel and in Keras' older form."""
    folder = tmp_path_factory.mktemp("formats")
    framework_sources.programs(folder)
    framework_sources.keras("model.export(file)", folder / "saved")
    framework_sources.keras("model.save(file)", folder / "model.h5")
    return folder


@pytest.mark.parametrize(
    ("example", "file", "source_format", "source"),
    [
        ("pytorch", "digits.pt2", "ExportedProgram", {"trusted": True}),
        ("pytorch", "digits.script.pt", "TorchScript", {"trusted": True}),
        ("keras", "saved", "SavedModel", {}),
        ("keras", "model.h5", "Keras", {}),
    ],
)
def test_other_forms_of_the_frameworks(
    installation: Installation, space: Space, made: Path, example: str, file: str, source_format: str, source: dict[str, Any]
) -> None:
    installation.upload(example)
    uri = f"{installation.sources}/{space.name}/{file}"
    files = installation.files()
    for path in (made / file).rglob("*") if (made / file).is_dir() else [made / file]:
        if path.is_file():
            files.put_file(str(path), uri + str(path).removeprefix(str(made / file)))
    installation.images(EXPORTERS[example])
    installation.install(trustedNamespaces=f"{{{space.name}}}")
    model = yaml.safe_load((EXAMPLES / f"cluster/{example}.yaml").read_text())
    model["spec"]["source"] = {"uri": uri, "secretRef": {"name": "models"}, **source}
    model["spec"] |= {"constraints": {}, "serving": {"mode": "PublishOnly"}}
    del model["spec"]["passes"], model["spec"]["datasets"]["calibration"]
    space.apply(model)
    status = space.wait(example, is_ready)["status"]
    assert status["source"]["format"] == source_format
    assert status["targets"][0]["artifact"]["served"] == "Baseline"


def test_trusted_does_not_count_where_nobody_said_so(space: Space) -> None:
    source = {"uri": "s3://models/net.pt2", "trusted": True}
    targets = [{"name": "cpu", "runtime": "ONNXRuntime"}]
    space.apply(
        {"apiVersion": "burnish.dev/v1alpha1", "kind": "OptimizedModel", "metadata": {"name": "net"}, "spec": {"source": source, "targets": targets}}
    )
    assert space.wait("net", is_stalled)["status"]["lastFailure"]["reason"] == "SourceNotTrusted"
    assert space.get("jobs", "") == []
