"""Runs in the toolchain environment `torch`: makes small models as their libraries do, brings each to ONNX, and says what came of it.

    python torch_formats.py DIRECTORY      leaves the models there, and outcome.json: case -> outcome

tests/pipeline/test_torch_formats.py reads the outcome.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import timm
import tokenizers
import torch
import torchvision
import transformers
from format_cases import Case, image, run
from torch_archives import infected, without
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

from burnish.errors import BurnishError
from burnish.plugins.formats import _torch_architectures

SIZES = {
    "vocab_size": 100,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}


SQUEEZENET = {"architecture": "torchvision.models.squeezenet1_1", "architecture_args": {"num_classes": 4}}
RESNET = {"architecture": "timm.test_resnet", "architecture_args": {"num_classes": 10, "in_chans": 1}}
LRASPP = {"architecture": "torchvision.models.lraspp_mobilenet_v3_large", "architecture_args": {"num_classes": 3}}
BERT = {"architecture": "transformers.BertForSequenceClassification", "architecture_args": {**SIZES, "num_labels": 3}}
MASKED = {"architecture": "transformers.BertForMaskedLM", "architecture_args": SIZES}
TRUSTED = {"trusted": True}
RGB, GRAY = image(3, 64, 64), image(1, 32, 32)

GOOD = {
    "safetensors of torchvision": Case("StateDict", "squeezenet.safetensors", SQUEEZENET, RGB),
    "checkpoint of a parallel module": Case("StateDict", "checkpoint.pt", SQUEEZENET, RGB),
    "weights within a trainer's checkpoint": Case("StateDict", "trainer.ckpt", SQUEEZENET, RGB),
    "checkpoint of Lightning": Case("StateDict", "lightning.ckpt", SQUEEZENET, RGB),
    "checkpoint of a compiled parallel module": Case("StateDict", "compiled.pt", SQUEEZENET, RGB),
    "checkpoint of a parallel compiled module": Case("StateDict", "compiled-within.pt", SQUEEZENET, RGB),
    "tied weights, saved once": Case("StateDict", "masked/model.safetensors", MASKED),
    "old pickle of timm, which tells its inputs": Case("StateDict", "resnet-old.pth", RESNET),
    "weights of transformers": Case("StateDict", "bert/model.safetensors", BERT),
    "file that the recipe for models of one's own leaves": Case("ONNX", "recipe/model.onnx"),
    "exported program": Case("ExportedProgram", "net.pt2", TRUSTED),
    "script": Case("TorchScript", "net.script.pt", TRUSTED, GRAY),
    "classifier of text": Case("HuggingFace", "bert"),
    "classifier of text, body only": Case("HuggingFace", "masked", {"task": "FeatureExtraction"}),
    "sentence model": Case("HuggingFace", "sentence"),
    "sentence model with a dense layer": Case("HuggingFace", "dense"),
    "sentence model of the older layout": Case("HuggingFace", "legacy"),
    "tokenizer that makes no token types": Case("HuggingFace", "no-types"),
    "tokenizer's configuration that is a list": Case("HuggingFace", "listed"),
    "tokenizer's inputs as a string": Case("HuggingFace", "string"),
    "tokenizer of other inputs": Case("HuggingFace", "strange"),
    "classifier of images": Case("HuggingFace", "vit"),
    "generative model, body only": Case("HuggingFace", "GPT2LMHeadModel", {"task": "FeatureExtraction"}),
    "language head that fills masks": Case("HuggingFace", "XLMWithLMHeadModel", {"task": "FillMask"}),
    "encoder of an encoder-decoder": Case("HuggingFace", "T5EncoderModel"),
}
BAD = {
    "pickle with code": Case("StateDict", "evil.pt", SQUEEZENET, RGB),
    "old pickle with code": Case("StateDict", "evil-old.pt", SQUEEZENET, RGB),
    "whole module": Case("StateDict", "module.pt", SQUEEZENET, RGB),
    "no state dict": Case("StateDict", "numbers.pt", SQUEEZENET, RGB),
    "truncated safetensors": Case("StateDict", "cut.safetensors", SQUEEZENET, RGB),
    "truncated archive": Case("StateDict", "cut.pt", SQUEEZENET, RGB),
    "misspelt architecture": Case("StateDict", "squeezenet.safetensors", {"architecture": "torchvision.models.squeezenet1_l"}, RGB),
    "function that is no architecture": Case("StateDict", "squeezenet.safetensors", {"architecture": "torchvision.models.get_model"}, RGB),
    "class that is no model": Case("StateDict", "squeezenet.safetensors", {"architecture": "transformers.Trainer"}, RGB),
    "other architecture": Case("StateDict", "squeezenet.safetensors", {"architecture": "torchvision.models.squeezenet1_0"}, RGB),
    "surplus and missing weights": Case("StateDict", "renamed.safetensors", SQUEEZENET, RGB),
    "segmentation by its short name": Case("StateDict", "squeezenet.safetensors", LRASPP, RGB),
    "weights of a module around it": Case("StateDict", "around.safetensors", SQUEEZENET, RGB),
    "other number of classes": Case("StateDict", "squeezenet.safetensors", {"architecture": "torchvision.models.squeezenet1_1"}, RGB),
    "unknown argument": Case("StateDict", "squeezenet.safetensors", {**SQUEEZENET, "architecture_args": {"colour": 3}}, RGB),
    "argument that fetches": Case("StateDict", "squeezenet.safetensors", {**SQUEEZENET, "architecture_args": {"weights": "DEFAULT"}}, RGB),
    "no inputs": Case("StateDict", "squeezenet.safetensors", SQUEEZENET),
    "inputs that don't fit": Case("StateDict", "squeezenet.safetensors", SQUEEZENET, image(1, 64, 64)),
    "code of its own": Case("HuggingFace", "foreign"),
    "weights as a pickle": Case("HuggingFace", "pickled"),
    "truncated weights": Case("HuggingFace", "cut"),
    "task of another head": Case("HuggingFace", "bert", {"task": "TokenClassification"}),
    "head without weights": Case("HuggingFace", "body", {"task": "TextClassification"}),
    "sentence task without modules": Case("HuggingFace", "bert", {"task": "SentenceEmbedding"}),
    "unknown pooling module": Case("HuggingFace", "lstm"),
    "dense layer of another size": Case("HuggingFace", "dense-cut"),
    "dense layer with code as its activation": Case("HuggingFace", "dense-code"),
    "transformer outside the source": Case("HuggingFace", "outside"),
    "transformer at an absolute path": Case("HuggingFace", "absolute"),
    "transformer behind a link": Case("HuggingFace", "linked"),
    "pooling outside the source": Case("HuggingFace", "outside-pooling"),
    "dense layer outside the source": Case("HuggingFace", "outside-dense"),
    "weights outside the source": Case("HuggingFace", "outside-weights"),
    "generative model": Case("HuggingFace", "GPT2LMHeadModel"),
    "generative model of older make": Case("HuggingFace", "OpenAIGPTLMHeadModel"),
    "generative model with two heads": Case("HuggingFace", "GPT2DoubleHeadsModel"),
    "language head that may generate": Case("HuggingFace", "XLMWithLMHeadModel"),
    "generative model as a classifier": Case("HuggingFace", "GPT2LMHeadModel", {"task": "TextClassification"}),
    "generative encoder-decoder": Case("HuggingFace", "T5ForConditionalGeneration"),
    "encoder-decoder, body only": Case("HuggingFace", "T5ForConditionalGeneration", {"task": "FeatureExtraction"}),
    "other number of labels": Case("HuggingFace", "labels"),
    "program that is not trusted": Case("ExportedProgram", "evil.pt2"),
    "script that is not trusted": Case("TorchScript", "evil.script.pt"),
    "script without inputs": Case("TorchScript", "net.script.pt", TRUSTED),
    "truncated program": Case("ExportedProgram", "cut.pt2", TRUSTED),
    "operator that ONNX lacks": Case("ExportedProgram", "airy.pt2", TRUSTED),
    "operator of a library of its own": Case("ExportedProgram", "own.pt2", TRUSTED),
    "script with an operator of its own": Case("TorchScript", "own.script.pt", TRUSTED, GRAY),
}


class Net(torch.nn.Module):
    """image (N, 1, 32, 32) -> logits (N, 10), and the features before them."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm, self.head = torch.nn.Conv2d(1, 8, 3, padding=1), torch.nn.BatchNorm2d(8), torch.nn.Linear(128, 10)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        features = torch.nn.functional.max_pool2d(self.norm(self.convolution(image)).relu(), 8).flatten(1)
        return {"logits": self.head(features), "features": features}


