"""Passes that train, on small models in PyTorch's own environment: `training_cases.py DIRECTORY` leaves outcome.json, case -> what was found.

All in one process, because importing the library takes seconds. test_training_passes.py reads the outcome.
"""

from __future__ import annotations

import copy
import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from burnish.errors import BurnishError
from burnish.pipeline import team, train
from burnish.plugins import base
from burnish.plugins.formats import _exported, _onnx_graph, _onnx_torch, _torch_module
from burnish.plugins.passes import _channels, _devices, _rounding, _training, finetune, prune
from burnish.plugins.runtimes import _onnxruntime_session as ort
from burnish.serving import images

SAMPLES, CLASSES, SIDE = 96, 4, 12


class Bench(base.Bench):
    """Keeps checkpoints in memory."""

    team = base.Team()
    hardware = base.HardwareClass(architecture="x86-64", vendor="AuthenticAMD", isa=("AVX2", "AVX512-VNNI"))
    scores_errors = False

    def __init__(self, lesson: base.Lesson | None, calibration: list[dict[str, np.ndarray]] | None = None) -> None:
        self.lesson, self.calibration = lesson, calibration or []
        self.kept: list[dict[str, Any]] = []
        self.earlier: Mapping[str, Any] | None = None
        self.said: list[str] = []
        self.source: Any = None

    def say(self, text: str, *, done: float | None = None) -> None:
        self.said.append(text)

    def save(self, state: Mapping[str, object]) -> None:
        self.kept.append(copy.deepcopy(dict(state)))

    def load(self) -> Mapping[str, Any] | None:
        return self.earlier

    def student(self) -> Any:
        return _channels.copied(self.source)

    def score(self, model: Any) -> float | None:
        return accuracy(model)


def network() -> torch.nn.Module:
    torch.manual_seed(1)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 3, padding=1),
        torch.nn.BatchNorm2d(16),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(16, 32, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Dropout(0.1),
        torch.nn.Flatten(),
        torch.nn.Linear(32 * 36, 32),
        torch.nn.ReLU(),
        torch.nn.Linear(32, CLASSES),
    ).eval()


def named(module: torch.nn.Module) -> _torch_module.NamedModule:
    tensor = base.Tensor(name="image", data_type=base.DataType.FP32, shape=(-1, 1, SIDE, SIDE))
    return _torch_module.NamedModule(module, (_exported.Input(tensor),))


