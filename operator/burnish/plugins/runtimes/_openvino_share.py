"""Weight sharing in OpenVINO's graph: the codebook as a constant that `Gather` reads, indices of four bits where they fit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from burnish.plugins import base
from burnish.plugins.runtimes import _codebook
from burnish.plugins.runtimes import _openvino_model as ir
from burnish.plugins.runtimes import _openvino_quantize as quantize
from burnish.plugins.runtimes import _openvino_session as session


def apply(step: base.Step, source: Path, target: Path, *, calibration: Sequence[base.Arrays]) -> str:
    """Run the step; see `Runtime.apply`.

    Raises:
        BurnishError: PassNotApplicable where no weight is large enough; UnsupportedOperator; CandidateNotBuildable.
    """
    model = ir.read(source)
    sharing = _codebook.Sharing(step.options)
    with session.typed_errors("weight sharing failed"):
        for constant in model.get_ordered_ops():
            if constant.get_type_name() != "Constant" or constant.get_element_type().get_type_name() != "f32" or constant.data.ndim < 2:
                continue
            user = next(iter(constant.output(0).get_target_inputs())).get_node()
            shared = sharing.share(ir.label(user), constant.data, _channels(constant, user))
            if shared is not None:
                _put(constant, shared)
    note = sharing.note()
    ir.save(model, target)
    quantize.believe(target, calibration)
    return note


def _channels(constant: Any, user: Any) -> int:
    """The axis of the output channels, as an operation that uses the weight has it."""
    kind = user.get_type_name()
    if kind == "MatMul":
        return int(constant.data.ndim) - (2 if user.get_attributes()["transpose_b"] else 1)
    return 1 if kind == "ConvolutionBackpropData" else 0


def _put(constant: Any, shared: _codebook.Shared) -> None:
    """Let the users of a constant read it from the codebook."""
    import numpy as np
    from openvino import Type, opset8

    name = constant.get_friendly_name()

    def named(op: Any, what: str) -> Any:
        op.set_friendly_name(f"{name}/{what}")
        return op

    def constant_of(what: str, array: Any, kind: Any = None) -> Any:
        return named(opset8.constant(array, dtype=kind or array.dtype), what)

    indices = constant_of("indices", shared.indices, Type.u4 if shared.is_packed else Type.u8)
    if shared.is_packed:
        indices = named(opset8.convert(indices, "u8"), "unpacked")
    made = named(opset8.gather(constant_of("codebook", shared.book), indices, constant_of("axis", np.array(0, np.int32))), "values")
    if shared.scales is not None:
        made = named(opset8.multiply(made, constant_of("scales", shared.scales)), "scaled")
    if shared.indices.shape != shared.shape:
        made = opset8.reshape(made, constant_of("shape", np.array(shared.shape, np.int64)), special_zero=False)
    made.set_friendly_name(name)
    for user in constant.output(0).get_target_inputs():
        user.replace_source_output(made.output(0))
