"""`spec.datasets.preprocess`: how an image becomes the numbers that the model was trained on."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from burnish.api.base import ApiModel, FieldError
from burnish.api.scalars import Decimal

Pixels = Annotated[int, Field(ge=1, le=8192)]


class PreprocessType(StrEnum):
    """Where the values come from."""

    Explicit = "Explicit"
    FromHuggingFace = "FromHuggingFace"


class Interpolation(StrEnum):
    """How pixels between pixels are computed; Pillow's filters of these names."""

    Nearest = "Nearest"
    Bilinear = "Bilinear"
    Bicubic = "Bicubic"
    Lanczos = "Lanczos"


class Colour(StrEnum):
    """Channels, in the order in which the model takes them."""

    RGB = "RGB"
    BGR = "BGR"
    Gray = "Gray"

    @property
    def channels(self) -> int:
        """How many."""
        return 1 if self is Colour.Gray else 3


class Layout(StrEnum):
    """Order of a batch's axes."""

    NCHW = "NCHW"
    NHWC = "NHWC"


class PixelType(StrEnum):
    """Data type of the array that is made."""

    FP32 = "FP32"
    FP16 = "FP16"
    UINT8 = "UINT8"


class Size(ApiModel):
    """A size in pixels."""

    width: Pixels = Field(description="Pixels.")
    height: Pixels = Field(description="Pixels.")


class Resize(ApiModel):
    """The size that an image is brought to: both sides, or the shorter one with the proportions kept."""

    width: Pixels | None = Field(default=None, description="Pixels; with height.")
    height: Pixels | None = Field(default=None, description="Pixels; with width.")
    shortest_side: Pixels | None = Field(default=None, description="Pixels of the shorter side; the other one follows, rounded down.")

    @model_validator(mode="after")
    def _one_way(self) -> Resize:
        sides = (self.width is not None, self.height is not None)
        if sides != ((False, False) if self.shortest_side is not None else (True, True)):
            raise FieldError("shortestSide", "a size is width and height, or shortestSide alone; write one of the two")
        return self


class Preprocess(ApiModel):
    """How images become arrays, in this order: colour, resize, centre crop, scale, mean and std, layout, data type."""

    type: PreprocessType = Field(
        default=PreprocessType.Explicit,
        description="Explicit: the fields below. FromHuggingFace: what the source's preprocessor_config.json declares, and no field below but layout "
        "and dataType.",
    )
    resize: Resize | None = Field(default=None, description="Default: images have the right size already.")
    interpolation: Interpolation = Field(default=Interpolation.Bilinear, description="Of resize.")
    crop: Size | None = Field(default=None, description="Centre crop after resize, its offset rounded down; larger than the image is refused.")
    colour: Colour = Field(default=Colour.RGB, description="Channels and their order; transparency is dropped.")
    scale: Decimal | None = Field(default=None, examples=["0.00392156862745098"], description="Factor on values of 0 to 255; default none.")
    mean: Annotated[list[Decimal], Field(max_length=3)] = Field(
        default_factory=list, examples=[["0.485", "0.456", "0.406"]], description="Subtracted after scale: one value, or one per channel."
    )
    std: Annotated[list[Decimal], Field(max_length=3)] = Field(
        default_factory=list, examples=[["0.229", "0.224", "0.225"]], description="Divided by after mean: one value, or one per channel."
    )
    layout: Layout = Field(default=Layout.NCHW, description="NCHW, or NHWC.")
    data_type: PixelType = Field(default=PixelType.FP32, description="Of the model's input.")

    @field_validator("std")
    @classmethod
    def _divides(cls, values: list[str]) -> list[str]:
        if any(float(value) == 0 for value in values):
            raise ValueError("a standard deviation of 0 can't be divided by; correct it")
        return values

    @model_validator(mode="after")
    def _fits_together(self) -> Preprocess:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (0, 1, self.colour.channels):
                raise FieldError(
                    name, f"has {len(values)} values, and colour {self.colour.value} has {self.colour.channels} channels; write one per channel"
                )
        if self.data_type is PixelType.UINT8 and (self.scale is not None or self.mean or self.std):
            raise FieldError("dataType", "UINT8 holds the values as they are; remove scale, mean and std, or write dataType: FP32")
        own = {"type", "layout", "data_type"}
        surplus = [
            name
            for name, field in type(self).model_fields.items()
            if name not in own and getattr(self, name) != field.get_default(call_default_factory=True)
        ]
        if self.type is PreprocessType.FromHuggingFace and surplus:
            raise FieldError("type", f"FromHuggingFace takes {', '.join(surplus)} from the source; remove the field, or write type: Explicit")
        return self