class Airy(torch.nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.special.airy_ai(image).sum((1, 2, 3))


class Own(torch.nn.Module):
    """With an operator that only this process knows, and only for a while."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.ops.mine.double(image).sum((1, 2, 3))


class Writer(torch.nn.Module):
    """A script that writes a file when it runs."""

    def __init__(self, canary: str) -> None:
        super().__init__()
        self.canary = canary

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        torch.save(image, self.canary)
        return image.sum([1, 2, 3])


class Spinner(torch.nn.Module):
    """A script that says beside itself that it runs, and goes on doing so."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        torch.save(image, "spinning")
        turns = 0
        while turns >= 0:
            turns += 1
        return image.sum([1, 2, 3])


class Evil:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return exec, (f"open({str(self.canary)!r}, 'w').close()",)


def make(directory: Path) -> None:
    """Every model that a case names; whatever runs where it must not writes directory/canary."""
    canary = directory / "canary"
    torch.manual_seed(0)
    squeezenet = torchvision.models.squeezenet1_1(num_classes=4)
    weights = squeezenet.state_dict()
    safetensors.torch.save_file(weights, directory / "squeezenet.safetensors")
    torch.save({"epoch": 3, "model": {f"module.{name}": value for name, value in weights.items()}}, directory / "checkpoint.pt")
    torch.save({"state_dict": weights, "optimizer": {"lr": 0.1}, "epoch": 3}, directory / "trainer.ckpt")
    for name, prefixes in {"compiled": "_orig_mod.module.", "compiled-within": "module._orig_mod.module."}.items():
        torch.save({prefixes + key: value for key, value in weights.items()}, directory / f"{name}.pt")
    within = {f"model.{name}": value for name, value in weights.items()}
    torch.save({"epoch": 3, "pytorch-lightning_version": "2.5.0", "state_dict": within}, directory / "lightning.ckpt")
    safetensors.torch.save_file({f"net.{name}": value for name, value in weights.items()}, directory / "around.safetensors")
    renamed = {name.replace("classifier", "head"): value for name, value in weights.items()}
    safetensors.torch.save_file(renamed, directory / "renamed.safetensors")
    resnet = timm.create_model("test_resnet", num_classes=10, in_chans=1).state_dict()
    torch.save(resnet, directory / "resnet-old.pth", _use_new_zipfile_serialization=False)
    for name, value in {"evil": Evil(canary), "module": squeezenet, "numbers": [1, 2, 3]}.items():
        torch.save(value if name != "evil" else {"state_dict": value}, directory / f"{name}.pt")
    torch.save({"state_dict": Evil(canary)}, directory / "evil-old.pt", _use_new_zipfile_serialization=False)
    recipe(directory / "recipe")
    programs(directory, canary)
    folders(directory, canary)
    tokenized(directory)
    languages(directory)
    outsiders(directory)
    for cut, whole in {
        "cut.safetensors": "squeezenet.safetensors",
        "cut.pt": "checkpoint.pt",
        "cut/model.safetensors": "bert/model.safetensors",
    }.items():
        content = (directory / whole).read_bytes()
        (directory / cut).write_bytes(without(content, "checkpoint/data/3") if cut == "cut.pt" else content[: len(content) // 2])
    (directory / "cut.pt2").write_bytes(without((directory / "net.pt2").read_bytes(), "net/data/weights/weight_0"))


def recipe(folder: Path) -> None:
    """What a user does who follows the message that refuses a model of their own."""
    folder.mkdir()
    code = _torch_architectures.RECIPE[_torch_architectures.RECIPE.index("import torch") :]
    with contextlib.chdir(folder):
        exec(code, {"model": Net(), "example": torch.zeros(2, 1, 32, 32)})  # noqa: S102  # of our own message


def programs(directory: Path, canary: Path) -> None:
    example, batch = torch.zeros(2, 1, 32, 32), torch.export.Dim("batch")
    for name, module in {"net": Net(), "airy": Airy()}.items():
        program = torch.export.export(module.eval(), (example,), dynamic_shapes=({0: batch},))
        torch.export.save(program, directory / f"{name}.pt2")
    library = torch.library.Library("mine", "DEF")
    library.define("double(Tensor x) -> Tensor")
    library.impl("double", lambda x: 2 * x, "CompositeExplicitAutograd")
    torch.library.register_fake("mine::double", torch.empty_like, lib=library)
    torch.export.save(torch.export.export(Own(), (example,), dynamic_shapes=({0: batch},)), directory / "own.pt2")
    torch.jit.save(torch.jit.trace(Own(), example), directory / "own.script.pt")
    library._destroy()
    torch.jit.save(torch.jit.trace(torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU()).eval(), example), directory / "net.script.pt")
    torch.jit.save(torch.jit.script(Writer(str(canary)).eval()), directory / "evil.script.pt")
    torch.jit.save(torch.jit.script(Spinner().eval()), directory / "spinner.script.pt")
    (directory / "evil.pt2").write_bytes(infected((directory / "net.pt2").read_bytes(), f"open({str(canary)!r}, 'w').close()"))


def folders(directory: Path, canary: Path) -> None:
    bert = transformers.BertConfig(**SIZES, num_labels=3)
    transformers.BertForSequenceClassification(bert).save_pretrained(directory / "bert")
    transformers.BertForSequenceClassification(bert).save_pretrained(directory / "cut")
    transformers.BertForMaskedLM(bert).save_pretrained(directory / "masked")
    transformers.BertModel(bert).save_pretrained(directory / "body")
    vit = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, image_size=32, patch_size=8, num_labels=3
    )
    transformers.ViTForImageClassification(vit).save_pretrained(directory / "vit")
    evil = f"open({str(canary)!r}, 'w').close()\n"
    transformers.BertForSequenceClassification(bert).save_pretrained(directory / "foreign")
    for name, kind in {"bert": "bert", "foreign": "mine"}.items():  # code beside the weights: of a class that the library has, and of another
        config = json.loads((directory / name / "config.json").read_text())
        own = {"AutoConfig": "code.Config", "AutoModelForSequenceClassification": "code.Model"}
        (directory / name / "config.json").write_text(json.dumps({**config, "model_type": kind, "auto_map": own}))
        (directory / name / "code.py").write_text(evil)
    transformers.BertForSequenceClassification(bert).save_pretrained(directory / "labels")
    labels = {str(number): str(number) for number in range(5)}
    config = json.loads((directory / "labels" / "config.json").read_text())
    (directory / "labels" / "config.json").write_text(json.dumps({**config, "id2label": labels, "label2id": {}}))
    (directory / "pickled").mkdir()
    bert.architectures = ["BertForSequenceClassification"]
    bert.save_pretrained(directory / "pickled")
    torch.save({"weight": Evil(canary)}, directory / "pickled" / "pytorch_model.bin")
    for name, last in {"sentence": "Normalize", "dense": "Dense", "lstm": "LSTM", "dense-cut": "Dense", "dense-code": "Dense"}.items():
        transformers.BertModel(bert).save_pretrained(directory / name)
        kinds = {"Transformer": "", "Pooling": "1_Pooling", last: f"2_{last}"}
        modules = [{"idx": n, "name": str(n), "path": p, "type": f"sentence_transformers.models.{k}"} for n, (k, p) in enumerate(kinds.items())]
        (directory / name / "modules.json").write_text(json.dumps(modules))
        (directory / name / "1_Pooling").mkdir()
        (directory / name / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}))
        (directory / name / "tokenizer.json").write_text("{}")
        if last == "Dense":
            (directory / name / "2_Dense").mkdir()
            layer = torch.nn.Linear(32, 16 if name != "dense-cut" else 8)
            activation = "torch.nn.modules.activation.Tanh" if name != "dense-code" else "os.system"
            config = {"in_features": 32, "out_features": 16, "bias": True, "activation_function": activation}
            (directory / name / "2_Dense" / "config.json").write_text(json.dumps(config))
            weights = {f"linear.{key}": value for key, value in layer.state_dict().items()}
            safetensors.torch.save_file(weights, directory / name / "2_Dense" / "model.safetensors")


