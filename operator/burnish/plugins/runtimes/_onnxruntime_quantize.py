"""Applying lowered steps with ONNX Runtime's own quantization tools, and believing nothing they write before it was loaded and run.

`quantize_static` has been seen to write an invalid graph in silence (per-channel below opset 13), so each result is opened once here.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from burnish.errors import BurnishError, Reason
from burnish.plugins import base, onnx_fields
from burnish.plugins.runtimes import _onnxruntime_session as ort
from burnish.plugins.runtimes._onnxruntime_lowering import DYNAMIC_OPS, STATIC_OPS

_MIN_OPSET = 13  # per-axis DequantizeLinear
_NEW_OPSET = 18

_CHAIN_OPS = ("Relu", "Clip", "MaxPool", "AveragePool", "GlobalAveragePool", "Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze")
"""Between two integer nodes these run on integers too; Softmax, normalizations, Gelu and Add lose too much (an attention mask of -3e38 in an
Add leaves one step of the scale for everything else)."""


def apply(step: base.Step, source: Path, target: Path, *, calibration: Sequence[base.Arrays]) -> None:
    """Run one step; see `Runtime.apply`. Scratch files go beside `target`.

    Raises:
        BurnishError: CandidateNotBuildable.
        OSError, MemoryError: the machine has no room.
    """
    ort.import_onnxruntime()
    with tempfile.TemporaryDirectory(prefix="quantize-", dir=target.parent) as folder, _scratch(folder):
        try:
            _APPLY[step.kind](step, source, target, Path(folder), calibration)
        except (BurnishError, OSError, MemoryError):  # the machine's trouble is no finding about the candidate
            raise
        except Exception as error:  # the tools raise whatever comes: ValueError, KeyError, AssertionError, ONNX Runtime's own
            if os.strerror(errno.ENOSPC) in str(error):  # from ONNX Runtime's own code, as an exception of its own
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
            raise BurnishError(Reason.CandidateNotBuildable, f"{step.kind} quantization failed: {_line(error)}") from error
    believe(source, target, calibration)


@contextlib.contextmanager
def _scratch(folder: str) -> Iterator[None]:
    """Have the tools' own temporary files in `folder` too: --work, not TMPDIR, says where there is room."""
    before, tempfile.tempdir = tempfile.tempdir, folder
    try:
        yield
    finally:
        tempfile.tempdir = before


def _fp16(step: base.Step, source: Path, target: Path, folder: Path, calibration: Sequence[base.Arrays]) -> None:
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = convert_float_to_float16(onnx.load(source), keep_io_types=True, node_block_list=list(_strings(step, "excluded")))
    target.write_bytes(model.SerializeToString(deterministic=True))


def _static(step: base.Step, source: Path, target: Path, folder: Path, calibration: Sequence[base.Arrays]) -> None:
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    prepared = _Prepared(source, folder, _strings(step, "excluded"))
    excluded = prepared.excluded | prepared.without_constant_weight()
    if step.options["keepEnds"]:
        excluded |= prepared.ends(excluded)
    method = CalibrationMethod[str(step.options["calibrationMethod"])]
    quantize_static(
        str(prepared.path),
        str(target),
        _reader(calibration),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=[*STATIC_OPS, *_CHAIN_OPS],
        per_channel=True,
        reduce_range=bool(step.options["reduceRange"]),
        activation_type=QuantType[str(step.options["activationType"])],
        weight_type=QuantType[str(step.options["weightType"])],
        nodes_to_exclude=sorted(excluded),
        calibrate_method=method,
        calibration_cache_path=None if method is CalibrationMethod.MinMax else str(_ranges(method, prepared.path, folder, calibration)),
    )
    _tidy(target)