def data() -> tuple[np.ndarray, np.ndarray]:
    """Classes that differ in where the image is bright: a network learns them in a few epochs."""
    generator = np.random.default_rng(0)
    labels = np.arange(SAMPLES) % CLASSES
    pictures = generator.normal(0, 0.3, (SAMPLES, 1, SIDE, SIDE)).astype(np.float32)
    for number, label in enumerate(labels):
        top, left = 6 * (label // 2), 6 * (label % 2)
        pictures[number, 0, top : top + 6, left : left + 6] += 1
    return pictures, labels


def lesson(**changes: Any) -> base.Lesson:
    pictures, labels = data()
    made = {
        "inputs": {"image": pictures},
        "output": "output",
        "labels": labels,
        "answers": None,
        "is_classification": True,
        "holds_probabilities": False,
    }
    return base.Lesson(**(made | changes))


def accuracy(model: Any) -> float:
    pictures, labels = data()
    return float((model.run({"image": pictures})["output"].argmax(1) == labels).mean())


def weights(model: Any) -> int:
    return sum(p.numel() for p in model.module.parameters())


def widths(model: Any) -> list[int]:
    return [
        m.out_channels if isinstance(m, torch.nn.Conv2d) else m.out_features
        for m in model.module.modules()
        if hasattr(m, "weight") and m.weight.ndim > 1
    ]


def exported(model: Any) -> float:
    """Largest difference between the module and its ONNX, on a batch of another size than it was traced with."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        model.export(path, image=images.LOCAL_CPU)
        feed = {"image": data()[0][:5]}
        return float(np.abs(ort.open_session(path, threads=1).infer(feed)["output"] - model.run(feed)["output"]).max())


def pruned(bench: Bench | None = None, module: torch.nn.Module | None = None, **options: Any) -> tuple[Any, Bench, base.TrainedModel]:
    bench = bench or Bench(lesson())
    model = named(module or network())
    config = prune.PruneConfig.model_validate({"finetune": {"epochs": 2, "batchSize": 16}} | options)
    return model, bench, prune.Prune().apply(config, model, bench)


# --- what the cases find ---------------------------------------------------------------------------------------------------------------


def structured(**options: Any) -> dict[str, Any]:
    model, bench, made = pruned(**options)
    return {
        "widths": widths(model),
        "share": weights(model) / weights(named(network())),
        "accuracy": accuracy(model),
        "difference": exported(model),
        "losses": list(made.losses),
        "summary": made.summary,
        "said": bench.said,
    }


def neuron() -> dict[str, Any]:
    """Channels that answer nothing to the calibration data go, whatever their weights are."""
    module = network()
    with torch.no_grad():
        module[0].weight[::2] *= 10  # the ones that L2 would keep
        module[0].bias[::2] = -1000  # and that are never active
        module[0].bias[1::2] = 0
        module[1].running_mean.zero_()
    kept = module[0].weight[1::2].detach().clone()
    bench = Bench(None, [{"image": data()[0][n : n + 1]} for n in range(32)])
    model, _, _ = pruned(bench, module, method="Neuron", finetune={"epochs": 0})
    return {"same": bool(torch.equal(model.module[0].weight, kept)), "widths": widths(model)}


def taylor(importance: str) -> dict[str, Any]:
    """Channels with large weights of which nothing that follows takes notice: they have no gradient, so Taylor drops them, and L2 keeps them."""
    module = network()
    with torch.no_grad():
        module[0].weight[::2] *= 10
        module[4].weight[:, ::2] = 0
    idle = module[0].weight[::2].detach().clone()
    model, _, _ = pruned(module=module, importance=importance, finetune={"epochs": 0})
    return {"kept": sum(any(torch.equal(a, b) for b in idle) for a in model.module[0].weight.detach())}


def slightly_sparse() -> dict[str, Any]:
    """One weight in a hundred, and it stays zero."""
    model, bench, _ = pruned(method="Magnitude", sparsityPercent=1, scope="Global")
    before = [p == 0 for p in model.module.parameters() if p.ndim > 1]
    finetune.Finetune().apply(finetune.FinetuneConfig(epochs=1, batch_size=16), model, bench)
    after = [p == 0 for p in model.module.parameters() if p.ndim > 1]
    return {"zeros": sum(int(b.sum()) for b in before), "same": all(torch.equal(a, b) for a, b in zip(before, after, strict=True))}


def shares() -> list[list[list[int]]]:
    """Samples of each process of two and of three, of batches of different sizes."""

    class Member(base.Team):
        def __init__(self, rank: int, size: int) -> None:
            self.rank, self.size = rank, size

    return [[[len(_training.share(np.arange(n), Member(r, size))) for r in range(size)] for n in (8, 5, 4, 3, 2)] for size in (2, 3)]


def magnitude(scope: str) -> dict[str, Any]:
    model, bench, made = pruned(method="Magnitude", sparsityPercent=80, scope=scope, steps=3)
    finetune.Finetune().apply(finetune.FinetuneConfig(epochs=1, batch_size=16), model, bench)
    layers = [m.weight for m in model.module.modules() if hasattr(m, "weight") and m.weight.ndim > 1]
    shares = [float((w == 0).float().mean()) for w in layers]
    whole = sum(int((w == 0).sum()) for w in layers) / sum(w.numel() for w in layers)
    return {"shares": shares, "whole": whole, "accuracy": accuracy(model), "summary": made.summary}


def resumed() -> dict[str, Any]:
    """One that goes on from the second of four epochs ends as one that was never interrupted."""
    options = finetune.FinetuneConfig(epochs=4, batch_size=16, seed=5)
    whole, bench = named(network()), Bench(lesson())
    finetune.Finetune().apply(options, whole, bench)
    again = Bench(lesson())
    again.earlier = bench.kept[1]
    rest = named(network())
    made = finetune.Finetune().apply(options, rest, again)
    equal = all(torch.equal(a, b) for a, b in zip(whole.module.state_dict().values(), rest.module.state_dict().values(), strict=True))
    other = named(network())
    finetune.Finetune().apply(options.model_copy(update={"seed": 6}), other, Bench(lesson()))
    differs = not torch.equal(whole.module[0].weight, other.module[0].weight)
    return {"equal": equal, "epochs": len(again.kept), "losses": list(made.losses), "whole": bench.kept[-1]["losses"], "seed matters": differs}


def pruned_resumed() -> dict[str, Any]:
    """Also where the layers have become smaller meanwhile: in the middle of the second of three portions."""
    options = {"sparsityPercent": 75, "steps": 3, "finetune": {"epochs": 2, "batchSize": 16}}
    whole, bench, _ = pruned(**options)
    again = Bench(lesson())
    again.earlier = bench.kept[1]
    rest, _, _ = pruned(again, **options)
    same = widths(whole) == widths(rest)
    return {
        "widths": widths(whole),
        "equal": same and torch.equal(whole.module[0].weight, rest.module[0].weight),
        "kept": len(bench.kept),
        "again": len(again.kept),
    }


def formula() -> dict[str, Any]:
    """The loss by hand: alpha x hard + (1 - alpha) x T^2 x soft, with logits and with probabilities."""
    generator = np.random.default_rng(3)
    ours, theirs = (generator.normal(0, 2, (6, CLASSES)).astype(np.float32) for _ in range(2))
    labels = np.array([0, 1, 2, 3, 0, 1])

    def softmax(x: np.ndarray) -> np.ndarray:
        powers = np.exp(x - x.max(1, keepdims=True))
        return powers / powers.sum(1, keepdims=True)

    alpha, temperature = 0.3, 3.0
    hard = -np.log(softmax(ours)[np.arange(6), labels]).mean()
    p, q = softmax(theirs / temperature), softmax(ours / temperature)
    soft = (p * np.log(p / q)).sum(1).mean()
    expected = alpha * hard + (1 - alpha) * temperature**2 * soft
    distill = _training.FromOriginal(alpha="0.3", temperature="3")
    found = {}
    for name, turn in (("logits", lambda x: x), ("probabilities", softmax)):
        changed = lesson(labels=labels, answers=turn(theirs), holds_probabilities=name == "probabilities")
        found[name] = float(_training.objective(changed, distill)(torch.from_numpy(turn(ours)), np.arange(6))) - expected
    values = lesson(labels=theirs, answers=theirs + 1, is_classification=False)
    by_hand = alpha * ((ours - theirs) ** 2).mean() + (1 - alpha) * ((ours - theirs - 1) ** 2).mean()
    found["values"] = float(_training.objective(values, distill)(torch.from_numpy(ours), np.arange(6))) - float(by_hand)
    return found


def batch_orders() -> dict[str, Any]:
    parts = [list(map(len, _training.batches(samples, 16, 0))) for samples in (33, 32, 16, 2, 40)]
    seen = np.sort(np.concatenate(list(_training.batches(33, 16, 4))))
    return {"parts": parts, "all": bool((seen == np.arange(33)).all())}


ELSEWHERE = "meta"
"""A device that computes shapes only, and as strict as a GPU about operators whose tensors are on several devices."""


class OwnConstants(torch.nn.Module):
    """Makes tensors of its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) * torch.arange(SIDE * SIDE) / 100 + torch.full((1,), 0.5)


