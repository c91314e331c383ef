"""How far the outputs of one model are from another's, per output and per sample.

Never flattened over the batch: one sample that is entirely wrong disappears in a cosine over a thousand. The cosine of outputs with one
element per sample only tells the sign, so such models are better judged by a score.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from burnish.api.job_contract import TensorDifference
from burnish.errors import BurnishError, Reason
from burnish.plugins.base import Arrays

RELATIVE_TOLERANCE = 1e-3
ABSOLUTE_TOLERANCE = 1e-5
"""What a preserving step (export, graph optimization, FP32 build) may change: max|a-b| <= 1e-3 max|a| + 1e-5 (DESIGN.md section 1)."""

_LARGEST = float(np.finfo(np.float64).max)


def compare(reference: Arrays, outputs: Arrays, *, batched: bool = True) -> tuple[TensorDifference, ...]:
    """One entry per output of `reference`, in its order.

    Args:
        reference: output name -> array, (N, ...).
        outputs: the same outputs of the other model.
        batched: axis 0 counts samples; False: the whole array is one sample.

    Raises:
        BurnishError: OutputsDiffer: an output is missing or has another shape, so that nothing can be compared.
    """
    return tuple(_compare_output(name, _samples(array, batched), _other(outputs, name, array, batched)) for name, array in reference.items())


def check_comparable(reference: Arrays, outputs: Arrays) -> None:
    """Refuse outputs that `compare` would refuse.

    Raises:
        BurnishError: OutputsDiffer.
    """
    for name, array in reference.items():
        _check_comparable(outputs, name, array)


def concatenate(parts: Sequence[Sequence[TensorDifference]], *, listed: int | None = None) -> tuple[TensorDifference, ...]:
    """The differences of several batches as if they had been one.

    Args:
        parts: per batch what `compare` returned, the same outputs each time.
        listed: samples that are kept one by one, from the start; of the others only the extremes. None: all.
    """
    joined = (
        TensorDifference(
            output=same[0].output,
            cosine=tuple(x for d in same for x in d.cosine),
            max_absolute_error=tuple(x for d in same for x in d.max_absolute_error),
            reference_max=tuple(x for d in same for x in d.reference_max),
            exact_match=tuple(x for d in same for x in d.exact_match),
            non_finite_samples=sum(d.non_finite_samples for d in same),
        )
        for same in zip(*parts, strict=True)
    )
    return tuple(joined if listed is None else (_shortened(d, listed) for d in joined))


def _shortened(d: TensorDifference, listed: int) -> TensorDifference:
    beyond = sample_count(d) - listed
    if beyond <= 0:
        return d
    return d.model_copy(
        update={
            "cosine": d.cosine[:listed],
            "max_absolute_error": d.max_absolute_error[:listed],
            "reference_max": d.reference_max[:listed],
            "exact_match": d.exact_match[:listed],
            "unlisted_samples": beyond,
            "unlisted_cosine": min(d.cosine[listed:], default=None),
            "unlisted_absolute_error": max(d.max_absolute_error[listed:], default=None),
            "unlisted_match": min(d.exact_match[listed:], default=None),
        }
    )


def known_cosines(d: TensorDifference) -> tuple[float, ...]:
    """Of the listed samples, and the lowest of the others."""
    return (*d.cosine, *_given(d.unlisted_cosine))


def sample_count(d: TensorDifference) -> int:
    """Samples that were compared."""
    return max(len(d.cosine), len(d.exact_match)) + d.unlisted_samples


def preserving_violation(differences: Sequence[TensorDifference]) -> str | None:
    """What of a preserving step's outputs is not preserved, or None.

    Floats: max|a-b| <= 1e-3 max|a| + 1e-5 in every sample of every output, finite wherever the reference is. Integers, bools and strings:
    equal.
    """
    for d in differences:
        if d.non_finite_samples:
            return f"output {d.output!r} is NaN or infinite in {d.non_finite_samples} samples where the reference is finite"
        for sample, (error, largest) in enumerate(zip(d.max_absolute_error, d.reference_max, strict=True)):
            allowed = RELATIVE_TOLERANCE * largest + ABSOLUTE_TOLERANCE
            if error > allowed:
                return f"output {d.output!r} differs by {error:.3g} in sample {sample}, {allowed:.3g} is allowed (largest value {largest:.3g})"
        if worst := sum(share < 1 for share in d.exact_match):
            return f"output {d.output!r} is not equal in {worst} of {len(d.exact_match)} samples"
    return None


def worst_output(differences: Sequence[TensorDifference]) -> TensorDifference | None:
    """The float output with the lowest cosine in any sample; None where there are no float outputs."""
    return min((d for d in differences if d.cosine), key=_lowest_cosine, default=None)


def worst_cosine(differences: Sequence[TensorDifference]) -> float | None:
    """Cosine of the worst sample of the worst float output; None where there are no float outputs."""
    found = worst_output(differences)
    return _lowest_cosine(found) if found else None


def median_cosine(differences: Sequence[TensorDifference]) -> float | None:
    """Median over the listed samples of the worst float output; None where there are no float outputs."""
    found = worst_output(differences)
    return float(np.median(found.cosine)) if found else None


def largest_error(differences: Sequence[TensorDifference]) -> float | None:
    """Largest absolute difference over float outputs and samples; None where there are no float outputs."""
    return max((error for d in differences for error in (*d.max_absolute_error, *_given(d.unlisted_absolute_error))), default=None)


def worst_exact_match(differences: Sequence[TensorDifference]) -> float | None:
    """Lowest share of equal elements over integer, bool and string outputs and samples; None where there are none."""
    return min((share for d in differences for share in (*d.exact_match, *_given(d.unlisted_match))), default=None)


def non_finite_samples(differences: Sequence[TensorDifference]) -> int:
    """Samples, over all outputs, with NaN or infinity where the reference is finite."""
    return sum(d.non_finite_samples for d in differences)


def _lowest_cosine(d: TensorDifference) -> float:
    return min(known_cosines(d))


def _given(value: float | None) -> tuple[float, ...]:
    return () if value is None else (value,)


def _other(outputs: Arrays, name: str, reference: NDArray[np.generic], batched: bool) -> NDArray[np.generic]:
    _check_comparable(outputs, name, reference)
    return _samples(outputs[name], batched)


def _check_comparable(outputs: Arrays, name: str, reference: NDArray[np.generic]) -> None:
    if name not in outputs:
        raise BurnishError(Reason.OutputsDiffer, f"output {name!r} is missing; there are {', '.join(sorted(outputs)) or 'none'}")
    if outputs[name].shape != reference.shape:
        raise BurnishError(Reason.OutputsDiffer, f"output {name!r} has shape {outputs[name].shape}, the reference {reference.shape}")


def _samples(array: NDArray[np.generic], batched: bool) -> NDArray[np.generic]:
    """(N, elements of one sample)."""
    return array.reshape(len(array), -1) if batched and array.ndim else array.reshape(1, -1)


def _compare_output(name: str, reference: NDArray[np.generic], other: NDArray[np.generic]) -> TensorDifference:
    if reference.dtype.kind != "f" or other.dtype.kind != "f":
        return TensorDifference(output=name, exact_match=_exact_match(reference, other))
    a, b = reference.astype(np.float64), other.astype(np.float64)
    lost = np.isfinite(a) & ~np.isfinite(b)
    # Elements that are not finite on either side are left out of the numbers: infinity is no JSON, and `lost` already refuses the candidate.
    usable = np.isfinite(a) & np.isfinite(b)
    a, b = np.where(usable, a, 0.0), np.where(usable, b, 0.0)
    with np.errstate(over="ignore"):
        error = np.minimum(np.abs(a - b), _LARGEST).max(axis=1, initial=0.0)
    return TensorDifference(
        output=name,
        cosine=tuple(_cosine(a, b, usable).tolist()),
        max_absolute_error=tuple(error.tolist()),
        reference_max=tuple(np.abs(a).max(axis=1, initial=0.0).tolist()),
        non_finite_samples=int(lost.any(axis=1).sum()),
    )


def _cosine(a: NDArray[np.float64], b: NDArray[np.float64], usable: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Per row; 1.0 where both are all zeros, 0.0 where only one is, or where nothing finite was left to compare."""
    scale_a, scale_b = (np.abs(x).max(axis=1, initial=0.0) for x in (a, b))
    safe_a, safe_b = (np.where(scale > 0, scale, 1.0)[:, None] for scale in (scale_a, scale_b))
    a, b = a / safe_a, b / safe_b  # so that squares of very large or very small numbers stay in range
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine = np.clip(np.einsum("ij,ij->i", a, b) / np.where(norms > 0, norms, 1.0), -1.0, 1.0)
    cosine = np.where((scale_a == 0) & (scale_b == 0), 1.0, cosine)
    return np.where(usable.any(axis=1) | (usable.shape[1] == 0), cosine, 0.0)


def _exact_match(reference: NDArray[np.generic], other: NDArray[np.generic]) -> tuple[float, ...]:
    if not reference.shape[1]:
        return (1.0,) * len(reference)
    equal = _as_text(reference) == _as_text(other)
    return tuple(np.asarray(equal, dtype=bool).reshape(reference.shape).mean(axis=1).tolist())


def _as_text(array: NDArray[np.generic]) -> NDArray[np.generic]:
    """Strings come as bytes from Triton and as str from runtimes; other elements stay as they are."""
    if array.dtype.kind == "S":
        array = array.astype(object)
    if array.dtype.kind != "O":
        return array
    texts = [x.decode("utf-8", "surrogateescape") if isinstance(x, bytes) else x for x in array.ravel().tolist()]
    return np.array(texts, dtype=object).reshape(array.shape)
