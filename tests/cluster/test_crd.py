"""The CRD at a real apiserver: what it takes, what it refuses and in which words, its defaults, its scale and its columns."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from control_plane import CRD, MERGE, ROOT, ControlPlane, wait_until

from burnish.api import crd, manifest, yaml_reader
from burnish.errors import BurnishError

GOLDEN = ROOT / "tests/golden/manifest"
NAMES = [path.name for path in sorted((ROOT / "examples").glob("*.yaml"))]
EXAMPLES = [ROOT / folder / name for folder in ("examples", "examples/cluster") for name in NAMES]
SECRET = "hunter2"  # noqa: S105  # made up

# Every field of the spec, each with a value that is not its default.
FULL = yaml.safe_load("""
apiVersion: burnish.dev/v1alpha1
kind: OptimizedModel
metadata: {name: full}
spec:
  source:
    uri: s3://models/digits/model.onnx
    format: ONNX
    digest: sha256:abababababababababababababababababababababababababababababababab
    refresh: "2026-11-23"
    secretRef: {name: reader}
  inputs:
  - name: image
    dataType: FP32
    shape: [-1, 1, 8, 8]
    dynamic: [{axis: 0, min: 2, opt: 8, max: 32, multipleOf: 8}]
  - {name: ids, dataType: INT64, range: {min: 0, max: 9}}
  datasets:
    calibration: {uri: "pvc://data/calibration.npz", samples: 128}
    evaluation: {uri: "https://h.example/evaluation.npz?sig=a%20b", samples: 500, metric: Agreement, decode: CTC, output: logits}
    training: {uri: "s3://data/training.npz", samples: 900, output: logits, loss: CrossEntropy}
    preprocess:
      type: Explicit
      resize: {shortestSide: 256}
      interpolation: Bicubic
      crop: {width: 224, height: 200}
      colour: BGR
      scale: "0.004"
      mean: ["0.1", "0.2", "0.3"]
      std: ["0.5"]
      layout: NHWC
      dataType: FP16
  passes:
  - {type: Quantize, quantize: {precision: INT8, mode: Static, excludedNodes: [head]}}
  targets:
  - name: cpu
    runtime: ONNXRuntime
    resources: {cpu: 2, memory: 1Gi, cpuRequest: 100m}
    accelerator: {type: CPU, nodeLabels: [{name: node.kubernetes.io/instance-type, value: c7i.large}]}
    pods:
      tolerations: [{key: team, operator: Equal, value: vision, effect: NoSchedule}, {key: spot, operator: Exists}]
      priorityClassName: low
      imagePullSecrets: [{name: registry}]
  - name: openvino
    runtime: OpenVINO
    passes: [{type: Quantize, quantize: {accuracyControl: {maxDrop: "0.01"}}}]
  - name: gpu
    runtime: ONNXRuntime
    accelerator: {type: GPU, product: NVIDIA-A10, count: 1, resource: nvidia.com/gpu}
    pods: {runtimeClassName: nvidia}
    passes:
    - {type: Prune, prune: {method: Structured, importance: Taylor, sparsityPercent: 40, scope: Global, steps: 2, finetune: {epochs: 2, distill: {alpha: "0.5", temperature: "4"}}}}
    - {type: Finetune, finetune: {epochs: 1, learningRate: "0.01", optimizer: SGD, batchSize: 32, seed: 7}}
    - {type: Quantize, quantize: {precision: FP16}}
    replicas: 2
  measurement:
    loads: [{name: single, batchSize: 1, concurrency: 1}, {name: batch, batchSize: 8, concurrency: 4}]
    timeout: 10m
  constraints:
    score: {maxDrop: "0.01"}
    equivalence: {minCosine: "0.99"}
    maxSlowdownPercent: 5
    minSpeedup: "1.2"
    latency: [{load: batch, percentile: P99, max: 12ms}]
    onUndecided: Accept
    onInfeasible: KeepCurrent
  serving:
    mode: PublishOnly
    primary: cpu
    replicas: 3
    dynamicBatching: {maxBatchSize: 16, preferredBatchSizes: [4, 8], maxQueueDelay: 500us}
  jobs: {deadline: 2h, queueTimeout: 12h, backoffLimit: 2}
  suspend: true
""")
LEAST = yaml.safe_load("""
apiVersion: burnish.dev/v1alpha1
kind: OptimizedModel
metadata: {name: least}
spec:
  source: {uri: "s3://models/digits/model.onnx"}
  targets: [{name: cpu, runtime: ONNXRuntime}]