def captured() -> torch.nn.Module:
    """A graph with constants that it makes itself, on the device that it was captured on."""
    program = torch.export.export(OwnConstants(), (torch.zeros(2, 1, SIDE, SIDE),), dynamic_shapes=({0: torch.export.Dim.AUTO},))
    return program.module()


def elsewhere(model: Any, distill: _training.FromOriginal | None = None) -> list[str]:
    """Devices of the loss, and of the gradients and weights after a step."""
    taught = lesson(answers=np.zeros((SAMPLES, CLASSES), np.float32))
    _devices.move(model.module, ELSEWHERE)
    weights = [p for p in model.module.parameters() if p.requires_grad]
    optimizer = _training._optimizer(_training.TrainingOptions(), weights)
    loss = _training._backward(model, taught, _training.objective(taught, distill), np.arange(16), optimizer, base.Team(ELSEWHERE))
    optimizer.step()
    return sorted({str(t.device) for t in (loss, *weights, *(p.grad for p in weights))})


def back_again() -> dict[str, Any]:
    """A graph that was lent, and what it answers before, meanwhile and afterwards."""
    module, pictures = captured(), torch.from_numpy(data()[0][:4])
    before = module(pictures)
    with _devices.lent(module, ELSEWHERE):
        meanwhile = module(pictures.to(ELSEWHERE)).device
    return {"meanwhile": str(meanwhile), "same": torch.equal(before, module(pictures))}


