"""The order of an epoch."""

from __future__ import annotations

import math

import pytest

from tmor_fast.training.batches import EpochShuffle, shuffled_loader


def test_an_epoch_is_a_permutation_fixed_by_seed_and_epoch():
    shuffle = EpochShuffle(10, seed=1)
    first = list(shuffle)
    assert sorted(first) == list(range(10))
    assert list(shuffle) == first
    shuffle.set_epoch(1)
    assert list(shuffle) != first
    assert list(EpochShuffle(10, seed=2)) != first


@pytest.mark.parametrize(("count", "batch", "sizes"), [(10, 4, [4, 4, 2]), (9, 4, [4, 4]), (3, 8, [3]), (1, 8, [1])])
def test_no_batch_of_one_clip_beside_larger_ones(count: int, batch: int, sizes: list[int]):
    loader = shuffled_loader(range(count), batch, seed=0)
    assert [len(b) for b in loader] == sizes
    assert len(loader) == len(sizes)
    assert math.isclose(sum(sizes), count, abs_tol=1)
