"""What is measured is what is served: both render a repository, and from the same manifest they render the same one."""

from pathlib import Path

import numpy as np

from burnish.api.job_contract import ArtifactConfig, PipelineRequest, ResolvedInput
from burnish.api.v1alpha1.optimized_model import OptimizedModel
from burnish.api.v1alpha1.status import ArtifactStatus
from burnish.manifests import serving
from burnish.manifests.settings import HardwareMismatch, Settings
from burnish.pipeline import machine, pairs, pull, repository
from burnish.plugins.base import DataType, Signature, Tensor
from burnish.serving.config import ServingOptions
from burnish.store.artifacts import put_artifact
from burnish.store.store import open_store

MODEL = OptimizedModel.model_validate(
    {
        "metadata": {"name": "digits", "namespace": "models"},
        "spec": {
            "source": {"uri": "s3://models/digits.onnx"},
            "targets": [{"name": "cpu", "runtime": "ONNXRuntime", "resources": {"cpu": "1500m"}}],
            "measurement": {"loads": [{"name": "single"}, {"name": "batch", "batchSize": 16}]},
            "serving": {"dynamicBatching": {"maxBatchSize": 8, "preferredBatchSizes": [4, 8], "maxQueueDelay": "1ms"}},
        },
    }
)
SETTINGS = Settings.model_validate({"images": {"burnish": "b", "optimizers": {"onnx": "o"}, "triton": "t"}, "store": {"uri": "s3://bucket"}})


def write_artifact(directory: Path) -> None:
    (directory / "model").mkdir(parents=True)
    (directory / "model" / "model.onnx").write_bytes(b"a graph")
    x = Tensor(name="x", data_type=DataType.FP32, shape=(-1, 4))
    signature, feed = Signature(inputs=(x,), outputs=(x,)), {"x": np.zeros((1, 4), np.float32)}
    pairs.save_pair(directory / "golden.npz", feed, feed)
    (directory / "golden.request").write_bytes(pairs.request_body(feed, signature))
    config = ArtifactConfig(
        name="int8",
        summary="",
        runtime="ONNXRuntime",
        backend="onnxruntime",
        model_file="model.onnx",
        signature=signature,
        inputs=(ResolvedInput(name="x", data_type=DataType.FP32, shape=(-1, 4), is_batched=True),),
        source_digest="sha256:" + "0" * 64,
        artifact_key="",
        toolchain="",
        hardware_class=machine.hardware_class(),
    )
    (directory / "artifact.json").write_text(config.model_dump_json(by_alias=True))


def test_the_server_that_measures_and_the_one_that_serves_load_the_same(tmp_path):
    write_artifact(tmp_path / "artifact")
    spec, target = MODEL.spec, MODEL.spec.primary
    # Of a request only these matter here; the rest says where the model comes from.
    request = PipelineRequest.model_construct(target=target, measurement=spec.measurement, serving=spec.serving)
    repository.write(tmp_path / "measured", {"digits": tmp_path / "artifact"}, request)

    store = open_store(tmp_path / "store")
    digest = put_artifact(store, tmp_path / "artifact").digest
    status = ArtifactStatus.model_validate({"digest": digest, "uri": "u", "size": "1Mi", "served": "Candidate"})
    deployment = serving.build_deployment(MODEL, target, status, "12345678", 1, SETTINGS, uid="u")
    command = deployment["spec"]["template"]["spec"]["initContainers"][0]["command"]
    options = ServingOptions.from_json(command[command.index("--options") + 1])
    models, golden = tmp_path / "served", tmp_path / "golden"
    models.mkdir()
    golden.mkdir()
    here = machine.hardware_class()
    pull.run(store, digest, model="digits", models=models, golden=golden, options=options, mismatch=HardwareMismatch.Refuse, here=here)

    def files(directory: Path) -> dict[str, bytes]:
        return {path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()}

    assert files(models) == files(tmp_path / "measured")
    config = files(models)["digits/config.pbtxt"].decode()
    assert "max_batch_size: 16" in config
    assert "preferred_batch_size: [4, 8]" in config
    assert "max_queue_delay_microseconds: 1000" in config
