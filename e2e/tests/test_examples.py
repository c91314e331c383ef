"""Examples with real models, on a real cluster, as `make demo MODELS=...` serves them; digits, pytorch, keras and prune have tests of their own."""

from __future__ import annotations

import pytest

import demo
from installation import Installation, Space, exporters

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]


@pytest.mark.parametrize("example", ["ocr", "ocr-detection", "ocr-openvino", "minilm", "resnet"])
def test_example_is_served_and_answers(installation: Installation, space: Space, example: str, capsys: pytest.CaptureFixture[str]) -> None:
    installation.upload(example)
    installation.images(*exporters([example]))
    installation.install()
    installation.apply_example(space, example)
    model = demo.follow(space, example)
    assert model is not None and model.status is not None, capsys.readouterr().err
    assert [(t.name, t.state.value) for t in model.status.targets] == [(t.name, "Serving") for t in model.spec.targets]
    for target in model.status.targets:
        assert target.artifact is not None and target.measurements[0].rounds >= 40
    demo.ask(space, model)
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith(f"POST {model.status.url}/v2/models/{example}/infer with its first sample") or "the picture of a" in said
