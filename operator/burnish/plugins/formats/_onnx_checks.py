"""What an ONNX model has to hold before Burnish works on it: versions, operators, the checker's rules, finite weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from burnish.errors import BurnishError, Reason
from burnish.plugins.formats import _onnx_graph

MIN_OPSET = 7
"""Oldest operator set that ONNX Runtime promises to run (its docs/Versioning.md)."""

_STANDARD = ("", "ai.onnx", "ai.onnx.ml")
_CONTRIB = "com.microsoft"
_LISTED = 8

_MASK_CONSUMERS = frozenset(
    [
        *(
            "Add",
            "Sub",
            "Where",
            "Max",
            "Min",
            "Clip",
            "Pad",
            "Less",
            "Greater",
            "LessOrEqual",
            "GreaterOrEqual",
            "Equal",
            "ScatterND",
            "ScatterElements",
        ),
        *("Expand", "Slice", "Reshape", "Unsqueeze", "Squeeze", "Cast", "CastLike", "Concat", "Tile", "Identity", "Transpose", "Trilu"),
    ]
)
"""Operators in which infinity is a legitimate mask or bound; in any weight that is multiplied it is damage."""


def check_versions(model: Any) -> None:
    """Hold opset and IR version to what is known here; what a serving image loads of them is its runtime's to say (`Runtime.check`).

    Raises:
        BurnishError: UnsupportedOpset; InvalidModel where the model names no operator set at all.
    """
    import onnx

    if not model.opset_import:
        raise BurnishError(Reason.InvalidModel, "the model imports no operator set, so the file may be truncated; export it again")
    opset, newest_opset = _onnx_graph.default_opset(model), onnx.defs.onnx_opset_version()
    if opset and not MIN_OPSET <= opset <= newest_opset:
        cure = f"export the model with {'a newer' if opset < MIN_OPSET else 'an older'} opset"
        raise BurnishError(Reason.UnsupportedOpset, f"the model uses opset {opset}; {MIN_OPSET} to {newest_opset} are known; {cure}")
    if model.ir_version > onnx.IR_VERSION:
        raise BurnishError(
            Reason.UnsupportedOpset,
            f"the model has IR version {model.ir_version}; at most {onnx.IR_VERSION} is known; "
            "export it with an older onnx package, or set model.ir_version lower where the graph uses nothing newer",
        )
    newest = onnx.defs.onnx_ml_opset_version()
    for imported in model.opset_import:
        if imported.domain == "ai.onnx.ml" and imported.version > newest:
            raise BurnishError(Reason.UnsupportedOpset, f"the model uses ai.onnx.ml opset {imported.version}; at most {newest} is known")


def check_operators(model: Any) -> None:
    """Refuse operators that ONNX Runtime does not have, by name.

    Raises:
        BurnishError: UnsupportedOperator.
    """
    functions = {(f.domain, f.name) for f in model.functions}
    versions = {o.domain: o.version for o in model.opset_import}
    contrib = _contrib_operators()
    unknown = {
        f"{node.domain or 'ai.onnx'}::{node.op_type}"
        for node in _onnx_graph.nodes(model)
        if (node.domain, node.op_type) not in functions and not _is_known(node, versions, contrib)
    }
    if unknown:
        raise BurnishError(
            Reason.UnsupportedOperator,
            f"ONNX Runtime has no operator {_listed(sorted(unknown))} in opset {_onnx_graph.default_opset(model)}; "
            "export the model with standard operators (custom operator libraries are not served)",
        )


def _is_known(node: Any, versions: dict[str, int], contrib: frozenset[str]) -> bool:
    import onnx

    if node.domain == _CONTRIB:
        return node.op_type in contrib
    if node.domain not in _STANDARD:
        return False
    domain = "" if node.domain == "ai.onnx" else node.domain
    version = versions.get(node.domain, versions.get(domain, versions.get("ai.onnx", 1)))
    try:
        return not onnx.defs.get_schema(node.op_type, version, domain).deprecated
    except onnx.defs.SchemaError:
        return False


def _contrib_operators() -> frozenset[str]:
    from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

    return frozenset(s.name for s in get_all_operator_schema() if s.domain == _CONTRIB)


def check_model(path: Path) -> None:
    """Run the standard's own checker with strict shape inference.

    Raises:
        BurnishError: InvalidModel with the checker's words.
    """
    import onnx

    try:
        onnx.checker.check_model(path, full_check=True)
    except Exception as error:  # ValidationError, InferenceError, and whatever a hostile file makes the checker raise
        raise BurnishError(Reason.InvalidModel, f"the ONNX checker refuses the model: {_first_lines(error)}; export it again") from error


def check_weights(model: Any) -> None:
    """Refuse NaN in any weight, and infinity in those that are not masks.

    Raises:
        BurnishError: NonFiniteWeights naming the tensors.
    """
    bad = sorted(set(_non_finite(model)))
    if bad:
        raise BurnishError(
            Reason.NonFiniteWeights,
            f"weights hold NaN or infinity: {_listed(bad)}; the training has diverged or the file is damaged, use another checkpoint",
        )


def _non_finite(model: Any) -> Iterator[str]:
    import numpy as np
    from onnx import numpy_helper

    consumers: dict[str, set[str]] = {}
    for node in _onnx_graph.nodes(model):
        for name in node.input:
            consumers.setdefault(name, set()).add(node.op_type)
    for name, tensor in _onnx_graph.tensors(model):
        if tensor.data_type not in _onnx_graph.FLOAT_TYPES:
            continue
        values = numpy_helper.to_array(tensor)
        if np.isfinite(values).all():
            continue
        if np.isnan(values).any() or not consumers.get(name, set()) <= _MASK_CONSUMERS:
            yield name


def _listed(entries: list[str]) -> str:
    rest = len(entries) - _LISTED
    return ", ".join(entries[:_LISTED]) + (f" and {rest} more" if rest > 0 else "")


def _first_lines(error: Exception, limit: int = 300) -> str:
    return " ".join(str(error).split())[:limit]
