"""Division into training and held-out particles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from opustomo.data.batches import read_split, split_particles, training_count, write_split
from opustomo.errors import UserError
from opustomo.io.pickles import dump_pickle, dump_torch


@given(st.integers(1, 300), st.floats(0, 1, exclude_max=True), st.integers(0, 1000))
def test_a_split_holds_every_particle_once(count: int, valfrac: float, seed: int) -> None:
    permutation = split_particles(count, valfrac, np.random.default_rng(seed))
    np.testing.assert_array_equal(np.sort(permutation), np.arange(count))
    again = split_particles(count, valfrac, np.random.default_rng(seed))
    np.testing.assert_array_equal(permutation, again)
    assert 1 <= training_count(count, valfrac) <= count


def test_the_first_part_trains() -> None:
    assert training_count(240, 0.2) == 192
    assert training_count(10, 0.0) == 10
    assert training_count(1, 0.9) == 1  # something must train
    permutation = split_particles(500, 0.2, np.random.default_rng(3))
    assert not np.array_equal(permutation, np.arange(500))


@pytest.mark.parametrize("valfrac", [-0.1, 1.0, 1.5, np.nan])
def test_impossible_fractions(valfrac: float) -> None:
    with pytest.raises(ValueError, match="valfrac"):
        split_particles(10, valfrac, np.random.default_rng(0))


def test_a_written_split_is_a_torch_file_and_reads_back(tmp_path: Path) -> None:
    permutation = np.random.default_rng(0).permutation(17)
    path = tmp_path / "my split.pkl"
    write_split(path, permutation)
    stored = torch.load(path, weights_only=True)
    assert stored.dtype == torch.int64
    np.testing.assert_array_equal(read_split(path, 17), permutation)


def test_splits_of_the_original_read(tmp_path: Path) -> None:
    """Arrays in a plain pickle, lists and int32 tensors are permutations too."""
    for number, content in enumerate((np.array([2, 0, 1]), [2, 0, 1])):
        dump_pickle(tmp_path / f"{number}.pkl", content)
        np.testing.assert_array_equal(read_split(tmp_path / f"{number}.pkl", 3), [2, 0, 1])
    dump_torch(tmp_path / "t.pkl", torch.tensor([2, 0, 1], dtype=torch.int32))
    np.testing.assert_array_equal(read_split(tmp_path / "t.pkl", 3), [2, 0, 1])


@pytest.mark.parametrize(
    "content",
    [np.arange(9), np.arange(11), np.array([0, 0, 2, 3, 4, 5, 6, 7, 8, 9]), {"train": [0, 1]}, "abc", [[0, 1], [2]],
     np.arange(10) + 0.5],
    ids=["few", "many", "doubled", "dict", "text", "ragged", "fractions"],
)  # fmt: skip
def test_splits_of_another_set_are_refused(tmp_path: Path, content: object) -> None:
    path = tmp_path / "split.pkl"
    dump_pickle(path, content)
    with pytest.raises(UserError, match=r"split\.pkl is not a permutation of 0…9"):
        read_split(path, 10)


def test_a_missing_split_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.pkl"):
        read_split(tmp_path / "absent.pkl", 10)