def tokenized(directory: Path) -> None:
    """Copies of `bert` with a tokenizer_config.json that says more or less sensible things; and `sentence`, its transformer in a folder of its own."""
    told = {"model_input_names": ["input_ids", "attention_mask"]}
    for name, config in {
        "no-types": told,
        "listed": [told],
        "string": {"model_input_names": "input_ids"},
        "strange": {"model_input_names": ["input_features"]},
    }.items():
        shutil.copytree(directory / "body", directory / name)
        (directory / name / "tokenizer_config.json").write_text(json.dumps(config))
    legacy, inner = directory / "legacy", directory / "legacy" / "0_Transformer"
    shutil.copytree(directory / "sentence", legacy)
    inner.mkdir()
    for name in ("config.json", "model.safetensors"):
        (legacy / name).rename(inner / name)
    (inner / "tokenizer_config.json").write_text(json.dumps({**told, "pad_token": "[PAD]"}))
    (inner / "vocab.txt").write_text("[PAD]\n[UNK]\ngood\n")
    words = tokenizers.models.WordLevel({"[PAD]": 0, "[UNK]": 1, "good": 2}, unk_token="[UNK]")  # noqa: S106  # a word, no password
    tokenizers.Tokenizer(words).save(str(inner / "tokenizer.json"))
    (legacy / "tokenizer.json").unlink()
    (legacy / "config_sentence_transformers.json").write_text("{}")
    modules = json.loads((legacy / "modules.json").read_text())
    (legacy / "modules.json").write_text(json.dumps([{**modules[0], "path": "0_Transformer"}, *modules[1:]]))


