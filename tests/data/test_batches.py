"""Each epoch visits every particle once, in batches of one viewing direction."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opustomo.data.batches import viewing_batches

GROUPS = st.lists(st.integers(0, 47), min_size=1, max_size=120)


@given(GROUPS, st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_every_member_is_in_exactly_one_batch(groups: list[int], size: int, seed: int) -> None:
    members = np.random.default_rng(seed).permutation(len(groups))[: max(1, len(groups) // 2)]
    batches = viewing_batches(members, np.array(groups), size, np.random.default_rng(seed))
    np.testing.assert_array_equal(np.sort(np.concatenate(batches)), np.sort(members))


@given(GROUPS, st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_all_batches_but_one_are_full_and_mostly_of_one_group(groups: list[int], size: int, seed: int) -> None:
    group = np.array(groups)
    batches = viewing_batches(np.arange(len(group)), group, size, np.random.default_rng(seed))
    assert len(batches) == math.ceil(len(group) / size)
    assert sum(len(batch) < size for batch in batches) <= 1
    pure = sum(len(batch) == size and len(np.unique(group[batch])) == 1 for batch in batches)
    assert pure >= sum(count // size for count in np.bincount(group))


@given(GROUPS, st.integers(2, 20), st.integers(0, 2**32 - 1))
def test_leftovers_join_those_of_neighboring_groups(groups: list[int], size: int, seed: int) -> None:
    """Batches of several groups cover runs of the nested index that meet at most at their ends."""
    group = np.array(groups)
    batches = viewing_batches(np.arange(len(group)), group, size, np.random.default_rng(seed))
    mixed = sorted(
        (int(group[batch].min()), int(group[batch].max())) for batch in batches if len(np.unique(group[batch])) > 1
    )
    assert all(first[1] <= second[0] for first, second in itertools.pairwise(mixed))


@given(GROUPS, st.integers(1, 20))
def test_batches_belong_to_the_seed(groups: list[int], size: int) -> None:
    group, members = np.array(groups), np.arange(len(groups))
    one, two = (viewing_batches(members, group, size, np.random.default_rng(7)) for _ in range(2))
    for first, second in zip(one, two, strict=True):
        np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(members, np.arange(len(groups)))  # the caller's array is left alone


def test_another_seed_gives_other_batches_in_another_order() -> None:
    group = np.repeat(np.arange(4), 30)
    one, two = (viewing_batches(np.arange(120), group, 10, np.random.default_rng(seed)) for seed in (0, 1))
    assert [sorted(batch) for batch in one] != [sorted(batch) for batch in two]
    visited = [int(group[batch[0]]) for batch in one]
    assert visited != sorted(visited)


def test_which_particles_are_left_over_changes_between_epochs() -> None:
    group = np.repeat([0, 1], 7)
    short = set()
    for epoch in range(40):
        batches = viewing_batches(np.arange(14), group, 4, np.random.default_rng([0, epoch]))
        short |= {int(i) for batch in batches if len(np.unique(group[batch])) > 1 for i in batch}
    assert short == set(range(14))


def test_batches_larger_than_the_set_and_empty_sets() -> None:
    (batch,) = viewing_batches(np.arange(3), np.array([4, 9, 4]), 20, np.random.default_rng(0))
    assert sorted(batch) == [0, 1, 2]
    assert viewing_batches(np.array([], dtype=int), np.array([0, 1]), 4, np.random.default_rng(0)) == []
    with pytest.raises(ValueError, match="batch size"):
        viewing_batches(np.arange(3), np.zeros(3, dtype=int), 0, np.random.default_rng(0))
