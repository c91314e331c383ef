"""Weight sharing: few different values per weight, and for each element which one (Han, Mao and Dally 2015, arXiv:1510.00149)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from burnish.plugins import base


class Granularity(StrEnum):
    """Which elements of a weight share a scale."""

    Tensor = "Tensor"
    Channel = "Channel"
    Group = "Group"


GroupSize = Literal[8, 16, 32, 64, 128, 256]
GROUP_SIZE: GroupSize = 32


class ShareWeightsConfig(base.PassConfig):
    """Options of the ShareWeights pass."""

    clusters: Annotated[int, Field(ge=2, le=256)] = Field(
        default=16, description="Different values that are left of each weight. Up to 16 take four bits per element, more take eight."
    )
    granularity: Granularity = Field(
        default=Granularity.Tensor,
        description="Each weight has one codebook. Tensor: it is used as it is. Channel: each output channel scales it to its own largest element. Group: every "
        "groupSize elements do; more exact, and larger.",
    )
    group_size: GroupSize | None = Field(default=None, description=f"Group only: elements that share a scale; default {GROUP_SIZE}.")
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = Field(default=0, description="Of k-means.")

    @field_validator("group_size")
    @classmethod
    def _size_belongs_to_groups(cls, value: GroupSize | None, info: ValidationInfo) -> GroupSize | None:
        granularity = info.data.get("granularity")
        if value is not None and granularity is not Granularity.Group:
            raise ValueError(f"belongs to granularity: Group, but granularity is {granularity}; remove it, or set granularity: Group")
        return value


class ShareWeights(base.Pass):
    """Leave few different weights."""

    name: ClassVar[str] = "ShareWeights"
    config: ClassVar[type[base.PassConfig]] = ShareWeightsConfig
