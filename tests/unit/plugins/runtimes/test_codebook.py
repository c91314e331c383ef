"""Codebooks of weights: near, small, the same again, and what is told of them."""

from __future__ import annotations

import numpy as np
import pytest

from burnish.errors import BurnishError, Reason
from burnish.plugins.runtimes._codebook import Shared, Sharing

OPTIONS = {"clusters": 16, "granularity": "Tensor", "groupSize": 32, "seed": 0}


def _weight(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).standard_normal(shape).astype(np.float32)


def _share(weight: np.ndarray, axis: int = 0, **options: object) -> Shared:
    found = Sharing(OPTIONS | options).share("w", weight, axis)
    assert found is not None
    return found


def _plain(shared: Shared) -> np.ndarray:
    values = shared.book[shared.indices]
    return (values if shared.scales is None else values * shared.scales).reshape(shared.shape)


def _error(shared: Shared, weight: np.ndarray) -> float:
    return float(np.linalg.norm(_plain(shared) - weight) / np.linalg.norm(weight))


@pytest.mark.parametrize(("clusters", "most"), [(2, 0.62), (16, 0.13), (256, 0.02)])
def test_so_many_values_are_left_and_they_are_near(clusters: int, most: float) -> None:
    weight = _weight(64, 64)
    shared = _share(weight, clusters=clusters)
    assert len(np.unique(_plain(shared))) == clusters == len(shared.book)
    assert _error(shared, weight) < most  # a normal distribution's best (Lloyd-Max): 0.60, 0.098, 0.0065


def test_each_element_has_the_nearest_value() -> None:
    weight = _weight(40, 40)
    shared = _share(weight)
    assert (shared.indices == np.abs(weight[..., None] - shared.book).argmin(-1)).all()


def test_channels_and_groups_of_different_size_are_nearer_with_scales() -> None:
    weight = _weight(32, 64) * np.logspace(-3, 1, 64, dtype=np.float32)
    errors = {
        g: np.abs(_plain(_share(weight, 1, granularity=g, groupSize=8)) - weight).max(0) / np.abs(weight).max(0)
        for g in ("Tensor", "Channel", "Group")
    }
    assert errors["Tensor"].max() > 0.9  # small channels are lost
    assert errors["Channel"].max() < 0.2
    assert errors["Group"].mean() < errors["Tensor"].mean()
    assert _share(weight, 1, granularity="Channel").scales.shape == (1, 64)  # type: ignore[union-attr]
    assert _share(weight, 1, granularity="Group").indices.shape == (64, 32)


@pytest.mark.parametrize("granularity", ["Tensor", "Channel", "Group"])
def test_zeros_of_a_pruned_weight_stay_zero_and_a_single_one_is_none(granularity: str) -> None:
    weight = _weight(64, 64)
    weight[:2] = 0
    assert (_plain(_share(weight, granularity=granularity))[:2] == 0).all()
    weight[:2] = 1e-3
    weight[0, 0] = 0
    assert 0 not in _share(weight, granularity=granularity).book


def test_fewer_different_values_than_clusters_lose_nothing() -> None:
    weight = np.array([-1.5, 0.25, 3], np.float32)[np.arange(2048) % 3].reshape(32, 64)
    shared = _share(weight)
    assert (_plain(shared) == weight).all() and len(shared.book) == 3


def test_same_again_and_other_with_another_seed() -> None:
    weight = _weight(64, 64)
    assert (_share(weight).book == _share(weight).book).all()
    assert (_share(weight, seed=1).book != _share(weight).book).any()


@pytest.mark.parametrize(("shape", "clusters", "size"), [((64, 64), 16, 64 + 2048), ((64, 64), 17, 68 + 4096), ((45, 45), 16, 64 + 2025)])
def test_two_indices_fit_in_a_byte_up_to_sixteen_clusters(shape: tuple[int, ...], clusters: int, size: int) -> None:
    assert _share(_weight(*shape), clusters=clusters).size_bytes == size


def test_what_was_saved_is_told_beside_what_zstd_makes_of_the_plain_weights() -> None:
    sharing = Sharing(OPTIONS)
    sharing.share("large", np.zeros((64, 64), np.float32) + _weight(64, 1), 0)  # rows of one value: zstd packs them well
    assert sharing.share("small", _weight(31, 33), 0) is None
    note = sharing.note()
    assert note.startswith("1 weights shared, 1 left alone as smaller than 1,024 elements: 16,384 bytes are 2,112 (12.9%)")
    assert int(note.partition("scales, and ")[2].partition(" ")[0].replace(",", "")) < 1000


@pytest.mark.parametrize(
    ("shape", "clusters", "words"),
    [
        ((10, 10), 200, "clusters: 200 is more than any weight has elements: the largest, w, has 100; lower it"),
        ((31, 33), 16, "the largest weight, w, has 1023 elements, and below 1,024 sharing saves nothing"),
    ],
)
def test_weights_that_are_all_too_small_are_refused_with_the_numbers(shape: tuple[int, ...], clusters: int, words: str) -> None:
    sharing = Sharing(OPTIONS | {"clusters": clusters})
    sharing.share("w", _weight(*shape), 0)
    with pytest.raises(BurnishError) as caught:
        sharing.note()
    assert caught.value.reason is Reason.PassNotApplicable
    assert words in caught.value.message


def test_no_weight_at_all_is_refused() -> None:
    with pytest.raises(BurnishError, match="no floating-point weight"):
        Sharing(OPTIONS).note()
