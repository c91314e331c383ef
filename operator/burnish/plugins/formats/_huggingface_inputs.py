"""Which tensors a model of the transformers library takes: told by its configuration and its code, not by its author."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from burnish.errors import BurnishError, Reason
from burnish.plugins import base
from burnish.plugins.formats import _exported

_SEQUENCE = 8
"""Tokens of the request with which a model is traced."""
_TEXT = ("input_ids", "attention_mask", "token_type_ids")


def of_model(model: Any, tokenizer_inputs: Sequence[str] | None, image_size: tuple[int, int] | None = None) -> tuple[_exported.Input, ...]:
    """The inputs, in the order of the model's own code.

    Args:
        model: a `PreTrainedModel`.
        tokenizer_inputs: what its tokenizer makes (`model_input_names`), where that is known.
        image_size: height and width of its images, where the configuration doesn't tell.

    Raises:
        BurnishError: ArchitectureMismatch for a model that takes neither token ids nor images.
    """
    accepted = inspect.signature(model.forward).parameters
    if model.main_input_name == "pixel_values":
        return (_image(model.config, image_size),)
    if model.main_input_name != "input_ids" or "decoder_input_ids" in accepted:
        decoder = "decoder_input_ids" in accepted
        odd = "has a decoder (its encoder may be a class of its own, as T5EncoderModel)" if decoder else f"takes {model.main_input_name}"
        raise BurnishError(
            Reason.ArchitectureMismatch,
            f"{type(model).__name__} {odd}; only encoders of text (token ids) and of images are served",
            field="spec.source.task",
        )
    wanted = set(
        tokenizer_inputs or ("input_ids", "attention_mask", *(["token_type_ids"] if getattr(model.config, "type_vocab_size", 0) > 1 else []))
    )
    highest = {
        "input_ids": model.config.vocab_size - 1,
        "attention_mask": 1,
        "token_type_ids": max(getattr(model.config, "type_vocab_size", 1), 1) - 1,
    }
    lowest = {"attention_mask": 1}  # a request that is made up has no padding
    return tuple(
        _exported.Input(
            base.Tensor(name=name, data_type=base.DataType.INT64, shape=(-1, -1), range=(lowest.get(name, 0), highest[name])),
            sizes={1: _SEQUENCE},
            axes={0: "batch", 1: "sequence"},
        )
        for name in _TEXT
        if name in accepted and name in wanted
    )


def _image(config: Any, image_size: tuple[int, int] | None) -> _exported.Input:
    size = getattr(config, "image_size", None) or image_size
    height, width = (size, size) if isinstance(size, int) else size or (-1, -1)
    tensor = base.Tensor(name="pixel_values", data_type=base.DataType.FP32, shape=(-1, getattr(config, "num_channels", 3), height, width))
    return _exported.Input(tensor, sizes={2: 224, 3: 224})
