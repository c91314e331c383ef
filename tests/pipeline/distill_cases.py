"""Distill on small models in PyTorch's own environment: `distill_cases.py DIRECTORY` leaves outcome.json; test_distill.py reads it."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from training_cases import CLASSES, SIDE, Bench, accuracy, data, exported, lesson, named, network, pruned, refused, weights, widths

from burnish.plugins import base
from burnish.plugins.formats import _exported, _torch_module
from burnish.plugins.passes import _channels, _students, distill, finetune
from burnish.plugins.runtimes import _onnxruntime_session as ort
from burnish.serving import images

ARGUMENTS = [{"name": "num_classes", "value": str(CLASSES)}, {"name": "in_chans", "value": "1"}]


def teacher() -> Any:
    model = named(network())
    finetune.Finetune().apply(finetune.FinetuneConfig(epochs=6, batch_size=16), model, Bench(lesson()))
    return model


def taught(model: Any, bench: Bench | None = None, **options: Any) -> tuple[base.TrainedModel, Bench]:
    answers = teacher().run({"image": data()[0]})["output"]
    bench = bench or Bench(lesson(answers=answers))
    config = distill.DistillConfig.model_validate({"epochs": 3, "batchSize": 16, "compareSeeds": 0} | options)
    return distill.Distill().apply(config, model, bench), bench


class Scored(Bench):
    """Evaluation data that says what a test wants."""

    def __init__(self, scores: list[float | None], **changes: Any) -> None:
        super().__init__(lesson(**({"answers": teacher().run({"image": data()[0]})["output"]} | changes)))
        self.scores = scores
        self.asked: list[Any] = []

    def score(self, model: Any) -> float | None:
        self.asked.append(model)
        return self.scores[min(len(self.asked) - 1, len(self.scores) - 1)]


class Block(torch.nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer, self.norm = torch.nn.Linear(width, width), torch.nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.relu(self.layer(self.norm(x)))


class Deep(torch.nn.Module):
    """Six blocks of one kind and two of another in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(SIDE * SIDE, 16)
        self.blocks = torch.nn.ModuleList([Block(16) for _ in range(6)])
        self.wide = torch.nn.Sequential(torch.nn.Linear(16, 24), Block(24), Block(24))
        self.last = torch.nn.Linear(24, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x.flatten(1))
        for block in self.blocks:
            x = block(x)
        return self.last(self.wide(x))


# --- what the cases find ---------------------------------------------------------------------------------------------------------------


def width() -> dict[str, Any]:
    model = teacher()
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    made, bench = taught(model, student={"widthPercent": 25}, compareSeeds=2)
    untouched = all(torch.equal(value, before[name]) for name, value in model.module.state_dict().items())
    return {
        "widths": widths(made.model),
        "untouched": untouched,
        "accuracy": accuracy(made.model),
        "difference": exported(made.model),
        "summary": made.summary,
        "notes": list(made.notes),
        "losses": list(made.losses),
        "said": bench.said,
    }


def first_is_kept() -> dict[str, Any]:
    """Whatever the others score."""
    model = teacher()
    alone, _ = taught(model, student={"widthPercent": 50}, seed=3)
    bench = Scored([0.5, 0.5, 0.9, 0.9, 0.9])
    among, _ = taught(model, bench, student={"widthPercent": 50}, seed=3, compareSeeds=2)
    same = all(torch.equal(a, b) for a, b in zip(alone.model.module.state_dict().values(), among.model.module.state_dict().values(), strict=True))
    seeds = [tuple(m.module.state_dict()["0.weight"].flatten()[:2].tolist()) for m in bench.asked[1:]]
    return {"same": same, "different trainings": len(set(seeds)), "trainings": len(seeds)}


