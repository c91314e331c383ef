"""Weights as a codebook and an index per element: k-means in one dimension, and what that saves. The runtimes write it into their own graphs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from burnish.errors import BurnishError, Reason
from burnish.plugins.passes.share_weights import Granularity

if TYPE_CHECKING:
    import numpy as np

STEP = "share"
"""The kind of the lowered step."""
SMALLEST = 1024
"""Elements of a weight below which a codebook and the nodes that read it save nothing worth it."""
PACKED = 16
"""Clusters whose indices fit in four bits."""
_SPARSE = 0.01
"""Share of exact zeros from which zero stays zero: a pruned weight."""
_ZSTD_LEVEL = 19
"""The highest without a larger window: the plain weights get the best that a general compressor has."""


@dataclasses.dataclass(frozen=True)
class Shared:
    """One weight, taken apart: `(book[indices] * scales).reshape(shape)`."""

    shape: tuple[int, ...]
    book: np.ndarray
    """(clusters,) float32, rising."""
    indices: np.ndarray
    """uint8, in the layout that the scales fit."""
    scales: np.ndarray | None
    """float32, of as many axes as `indices`."""
    is_packed: bool
    """Two indices go into a byte."""

    @property
    def size_bytes(self) -> int:
        """Of codebook, indices and scales as they are stored."""
        return int(self.book.nbytes + self.indices.size // (2 if self.is_packed else 1) + (self.scales.nbytes if self.scales is not None else 0))


class Sharing:
    """The options of a step, applied to one weight after another; counts what it saves."""

    def __init__(self, options: Mapping[str, Any], *, packs: bool = True) -> None:
        """Args:
        options: of the step.
        packs: the graph can hold two indices in a byte.
        """
        self._packs = packs
        self.clusters, self.seed = int(options["clusters"]), int(options["seed"])
        self._granularity, self._group = Granularity(options["granularity"]), int(options["groupSize"])
        self._found: list[Shared] = []
        self._plain = self._squeezed = self._others = 0
        self._largest = (0, "")

    def share(self, name: str, weight: np.ndarray, axis: int) -> Shared | None:
        """The weight taken apart, its output channels along `axis`; None where it is too small."""
        self._largest = max(self._largest, (int(weight.size), name))
        if weight.size < max(SMALLEST, self.clusters):
            self._others += 1
            return None
        import numpy as np
        import zstandard

        values, scales = self._scaled(weight, axis)
        book = _book(values.ravel(), self.clusters, self.seed)
        indices = np.searchsorted((book[1:] + book[:-1]) / 2, values).astype(np.uint8)
        made = Shared(weight.shape, book, indices, scales, self._packs and len(book) <= PACKED and indices.size % 2 == 0)
        self._found.append(made)
        self._plain += weight.nbytes
        self._squeezed += len(zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(np.ascontiguousarray(weight).tobytes()))
        return made

    def _scaled(self, weight: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray | None]:
        """The weight's elements between -1 and 1 and what that divided them by; as they are where nothing is scaled."""
        import numpy as np

        group = math.gcd(weight.size, self._group)
        if self._granularity is Granularity.Tensor or (self._granularity is Granularity.Group and group < _FEW):
            return weight, None
        layout = weight if self._granularity is Granularity.Channel else weight.reshape(-1, group)
        axes = tuple(a for a in range(layout.ndim) if a != (axis if self._granularity is Granularity.Channel else 0))
        scales = np.abs(layout).max(axis=axes, keepdims=True)
        scales[scales == 0] = 1
        return layout / scales, scales

    def note(self) -> str:
        """What the report tells.

        Raises:
            BurnishError: PassNotApplicable where no weight was shared.
        """
        if not self._found:
            raise self._nothing()
        made = sum(shared.size_bytes for shared in self._found)
        rest = f", {self._others} left alone as smaller than {SMALLEST:,} elements" if self._others else ""
        return (
            f"{len(self._found)} weights shared{rest}: {self._plain:,} bytes are {made:,} ({made / self._plain:.1%}) with codebooks, indices and scales, and "
            f"{self._squeezed:,} where zstd (level {_ZSTD_LEVEL}) packs the plain weights"
        )

    def _nothing(self) -> BurnishError:
        size, name = self._largest
        if not size:
            return BurnishError(Reason.PassNotApplicable, "the model has no floating-point weight of two axes or more; remove the pass")
        if size < self.clusters:
            why = f"clusters: {self.clusters} is more than any weight has elements: the largest, {name}, has {size}; lower it, or remove the pass"
        else:
            why = f"the largest weight, {name}, has {size} elements, and below {SMALLEST:,} sharing saves nothing; remove the pass"
        return BurnishError(Reason.PassNotApplicable, why)


_FEW = 8
"""Elements of a group below which a scale would cost more than it saves."""


def _book(values: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    """At most so many values that are near to all others; zero is one of them where many are zero."""
    import numpy as np
    from sklearn.cluster import MiniBatchKMeans

    different = np.unique(values)
    if len(different) <= clusters:
        return different
    zeros = values == 0
    is_sparse = float(zeros.mean()) > _SPARSE
    some = (values[~zeros] if is_sparse else values).reshape(-1, 1)
    solver = MiniBatchKMeans(clusters - is_sparse, n_init=1, random_state=seed, batch_size=4096, max_iter=50).fit(some)
    centers = solver.cluster_centers_[:, 0].astype(np.float32)
    return np.unique(np.append(centers, np.float32(0)) if is_sparse else centers)