class Stubborn(torch.nn.Module):
    """Stays on the CPU with what it makes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.ones(3)


def stubborn() -> object:
    with _devices.lent(model := Stubborn(), ELSEWHERE):
        return model(torch.zeros(3, device=ELSEWHERE))


def exhausted() -> object:
    with _devices.lent(Stubborn(), ELSEWHERE):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def meeting() -> dict[str, Any]:
    found = team._meeting("cuda:1")
    return {"backend": found["backend"], "device": str(found["device_id"]), "known": torch.distributed.is_nccl_available()}


def undetermined() -> list[str]:
    """What of two operators PyTorch can't repeat to the bit; a second time it is told again."""
    found = []
    for _ in range(2):
        with train.undetermined() as operators:
            pooled, where = torch.nn.functional.max_pool2d(torch.rand(1, 1, 4, 4), 2, return_indices=True)
            torch.nn.functional.max_unpool2d(pooled, where, 2)
        found += sorted(operators)
    return found


def refused(action: Callable[[], object]) -> dict[str, str]:
    try:
        action()
    except BurnishError as error:
        return {"reason": error.reason.value, "message": error.message}
    return {"reason": "", "message": ""}


def diverging() -> object:
    bench = Bench(lesson())
    config = finetune.FinetuneConfig.model_validate({"epochs": 3, "learningRate": "1000", "optimizer": "SGD", "batchSize": 16})
    return finetune.Finetune().apply(config, named(network()), bench)


class Fragile(torch.nn.Module):
    """Learns for a while, and then one step makes infinities of its weights, which no loss has seen yet."""

    def __init__(self, last_step: int) -> None:
        super().__init__()
        self.inner, self.last_step, self.step = network(), last_step, 0
        self.inner[10].weight.register_hook(self._spoil)

    def _spoil(self, gradient: torch.Tensor) -> torch.Tensor:
        self.step += 1
        return gradient * float("inf") if self.step == self.last_step else gradient

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)


def spoilt(step: int) -> dict[str, Any]:
    """What is said and kept of a training of three epochs of six steps each whose weights become infinite in this step."""
    bench = Bench(lesson())
    said = refused(lambda: finetune.Finetune().apply(finetune.FinetuneConfig(epochs=3, batch_size=16), named(Fragile(step)), bench))
    return said | {"finite": [all(bool(torch.isfinite(v).all()) for v in kept["model"].values()) for kept in bench.kept]}


class Strange(torch.nn.Module):
    """Torch-Pruning can't follow channels through a reshape that has their number written out."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = torch.nn.Conv2d(1, 16, 3, padding=1), torch.nn.Linear(16 * SIDE * SIDE, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(x).reshape(-1, 16 * SIDE * SIDE))


# --- from ONNX -------------------------------------------------------------------------------------------------------------------------


def graph(nodes: list[Any], weights: dict[str, np.ndarray], shape: list[Any], outputs: list[Any], opset: int = 20) -> onnx.ModelProto:
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    output = [helper.make_tensor_value_info("y", TensorProto.FLOAT, outputs)]
    values = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    made = helper.make_model(helper.make_graph(nodes, "g", inputs, output, values), opset_imports=[helper.make_opsetid("", opset)])
    made.ir_version = 9
    return made


def from_onnx_module(model: onnx.ModelProto) -> Any:
    """The module that is made of a graph with the input x."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(onnx.shape_inference.infer_shapes(model), path)
        signature = _onnx_graph.signature(onnx.load(path))
        feeds = [{"x": np.random.default_rng(0).normal(size=[3, *signature.inputs[0].shape[1:]]).astype(np.float32)}]
        return _onnx_torch.convert(path, signature, feeds, Path(folder), {})


def from_onnx(model: onnx.ModelProto) -> dict[str, Any]:
    """The module that is made, and whether what it exports again answers alike."""
    with tempfile.TemporaryDirectory() as folder:
        path, again = Path(folder) / "model.onnx", Path(folder) / "again.onnx"
        onnx.save(onnx.shape_inference.infer_shapes(model), path)
        signature = _onnx_graph.signature(onnx.load(path))
        feeds = [{"x": np.random.default_rng(0).normal(size=[3, *signature.inputs[0].shape[1:]]).astype(np.float32)}]
        module = _onnx_torch.convert(path, signature, feeds, Path(folder), {})
        found, _ = module.export(again, image=images.LOCAL_CPU)
        answers = [ort.open_session(each, threads=1).infer(feeds[0])["y"] for each in (path, again)]
        layers = sorted({type(m).__name__ for m in module.module.modules() if isinstance(m, (torch.nn.Linear, torch.nn.Conv2d))})
        return {
            "signature": found == signature,
            "difference": float(np.abs(answers[0] - answers[1]).max()),
            "layers": layers,
            "trainable": sum(p.numel() for p in module.module.parameters()),
        }