def verdicts() -> dict[str, Any]:
    """What is told of scores; the first is asked of the untrained student."""
    found = {}
    for name, scores, errors in (
        ("helped", [0, 0.9, 0.7, 0.8, 0.7], False),
        ("not", [0, 0.7, 0.9, 0.7, 0.9], False),
        ("errors", [0, 0.7, 0.9], True),
    ):
        bench = Scored(list(scores))
        bench.scores_errors = errors
        found[name] = list(taught(teacher(), bench, student={"widthPercent": 50}, epochs=1, compareSeeds=len(scores) // 2)[0].notes)
    nothing = Scored([None])
    found["no data"] = list(taught(teacher(), nothing, student={"widthPercent": 50}, epochs=1, compareSeeds=2)[0].notes)
    unlabelled = Scored([0.5], labels=None)
    found["no labels"] = list(taught(teacher(), unlabelled, student={"widthPercent": 50}, epochs=1, alpha="0", compareSeeds=2)[0].notes)
    values = {"is_classification": False, "labels": np.full((len(data()[0]), CLASSES), np.nan, np.float32)}
    diverging = Scored([0.5], **values)
    found["diverging"] = list(taught(teacher(), diverging, student={"widthPercent": 50}, epochs=1, alpha="0", compareSeeds=1)[0].notes)
    return found


def resumed() -> dict[str, Any]:
    """One that was killed in the third of four trainings ends as one that was not, with the same figures."""
    model, options = teacher(), {"student": {"widthPercent": 50}, "compareSeeds": 2, "epochs": 3}
    whole, bench = taught(model, **options)
    again = Bench(bench.lesson)
    again.earlier = bench.kept[2 * 3 + 1]
    rest, _ = taught(model, again, **options)
    pairs = zip(whole.model.module.state_dict().values(), rest.model.module.state_dict().values(), strict=True)
    return {
        "equal": all(torch.equal(a, b) for a, b in pairs),
        "summaries": [whole.summary, rest.summary],
        "losses": [list(whole.losses), list(rest.losses)],
        "kept": [len(bench.kept), len(again.kept)],
    }


def of_a_pruned_model() -> dict[str, Any]:
    model, _, _ = pruned(sparsityPercent=50)
    sizes = widths(model)
    made, _ = taught(model)
    return {"before": sizes, "after": widths(made.model), "summary": made.summary}


def depth(percent: int) -> dict[str, Any]:
    torch.manual_seed(0)
    module = Deep().eval()
    marks = [float(block.layer.weight[0, 0]) for block in module.blocks]
    lesson_of = lesson(answers=named(module).run({"image": data()[0]})["output"])
    made, _ = taught(named(module), Bench(lesson_of), student={"depthPercent": percent}, learningRate="0.0000001", epochs=1)
    kept = [float(block.layer.weight[0, 0]) for block in made.model.module.blocks]
    return {
        "kept": [int(np.argmin([abs(mark - value) for mark in marks])) for value in kept],
        "wide": len(made.model.module.wide),
        "difference": exported(made.model),
        "summary": made.summary,
        "weights": [weights(made.model), weights(named(module))],
    }


def architecture(**changes: Any) -> dict[str, Any]:
    student = {"architecture": "timm.test_resnet", "architectureArgs": ARGUMENTS} | changes
    made, _ = taught(teacher(), student=student, epochs=1)
    again, _ = taught(teacher(), student=student, epochs=1)
    pairs = zip(made.model.module.state_dict().values(), again.model.module.state_dict().values(), strict=True)
    return {"difference": exported(made.model), "summary": made.summary, "same": all(torch.equal(a, b) for a, b in pairs)}


class Two(torch.nn.Module):
    """Small, and trained to something already; it takes what `swapped` says first."""

    def __init__(self, swapped: bool, outputs: int = CLASSES) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.swapped = swapped
        self.layer = torch.nn.Linear(SIDE * SIDE, outputs)

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> dict[str, torch.Tensor]:
        image, mask = (second, first) if self.swapped else (first, second)
        return {"output": self.layer((image - 2 * mask).flatten(1))}


def inputs(*names: str) -> tuple[Any, ...]:
    return tuple(_exported.Input(base.Tensor(name=name, data_type=base.DataType.FP32, shape=(-1, 1, SIDE, SIDE))) for name in names)


def small(name: str = "pixels", outputs: int = CLASSES) -> Any:
    torch.manual_seed(2)
    layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(SIDE * SIDE, 8), torch.nn.ReLU(), torch.nn.Linear(8, outputs))
    return _torch_module.NamedModule(layers.eval(), inputs(name))


def from_source(own: Any = None, model: Any = None, **options: Any) -> tuple[base.TrainedModel, Bench]:
    bench = Bench(lesson(answers=teacher().run({"image": data()[0]})["output"]))
    bench.source = own or small()
    config = {"student": {"source": {"uri": "file:small.onnx", "digest": "sha256:" + "ab" * 32}}, "epochs": 20, "batchSize": 16, "compareSeeds": 1}
    return distill.Distill().apply(distill.DistillConfig.model_validate(config | options), model or teacher(), bench), bench


def source() -> dict[str, Any]:
    """It goes on from its own weights, under the original's names; a pass after it trains what is exported."""
    made, bench = from_source(learningRate="0.01")
    slow, _ = from_source(learningRate="0.00000001", epochs=1)
    start = bench.source.module.state_dict()["1.weight"]
    after, again = _channels.copied(made.model), Bench(lesson())
    finetune.Finetune().apply(finetune.FinetuneConfig(epochs=1, batch_size=16, learning_rate="0.1"), after, again)
    return {
        "summary": made.summary,
        "names": [[i.tensor.name for i in made.model.inputs], list(made.model.run({"image": data()[0][:2]}))],
        "accuracy": [accuracy(made.model), accuracy(slow.model)],
        "moved": float((slow.model.module.state_dict()["inner.1.weight"] - start).abs().max()),
        "difference": [exported(made.model), exported(after)],
        "copy moved": not np.array_equal(after.run({"image": data()[0]})["output"], made.model.run({"image": data()[0]})["output"]),
    }


def swapped() -> dict[str, Any]:
    """Several inputs are told apart by their names, whatever their order is."""
    model = _torch_module.NamedModule(Two(False).eval(), inputs("image", "mask"))
    own = _torch_module.NamedModule(Two(True).eval(), inputs("mask", "image"))
    made = _students.make(_students.Student.model_validate({"source": {"uri": "file:x"}}), model, Source(own), 0)
    feed = {"image": data()[0][:4], "mask": (data()[0][:4] > 0).astype(np.float32)}
    return {"same": np.array_equal(made.run(feed)["output"], model.run(feed)["output"]), "order": [i.tensor.name for i in made.inputs]}


class Source(Bench):
    def __init__(self, own: Any) -> None:
        super().__init__(None)
        self.source = own


def asked() -> dict[str, Any]:
    """An original of which there is a session only."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "teacher.onnx"
        teacher().export(path, image=images.LOCAL_CPU)
        model = _torch_module.AskedModule(torch.nn.Identity(), inputs("image"), session=ort.open_session(path, threads=1), known_weights=41_860)
        made, _ = from_source(model=model, learningRate="0.01", compareSeeds=0)
        architectural, _ = from_source(model=model, student={"architecture": "timm.test_resnet", "architectureArgs": ARGUMENTS}, epochs=1)
    return {"summary": made.summary, "accuracy": accuracy(made.model), "architecture": architectural.summary}


CASES: dict[str, Callable[[], dict[str, Any]]] = {
    "width": width,
    "first is kept": first_is_kept,
    "verdicts": verdicts,
    "resumed": resumed,
    "of a pruned model": of_a_pruned_model,
    "half the blocks": lambda: depth(50),
    "a tenth of the blocks": lambda: depth(10),
    "architecture": architecture,
    "source": source,
    "swapped": swapped,
    "asked": asked,
    "source with other outputs": lambda: refused(lambda: from_source(small(outputs=7))),
    "source with other inputs": lambda: refused(lambda: from_source(_torch_module.NamedModule(Two(False).eval(), inputs("image", "mask")))),
    "other outputs": lambda: refused(
        lambda: architecture(architectureArgs=[{"name": "in_chans", "value": "1"}, {"name": "num_classes", "value": "7"}])
    ),
    "other inputs": lambda: refused(lambda: architecture(architectureArgs=[{"name": "num_classes", "value": str(CLASSES)}])),
    "unknown architecture": lambda: refused(lambda: architecture(architecture="timm.test_resnett")),
    "no blocks": lambda: refused(lambda: taught(teacher(), student={"depthPercent": 50})),
    "no channels": lambda: refused(
        lambda: taught(named(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(SIDE * SIDE, CLASSES)).eval()), student={"widthPercent": 50})
    ),
}


if __name__ == "__main__":
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_num_threads(1)
    outcome = {name: case() for name, case in CASES.items()}
    (Path(sys.argv[1]) / "outcome.json").write_text(json.dumps(outcome, indent=1, default=float))