def languages(directory: Path) -> None:
    """Models with a head of language, and an encoder that is part of another model; each in a folder named after its class."""
    gpt = {"vocab_size": 100, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4}
    t5 = transformers.T5Config(vocab_size=100, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    for kind, config in {
        transformers.GPT2LMHeadModel: transformers.GPT2Config(**gpt),
        transformers.GPT2DoubleHeadsModel: transformers.GPT2Config(**gpt),
        transformers.OpenAIGPTLMHeadModel: transformers.OpenAIGPTConfig(**gpt),
        transformers.XLMWithLMHeadModel: transformers.XLMConfig(vocab_size=100, emb_dim=32, n_layers=2, n_heads=4, max_position_embeddings=64),
        transformers.T5ForConditionalGeneration: t5,
        transformers.T5EncoderModel: t5,
    }.items():
        kind(config).save_pretrained(directory / kind.__name__)


def outsiders(directory: Path) -> None:
    """Copies of the model `dense` that name a file or a folder of that model, or of another one beside them."""
    other = {"outside": "../body", "absolute": str(directory / "body"), "linked": "body", "outside-pooling": "../dense/1_Pooling"}
    for name, path in {**other, "outside-dense": "../dense/2_Dense"}.items():
        shutil.copytree(directory / "dense", directory / name)
        modules = json.loads((directory / name / "modules.json").read_text())
        modules[{"outside-pooling": 1, "outside-dense": 2}.get(name, 0)]["path"] = path
        (directory / name / "modules.json").write_text(json.dumps(modules))
    (directory / "linked" / "body").symlink_to(directory / "body")
    shutil.copytree(directory / "body", directory / "outside-weights")
    (directory / "outside-weights" / "model.safetensors").rename(directory / "outside-weights" / "unused.safetensors")
    with safetensors.safe_open(directory / "body" / "model.safetensors", "pt") as weights:
        placed = dict.fromkeys(weights.keys(), "../body/model.safetensors")
    (directory / "outside-weights" / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))