""")
GONE = object()
"""Take the field away."""

# Path in FULL (or in LEAST, where it begins with '-'), what to put there, the field that the refusal names, words of what is wrong or of the cure.
BAD: list[tuple[str, Any, str, str]] = [
    ("metadata.name", "7b-model", "metadata.name", "begins with a letter"),
    ("metadata.name", "yolo.v8", "metadata.name", "write for example name: digits"),
    ("metadata.name", "d" * 41, "metadata.name", "may not be more than 40"),
    ("spec.source.uri", "file:model.onnx", "spec.source.uri", "put it into a bucket (s3:, gs:, az:), on a volume (pvc:) or on a server (https:)"),
    ("spec.source.uri", "FILE:///etc/passwd", "spec.source.uri", "put it into a bucket"),
    ("spec.source.uri", f"https://user:{SECRET}@h.example/m.onnx", "spec.source.uri", "name a Secret in spec.source.secretRef"),
    ("spec.source.uri", f"s3://key:{SECRET}@bucket/m.onnx", "spec.source.uri", "carries credentials"),
    ("spec.datasets.evaluation.uri", f"https://{SECRET}@h.example/m.npz", "spec.datasets.evaluation.uri", "remove the part before @"),
    ("spec.source.uri", "http://h.example/m.onnx", "spec.source.uri", "write https:"),
    ("spec.source.uri", "https://huggingface.co/org/name", "spec.source.uri", "is a page of the Hugging Face Hub"),
    ("spec.source.uri", "https://HuggingFace.co/datasets/org/name/tree/main", "spec.source.uri", "write hf://org/name"),
    ("spec.datasets", {"preprocess": {}}, "spec.datasets.preprocess", "stands without data that it could prepare"),
    (
        "spec.source.uri",
        "model.onnx",
        "spec.source.uri",
        "write s3://bucket/path (gs: and az: alike), https://host/path, hf://org/name or pvc://claim/path",
    ),
    ("spec.source.uri", "ftp://h.example/m.onnx", "spec.source.uri", "does not begin with a scheme that is known here"),
    ("spec.source.uri", "gs://bucket-alone", "spec.source.uri", "write gs://bucket/path/to/model.onnx, or az://"),
    ("spec.source.uri", "az://container/model.onnx?sig=x", "spec.source.uri", "write gs://bucket/path/to/model.onnx, or az://"),
    ("spec.source.uri", f"az://user:{SECRET}@container/model.onnx", "spec.source.uri", "remove the part before @"),
    ("spec.source.uri", "hf://name-alone", "spec.source.uri", "write hf://org/name"),
    ("spec.source.uri", f"hf://user:{SECRET}@org/name", "spec.source.uri", "remove the part before @"),
    ("spec.source.uri", "hf://datasets/org/name", "spec.source.uri", "for data"),
    ("spec.source.uri", "s3://bucket", "spec.source.uri", "write s3://bucket/path/to/model.onnx"),
    ("spec.source.uri", "s3://bucket/m.onnx?versionId=3", "spec.source.uri", "names no object"),
    ("spec.source.uri", "pvc://claim", "spec.source.uri", "write pvc://claim/path/to/model.onnx"),
    ("spec.source.uri", "https://h.example/my model.onnx", "spec.source.uri", "percent-encode what is not plain text"),
    ("spec.source.uri", f"https://h.example/m\n?sig={SECRET}", "spec.source.uri", "is not one line of text without control characters"),
    ("spec.source.uri", "", "spec.source.uri", "at least 1 chars"),
    ("spec.source.uri", f"s3://{SECRET}/" + "m" * 2048, "spec.source.uri", "may not be more than 2048"),
    ("spec.source.uri", GONE, "spec.source.uri", "Required value"),
    ("spec.source.format", "Pickle", "spec.source.format", "supported values"),
    ("spec.source.format", "StateDict", "spec.source.architecture", "such as architecture: torchvision.models.resnet18"),
    ("spec.source.format", "ExportedProgram", "spec.source.trusted", "set trusted: true if you trust that author"),
    ("spec.source.architecture", "timm.resnet50", "spec.source.architecture", "belongs to format StateDict; remove it or change format"),
    ("spec.source.architectureArgs", [{"name": "depth", "value": "3"}], "spec.source.architectureArgs", "belongs to format StateDict"),
    (
        "-spec.source",
        {**LEAST["spec"]["source"], "architectureArgs": [{"name": "a-b", "value": "3"}]},
        "spec.source.architectureArgs[0].name",
        "is not a keyword",
    ),
    ("spec.source.task", "FillMask", "spec.source.task", "belongs to format HuggingFace"),
    ("spec.source.signature", "serve", "spec.source.signature", "belongs to format SavedModel; remove it or change format"),
    ("spec.source.trusted", True, "spec.source.trusted", "belongs to format ExportedProgram or TorchScript"),
    (
        "-spec.source",
        {**LEAST["spec"]["source"], "format": "StateDict", "architecture": "os.system"},
        "spec.source.architecture",
        "is not in torchvision.models, timm, transformers, and no other code is run",
    ),
    ("spec.source.digest", "sha256:abcd", "spec.source.digest", "write sha256: and the 64 hexadecimal digits that sha256sum prints"),
    ("spec.source.secretRef.name", "My Secret", "spec.source.secretRef.name", "write for example name: reader"),
    ("spec.inputs.0.name", "a\x1bb", "spec.inputs[0].name", "write for example name: image"),
    ("spec.inputs.0.dataType", "float32", "spec.inputs[0].dataType", '"FP32"'),
    ("spec.inputs.0.shape", [-1, 0, 8, 8], "spec.inputs[0].shape", "write the size, or -1 where it varies"),
    ("spec.inputs.0.shape", [-1, -2], "spec.inputs[0].shape[1]", "greater than or equal to -1"),
    ("spec.inputs.0.shape", [4, 1, 8, 8], "spec.inputs[0].dynamic", "fixed size in shape; write -1 there"),
    ("spec.inputs.0.dynamic.0.axis", 7, "spec.inputs[0].dynamic", "axes count from 0"),
    ("spec.inputs.0.dynamic.0.opt", 40, "spec.inputs[0].dynamic[0].opt", "order the three values"),
    ("spec.inputs.0.dynamic.0.opt", 9, "spec.inputs[0].dynamic[0].multipleOf", "change one of the three"),
    ("spec.inputs.0.dynamic", [{"axis": 0, "opt": 1, "max": 2}] * 2, "spec.inputs[0].dynamic", "keep one entry per axis"),
    ("spec.inputs.1.range.min", 10, "spec.inputs[1].range.min", "swap them"),
    ("spec.inputs.1.name", "image", "spec.inputs", "give each its own"),
    ("spec.inputs", [{"name": f"i{n}"} for n in range(33)], "spec.inputs", "must have at most 32 items"),
    ("spec.datasets.calibration.samples", 0, "spec.datasets.calibration.samples", "greater than or equal to 1"),
    ("spec.datasets.evaluation.metric", "Accuracy", "spec.datasets.evaluation.decode", "or use metric: Agreement"),
    ("spec.datasets.evaluation.metric", "BLEU", "spec.datasets.evaluation.metric", '"Accuracy", "Agreement"'),
    ("spec.datasets.evaluation.metric", "F1", "spec.datasets.evaluation.decode", "or use metric: Agreement"),
    ("spec.datasets.evaluation.metric", "MAE", "spec.datasets.evaluation.decode", "decode nothing; remove it"),
    ("spec.datasets.evaluation.threshold", "0.3", "spec.datasets.evaluation.threshold", "belongs to decode: Threshold"),
    ("spec.datasets.evaluation.agreementCosine", "0.3", "spec.datasets.evaluation.agreementCosine", "belongs to decode: Cosine"),
    ("spec.datasets.evaluation.agreementCosine", "1.01", "spec.datasets.evaluation.agreementCosine", "no cosine exceeds 1"),
    (
        "spec.datasets.evaluation",
        {"uri": "s3://b/e.npz", "metric": "MSE"},
        "spec.targets",
        "accuracyControl asks how many answers change, and metrics MSE, MAE and CosineSimilarity decode none",
    ),
    ("spec.datasets.evaluation", GONE, "spec.constraints.score", "add evaluation data with a metric, or remove the limit"),
    ("spec.datasets.calibration", GONE, "spec.passes", "mode Static needs spec.datasets.calibration; add calibration data"),
    ("spec.datasets.preprocess.resize", {"width": 3}, "spec.datasets.preprocess.resize.shortestSide", "width and height, or shortestSide alone"),
    ("spec.datasets.preprocess.resize", {"width": 0, "height": 3}, "spec.datasets.preprocess.resize.width", "greater than or equal to 1"),
    ("spec.datasets.preprocess.mean", ["1", "2"], "spec.datasets.preprocess.mean", "write one per channel"),
    ("spec.datasets.preprocess.std", ["1", "2"], "spec.datasets.preprocess.std", "write one per channel"),
    ("spec.datasets.preprocess.std", ["0.0"], "spec.datasets.preprocess.std", "can't be divided by"),
    ("spec.datasets.preprocess.dataType", "UINT8", "spec.datasets.preprocess.dataType", "remove scale, mean and std"),
    ("spec.datasets.preprocess.type", "FromHuggingFace", "spec.datasets.preprocess.type", "write type: Explicit"),
    ("spec.passes.0.type", "Quantise", "spec.passes[0].type", '"Quantize"'),
    ("spec.passes.0.type", "Prune", "spec.passes[0].quantize", "belongs to type: Quantize, but type is another"),
    ("spec.targets.2.passes.0.type", "Finetune", "spec.targets[2].passes[0].prune", "belongs to type: Prune, but type is another"),
    ("spec.targets.2.passes.1.type", "Prune", "spec.targets[2].passes[1].finetune", "belongs to type: Finetune, but type is another"),
    ("spec.targets.2.passes.0.prune.sparsityPercent", 0, "spec.targets[2].passes[0].prune.sparsityPercent", "greater than or equal to 1"),
    ("spec.targets.2.passes.0.prune.sparsityPercent", 100, "spec.targets[2].passes[0].prune.sparsityPercent", "less than or equal to 99"),
    ("spec.targets.2.passes.0.prune.method", "Neuron", "spec.targets[2].passes[0].prune.importance", "importance belongs to method: Structured"),
    ("spec.targets.2.passes.0.prune.finetune.epochs", 0, "spec.targets[2].passes[0].prune.finetune", "trains nothing (epochs: 0)"),
    (
        "spec.targets.2.passes.0.prune.finetune.distill.alpha",
        "1.1",
        "spec.targets[2].passes[0].prune.finetune.distill.alpha",
        "is more than the whole",
    ),
    (
        "spec.targets.2.passes.0.prune.finetune.distill.temperature",
        "0",
        "spec.targets[2].passes[0].prune.finetune.distill.temperature",
        "is no temperature",
    ),
    ("spec.targets.2.passes.1.finetune.learningRate", "0", "spec.targets[2].passes[1].finetune.learningRate", "is no learning rate"),
    ("spec.targets.2.passes.1.finetune.epochs", 0, "spec.targets[2].passes[1].finetune.epochs", "greater than or equal to 1"),
    ("spec.datasets.training", GONE, "spec.targets", "a target whose passes train the model and there is no data for it"),
    ("-spec.passes", [{"type": "Finetune"}], "spec.passes", "one that trains the model and there is no data for it; set spec.datasets.training"),
    ("spec.passes", [{"type": "Quantize"}, {"type": "Finetune"}], "spec.passes", "put those that train first"),
    ("spec.targets.2.passes", [{"type": "Quantize"}, {"type": "Finetune"}], "spec.targets[2].passes", "put those that train first"),
    ("spec.passes", [{"type": "QuantizeAwareTrain"}, {"type": "Quantize"}], "spec.passes", "put QuantizeAwareTrain last"),
    ("spec.passes", [{"type": "QuantizeAwareTrain"}, {"type": "Finetune"}], "spec.passes", "put QuantizeAwareTrain last"),
    ("spec.passes", [{"type": "Distill"}], "spec.passes", "a Distill without a student to teach"),
    (
        "spec.passes",
        [{"type": "Prune"}, {"type": "Distill", "distill": {"student": {"widthPercent": 50}}}],
        "spec.passes",
        "one of its own after a pass that made a smaller model",
    ),
    *(
        ("spec.passes", [{"type": "Distill", "distill": {"student": {"widthPercent": 50}, **options}}], f"spec.passes[0].distill{field}", told)
        for options, field, told in (
            ({"alpha": "1"}, ".alpha", "leaves nothing to learn from the original"),
            ({"temperature": "0"}, ".temperature", "is no temperature"),
            ({"learningRate": "0"}, ".learningRate", "is no learning rate"),
            ({"student": {}}, ".student", "says nothing of the student"),
            ({"student": {"widthPercent": 50, "architecture": "timm.test_resnet"}}, ".student", "a cut of the original; keep one of them"),
            (
                {"student": {"widthPercent": 50, "architectureArgs": [{"name": "a", "value": "1"}]}},
                ".student",
                "architectureArgs and no architecture",
            ),
            ({"student": {"architecture": "my.network"}}, ".student.architecture", "no other code is run"),
            (
                {"student": {"architecture": "timm.test_resnet", "architectureArgs": [{"name": "a", "value": "1"}, {"name": "a", "value": "2"}]}},
                ".student.architectureArgs",
                "names an argument twice; keep one",
            ),
            (
                {"student": {"widthPercent": 50, "source": {"uri": "s3://models/small.onnx"}}},
                ".student",
                "a source of its own, and a cut of the original; keep one of them",
            ),
        )
    ),
    *(
        (
            "spec.passes",
            [{"type": "Distill", "distill": {"student": {"source": {"uri": "s3://models/small", **source}, **beside}}}],
            f"spec.passes[0].distill.student{field}",
            told,
        )
        for source, beside, field, told in (
            ({"uri": "file:small.onnx"}, {}, ".source.uri", "is a file of one machine, and a cluster has many"),
            ({"uri": f"https://user:{SECRET}@models.example/small.onnx"}, {}, ".source.uri", "name a Secret in spec.source.secretRef"),
            ({"uri": "http://models.example/small.onnx"}, {}, ".source.uri", "is not encrypted, so anyone on the way can change it"),
            ({"digest": "sha256:abc"}, {}, ".source.digest", "is not a digest"),
            ({"format": "Keras"}, {}, ".source.format", '"HuggingFace", "ONNX", "StateDict"'),
            ({"format": "StateDict"}, {}, "", "holds weights only; name what they belong to, such as architecture"),
            (
                {"format": "ONNX"},
                {"architecture": "timm.test_resnet"},
                "",
                "which belongs to a source of format StateDict; remove it or change format",
            ),
            ({"format": "ONNX", "task": "FillMask"}, {}, ".source.task", "belongs to format HuggingFace; remove it or change format"),
        )
    ),
    (
        "spec.passes",
        [{"type": "QuantizeAwareTrain", "quantizeAwareTrain": {"learningRate": "0"}}],
        "spec.passes[0].quantizeAwareTrain.learningRate",
        "is no learning rate",
    ),
    ("spec.passes.0.quantize.precision", "FP16", "spec.passes[0].quantize.mode", "remove mode, or set precision: INT8"),
    ("spec.passes.0.quantize.precision", "INT4", "spec.passes[0].quantize.mode", "remove mode, or set precision: INT8"),
    ("spec.passes.0.quantize.precision", "INT2", "spec.passes[0].quantize.precision", '"INT8", "FP16"'),
    ("spec.passes.0.quantize.blockSize", 32, "spec.passes[0].quantize.blockSize", "belongs to precision: INT4"),
    (
        "-spec.passes",
        [{"type": "Quantize", "quantize": {"accuracyControl": {"maxDrop": "0.1"}}}],
        "spec.passes",
        "ONNXRuntime does not offer quantize accuracyControl",
    ),
    (
        "spec.targets.1.passes",
        [{"type": "Quantize", "quantize": {"calibrationMethod": "Entropy"}}],
        "spec.targets[1].passes",
        "OpenVINO does not offer calibrationMethod Entropy; remove it",
    ),
    (
        "-spec.passes",
        [{"type": "Quantize", "quantize": {"precision": "FP16", "calibrationMethod": "Entropy"}}],
        "spec.passes[0].quantize.calibrationMethod",
        "belongs to static INT8",
    ),
    ("spec.passes.0.quantize.excludedNodes", ["head", "head"], "spec.passes[0].quantize.excludedNodes[1]", "Duplicate value"),
    ("spec.passes", [{"type": "Quantize"}] * 2, "spec.passes", "keep one entry (mode: Auto tries several ways)"),
    ("-spec.passes", [{"type": "ShareWeights"}] * 2, "spec.passes", "shared values are not shared again; keep one entry"),
    ("-spec.passes", [{"type": "ShareWeights"}, {"type": "Quantize"}], "spec.passes", "would undo the first; keep one of the two"),
    ("spec.targets.2.passes", [{"type": "Quantize"}, {"type": "ShareWeights"}], "spec.targets[2].passes", "keep one of the two"),
    (
        "-spec.passes",
        [{"type": "ShareWeights", "shareWeights": {"clusters": 257}}],
        "spec.passes[0].shareWeights.clusters",
        "less than or equal to 256",
    ),
    (
        "-spec.passes",
        [{"type": "ShareWeights", "shareWeights": {"clusters": 1}}],
        "spec.passes[0].shareWeights.clusters",
        "greater than or equal to 2",
    ),
    (
        "-spec.passes",
        [{"type": "ShareWeights", "shareWeights": {"groupSize": 32}}],
        "spec.passes[0].shareWeights.groupSize",
        "groupSize belongs to granularity: Group",
    ),
    ("-spec.passes", [{"type": "Quantize", "shareWeights": {}}], "spec.passes[0].shareWeights", "belongs to type: ShareWeights"),
    ("-spec.passes", [{"type": "Quantize", "factorize": {}}], "spec.passes[0].factorize", "belongs to type: Factorize"),
    (
        "-spec.passes",
        [{"type": "Factorize", "factorize": {"finetune": {"epochs": 0}}}] * 2,
        "spec.passes",
        "factors of factors save nothing that one lower rank would not; keep one entry",
    ),
    (
        "-spec.passes",
        [{"type": "Factorize", "factorize": {"rank": 4, "energyPercent": 90}}],
        "spec.passes[0].factorize",
        "rank, energyPercent and macsPercent each decide the ranks; keep one of the three",
    ),
    (
        "-spec.passes",
        [{"type": "Factorize", "factorize": {"energyPercent": 100}}],
        "spec.passes[0].factorize.energyPercent",
        "less than or equal to 99",
    ),
    ("spec.targets.2.passes", [{"type": "Quantize"}] * 2, "spec.targets[2].passes", "keep one entry (mode: Auto tries several ways)"),
    (
        "-spec.targets.0.passes",
        [{"type": "Quantize", "quantize": {"mode": "Static"}}],
        "spec.targets",
        "a target's passes needs spec.datasets.calibration; add",
    ),
    (
        "-spec.passes",
        [{"type": "Quantize", "quantize": {"accuracyControl": {"maxDrop": "0.01"}}}],
        "spec.passes",
        "accuracyControl needs spec.datasets.calibration; add",
    ),
    (
        "-spec.targets.0.passes",
        [{"type": "Quantize", "quantize": {"accuracyControl": {"maxDrop": "0.01"}}}],
        "spec.targets",
        "accuracyControl in a target's passes needs spec.datasets.calibration; add",
    ),
    (
        "-spec.passes",
        [{"type": "Quantize", "quantize": {"mode": "Dynamic", "accuracyControl": {"maxDrop": "0.01"}}}],
        "spec.passes[0].quantize.accuracyControl",
        "belongs to static INT8",
    ),
    (
        "-spec.passes",
        [{"type": "Quantize", "quantize": {"accuracyControl": {"maxDrop": "1"}}}],
        "spec.passes[0].quantize.accuracyControl.maxDrop",
        "write a decimal below 1",
    ),
    ("spec.targets.0.name", "a-rather-long-name", "spec.targets[0].name", "may not be more than 12"),
    ("spec.targets.0.name", "CPU", "spec.targets[0].name", "write for example name: cpu"),
    ("spec.targets.0.name", "gpu", "spec.targets", "give each its own"),
    ("spec.targets.2.runtime", "OpenVINO", "spec.targets[2].accelerator.type", "use runtime: ONNXRuntime for a GPU"),
    ("spec.targets.0.runtime", "CoreML", "spec.targets[0].runtime", '"ONNXRuntime"'),
    ("spec.targets.0.runtime", GONE, "spec.targets[0].runtime", "Required value"),
    ("spec.targets", [], "spec.targets", "at least 1 items"),
    ("spec.targets.0.resources.cpu", "two", "spec.targets[0].resources.cpu", 'write for example cpu: "1"'),
    ("spec.targets.0.resources.cpu", "0", "spec.targets[0].resources.cpu", "write a quantity between 10m and 1024"),
    ("spec.targets.0.resources.cpu", 4096, "spec.targets[0].resources.cpu", "write a quantity between 10m and 1024"),
    ("spec.targets.0.resources.cpu", 0.5, "spec.targets[0].resources.cpu", "must be of type integer"),
    ("spec.targets.0.resources.memory", 64, "spec.targets[0].resources.memory", "write at least 64Mi, such as memory: 2Gi"),
    ("spec.targets.0.resources.memory", "1GB", "spec.targets[0].resources.memory", "is not a quantity"),
    ("spec.targets.0.resources.cpuRequest", "3", "spec.targets[0].resources.cpuRequest", "lower it, or leave it out"),
    ("-spec.targets.0.resources", {"cpuRequest": "2"}, "spec.targets[0].resources.cpuRequest", "is not between 0 and the limit cpu"),
    ("spec.targets.2.accelerator.type", "CPU", "spec.targets[2].accelerator.product", "remove it or change type"),
    ("spec.targets.0.accelerator.count", 1, "spec.targets[0].accelerator.count", "belongs to type: GPU, but type is CPU"),
    ("-spec.targets.0.accelerator", {"resource": "nvidia.com/gpu"}, "spec.targets[0].accelerator.resource", "belongs to type: GPU"),
    ("spec.targets.0.accelerator.nodeLabels.0.name", "a b", "spec.targets[0].accelerator.nodeLabels[0].name", "is not a label's key"),
    ("spec.targets.0.accelerator.nodeLabels.0.value", "a/b", "spec.targets[0].accelerator.nodeLabels[0].value", "is not a label's value"),
    ("spec.targets.0.pods.tolerations.0.operator", "Exists", "spec.targets[0].pods.tolerations[0].value", "add it or write operator: Exists"),
    ("spec.targets.0.pods.tolerations.1.operator", "Equal", "spec.targets[0].pods.tolerations[1].value", "stands with operator: Equal"),
    ("spec.targets.0.replicas", 2, "spec.targets", "write spec.serving.replicas instead"),
    ("-spec.targets.0.replicas", 2, "spec.targets", "write spec.serving.replicas instead"),
    ("spec.measurement.loads.1.name", "single", "spec.measurement.loads", "give each its own"),
    ("spec.measurement.loads.0.batchSize", 4096, "spec.measurement.loads[0].batchSize", "less than or equal to 1024"),
    ("spec.measurement.loads.0.concurrency", "8", "spec.measurement.loads[0].concurrency", "must be of type integer"),
    ("spec.measurement.timeout", "0s", "spec.measurement.timeout", "write a duration longer than zero, for example 90s"),
    ("spec.measurement.timeout", "5 min", "spec.measurement.timeout", "is not a duration (a number and one of ns us ms s m h)"),
    ("spec.constraints.score.maxDrop", "1%", "spec.constraints.score.maxDrop", 'write for example maxDrop: "0.01"'),
    ("spec.constraints.score.maxDrop", "NaN", "spec.constraints.score.maxDrop", "is not a decimal number of zero or more"),
    ("spec.constraints.score.maxDrop", 0.01, "spec.constraints.score.maxDrop", "must be of type string"),
    ("spec.constraints.equivalence.minCosine", "99", "spec.constraints.equivalence.minCosine", "write a decimal between 0 and 1"),
    ("spec.constraints.maxSlowdownPercent", -1, "spec.constraints.maxSlowdownPercent", "greater than or equal to 0"),
    ("spec.constraints.maxSlowdownPercent", 2**63, "spec.constraints.maxSlowdownPercent", "less than or equal to 1000"),
    ("spec.constraints.latency.0.load", "burst", "spec.constraints.latency", "spec.measurement.loads does not have; use one of them or add it there"),
    (
        "-spec.constraints",
        {"latency": [{"load": "batch", "percentile": "P99", "max": "1s"}]},
        "spec.constraints.latency",
        "use one of them or add it",
    ),
    ("spec.constraints.latency.0.percentile", "P999", "spec.constraints.latency[0].percentile", '"P50", "P95", "P99"'),
    ("spec.constraints.latency.0.max", "12 msec", "spec.constraints.latency[0].max", "write for example max: 12ms"),
    ("spec.constraints.onInfeasible", "Ignore", "spec.constraints.onInfeasible", '"Fail", "KeepCurrent", "ServeBaseline"'),
    ("spec.serving.primary", "tpu", "spec.serving.primary", "spec.targets has no tpu; use the name of one of those there"),
    ("spec.serving.replicas", -1, "spec.serving.replicas", "greater than or equal to 0"),
    ("spec.serving.dynamicBatching.preferredBatchSizes", [32], "spec.serving.dynamicBatching.preferredBatchSizes", "raise that, or remove the size"),
    ("-spec.serving", {"dynamicBatching": {"preferredBatchSizes": [9]}}, "spec.serving.dynamicBatching.preferredBatchSizes", "above maxBatchSize"),
    ("spec.jobs.backoffLimit", 99, "spec.jobs.backoffLimit", "less than or equal to 10"),
    ("spec.jobs.deadline", 3600, "spec.jobs.deadline", "must be of type string"),
    ("spec.suspend", "yes", "spec.suspend", "must be of type boolean"),
]


def changed(path: str, value: object) -> dict[str, Any]:
    """A copy of FULL (of LEAST, where the path begins with '-') with one field set to `value`."""
    document: dict[str, Any] = copy.deepcopy(LEAST if path.startswith("-") else FULL)
    *parents, last = [int(part) if part.isdigit() else part for part in path.removeprefix("-").split(".")]
    inner: Any = document
    for part in parents:
        inner = inner[part]
    if value is GONE:
        del inner[last]
    else:
        inner[last] = value
    return document


def test_crd_is_taken_without_a_warning_and_established(api: ControlPlane) -> None:
    done = api.kubectl("apply", "--server-side", "--force-conflicts", "--filename", CRD)
    assert "Warning" not in done.stderr
    found = api.request("GET", f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{yaml.safe_load(CRD.read_text())['metadata']['name']}")
    conditions = {c["type"]: c["status"] for c in found.body["status"]["conditions"]}
    assert (conditions["Established"], conditions["NamesAccepted"]) == ("True", "True")
    assert "NonStructuralSchema" not in conditions


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_example_is_taken_with_the_uris_of_a_cluster(api: ControlPlane, namespace: str, path: Path) -> None:
    document = yaml.safe_load(re.sub(r"uri: file:", "uri: s3://models/", path.read_text()))
    answer = api.create_model(namespace, document)
    assert (answer.status, answer.warnings) == (201, ()), answer.message


@pytest.mark.parametrize("document", [FULL, LEAST], ids=["full", "least"])
def test_what_is_stored_reads_as_what_was_written(api: ControlPlane, namespace: str, document: dict[str, Any]) -> None:
    """The apiserver's defaults are the models' own, and nothing is dropped."""
    answer = api.create_model(namespace, document)
    assert answer.status == 201, answer.message
    stored = manifest.parse({key: answer.body[key] for key in ("apiVersion", "kind", "metadata", "spec")} | {"metadata": document["metadata"]})
    assert stored == manifest.parse(document)
    assert answer.body["spec"] == document["spec"] | {"serving": {"replicas": 1} | document["spec"].get("serving", {})}


@pytest.mark.parametrize(("path", "value", "field", "words"), BAD, ids=[f"{n}-{path}" for n, (path, *_) in enumerate(BAD)])
def test_a_wrong_manifest_is_refused_with_field_and_cure(
    api: ControlPlane, namespace: str, path: str, value: object, field: str, words: str
) -> None:  # fmt: skip
    answer = api.create_model(namespace, changed(path, value))
    assert answer.status == 422, answer
    assert f"{field}: " in answer.message
    assert words in answer.message
    assert SECRET not in json.dumps(answer.body)


def test_there_are_many_wrong_manifests_and_the_models_refuse_each_but_the_clusters_own() -> None:
    assert len(BAD) >= 40
    taken = []
    for path, value, field, _ in BAD:
        try:
            manifest.parse(changed(path, value))
            taken.append(field)
        except BurnishError:
            pass
    assert {field.rpartition(".")[2] for field in taken} == {"uri"}  # `burnish run` reads files, and tells of other URIs when it fetches


def rules(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from node.get("x-kubernetes-validations", ())
    for child in node.get("properties", {}).values():
        yield from rules(child)
    if "items" in node:
        yield from rules(node["items"])


def test_every_rule_is_broken_by_some_wrong_manifest() -> None:
    """Rules on one text say the same of many fields: what stands before the cure counts."""
    claims = {rule["message"].partition("; ")[::2] for rule in rules(crd.build_schema()) if "messageExpression" not in rule}
    broken = {wrong for wrong, cure in claims for *_, words in BAD if words in f"{wrong}; {cure}" or words.partition("; ")[0] == wrong}
    missing = {wrong for wrong, _ in claims} - broken
    assert missing == set()


def documents() -> Iterator[tuple[str, dict[str, Any]]]:
    """The wrong manifests of the unit tests that are one object of ours, with the URIs of a cluster."""
    for path in sorted(GOLDEN.glob("*.yaml")):
        text = path.read_text() if path.stem.startswith("source-uri") else re.sub(r"uri: file:(?=[a-z])", "uri: s3://models/", path.read_text())
        try:
            found = yaml_reader.read(text, path.name)
        except BurnishError:
            continue  # no YAML that kubectl would read, either
        if len(found) == 1 and isinstance(found[0], dict):
            yield path.stem, json.loads(json.dumps(found[0]))


# JSON has no such number; or it is one that stands for the same whole number; or no part of the spec at all.
_ONLY_HERE = {"max-drop-nan", "slowdown-infinite", "slowdown-whole-float", "namespace-upper-case", "api-version-missing", "kind-missing"}
DOCUMENTS = {name: document for name, document in documents() if name not in _ONLY_HERE}


def test_the_wrong_manifests_of_the_unit_tests_are_many() -> None:
    assert len(DOCUMENTS) >= 70


@pytest.mark.parametrize("name", DOCUMENTS)
def test_what_the_models_refuse_is_refused_at_apply(api: ControlPlane, namespace: str, name: str) -> None:
    answer = api.create_model(namespace, DOCUMENTS[name])
    assert answer.status in (400, 422), answer
    fields = [line.partition(": ")[0] for line in (GOLDEN / f"{name}.txt").read_text().splitlines()]
    if not fields[0].startswith(("metadata", "apiVersion", "kind", "spec[")):
        assert any(is_named(field, answer.message) for field in fields), answer.message


def is_named(field: str, message: str) -> bool:
    """The field itself, or what holds it (a rule between entries names the list), or a part of it."""
    above = [field, re.sub(r"(\.\w+|\[\d+\])$", "", field), re.sub(r"\[\d+\](\.\w+)?$", "", field), re.sub(r"\[\d+\].*$", "", field)]
    return any(re.search(rf'(^|[\s\["]){re.escape(name)}([.\[][\w.\[\]]*)?(: |")', message) for name in above)


ODD: list[Any] = [
    "",
    0,
    -1,
    1,
    7,
    1.5,
    True,
    "x",
    "1",
    "0",
    "1.5",
    "é",
    "A",
    "-",
    "a b",
    "5m",
    "0m",
    "9" * 40,
    None,
    [],
    {},
    ["x"],
    2**40,
    "1e3",
    "Auto\n",
]


def paths(node: Any, above: str = "spec") -> Iterator[str]:
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in children:
        yield f"{above}.{key}"
        yield from paths(child, f"{above}.{key}")


@pytest.mark.long
def test_apiserver_and_models_agree_on_any_value_of_any_field(api: ControlPlane, namespace: str) -> None:
    """3,000 manifests: each field of FULL with each odd value. The two disagree on URIs only, which `burnish run` looks at when it fetches."""
    disagreed = []
    for path in paths(FULL["spec"]):
        for value in ODD:
            document = changed(path, value)
            try:
                manifest.parse(document)
                is_good = True
            except BurnishError:
                is_good = False
            answer = api.create_model(namespace, document, dryRun="All")
            if (answer.status == 201) is not is_good and not path.endswith(".uri"):
                disagreed.append((path, value, answer.status, answer.message))
    assert disagreed == []


def test_an_edit_is_held_to_the_same_rules(api: ControlPlane, namespace: str) -> None:
    assert api.create_model(namespace, LEAST).status == 201
    answer = api.request("PATCH", api.models(namespace, "least"), {"spec": {"serving": {"primary": "gpu"}}}, content_type=MERGE)
    assert answer.status == 422
    assert "spec.serving.primary: " in answer.message


def test_kubectl_says_field_and_cure(api: ControlPlane, namespace: str) -> None:
    document = changed("spec.datasets.evaluation", GONE)
    done = api.kubectl("apply", "--namespace", namespace, "--filename", "-", text=json.dumps(document), check=False)
    assert done.returncode != 0
    assert "spec.constraints.score" in done.stderr
    assert "add evaluation data with a metric, or remove the limit" in done.stderr


def test_kubectl_refuses_a_field_that_does_not_exist(api: ControlPlane, namespace: str) -> None:
    document = changed("spec.source.url", "s3://a/b")
    done = api.kubectl("apply", "--namespace", namespace, "--filename", "-", text=json.dumps(document), check=False)
    assert 'unknown field "spec.source.url"' in done.stderr


def test_scale_reads_and_writes_the_replicas_of_the_primary(api: ControlPlane, namespace: str) -> None:
    assert api.create_model(namespace, LEAST).status == 201
    scale = api.request("GET", api.models(namespace, "least", "scale")).body
    assert (scale["spec"], scale["status"]) == ({"replicas": 1}, {"replicas": 0})
    api.kubectl("scale", "--namespace", namespace, "optimizedmodel/least", "--replicas", 4)
    assert api.request("GET", api.models(namespace, "least")).body["spec"]["serving"]["replicas"] == 4
    told = {"status": {"replicas": 2, "selector": "burnish.dev/model=least"}}
    assert api.request("PATCH", api.models(namespace, "least", "status"), told, content_type=MERGE).status == 200
    scale = api.request("GET", api.models(namespace, "least", "scale")).body
    assert (scale["spec"]["replicas"], scale["status"]) == (4, {"replicas": 2, "selector": "burnish.dev/model=least"})


def test_status_is_written_apart_from_the_spec(api: ControlPlane, namespace: str) -> None:
    made = api.create_model(namespace, LEAST).body
    answer = api.request("PATCH", api.models(namespace, "least"), {"status": {"phase": "Ready"}}, content_type=MERGE)
    assert "status" not in answer.body
    change = {"status": {"phase": "Ready"}, "spec": {"suspend": True}}
    answer = api.request("PATCH", api.models(namespace, "least", "status"), change, content_type=MERGE)
    assert (answer.body["status"], answer.body["spec"]) == ({"phase": "Ready"}, made["spec"])
    assert answer.body["metadata"]["generation"] == made["metadata"]["generation"]


def test_columns_show_the_status(api: ControlPlane, namespace: str) -> None:
    assert api.create_model(namespace, LEAST).status == 201
    target = {
        "name": "cpu",
        "state": "Serving",
        "score": {"value": "0.979", "drop": "0.002", "high": "0.006", "samples": 500, "verdict": "Accepted"},
        "artifact": {
            "digest": "sha256:" + "ab" * 32,
            "uri": "s3://burnish/demo",
            "size": "26Mi",
            "served": "Candidate",
            "score": "0.979",
            "speedup": "2.71",
            "p99": "3.4ms",
        },
        "measurements": [
            {
                "name": "single",
                "rounds": 30,
                "speedup": {"p50": "2.71", "low": "2.60", "high": "2.83"},
                "baseline": {"p50": "8.1ms", "p95": "8.3ms", "p99": "8.9ms", "throughputPerSecond": "121"},
                "optimized": {"p50": "3ms", "p95": "3.1ms", "p99": "3.4ms", "throughputPerSecond": "330"},
                "verdict": "Accepted",
            }
        ],
    }
    ready = {"type": "Ready", "status": "True", "reason": "Serving", "message": "all good", "observedGeneration": 1}
    ready["lastTransitionTime"] = "2026-11-23T20:15:00Z"
    status = {"phase": "Ready", "conditions": [ready], "targets": [target]}
    answer = api.request("PATCH", api.models(namespace, "least", "status"), {"status": status}, content_type=MERGE)
    assert answer.status == 200, answer.message
    head, row = api.kubectl("get", "om", "--namespace", namespace).stdout.splitlines()
    assert head.split() == ["NAME", "READY", "PHASE", "SPEEDUP", "P99", "SCORE", "SIZE", "AGE"]
    assert row.split()[:7] == ["least", "True", "Ready", "2.71", "3.4ms", "0.979", "26Mi"]
    head, row = api.kubectl("get", "optimizedmodels", "--namespace", namespace, "--output", "wide").stdout.splitlines()
    assert head.split()[-3:] == ["SERVED", "REASON", "MESSAGE"]
    assert row.rstrip().endswith("all good")


def test_explain_tells_what_a_field_is(api: ControlPlane) -> None:
    text = wait_until(lambda: api.kubectl("explain", "om.spec.targets.resources.cpu", check=False).stdout, "OpenAPI of the CRD")
    assert "CPU limit, and the thread count" in text
    assert "Default: 1." in text
    text = api.kubectl("explain", "optimizedmodel.spec.constraints.onInfeasible").stdout
    assert re.search(r"ENUM:\s+Fail\s+KeepCurrent\s+ServeBaseline", text)


def test_apply_merges_targets_by_name(api: ControlPlane, namespace: str) -> None:
    """Two managers, each with a target of its own."""
    path = api.models(namespace, "least")
    query = {"content_type": "application/apply-patch+yaml", "force": "true"}
    assert api.request("PATCH", path, LEAST, fieldManager="one", **query).status == 201
    other = LEAST | {"spec": LEAST["spec"] | {"targets": [{"name": "big", "runtime": "ONNXRuntime", "resources": {"cpu": "8"}}]}}
    answer = api.request("PATCH", path, other, fieldManager="two", **query)
    assert [target["name"] for target in answer.body["spec"]["targets"]] == ["cpu", "big"]
