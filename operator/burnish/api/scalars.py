"""Durations, quantities and decimals as the Kubernetes conventions write them: strings in the API, numbers in the code.

The API has no floats (they do not round-trip through every client), so these types carry a pattern for the CRD, and functions here turn
them into numbers and back.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal as _Decimal
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from burnish import names

DURATION_PATTERN = r"^([0-9]+(\.[0-9]+)?(ns|us|ms|s|m|h))+$"
QUANTITY_PATTERN = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$"
DECIMAL_PATTERN = names.DECIMAL_PATTERN
SIGNED_DECIMAL_PATTERN = names.SIGNED_DECIMAL_PATTERN
NAMESPACE_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
SUBDOMAIN_PATTERN = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
LABEL_VALUE_PATTERN = r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"
LABEL_KEY_PATTERN = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"
KEYWORD_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]*$"
LINE_PATTERN = r"^[^\x00-\x1f\x7f]+$"
DIGEST_PATTERN = names.DIGEST_PATTERN

_UNIT_SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_UNIT_FACTOR: dict[str, int | _Decimal] = {
    "": 1,
    "m": _Decimal("0.001"),
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
}


def _positive_duration(text: str) -> str:
    if duration_seconds(text) <= 0:
        raise ValueError(f"{text} is no time at all; write a duration longer than zero, for example 90s")
    return text


def _text(value: object) -> object:
    """A quantity is int-or-string in Kubernetes: `cpu: 1` and `memory: 1073741824` are fine without quotes, `cpu: 0.5` is not."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Duration = Annotated[str, Field(pattern=DURATION_PATTERN, max_length=32, examples=["90s", "1h30m"]), AfterValidator(_positive_duration)]
Quantity = Annotated[
    str,
    Field(pattern=QUANTITY_PATTERN, max_length=32, examples=["500m", "2Gi"], json_schema_extra={"x-kubernetes-int-or-string": True}),
    BeforeValidator(_text),
]
Decimal = Annotated[str, Field(pattern=DECIMAL_PATTERN, max_length=32, examples=["0.01"])]
SignedDecimal = Annotated[str, Field(pattern=SIGNED_DECIMAL_PATTERN, max_length=32, examples=["0.01"])]
Digest = Annotated[str, Field(pattern=DIGEST_PATTERN, max_length=71)]
Time = Annotated[str, Field(max_length=32, examples=["2026-11-23T20:15:00Z"], json_schema_extra={"format": "date-time"})]
"""RFC 3339, UTC."""


def duration_seconds(text: str) -> float:
    """Seconds of a duration such as `1h30m`, `250ms`.

    Raises:
        ValueError: the text is not a duration.
    """
    if not re.match(DURATION_PATTERN, text):
        raise ValueError(f"{text!r} is not a duration such as 90s, 5m or 1h30m")
    return sum(float(number) * _UNIT_SECONDS[unit] for number, _, unit in re.findall(r"([0-9]+(\.[0-9]+)?)(ns|us|ms|s|m|h)", text))


def quantity_value(text: str) -> _Decimal:
    """The number that a quantity such as `500m` or `2Gi` stands for, in its base unit (cores, bytes).

    Raises:
        ValueError: the text is not a quantity.
    """
    match = re.match(r"^([0-9]+(?:\.[0-9]+)?)(m|k|M|G|T|Ki|Mi|Gi|Ti)?$", text)
    if not match:
        raise ValueError(f"{text!r} is not a quantity such as 500m, 1 or 2Gi")
    return _Decimal(match[1]) * _UNIT_FACTOR[match[2] or ""]


def quantity_bytes(text: str) -> int:
    """Bytes of a memory quantity, rounded up."""
    return math.ceil(quantity_value(text))


def format_milliseconds(value_ms: float, digits: int = 3) -> str:
    """A latency for status: `8.13ms`, `950us`, `1.24s`; `digits` significant digits."""
    if value_ms < 1.0:
        return f"{_significant(value_ms * 1e3, digits)}us"
    if value_ms < 1000.0:
        return f"{_significant(value_ms, digits)}ms"
    return f"{_significant(value_ms / 1e3, digits)}s"


def format_decimal(value: float, places: int = 4) -> str:
    """A number as the API writes it: plain decimal text, no exponent, no trailing zeros."""
    text = f"{value:.{places}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text


def format_score(value: float) -> str:
    """A score, or a loss of it: four places, and of small ones three digits, because an error may be small in its unit."""
    return format_decimal(value) if abs(value) >= 0.001 or value == 0 else _significant(value, 3)


def format_bytes(size_bytes: int) -> str:
    """A size for status: `98Mi`, `786Ki`, `412`; binary units, three significant digits."""
    for unit in ("Ti", "Gi", "Mi", "Ki"):
        factor = int(_UNIT_FACTOR[unit])
        if size_bytes >= factor:
            return f"{_significant(size_bytes / factor, 3)}{unit}"
    return str(size_bytes)


def _significant(value: float, digits: int) -> str:
    if value == 0:
        return "0"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return format_decimal(round(value, digits - 1 - math.floor(math.log10(abs(value)))), places)