def _ranges(method: Any, model: Path, folder: Path, calibration: Sequence[base.Arrays]) -> Path:
    """Ranges of activations from histograms, as the file that `quantize_static` takes. It would make them of so few bins that Entropy had no choice, and
    keep all values of all requests for it.
    """
    from onnxruntime.quantization.calibrate import create_calibrator, save_tensors_data

    options = {"num_bins": _BINS[method.name], "num_quantized_bins": _LEVELS, "percentile": _PERCENTILE}
    calibrator = create_calibrator(model, [*STATIC_OPS, *_CHAIN_OPS], str(folder / "calibrate.onnx"), calibrate_method=method, extra_options=options)
    for start in range(0, len(calibration), _AT_ONCE):
        calibrator.collect_data(_reader(calibration[start : start + _AT_ONCE]))
    found = folder / "ranges.json"
    save_tensors_data(calibrator.compute_data(), found)
    return found


_BINS = {"Entropy": 512, "Percentile": 2048}
_LEVELS = 128
_PERCENTILE = 99.99
"""As NNCF's: one value in ten thousand is left out at either end."""
_AT_ONCE = 8
"""Requests whose activations are in memory together."""


def _dynamic(step: base.Step, source: Path, target: Path, folder: Path, calibration: Sequence[base.Arrays]) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    prepared = _Prepared(source, folder, _strings(step, "excluded"))
    split = {f"{name}_MatMul" for name in prepared.excluded}  # quantize_dynamic first splits a Gemm into <name>_MatMul and <name>_Add
    quantize_dynamic(
        str(prepared.path),
        str(target),
        op_types_to_quantize=list(DYNAMIC_OPS),
        per_channel=True,
        reduce_range=bool(step.options["reduceRange"]),
        weight_type=QuantType[str(step.options["weightType"])],
        nodes_to_exclude=sorted(prepared.excluded | split),
        extra_options={"MatMulConstBOnly": True},
    )
    _tidy(target)


def _int4(step: base.Step, source: Path, target: Path, folder: Path, calibration: Sequence[base.Arrays]) -> None:
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer
    from onnxruntime.quantization.onnx_model import ONNXModel

    prepared = _Prepared(source, folder, _strings(step, "excluded"))
    model = ONNXModel(onnx.load(prepared.path))
    model.replace_gemm_with_matmul()  # only matrix products have a kernel for 4 bits
    split = {f"{name}_MatMul" for name in prepared.excluded}
    config = DefaultWeightOnlyQuantConfig(
        block_size=int(str(step.options["blockSize"])), is_symmetric=True, accuracy_level=_INT8_PRODUCTS, op_types_to_quantize=("MatMul", "Gather")
    )
    quantizer = MatMulNBitsQuantizer(model.model, nodes_to_exclude=sorted(prepared.excluded | split), algo_config=config)
    quantizer.process()
    onnx.save(quantizer.model.model, target)
    _tidy(target)
    if not any(op in _FOUR_BIT_OPS for op in _operators(target)):
        raise BurnishError(
            Reason.CandidateNotBuildable, "INT4 found no weight that it can pack: only matrix products and embeddings with constant weights"
        )


_INT8_PRODUCTS = 4
"""accuracy_level of MatMulNBits: activations are quantized to 8 bits per block in each request, the fastest of its kernels on CPUs."""
_FOUR_BIT_OPS = ("MatMulNBits", "GatherBlockQuantized")


def _operators(path: Path) -> set[str]:
    import onnx

    return {node.op_type for node in onnx.load(path, load_external_data=False).graph.node}


_APPLY: dict[str, Callable[[base.Step, Path, Path, Path, Sequence[base.Arrays]], None]] = {
    "fp16": _fp16,
    "static": _static,
    "dynamic": _dynamic,
    "int4": _int4,
}


