"""Train a small Keras CNN on the digits and save it as Keras does: the source of `examples/keras.yaml`.

`model.keras` is committed beside this script, which shows where it comes from. The data is that of `examples/digits`, whose calibration and
evaluation files the manifest uses too. It runs in Burnish's own environment for TensorFlow (CPU, about two minutes on two cores):

    burnish toolchain install tensorflow      # prints where it is
    <that directory>/bin/python examples/keras/make.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

EVALUATION = Path(__file__).parents[1] / "digits" / "evaluation.npz"
SEED, SIDE, EPOCHS, BATCH = 20, 32, 30, 32  # seed and side are those of digits/make.py, and so are the halves


def build_network() -> keras.Model:
    """A plain CNN of 32 thousand parameters: image (N, 1, 32, 32) float32 in, as the data has it, (N, 10) float32 logits out."""

    def block(channels: int) -> list[keras.layers.Layer]:
        # BatchNormalization's default momentum of 0.99 is meant for more steps than there are here.
        return [keras.layers.Conv2D(channels, 3, padding="same", use_bias=False), keras.layers.BatchNormalization(momentum=0.9), keras.layers.ReLU()]

    return keras.Sequential([
        keras.Input((1, SIDE, SIDE), name="image"),
        keras.layers.Permute((2, 3, 1)),  # to Keras' own order
        *block(32), *block(32), keras.layers.MaxPooling2D(),
        *block(36), *block(36), keras.layers.MaxPooling2D(),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(10, name="logits"),
    ])  # fmt: skip


def load_images() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's digits as digits/make.py enlarges them: (N, 1, 32, 32) float32 in [0, 1], and their labels (N,) int64."""
    digits = load_digits()
    large = tf.image.resize(digits.images[..., None] / 16, (SIDE, SIDE)).numpy()
    return (np.round(large * 256) / 256).astype(np.float32).transpose(0, 3, 1, 2), digits.target.astype(np.int64)


def train(images: np.ndarray, labels: np.ndarray) -> keras.Model:
    """The trained network, without what training needed."""
    keras.utils.set_random_seed(SEED)
    network = build_network()
    changes = keras.Sequential([
        keras.layers.RandomRotation(1 / 36, fill_mode="constant", data_format="channels_first"),
        keras.layers.RandomZoom(0.1, fill_mode="constant", data_format="channels_first"),
        keras.layers.RandomTranslation(1 / 16, 1 / 16, fill_mode="constant", data_format="channels_first"),
    ])  # fmt: skip
    steps = EPOCHS * -(-len(images) // BATCH)
    network.compile(
        optimizer=keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(4e-3, steps), weight_decay=1e-2),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    samples = tf.data.Dataset.from_tensor_slices((images, labels)).shuffle(len(images), seed=SEED).batch(BATCH)
    network.fit(samples.map(lambda batch, label: (changes(batch, training=True), label)), epochs=EPOCHS, verbose=2)
    trained = build_network()
    trained.set_weights(network.get_weights())
    return trained


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a small Keras CNN; write model.keras.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write to (default: beside this script)")
    arguments = parser.parse_args()
    images, labels = load_images()
    train_images, held_images, train_labels, held_labels = train_test_split(images, labels, test_size=0.5, random_state=SEED, stratify=labels)
    if not np.allclose(held_images, np.load(EVALUATION)["image"], atol=1 / 128):
        raise SystemExit("the held-out half is not that of examples/digits/evaluation.npz, so training would see what the model is judged on")
    network = train(train_images, train_labels)
    answers = network.predict(held_images, verbose=0).argmax(axis=1)
    print(f"held-out accuracy {(answers == held_labels).mean():.4f} on {len(held_labels)} samples")
    network.save(arguments.out / "model.keras")


if __name__ == "__main__":
    main()
