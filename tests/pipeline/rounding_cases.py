"""QuantizeAwareTrain on small models in PyTorch's own environment: `rounding_cases.py DIRECTORY` leaves outcome.json and the models as ONNX.

test_qat.py reads the outcome, and has loaded_cases.py load the models.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from training_cases import CLASSES, SIDE, Bench, accuracy, data, lesson, named, network, pruned, refused

from burnish.plugins import base
from burnish.plugins.formats import _exported, _torch_module
from burnish.plugins.passes import quantize_aware_train as qat
from burnish.plugins.runtimes import _onnxruntime_session as ort
from burnish.serving import images

FOLDER = Path(sys.argv[1])


class Residual(torch.nn.Module):
    """Additions between convolutions, a batch normalization whose scale is zero as it is before training, and no layer's bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.norm = torch.nn.BatchNorm2d(16)
        self.second = torch.nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.idle = torch.nn.BatchNorm2d(16)
        torch.nn.init.zeros_(self.idle.weight)
        self.third = torch.nn.Conv2d(16, 16, 3, padding=1)
        self.last = torch.nn.Linear(16 * (SIDE // 2) ** 2, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.first(x)))
        x = torch.relu(self.idle(self.second(x)) + x)
        x = torch.nn.functional.max_pool2d(torch.relu(self.third(x)) + x, 2)
        return self.last(x.flatten(1))


class Words(torch.nn.Module):
    """Integers in, a matrix product over a sequence, no convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(50, 16)
        self.norm = torch.nn.LayerNorm(16)
        self.first, self.last = torch.nn.Linear(16, 32), torch.nn.Linear(32, CLASSES)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.embedding(ids))
        return self.last(torch.nn.functional.gelu(self.first(x)).mean(1))


class Branching(torch.nn.Module):
    """What it computes depends on what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.last = torch.nn.Linear(SIDE * SIDE, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(x.flatten(1)) if x.sum() > 0 else x.flatten(1)[:, :CLASSES]


def trained(module: torch.nn.Module, bench: Bench | None = None, **options: Any) -> tuple[base.TrainedModel, Bench]:
    bench = bench or Bench(lesson())
    config = qat.QuantizeAwareTrainConfig.model_validate({"epochs": 3, "batchSize": 16, "learningRate": "0.001"} | options)
    return qat.QuantizeAwareTrain().apply(config, named(module), bench), bench


def taught(module: torch.nn.Module) -> torch.nn.Module:
    """The module, trained in float."""
    from burnish.plugins.passes import finetune

    finetune.Finetune().apply(finetune.FinetuneConfig(epochs=6, batch_size=16), named(module), Bench(lesson()))
    return module.eval()


def written(made: base.TrainedModel, name: str, feed: dict[str, np.ndarray]) -> dict[str, Any]:
    """Its ONNX, on a batch of another size than it was traced with."""
    path = FOLDER / f"{name}.onnx"
    signature, facts = made.model.export(path, image=images.LOCAL_CPU)
    np.savez(FOLDER / f"{name}.npz", **feed)
    ours, theirs = made.model.run(feed)["output"], ort.open_session(path, threads=1).infer(feed)["output"]
    return {
        "shapes": [list(t.shape) for t in (*signature.inputs, *signature.outputs)],
        "difference": float(np.abs(ours - theirs).max() / np.abs(ours).max()),
        "operators": facts.op_counts,
        "weights": {t.name: numpy_helper.to_array(t).tolist() for t in onnx.load(path).graph.initializer if t.data_type == onnx.TensorProto.INT8},
        "integers": sorted({onnx.TensorProto.DataType.Name(t.data_type) for t in onnx.load(path).graph.initializer}),
    }


def largest(found: dict[str, Any]) -> int:
    return max(int(np.abs(np.array(values)).max()) for values in found.pop("weights").values())


def convolutions() -> dict[str, Any]:
    module = taught(network())
    before = accuracy(named(module))
    made, bench = trained(module)
    found = written(made, "convolutions", {"image": data()[0][:5]})
    return found | {
        "largest": largest(found),
        "before": before,
        "accuracy": accuracy(made.model),
        "losses": list(made.losses),
        "summary": made.summary,
        "said": bench.said,
    }


def residual() -> dict[str, Any]:
    made, _ = trained(taught(Residual()))
    found = written(made, "residual", {"image": data()[0][:5]})
    return found | {"largest": largest(found), "accuracy": accuracy(made.model), "summary": made.summary}


def words() -> dict[str, Any]:
    torch.manual_seed(2)
    ids = np.random.default_rng(1).integers(0, 50, (64, 7))
    labels = (ids[:, :4].sum(1) > 100).astype(np.int64)
    tensor = base.Tensor(name="ids", data_type=base.DataType.INT64, shape=(-1, -1))
    module = _torch_module.NamedModule(Words().eval(), (_exported.Input(tensor, {1: 7}),))
    config = qat.QuantizeAwareTrainConfig(epochs=1, batch_size=16)
    made = qat.QuantizeAwareTrain().apply(config, module, Bench(lesson(inputs={"ids": ids}, labels=labels)))
    found = written(made, "words", {"ids": ids[:3, :5]})
    return found | {"largest": largest(found), "summary": made.summary}


def sparse() -> dict[str, Any]:
    """Zeros of a pruned model are zeros of its integers; on a CPU whose sums saturate these have 7 bits."""
    model, bench, _ = pruned(module=taught(network()), method="Magnitude", sparsityPercent=80)
    zeros = [int((p == 0).sum()) for p in model.module.parameters() if p.ndim > 1]
    bench.hardware = base.HardwareClass(architecture="x86-64", vendor="GenuineIntel", isa=("AVX2",))
    made = qat.QuantizeAwareTrain().apply(qat.QuantizeAwareTrainConfig(epochs=2, batch_size=16), model, bench)
    found = written(made, "sparse", {"image": data()[0][:5]})
    integers = [np.array(v) for v in found["weights"].values()]
    after = sorted(int((v == 0).sum()) for v in integers if v.ndim > 1)
    return {"before": sorted(zeros), "after": after, "largest": largest(found), "summary": made.summary, "accuracy": accuracy(made.model)}


def resumed() -> dict[str, Any]:
    module = taught(network())
    state = {name: value.clone() for name, value in module.state_dict().items()}
    whole, bench = trained(module, seed=5)
    again = Bench(lesson())
    again.earlier = bench.kept[0]
    module = network()
    module.load_state_dict(state)
    rest, _ = trained(module, again, seed=5)
    ours, theirs = (m.model.run({"image": data()[0]})["output"] for m in (whole, rest))
    return {"equal": bool((ours == theirs).all()), "epochs": len(again.kept), "losses": list(rest.losses), "whole": list(whole.losses)}


CASES: dict[str, Callable[[], dict[str, Any]]] = {
    "convolutions": convolutions,
    "residual": residual,
    "words": words,
    "sparse": sparse,
    "resumed": resumed,
    "nothing to round": lambda: refused(lambda: trained(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.BatchNorm1d(SIDE * SIDE)).eval())),
    "not to be captured": lambda: refused(lambda: trained(Branching().eval())),
}


if __name__ == "__main__":
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_num_threads(1)
    outcome = {name: case() for name, case in CASES.items()}
    (FOLDER / "outcome.json").write_text(json.dumps(outcome, indent=1, default=float))
