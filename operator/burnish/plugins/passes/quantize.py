"""Post-training quantization: fewer bits per weight, and where it pays per activation."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from burnish import names
from burnish.plugins import base


class Precision(StrEnum):
    """Target precision."""

    INT8 = "INT8"
    FP16 = "FP16"
    INT4 = "INT4"


class Mode(StrEnum):
    """How INT8 scales for activations are found."""

    Auto = "Auto"
    Static = "Static"
    Dynamic = "Dynamic"


class CalibrationMethod(StrEnum):
    """How the range of an activation follows from the values that calibration saw."""

    MinMax = "MinMax"
    Percentile = "Percentile"
    Entropy = "Entropy"


class AccuracyControl(base.PluginModel):
    """What static INT8 may cost on the calibration data."""

    max_drop: Annotated[str, Field(pattern=names.DECIMAL_PATTERN, max_length=32, examples=["0.01"])] = Field(
        description="Share of the calibration samples whose decoded answer may differ from the uncompressed model's."
    )

    @field_validator("max_drop")
    @classmethod
    def _below_one(cls, value: str) -> str:
        if float(value) >= 1:
            raise ValueError(f'{value} would let every answer change; write a decimal below 1, such as maxDrop: "0.01"')
        return value


BlockSize = Literal[16, 32, 64, 128]
BLOCK_SIZE: BlockSize = 32


class QuantizeConfig(base.PassConfig):
    """Options of the Quantize pass."""

    precision: Precision = Field(
        default=Precision.INT8,
        description="INT8 (integer arithmetic where the runtime has it), FP16 (half-precision weights; arithmetic too where the runtime has it), or INT4 (weights "
        "of matrix products and embeddings alone, in blocks: the smallest, on CPUs often slower).",
    )
    mode: Mode = Field(
        default=Mode.Auto,
        description="INT8 only. Static fixes activation scales from calibration data, Dynamic needs none and finds them per request (OpenVINO: INT8 weights, and integer activations where it has kernels for that), Auto builds what suits the graph and the data, measures up to three candidates and keeps the best accepted one.",
    )
    excluded_nodes: Annotated[list[Annotated[str, Field(min_length=1, max_length=256)]], Field(max_length=256)] = Field(
        default_factory=list, description="Names of graph nodes that stay in floating point."
    )

    accuracy_control: AccuracyControl | None = Field(
        default=None,
        description="Static INT8 on OpenVINO: the layers that cost most go back to float, one after the other, until the limit holds; the report names them. "
        "Answers are decoded as datasets.evaluation says, else by ArgMax over the first output.",
    )

    calibration_method: CalibrationMethod = Field(
        default=CalibrationMethod.MinMax,
        description="INT8 with calibration data: how an activation's range follows from the values seen. MinMax takes them all; Percentile leaves out the "
        "outermost; Entropy (ONNX Runtime) loses the least information.",
    )
    block_size: BlockSize | None = Field(default=None, description="INT4: weights that share a scale; default 32. Smaller is more exact and larger.")

    @field_validator("mode")
    @classmethod
    def _mode_belongs_to_int8(cls, value: Mode, info: ValidationInfo) -> Mode:
        precision = info.data.get("precision")
        if precision is not Precision.INT8 and value is not Mode.Auto:
            raise ValueError(f"{value} belongs to precision: INT8, but precision is {precision}; remove mode, or set precision: INT8")
        return value

    @field_validator("calibration_method")
    @classmethod
    def _method_belongs_to_static(cls, value: CalibrationMethod, info: ValidationInfo) -> CalibrationMethod:
        precision, mode = info.data.get("precision"), info.data.get("mode")
        if value is not CalibrationMethod.MinMax and (precision is not Precision.INT8 or mode is Mode.Dynamic):
            other = f"precision is {precision}" if precision is not Precision.INT8 else f"mode is {mode}"
            raise ValueError(f"{value} belongs to static INT8, but {other}; remove it, or set precision: INT8 and mode: Auto or Static")
        return value

    @field_validator("block_size")
    @classmethod
    def _blocks_belong_to_int4(cls, value: BlockSize | None, info: ValidationInfo) -> BlockSize | None:
        if value is not None and info.data.get("precision") is not Precision.INT4:
            raise ValueError(f"belongs to precision: INT4, but precision is {info.data.get('precision')}; remove it, or set precision: INT4")
        return value

    @field_validator("accuracy_control")
    @classmethod
    def _control_belongs_to_static(cls, value: AccuracyControl | None, info: ValidationInfo) -> AccuracyControl | None:
        precision, mode = info.data.get("precision"), info.data.get("mode")
        if value is not None and (precision is not Precision.INT8 or mode is Mode.Dynamic):
            other = f"precision is {precision}" if precision is not Precision.INT8 else f"mode is {mode}"
            raise ValueError(f"belongs to static INT8, but {other}; remove it, or set precision: INT8 and mode: Auto or Static")
        return value

    @field_validator("excluded_nodes")
    @classmethod
    def _each_node_once(cls, value: list[str]) -> list[str]:
        twice = next((name for position, name in enumerate(value) if name in value[:position]), None)
        if twice is not None:
            raise ValueError(f"names {twice!r} twice; keep one")
        return value


class Quantize(base.Pass):
    """Quantize after training."""

    name: ClassVar[str] = "Quantize"
    config: ClassVar[type[base.PassConfig]] = QuantizeConfig

    def reads_calibration(self, config: base.PassConfig) -> bool:
        """Dynamic INT8, FP16 and INT4 never look at data."""
        assert isinstance(config, QuantizeConfig)  # noqa: S101  # the registry pairs pass and config
        return config.precision is Precision.INT8 and config.mode is not Mode.Dynamic

    def reads_answers(self, config: base.PassConfig) -> bool:
        """Only accuracy control asks what the model says."""
        assert isinstance(config, QuantizeConfig)  # noqa: S101  # the registry pairs pass and config
        return config.accuracy_control is not None
