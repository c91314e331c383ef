"""Text as the model's input: rows of JSONL or CSV, turned into token ids by the model's own tokenizer."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from burnish.api.v1alpha1.optimized_model import Input
from burnish.errors import BurnishError, Reason
from burnish.pipeline import foreign
from burnish.plugins.base import Signature

COLUMNS = ("text", "text_pair", "label")
MAX_LINE_BYTES = 4 * 2**20
"""Of one row."""
TOKENIZER = "tokenizer.json"
MAX_FILE_BYTES = 2**30
MAX_DIGITS = 9
"""Of a label."""
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class Row(NamedTuple):
    """One sample."""

    text: str
    pair: str | None
    label: str | int | None


class RowsError(Exception):
    """What is wrong with a file of rows."""


def read_rows(path: Path, *, samples: int | None) -> list[Row]:
    """The first `samples` rows of a file: JSONL where it begins with `{`, CSV with a header otherwise.

    Raises:
        RowsError: something else by its first bytes, no UTF-8, no JSON, no header, a row without `text`, or only some rows with `text_pair` or `label`.
    """
    if path.stat().st_size > MAX_FILE_BYTES:
        raise RowsError(f"has {path.stat().st_size} bytes; at most {MAX_FILE_BYTES} are read, use fewer samples")
    objection = foreign.objection_to_rows(path)
    if objection is not None:
        raise RowsError(objection)
    rows: list[Row] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            start = stream.read(64).lstrip()
            stream.seek(0)
            for number, fields in _jsonl(stream) if start.startswith("{") else _csv(stream):
                rows.append(_row(number, fields))
                if len(rows) == samples:
                    break
    except UnicodeDecodeError as error:
        raise RowsError(f"is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    except csv.Error as error:
        raise RowsError(f"is no readable CSV ({error}); quote fields with line breaks or quotes") from error
    if not rows:
        raise RowsError("has no rows")
    for position, column in ((1, "text_pair"), (2, "label")):
        without = sum(row[position] is None for row in rows)
        if without not in (0, len(rows)):
            raise RowsError(f"has {without} of {len(rows)} rows without {column!r}; give it in all rows or in none")
    return rows


def _jsonl(stream: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    number = 0
    while line := stream.readline(MAX_LINE_BYTES):
        number += 1
        if len(line) == MAX_LINE_BYTES:
            raise RowsError(f"has more than {MAX_LINE_BYTES} characters in line {number}; cut the text")
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise RowsError(f"has no JSON in line {number}; write one object per line") from error
        if not isinstance(found, dict):
            raise RowsError(f"has no object in line {number}; write one object per line, with {', '.join(COLUMNS)}")
        yield number, found


def _csv(stream: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(stream, strict=True)
    if "text" not in (reader.fieldnames or ()):
        raise RowsError("is neither JSONL nor a CSV whose first line names a column 'text'; add the header text,label")
    for row in reader:
        if None in row or None in row.values():
            raise RowsError(f"has another number of fields than its header in line {reader.line_num}; quote commas")
        yield reader.line_num, row


def _row(number: int, fields: dict[str, Any]) -> Row:
    text, pair, label = (fields.get(column) for column in COLUMNS)
    if not isinstance(text, str):
        raise RowsError(f"has no {COLUMNS[0]!r} in line {number}; it has {', '.join(map(str, list(fields)[:8])) or 'nothing'}")
    if pair is not None and not isinstance(pair, str):
        raise RowsError(f"has a 'text_pair' that is no text in line {number}")
    if label is not None and (isinstance(label, bool) or not isinstance(label, str | int)):
        raise RowsError(f"has a label that is neither a number nor a name in line {number}")
    try:
        (text + (pair or "")).encode()
    except UnicodeEncodeError as error:
        raise RowsError(f"has half a character (a lone surrogate) in line {number}; correct the escape") from error
    if isinstance(label, int) and not 0 <= label < 10**MAX_DIGITS:
        raise RowsError(f"has a label in line {number} that is no class; classes count from 0")
    return Row(text, pair, int(label) if isinstance(label, str) and is_number(label) else label)


def is_number(name: str) -> bool:
    """True where a class's name is its index."""
    return name.isdecimal() and len(name) <= MAX_DIGITS


