"""config.pbtxt: what is written for which model (golden files), and that Triton's own schema reads it as it was meant.

To accept changed output: BURNISH_GOLDEN=write pytest tests/unit/serving/test_config.py, then read the diff.
"""

import importlib.util
import json
import os
from pathlib import Path

import pytest
import tritonclient
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish.api.job_contract import ArtifactConfig, ResolvedInput
from burnish.plugins.base import DataType, Signature, Tensor
from burnish.serving.config import ServingOptions, render_config

GOLDEN = Path(__file__).parents[2] / "golden" / "serving"
CASES = sorted(path.stem for path in (GOLDEN / "input").glob("*.json"))


def _model_config_class():
    """Triton's ModelConfig, loaded by file: the package itself would import gRPC."""
    path = Path(tritonclient.__path__[0]) / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ModelConfig


ModelConfig = _model_config_class()


def parse(text: str):
    return text_format.Parse(text, ModelConfig())


def load(case: str) -> tuple[str, ArtifactConfig, ServingOptions]:
    data = json.loads((GOLDEN / "input" / f"{case}.json").read_text())
    return data["name"], ArtifactConfig.model_validate(data["artifact"]), ServingOptions(**data["options"])


@pytest.mark.parametrize("case", CASES)
def test_config_is_the_golden_one(case):
    text = render_config(*load(case))
    expected = GOLDEN / "output" / f"{case}.pbtxt"
    if os.environ.get("BURNISH_GOLDEN") == "write":
        expected.write_text(text)
    assert text == expected.read_text()


@pytest.mark.parametrize("case", CASES)
def test_config_means_the_artifact_in_tritons_own_schema(case):
    name, artifact, options = load(case)
    config = parse(render_config(name, artifact, options))
    assert (config.name, config.backend) == (name, artifact.backend)
    assert config.runtime == config.platform == ""
    assert [t.name for t in config.input] == [t.name for t in artifact.signature.inputs]
    assert [t.name for t in config.output] == [t.name for t in artifact.signature.outputs]
    assert {key: value.string_value for key, value in config.parameters.items()} == dict(options.parameters)
    assert [group.count for group in config.instance_group] == [options.instances]
    batch = 1 if config.max_batch_size else 0
    for tensor, declared in zip(artifact.signature.inputs, config.input, strict=True):
        assert list(declared.dims) == (list(tensor.shape[batch:]) or [1])
        assert declared.HasField("reshape") == (bool(batch) and len(tensor.shape) == 1)


def test_config_batches_only_a_model_whose_first_axes_all_vary():
    name, artifact, options = load("image_batched")
    assert parse(render_config(name, artifact, options)).max_batch_size == 8
    fixed = Signature(inputs=artifact.signature.inputs, outputs=(Tensor(name="logits", data_type=DataType.FP32, shape=(1, 10)),))
    config = parse(render_config(name, artifact.model_copy(update={"signature": fixed}), options))
    assert config.max_batch_size == 0
    assert list(config.input[0].dims) == [-1, 3, 32, 32]


def test_warmup_covers_the_smallest_and_the_largest_batch():
    config = parse(render_config(*load("image_batched")))
    assert [warmup.batch_size for warmup in config.model_warmup] == [1, 8]
    assert [warmup.batch_size for warmup in parse(render_config(*load("batch_bounds_other_file"))).model_warmup] == [4, 8]


def test_warmup_sends_zeros_of_the_declared_types():
    for case in CASES:
        config = parse(render_config(*load(case)))
        for warmup in config.model_warmup:
            assert {tensor.name: tensor.data_type for tensor in config.input} == {key: value.data_type for key, value in warmup.inputs.items()}
            assert all(value.zero_data for value in warmup.inputs.values())


def test_warmup_is_left_out_where_a_size_is_unknown():
    assert not parse(render_config(*load("sizes_unknown"))).model_warmup


@settings(deadline=None)
@given(name=st.text(min_size=1, max_size=40), key=st.text(max_size=20), value=st.text(max_size=20))
def test_no_name_ever_becomes_syntax(name, key, value):
    _, artifact, _ = load("image_batched")
    tensor = Tensor(name=name, data_type=DataType.FP32, shape=(-1, 4))
    hostile = artifact.model_copy(
        update={
            "signature": Signature(inputs=(tensor,), outputs=(tensor,)),
            "inputs": (ResolvedInput(name=name, data_type=DataType.FP32, shape=(-1, 4)),),
        }
    )
    text = render_config("m", hostile, ServingOptions(threads=1, parameters={key: value}))
    assert text.isascii()
    config = parse(text)
    assert (config.backend, config.input[0].name, config.output[0].name) == ("onnxruntime", name, name)
    assert list(config.model_warmup[0].inputs) == [name]
    assert config.parameters[key].string_value == value