def _random(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(0, 0.3, shape).astype(np.float32)


def same_padding(stride: int) -> onnx.ModelProto:
    """As TensorFlow writes a convolution."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], auto_pad="SAME_UPPER", strides=[stride, stride], kernel_shape=[3, 3]),
        helper.make_node("MaxPool", ["a"], ["b"], auto_pad="SAME_LOWER", strides=[2, 2], kernel_shape=[2, 2]),
        helper.make_node("ReduceMean", ["b", "axes"], ["y"], keepdims=0),
    ]
    return graph(nodes, {"w": _random(8, 3, 3, 3), "axes": np.array([2, 3])}, ["n", 3, 9, 9], ["n", 8])


def products() -> onnx.ModelProto:
    """MatMul with a constant on the right, shifts, and a reshape that keeps the batch."""
    nodes = [
        helper.make_node("Reshape", ["x", "flat"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["a"]),
        helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("MatMul", ["d", "v"], ["y"]),
    ]
    return graph(nodes, {"flat": np.array([-1, 12]), "w": _random(12, 16), "b": _random(16), "v": _random(16, 5)}, ["n", 3, 2, 2], ["n", 5])


def unknown_operator() -> onnx.ModelProto:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("LpNormalization", ["a"], ["y"])]
    return graph(nodes, {"w": _random(6, 4)}, ["n", 6], ["n", 4])


def quantized() -> onnx.ModelProto:
    """A graph of integers has no weights to train."""
    nodes = [helper.make_node("DequantizeLinear", ["w", "s", "z"], ["f"], axis=0), helper.make_node("MatMul", ["x", "f"], ["y"])]
    weights = {"w": np.arange(24, dtype=np.int8).reshape(6, 4), "s": np.float32(0.1), "z": np.int8(0)}
    return graph(nodes, weights, ["n", 6], ["n", 4])


CASES: dict[str, Callable[[], dict[str, Any]]] = {
    "structured L2": lambda: structured(),
    "structured Taylor": lambda: structured(importance="Taylor"),
    "structured global": lambda: structured(scope="Global", sparsityPercent=60),
    "structured in steps": lambda: structured(sparsityPercent=75, steps=3),
    "structured without training": lambda: structured(bench=Bench(None), finetune={"epochs": 0}),
    "neuron": neuron,
    "taylor": lambda: {"L2": taylor("L2")["kept"], "Taylor": taylor("Taylor")["kept"]},
    "slightly sparse": slightly_sparse,
    "shares": shares,
    "elsewhere": lambda: {
        "network": elsewhere(named(network())),
        "distilled": elsewhere(named(network()), _training.FromOriginal()),
        "rounded": elsewhere(_rounding.prepare(named(network()), seven_bits=False).named),
        "captured": elsewhere(named(torch.nn.Sequential(captured(), torch.nn.Linear(SIDE * SIDE, CLASSES)))),
    },
    "back again": back_again,
    "own tensors on the CPU": lambda: refused(stubborn),
    "GPU without memory": lambda: refused(exhausted),
    "meeting": meeting,
    "infinite in an epoch's last step": lambda: spoilt(12),
    "infinite in the last step of all": lambda: spoilt(18),
    "infinite in between": lambda: spoilt(14),
    "magnitude per layer": lambda: magnitude("PerLayer"),
    "magnitude global": lambda: magnitude("Global"),
    "resumed": resumed,
    "pruned and resumed": pruned_resumed,
    "formula": formula,
    "undetermined": undetermined,
    "batches": batch_orders,
    "diverging loss": lambda: refused(diverging),
    "channels that can't be followed": lambda: refused(lambda: pruned(module=Strange().eval())),
    "no channels to lose": lambda: refused(
        lambda: pruned(module=torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(SIDE * SIDE, CLASSES)).eval())
    ),
    "neuron without data": lambda: refused(lambda: pruned(Bench(None), method="Neuron", finetune={"epochs": 0})),
    "same padding": lambda: from_onnx(same_padding(1)),
    "same padding with strides": lambda: from_onnx(same_padding(2)),
    "products": lambda: from_onnx(products()),
    "unknown operator": lambda: refused(lambda: from_onnx(unknown_operator())),
    "quantized": lambda: refused(lambda: from_onnx(quantized())),
}


if __name__ == "__main__":
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_num_threads(1)
    outcome = {name: case() for name, case in CASES.items()}
    (Path(sys.argv[1]) / "outcome.json").write_text(json.dumps(outcome, indent=1, default=float))