def tokenize(rows: Sequence[Row], folder: Path | None, signature: Signature, inputs: Sequence[Input], *, field: str) -> dict[str, np.ndarray]:
    """Token ids of all rows: input -> (N, length) in the input's own dtype; longer rows are cut, shorter ones padded on the tokenizer's side.

    Args:
        folder: the source's directory, or that of an artifact's companions; None where the source is one file.
        signature: of the model: which of input_ids, attention_mask and token_type_ids it takes.
        inputs: `spec.inputs`: a varying length gets its `opt`.

    Raises:
        BurnishError: InvalidDataset: no tokenizer, or one without padding; InputsMismatch: the model takes no token ids, or its length isn't declared.
    """
    from tokenizers import Tokenizer

    names = [tensor.name for tensor in signature.inputs]
    if "input_ids" not in names or any(name not in _INPUTS for name in names):
        raise BurnishError(
            Reason.InvalidDataset,
            f"text becomes {', '.join(_INPUTS)}, and the model takes {', '.join(names)}; give an npz with these arrays",
            field=field,
        )
    path = folder / TOKENIZER if folder else None
    if path is None or not path.is_file():
        message = f"text needs the model's own {TOKENIZER}, and the source has none; add it to the model's directory (tokenizer.save_pretrained), or give an npz with token ids"
        raise BurnishError(Reason.InvalidDataset, message, field=field)
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise BurnishError(Reason.InvalidDataset, f"{TOKENIZER} can't be read ({str(error)[:200]}); save it again", field=field) from error
    length = _length(signature, inputs)
    tokenizer.enable_truncation(max_length=length)
    tokenizer.enable_padding(**_padding(tokenizer, path.parent, field), length=length)
    encoded = tokenizer.encode_batch([row.text if row.pair is None else (row.text, row.pair) for row in rows])
    found = {
        "input_ids": [e.ids for e in encoded],
        "attention_mask": [e.attention_mask for e in encoded],
        "token_type_ids": [e.type_ids for e in encoded],
    }
    return {t.name: np.array(found[t.name], dtype=t.data_type.numpy_name) for t in signature.inputs}


def _length(signature: Signature, inputs: Sequence[Input]) -> int:
    """The length that every input has."""
    ids = next(tensor for tensor in signature.inputs if tensor.name == "input_ids")
    declared = next((entry for entry in inputs if entry.name == "input_ids"), None)
    shape = list(declared.shape) if declared and declared.shape else list(ids.shape)
    if len(shape) == 2 and shape[1] > 0:
        return shape[1]
    opt = next((d.opt for d in declared.dynamic if d.axis == 1), None) if declared else None
    if len(shape) != 2 or opt is None:
        raise BurnishError(
            Reason.InputsMismatch,
            f"input_ids has shape {shape}, so it isn't known to how many tokens text is padded and cut; declare dynamic: [{{axis: 1, min: 1, opt: 64, max: 256}}] for it",
            field="spec.inputs",
        )
    return opt


def _padding(tokenizer: Any, folder: Path, field: str) -> dict[str, Any]:
    if tokenizer.padding:
        return {name: tokenizer.padding[name] for name in ("direction", "pad_id", "pad_type_id", "pad_token")}
    try:
        config = json.loads((folder / "tokenizer_config.json").read_text())
    except (OSError, ValueError, RecursionError):
        config = {}
    token = config.get("pad_token") if isinstance(config, dict) else None
    token = token.get("content") if isinstance(token, dict) else token
    number = tokenizer.token_to_id(token) if isinstance(token, str) else None
    if number is None:
        raise BurnishError(
            Reason.InvalidDataset,
            f"neither {TOKENIZER} nor tokenizer_config.json says which token pads; save the tokenizer with its pad_token",
            field=field,
        )
    return {"direction": config.get("padding_side", "right"), "pad_id": number, "pad_token": token}
