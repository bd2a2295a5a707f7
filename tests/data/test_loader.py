"""Batches that are read ahead: order, normalization, errors and early termination."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from opustomo.data.batches import AHEAD, load_batches
from opustomo.data.voxels import VoxelSource
from opustomo.errors import UserError
from opustomo.io.mrc import read_header, write_volume

BOX = 6
CPU = torch.device("cpu")


@pytest.fixture
def stack() -> np.ndarray:
    return np.random.default_rng(0).normal(10.0, 3.0, (9, BOX, BOX, BOX)).astype(np.float32)


def make_source(folder: Path, stack: list[np.ndarray] | np.ndarray, cache_bytes: int = 10**9) -> VoxelSource:
    for i, volume in enumerate(stack):
        write_volume(folder / f"{i}.mrc", volume, 4.0)
    return VoxelSource([read_header(folder / f"{i}.mrc") for i in range(len(stack))], cache_bytes)


@pytest.mark.parametrize("workers", [0, 1, 7])
@pytest.mark.parametrize("cache", [0, 10**9])
def test_batches_come_in_order_with_their_own_voxels(
    tmp_path: Path, stack: np.ndarray, workers: int, cache: int
) -> None:
    source = make_source(tmp_path, stack, cache)
    rng = np.random.default_rng(1)
    batches = [rng.permutation(9)[: rng.integers(1, 5)] for _ in range(3 * AHEAD)]
    found = list(load_batches(source, batches, CPU, (0.0, 1.0), workers))
    assert len(found) == len(batches)
    for batch, (indices, voxels) in zip(batches, found, strict=True):
        np.testing.assert_array_equal(indices, batch)
        assert voxels.dtype == torch.float32
        np.testing.assert_array_equal(voxels.numpy(), stack[batch])


def test_values_are_shifted_and_divided(tmp_path: Path, stack: np.ndarray) -> None:
    source = make_source(tmp_path, stack)
    ((_, voxels),) = load_batches(source, [np.arange(9)], CPU, (10.0, 4.0))
    np.testing.assert_allclose(voxels.numpy(), (stack - 10.0) / 4.0, atol=1e-6)
    np.testing.assert_array_equal(source.read(0), stack[0])  # the cache keeps what the file holds


def test_half_precision_is_normalized_in_single(tmp_path: Path, stack: np.ndarray) -> None:
    half = (stack * 1e-3).astype(np.float16)
    source = make_source(tmp_path, half)
    ((_, voxels),) = load_batches(source, [np.arange(9)], CPU, (0.0, 3e-6))
    np.testing.assert_allclose(voxels.numpy(), half.astype(np.float64) / 3e-6, rtol=1e-6)
    assert float(voxels.abs().max()) > 1000  # float16 would have rounded, or overflowed at a smaller scale


@pytest.mark.parametrize("first", [0, 1])
def test_a_set_of_several_voxel_types_loses_nothing(tmp_path: Path, stack: np.ndarray, first: int) -> None:
    mixed = [stack[0].astype(np.float16), stack[1] * 1e5, (stack[2] * 100).astype(np.int16)]
    source = make_source(tmp_path, mixed)
    ((_, voxels),) = load_batches(source, [np.array([first, 1 - first, 2])], CPU, (0.0, 1.0))
    for place, index in enumerate((first, 1 - first, 2)):
        np.testing.assert_array_equal(voxels[place].numpy(), mixed[index].astype(np.float32))


def test_no_batches_give_nothing(tmp_path: Path, stack: np.ndarray) -> None:
    assert list(load_batches(make_source(tmp_path, stack), [], CPU, (0.0, 1.0))) == []


def test_a_broken_file_stops_at_its_batch(tmp_path: Path, stack: np.ndarray) -> None:
    source = make_source(tmp_path, stack, 0)
    broken = tmp_path / "5.mrc"
    broken.write_bytes(broken.read_bytes()[:-8])
    loaded = load_batches(source, [np.array([i]) for i in range(9)], CPU, (0.0, 1.0))
    for expected in range(5):
        indices, _ = next(loaded)
        assert indices == [expected]
    with pytest.raises(UserError, match=r"5\.mrc is truncated"):
        next(loaded)


def test_leaving_early_stops_the_reading(tmp_path: Path, stack: np.ndarray) -> None:
    read: list[int] = []

    class Recorder(VoxelSource):
        def read(self, index: int) -> np.ndarray:
            read.append(index)
            return super().read(index)

    make_source(tmp_path, stack)
    source = Recorder([read_header(tmp_path / f"{i}.mrc") for i in range(9)], 0)
    before = threading.active_count()
    loaded = load_batches(source, [np.array([i % 9]) for i in range(1000)], CPU, (0.0, 1.0), workers=3)
    next(loaded)
    loaded.close()
    assert threading.active_count() == before
    assert 1 <= len(read) <= AHEAD + 1