class _Prepared:
    """The graph that is quantized: opset new enough for per-channel scales, constants folded, shapes inferred.

    ONNX Runtime's *symbolic* shape inference fails on real models, so it stays off.
    """

    def __init__(self, source: Path, folder: Path, names: Sequence[str]) -> None:
        """Args:
        source: the ONNX file.
        folder: for files on the way.
        names: excluded nodes of the source graph.
        """
        import onnx
        from onnxruntime.quantization.shape_inference import quant_pre_process

        model, self.path = source, folder / "prepared.onnx"
        if onnx_fields.versions(source)[0] < _MIN_OPSET:
            model = folder / "converted.onnx"
            onnx.save(onnx.version_converter.convert_version(onnx.load(source), _NEW_OPSET), model)
        quant_pre_process(str(model), str(self.path), skip_symbolic_shape=True)
        self._read(names)
        if self._lost:
            # Fusion has swallowed an excluded node under another name: the user's wish goes before the fusion's gain.
            quant_pre_process(str(model), str(self.path), skip_symbolic_shape=True, skip_optimization=True)
            self._read(names)

    def _read(self, names: Sequence[str]) -> None:
        import onnx

        model = onnx.load(self.path)
        _flatten_biases(model.graph)
        onnx.save(model, self.path)
        graph = model.graph
        self._nodes = list(graph.node)
        self._constants = {tensor.name for tensor in graph.initializer}
        stands_for = {node.name: _FUSED.sub("", node.name) for node in self._nodes}
        self.excluded = {name for name, original in stands_for.items() if original in names or name in names}
        self._lost = set(names) - {*stands_for, *stands_for.values()}

    def without_constant_weight(self) -> set[str]:
        """Nodes that multiply two activations (attention): both would lose precision. `MatMulConstBOnly` has no effect on QDQ graphs."""
        return {n.name for n in self._nodes if n.op_type in STATIC_OPS and n.input[1] not in self._constants}

    def ends(self, excluded: set[str]) -> set[str]:
        """The first and the last node that static quantization would touch."""
        touched = [n.name for n in self._nodes if n.op_type in STATIC_OPS and n.name not in excluded]
        return {touched[0], touched[-1]} if touched else set()


_FUSED = re.compile(r"/[A-Za-z]+Fusion$")  # `fc1/MatMulAddFusion` stands for `fc1`


def _flatten_biases(graph: Any) -> None:
    """Make the (1, N) biases of Gemm that fusion leaves behind (N,): the same to Gemm, but ONNX Runtime's bias quantization fails on two axes."""
    others = {name for node in graph.node for position, name in enumerate(node.input) if not (node.op_type == "Gemm" and position == 2)}
    biases = {node.input[2] for node in graph.node if node.op_type == "Gemm" and len(node.input) > 2} - others
    for tensor in graph.initializer:
        if tensor.name in biases and len(tensor.dims) == 2 and tensor.dims[0] == 1:
            del tensor.dims[0]


def _tidy(target: Path) -> None:
    """Drop the operator sets that ONNX Runtime's optimizer imports without using them; write bytes that equal inputs always give again."""
    import onnx

    model = onnx.load(target)
    used = {"", *(node.domain for node in model.graph.node)}
    kept = [o for o in model.opset_import if o.domain in used or model.functions]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    target.write_bytes(model.SerializeToString(deterministic=True))


def _reader(calibration: Sequence[base.Arrays]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # the library is untyped
        def __init__(self) -> None:
            self._feeds: Iterator[base.Arrays] = iter(calibration)

        def get_next(self) -> dict[str, Any] | None:
            feed = next(self._feeds, None)
            return None if feed is None else dict(feed)

    return Reader()


def believe(source: Path, target: Path, calibration: Sequence[base.Arrays]) -> None:
    """Load the written graph and run it once.

    Without data the feeds are zeros with every varying size 1; where the source can't run on those either, loading has to do.
    """
    try:
        session = ort.open_session(target, threads=1)
    except ort.OrtError as error:
        raise BurnishError(Reason.CandidateNotBuildable, f"ONNX Runtime does not load the quantized graph: {error}") from error
    feeds = calibration[0] if calibration else ort.zeros(session)
    try:
        session.infer(feeds)
    except ort.OrtError as error:
        if not calibration and not _runs(source, feeds):
            return
        raise BurnishError(Reason.CandidateNotBuildable, f"the quantized graph loads but does not run: {error}") from error


def _runs(path: Path, feeds: base.Arrays) -> bool:
    try:
        ort.open_session(path, threads=1).infer(feeds)
    except ort.OrtError:
        return False
    return True


def _strings(step: base.Step, key: str) -> Sequence[str]:
    value = step.options.get(key, ())
    return [str(v) for v in value] if isinstance(value, (list, tuple)) else []


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
