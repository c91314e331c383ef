"""The base class of every model in the API: camelCase outside, snake_case inside, unknown fields refused."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from burnish.errors import Reason


class FieldError(ValueError):
    """A rule between fields is broken. `field` is the path, from the model that holds the validator, of the field to change."""

    def __init__(self, field: str, message: str, reason: Reason = Reason.InvalidManifest) -> None:
        super().__init__(message)
        self.field = field
        self.reason = reason


class ApiModel(BaseModel):
    """Immutable; a misspelt field is an error, never dropped in silence; NaN and infinity in records come back as what they were."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=to_camel,
        populate_by_name=True,
        use_enum_values=False,
        ser_json_inf_nan="strings",
        defer_build=True,  # a process uses few of the models; building all of them takes longer than most steps of a small one
    )
