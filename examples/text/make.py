"""Train the small text classifier that `examples/text.yaml` refers to, and write its sentences.

The results are committed; run it with what `make dev` installs: `.venv/bin/python examples/text/make.py`. Sentences are put together from lists
of words, so that they are nobody's; the evaluation data shares no sentence with the others. The network is an embedding, summed over the words, and
two layers: input_ids and attention_mask (N, length) int64 in, logits (N, 3) float32 out.
"""

from __future__ import annotations

import json
import random
import warnings
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

SEED = 7
HIDDEN = 64
TRAIN, CALIBRATION, EVALUATION = 600, 64, 300
WORDS = {
    "weather": ("rain wind storm snow sun cloud frost fog", "falls grows clears freezes returns fades"),
    "kitchen": ("soup bread rice sauce cake onion butter salad", "boils bakes cools burns simmers melts"),
    "railway": ("train track signal ticket platform engine bridge tunnel", "departs arrives waits stops changes closes"),
}
PLACES = ["town", "valley", "house", "north", "south", "city", "village", "market", "morning", "evening"]


def sentences(count: int) -> list[tuple[str, str]]:
    """(text, label), all different."""
    generator = random.Random(SEED)
    found: dict[str, str] = {}
    while len(found) < count:
        label = generator.choice(list(WORDS))
        nouns, verbs = (words.split() for words in WORDS[label])
        other = generator.choice([noun for words in WORDS.values() for noun in words[0].split()])
        text = (
            f"The {generator.choice(nouns)} {generator.choice(verbs)} near the {generator.choice(PLACES)} and the {other} {generator.choice(verbs)}."
        )
        found[text] = label
    return list(found.items())


def make_tokenizer(texts: list[str]) -> Tokenizer:
    """Lower-case words; 0 pads, 1 is unknown."""
    normalizer, splitter = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    words = sorted({word for text in texts for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))})
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["[PAD]", "[UNK]", *words])}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    tokenizer.enable_padding(pad_id=0, pad_token="[PAD]")
    return tokenizer


def make_model(network: MLPClassifier) -> onnx.ModelProto:
    """The network with its first layer as an embedding: a sum over words is a product with their counts."""
    (first, second), (bias, logits_bias) = network.coefs_, network.intercepts_
    arrays = {"embedding": first, "bias": bias, "weights": second, "logits_bias": logits_bias}
    initializers = [numpy_helper.from_array(a.astype(np.float32), name) for name, a in arrays.items()]
    initializers += [numpy_helper.from_array(np.array([axis], np.int64), f"axis{axis}") for axis in (1, 2)]
    nodes = [
        helper.make_node("Gather", ["embedding", "input_ids"], ["words"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "axis2"], ["column"]),
        helper.make_node("Mul", ["words", "column"], ["known"]),
        helper.make_node("ReduceSum", ["known", "axis1"], ["sum"], keepdims=0),
        helper.make_node("Add", ["sum", "bias"], ["biased"]),
        helper.make_node("Relu", ["biased"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "weights"], ["product"]),
        helper.make_node("Add", ["product", "logits_bias"], ["logits"]),
    ]
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"]) for name in ("input_ids", "attention_mask")]
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(WORDS)])
    graph = helper.make_graph(nodes, "topics", inputs, [output], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def main() -> None:
    folder = Path(__file__).parent
    labels = sorted(WORDS)
    rows = sentences(TRAIN + CALIBRATION + EVALUATION)
    train, calibration, evaluation = rows[:TRAIN], rows[TRAIN : TRAIN + CALIBRATION], rows[-EVALUATION:]
    tokenizer = make_tokenizer([text for text, _ in train])
    counts = np.zeros((len(train), tokenizer.get_vocab_size()), np.float32)
    for row, (text, _) in zip(counts, train, strict=True):
        np.add.at(row, tokenizer.encode(text).ids, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        network = MLPClassifier((HIDDEN,), max_iter=60, random_state=SEED).fit(counts, [labels.index(label) for _, label in train])
    model = folder / "model"
    model.mkdir(exist_ok=True)
    onnx.save(make_model(network), model / "model.onnx")
    tokenizer.save(str(model / "tokenizer.json"))
    (model / "config.json").write_text(json.dumps({"id2label": dict(enumerate(labels))}, indent=2) + "\n")
    for name, chosen in (("calibration", calibration), ("evaluation", evaluation)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in chosen))


if __name__ == "__main__":
    main()