def pooled_by_hand(folder: Path, feed: dict[str, np.ndarray], answer: dict[str, np.ndarray]) -> float:
    """Largest difference from the definition: the mean over tokens that are no padding; at length 1, or after the dense layer."""
    with torch.inference_mode():
        inner = folder / "0_Transformer"
        bert = transformers.BertModel.from_pretrained(inner if inner.exists() else folder)
        tokens = bert(**{n: torch.from_numpy(a) for n, a in feed.items()}).last_hidden_state.numpy()
    mean = np.stack([row[mask == 1].mean(0) for row, mask in zip(tokens, feed["attention_mask"], strict=True)])
    if (folder / "2_Dense").exists():
        weights = {name: value.numpy() for name, value in safetensors.torch.load_file(folder / "2_Dense" / "model.safetensors").items()}
        found = np.tanh(mean @ weights["linear.weight"].T + weights["linear.bias"])
    else:
        found = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    return float(np.abs(found - answer["sentence_embedding"]).max())


def vocabularies() -> set[str]:
    """The files that transformers' tokenizers are made from, of those that can be loaded here."""
    classes = (getattr(transformers, str(name), None) for name in TOKENIZER_MAPPING_NAMES.values())
    return {name for found in classes if found for name in (vars(found).get("vocab_files_names") or {}).values()}


def refused_names(names: Iterable[str]) -> list[str]:
    """Those of torchvision that are refused before anything is built."""
    found = []
    for name in names:
        try:
            _torch_architectures.check_name(f"torchvision.models.{name}")
        except BurnishError:
            found.append(name)
    return sorted(found)


def look(case: Case, path: Path, feed: dict[str, np.ndarray], answer: dict[str, np.ndarray]) -> dict[str, Any]:
    if case.path == "squeezenet.safetensors":
        return {"refused": refused_names(torchvision.models.list_models()), "detecting": torchvision.models.list_models(torchvision.models.detection)}
    if case.format == "ONNX":
        return {"beside": sorted(p.name for p in path.parent.iterdir())}
    if case.path == "no-types":
        return {"vocabularies": sorted(vocabularies())}
    return {"pooled": pooled_by_hand(path, feed, answer)} if case.path in ("sentence", "dense", "legacy") else {}


def main() -> None:
    directory = Path(sys.argv[1])
    make(directory)
    run(directory, {**GOOD, **BAD}, look)


if __name__ == "__main__":
    main()
