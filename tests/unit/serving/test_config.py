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
from burnish.api.v1alpha1.optimized_model import DynamicBatching, Load, Target
from burnish.plugins import registry
from burnish.plugins.base import DataType, Signature, Tensor
from burnish.serving.config import ServingOptions, options_of, render_config

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
    assert [list(group.gpus) for group in config.instance_group] == [list(range(options.gpus))]
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


def test_dynamic_batching_is_what_was_asked_for():
    assert not parse(render_config(*load("image_batched"))).HasField("dynamic_batching")
    batching = parse(render_config(*load("image_dynamic_batching"))).dynamic_batching
    assert (list(batching.preferred_batch_size), batching.max_queue_delay_microseconds) == ([4, 8], 2000)


def test_dynamic_batching_is_left_out_for_a_model_that_takes_one_sample_at_a_time():
    name, artifact, options = load("image_dynamic_batching")
    fixed = Signature(inputs=artifact.signature.inputs, outputs=(Tensor(name="logits", data_type=DataType.FP32, shape=(1, 10)),))
    config = parse(render_config(name, artifact.model_copy(update={"signature": fixed}), options))
    assert config.max_batch_size == 0
    assert not config.HasField("dynamic_batching")


def test_instances_are_on_the_gpus_that_the_container_has():
    config = parse(render_config(*load("image_gpus")))
    [group] = config.instance_group
    assert (group.kind, group.count, list(group.gpus)) == (group.KIND_GPU, 2, [0, 1])
    [group] = parse(render_config(*load("image_batched"))).instance_group
    assert (group.kind, list(group.gpus)) == (group.KIND_CPU, [])


NATIVE_PARAMETERS = {
    # Of Triton's own backends: README.md of triton-inference-server/onnxruntime_backend, "Model Config Options", and of openvino_backend, "Parameters".
    "onnxruntime": {"intra_op_thread_count", "inter_op_thread_count", "execution_mode", "enable_mem_arena", "enable_mem_pattern", "memory.enable_memory_arena_shrinkage"},
    "openvino": {"PERFORMANCE_HINT", "INFERENCE_NUM_THREADS", "COMPILATION_NUM_THREADS", "NUM_STREAMS", "ENABLE_BATCH_PADDING", "RESHAPE_IO_LAYERS"},
}  # fmt: skip


NOT_NATIVE = {"INFERENCE_PRECISION_HINT"}
"""Read by our backend; the native one asks for the keys that it knows, and ignores others."""


def test_parameters_are_those_of_the_native_backends():
    for runtime in registry.runtimes().values():
        assert set(runtime.parameters(2)) - NOT_NATIVE <= NATIVE_PARAMETERS[runtime.backend]
        assert runtime.backend != "python"


def target(**fields) -> Target:
    return Target.model_validate({"name": "t", "runtime": "ONNXRuntime", "resources": {"cpu": "1500m"}} | fields)


def test_options_follow_the_target_and_its_largest_batch():
    loads = [Load(name="single"), Load(name="batch", batch_size=6)]
    options = options_of(target(), loads, None)
    assert options == ServingOptions(threads=2, max_batch_size=6, parameters={"intra_op_thread_count": "2", "inter_op_thread_count": "1"})
    batching = DynamicBatching.model_validate({"maxBatchSize": 4, "preferredBatchSizes": [2, 4], "maxQueueDelay": "1500us"})
    options = options_of(target(), loads, batching)
    assert (options.max_batch_size, options.is_dynamic, options.preferred_batch_sizes, options.max_queue_delay_us) == (6, True, (2, 4), 1500)
    assert options_of(target(), [], DynamicBatching.model_validate({"maxBatchSize": 32})).max_batch_size == 32


@pytest.mark.parametrize(("accelerator", "gpus"), [({"type": "CPU"}, 0), ({"type": "GPU"}, 1), ({"type": "GPU", "count": 4}, 4)])
def test_options_have_the_gpus_that_the_target_asks_for(accelerator, gpus):
    assert options_of(target(accelerator=accelerator), [], None).gpus == gpus


@pytest.mark.parametrize("case", CASES)
def test_options_survive_the_way_to_another_program(case):
    *_, options = load(case)
    again = ServingOptions.from_json(options.to_json())
    assert again.to_json() == options.to_json()
    assert render_config(*load(case)[:2], again) == render_config(*load(case))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"threads": 1, "unknown": 2}', "null", '{"threads": 1'])
def test_options_of_another_release_are_refused(text):
    with pytest.raises(ValueError, match="no serving options"):
        ServingOptions.from_json(text)


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
