"""Voxels of files of all types, the cache, and the scale of a set."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from opustomo.data.voxels import VoxelSource, pooled_std
from opustomo.errors import UserError
from opustomo.io.mrc import MrcHeader, read_header, write_volume

BOX = 8


def write(path: Path, volume: np.ndarray) -> MrcHeader:
    with mrcfile.new(path) as handle:  # not our own writer: it has no other byte order
        handle.set_data(volume)
    return read_header(path)


def volumes(count: int, dtype: str = "f4", box: int = BOX) -> np.ndarray:
    drawn = np.random.default_rng(0).normal(5.0, 20.0, (count, box, box, box))
    return drawn.astype(dtype)


def make_source(folder: Path, stack: np.ndarray, **options: int) -> VoxelSource:
    images = [write(folder / f"sub {i}.mrc", volume) for i, volume in enumerate(stack)]
    return VoxelSource(images, **options)


@pytest.mark.parametrize("dtype", ["i1", "<i2", ">i2", "<u2", "<f2", ">f2", "<f4", ">f4"])
def test_all_voxel_types_read_as_they_are(tmp_path: Path, dtype: str) -> None:
    stack = np.abs(volumes(2)).astype(dtype)
    source = make_source(tmp_path, stack)
    for index, volume in enumerate(stack):
        found = source.read(index)
        assert found.dtype.isnative
        assert found.dtype.itemsize == np.dtype(dtype).itemsize  # half precision stays half in memory
        np.testing.assert_array_equal(found, volume.astype("=" + dtype[-2:]))
    out = np.empty((2, BOX, BOX, BOX), np.float32)
    source.read_batch(np.array([1, 0]), out)
    np.testing.assert_array_equal(out, stack[::-1].astype(np.float32))


def test_an_extended_header_is_skipped(tmp_path: Path) -> None:
    path, volume = tmp_path / "a.mrc", volumes(1)[0]
    with mrcfile.new(path) as handle:
        handle.set_data(volume)
        handle.set_extended_header(np.frombuffer(b"x" * 320, dtype="V320"))
    header = read_header(path)
    assert header.offset == 1344
    np.testing.assert_array_equal(VoxelSource([header]).read(0), volume)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # mrcfile takes means of what we hand it
@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4"])
def test_values_that_are_not_finite_become_zero_and_are_counted(tmp_path: Path, dtype: str) -> None:
    stack = volumes(3).astype(dtype)
    stack[1, 2, 3, 4] = np.nan
    stack[1, 0, 0, :2] = np.inf, -np.inf
    source = make_source(tmp_path, stack, cache_bytes=0)
    for _ in range(2):  # without a cache each visit reads again, but counts once
        found = source.read(1)
        assert found[2, 3, 4] == found[0, 0, 0] == found[0, 0, 1] == 0
        assert (np.asarray(found) != 0).sum() == BOX**3 - 3
    source.read(0)
    assert source.not_finite == {1: 3}


def test_a_file_cut_short_after_the_start_is_named(tmp_path: Path) -> None:
    source = make_source(tmp_path, volumes(2), cache_bytes=0)
    path = tmp_path / "sub 1.mrc"
    path.write_bytes(path.read_bytes()[:-100])
    source.read(0)
    with pytest.raises(UserError, match=r"sub 1\.mrc is truncated to 487 of 512 voxels"):
        source.read(1)
    path.unlink()
    with pytest.raises(UserError, match=r"sub 1\.mrc can no longer be read"):
        source.read(1)


def blank_unnoticed(folder: Path) -> None:
    """Fill all voxels with zeros but leave size and time as they were."""
    for path in folder.iterdir():
        status = path.stat()
        path.write_bytes(path.read_bytes()[:1024].ljust(status.st_size, b"\0"))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_the_cache_keeps_what_fits_and_no_more(tmp_path: Path) -> None:
    stack = volumes(4)
    source = make_source(tmp_path, stack, cache_bytes=int(2.5 * stack[0].nbytes))
    for index in (3, 1, 0, 2):
        source.read(index)
    blank_unnoticed(tmp_path)
    for index in (3, 1):
        np.testing.assert_array_equal(source.read(index), stack[index])
    for index in (0, 2):
        with pytest.raises(UserError, match="constant value"):
            source.read(index)


@pytest.mark.parametrize("cache_bytes", [0, 10**9])
def test_a_file_that_changes_is_read_again(tmp_path: Path, cache_bytes: int) -> None:
    stack = volumes(3)
    source = make_source(tmp_path, stack, cache_bytes=cache_bytes)
    paths = [source._images[index].path for index in range(3)]
    for index in range(3):
        source.read(index)
    whole = paths[0].read_bytes()
    paths[0].write_bytes(whole[:-5])
    paths[1].unlink()
    for index, reason in ((0, "truncated"), (1, "no longer")):
        with pytest.raises(UserError, match=reason):
            source.read(index)
    np.testing.assert_array_equal(source.read(2), stack[2])
    paths[0].write_bytes(whole)
    np.testing.assert_array_equal(source.read(0), stack[0])


def test_half_precision_counts_half_in_the_cache(tmp_path: Path) -> None:
    stack = volumes(4, "<f2")
    source = make_source(tmp_path, stack, cache_bytes=4 * BOX**3 * 2)
    for index in range(4):
        source.read(index)
    blank_unnoticed(tmp_path)
    for index in range(4):
        np.testing.assert_array_equal(source.read(index), stack[index])


def test_threads_read_the_same_voxels(tmp_path: Path) -> None:
    stack = volumes(6)
    source = make_source(tmp_path, stack, cache_bytes=3 * stack[0].nbytes)
    order = np.random.default_rng(0).integers(0, 6, 200)
    with ThreadPoolExecutor(8) as pool:
        for index, found in zip(order, pool.map(source.read, order), strict=True):
            np.testing.assert_array_equal(found, stack[index])


class Recorder(VoxelSource):
    """Remembers which volumes were read."""

    def __init__(self, stack: np.ndarray) -> None:
        self.stack, self.box = stack, stack.shape[-1]
        self.seen: list[int] = []

    def read(self, index: int) -> np.ndarray:
        self.seen.append(index)
        return self.stack[index]


def test_the_scale_is_pooled_over_the_first_quarter_of_the_slices() -> None:
    stack = np.random.default_rng(1).normal(3.0, 2.0, (20, 12, 12, 12)).astype(np.float32)
    stack[:10] *= 5.0  # pooled: neither the mean of the deviations nor that of one subtomogram
    expected = stack[:, :3].astype(np.float64).std()
    stack[:, 3:] = 1e6
    assert pooled_std(Recorder(stack), 20) == pytest.approx(expected, rel=1e-12)


def test_about_a_hundred_evenly_drawn_subtomograms_give_the_scale() -> None:
    source = Recorder(np.random.default_rng(1).normal(size=(777, 4, 4, 4)))
    found = pooled_std(source, 777)
    assert 90 <= len(source.seen) <= 110
    assert source.seen[0] == 0 and source.seen[-1] == 776
    assert set(np.diff(source.seen)) <= {7, 8}
    assert found == pytest.approx(source.stack[source.seen, :1].std(), rel=1e-12)


def test_the_scale_survives_a_large_offset() -> None:
    stack = (np.random.default_rng(1).normal(size=(5, 8, 8, 8)) * 0.01 + 1000.0).astype(np.float32)
    assert pooled_std(Recorder(stack), 5) == pytest.approx(stack[:, :2].astype(np.float64).std(), rel=1e-9)


def test_integers_do_not_overflow() -> None:
    stack = np.where(np.arange(5 * 512).reshape(5, 8, 8, 8) % 2 == 0, -30000, 30000).astype(np.int16)
    assert pooled_std(Recorder(stack), 5) == pytest.approx(30000.0)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 0.3, -1.7e5, 3.3e-7])
def test_constant_subtomograms_have_no_scale(value: float) -> None:
    with pytest.raises(UserError, match="one constant value"):
        pooled_std(Recorder(np.full((7, 24, 24, 24), value, np.float32)), 7)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_not_finite_voxels_do_not_spoil_the_scale(tmp_path: Path) -> None:
    stack = volumes(2)
    stack[0, 0, 0, 0] = np.nan
    source = VoxelSource([read_header(_written(tmp_path / f"{i}.mrc", v)) for i, v in enumerate(stack)])
    stack[0, 0, 0, 0] = 0.0
    assert pooled_std(source, 2) == pytest.approx(stack[:, :2].astype(np.float64).std(), rel=1e-9)
    assert source.not_finite == {0: 1}


def _written(path: Path, volume: np.ndarray) -> Path:
    write_volume(path, volume, 4.0)
    return path
