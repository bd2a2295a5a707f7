"""Reading voxels: headers are known, so a read is one seek and one copy; small sets stay in memory."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from opustomo.errors import UserError
from opustomo.io.mrc import MrcHeader

DEFAULT_CACHE_BYTES = 4 * 2**30
SCALE_SAMPLE = 100
NOT_FINITE_SHARE = 0.5
"""Share of values that are not finite beyond which a subtomogram is left out."""
LARGEST_SHARE = 0.5
"""Share of the variance that one voxel may make up."""
PROBE = 4096
"""Voxels that are looked at first to see that a subtomogram is not constant."""


class BrokenSubtomogramError(UserError):
    """A subtomogram that cannot be used; a run may go on without it."""


@dataclass(frozen=True)
class Limits:
    """Which standard deviations a subtomogram of the set may have, and whether it is divided by its own.

    ``median`` is that of the set; means lie within ``reach`` of ``centre``. Of
    :func:`opustomo.data.scale.examine_scale`.
    """

    low: float
    high: float
    median: float
    centre: float
    reach: float
    per_particle: bool


@dataclass(frozen=True)
class Deviation:
    """Mean and standard deviation of a subtomogram, and the share of its variance that one voxel makes up at most."""

    mean: float
    std: float
    largest_share: float


def deviation(volume: np.ndarray) -> Deviation:
    """Return how the voxels of a subtomogram spread about their mean."""
    about = volume.astype(np.float64)
    mean = float(about.mean())
    about -= mean
    total = float(np.vdot(about, about))
    largest = max(float(about.max()), -float(about.min()))
    return Deviation(mean, float(np.sqrt(total / about.size)), largest**2 / total if total > 0 else 1.0)


class Voxels(Protocol):
    """Cubic volumes of one box, read one by one."""

    box: int

    def read(self, index: int) -> np.ndarray:
        """Voxels (D, D, D)."""


class VoxelSource:
    """Voxels of the subtomograms of a set, thread-safe.

    Parameters
    ----------
    images
        Headers of all subtomograms, one box.
    cache_bytes
        Voxels are kept in memory, as stored in the files, up to this many bytes. A file that changes is read again,
        so that damage shows whether the set fits or not.
    """

    def __init__(self, images: Sequence[MrcHeader], cache_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        self._images = images
        self._cache: dict[int, tuple[np.ndarray, tuple[int, int]]] = {}
        self._room = cache_bytes
        self._lock = threading.Lock()
        self._not_finite: dict[int, int] = {}
        self.box = images[0].shape[0]
        # one wider file in the set needs wider batches: its values may not fit half precision
        self._limits: Limits | None = None
        self._judged: dict[int, tuple[tuple[int, int], float]] = {}
        self.half = all(image.dtype.kind == "f" and image.dtype.itemsize == 2 for image in images)

    def limit(self, limits: Limits) -> None:
        """From now on refuse subtomograms beyond the limits, and divide each by its own deviation if they say so."""
        self._limits = limits
        self._judged.clear()
        self.half = self.half and not limits.per_particle

    def read(self, index: int) -> np.ndarray:
        """Voxels (D, D, D) as stored, or divided by their own deviation (:meth:`limit`).

        Values that are not finite become 0 and are counted.

        Raises
        ------
        BrokenSubtomogramError
            The file cannot be read, is truncated, holds no two different finite values, or does not belong to the set.
        """
        image = self._images[index]
        count = int(np.prod(image.shape))
        kept = self._cache.get(index)
        try:
            stamp = _stamp(image.path)
            if kept is not None and kept[1] == stamp:
                return self._within_limits(index, *kept)
            flat = np.fromfile(image.path, dtype=image.dtype, count=count, offset=image.offset)
        except OSError as error:
            raise BrokenSubtomogramError(f"{image.path} can no longer be read ({error.strerror})") from error
        if len(flat) != count:
            raise BrokenSubtomogramError(
                f"{image.path} is truncated: {len(flat)} of {count} voxels; export this subtomogram again"
            )
        volume = flat.reshape(image.shape)
        if not volume.dtype.isnative:
            volume = volume.astype(volume.dtype.newbyteorder("="))
        volume = self._finite(index, volume)
        if (volume.flat[:PROBE] == volume.flat[0]).all() and (volume == volume.flat[0]).all():
            raise BrokenSubtomogramError(f"{image.path} holds no finite density but one constant value")
        with self._lock:
            held = self._cache.pop(index, None)
            self._room += 0 if held is None else held[0].nbytes
            if self._room >= volume.nbytes:
                self._room -= volume.nbytes
                self._cache[index] = volume, stamp
        return self._within_limits(index, volume, stamp)

    def read_batch(self, indices: np.ndarray, out: np.ndarray) -> dict[int, str]:
        """Fill ``out`` (B, D, D, D), of any float type, with the voxels of the particles ``indices``.

        Returns
        -------
        dict
            Why a place in the batch was left unfilled, for broken subtomograms.
        """
        broken = {}
        for place, index in enumerate(indices):
            try:
                out[place] = self.read(int(index))
            except BrokenSubtomogramError as error:
                broken[place] = str(error)
        return broken

    @property
    def per_particle(self) -> bool:
        """Whether each subtomogram is divided by its own deviation."""
        return self._limits is not None and self._limits.per_particle

    @property
    def not_finite(self) -> dict[int, int]:
        """Voxels that were not finite, by particle index."""
        return dict(self._not_finite)

    def _within_limits(self, index: int, volume: np.ndarray, stamp: tuple[int, int]) -> np.ndarray:
        """Compare a subtomogram with the set, once as long as its file does not change."""
        limits = self._limits
        if limits is None:
            return volume
        judged = self._judged.get(index)
        if judged is None or judged[0] != stamp:
            path, found = self._images[index].path, deviation(volume)
            if found.largest_share > LARGEST_SHARE:
                raise BrokenSubtomogramError(f"one voxel of {path} outweighs all others")
            if not limits.low <= found.std <= limits.high:
                ratio = max(found.std / limits.median, limits.median / found.std)
                raise BrokenSubtomogramError(
                    f"the standard deviation of {path} is {found.std:.4g}, {ratio:.3g} times "
                    f"{'larger' if found.std > limits.median else 'smaller'} than the median of the set, "
                    f"{limits.median:.4g}"
                )
            if abs(found.mean - limits.centre) > limits.reach:
                raise BrokenSubtomogramError(
                    f"the mean of {path} is {found.mean:.4g}, that of the set is {limits.centre:.4g} and its standard "
                    f"deviation {limits.median:.4g}"
                )
            self._judged[index] = stamp, found.std
        if not limits.per_particle:
            return volume
        return (volume / np.float64(self._judged[index][1])).astype(np.float32)

    def _finite(self, index: int, volume: np.ndarray) -> np.ndarray:
        if volume.dtype.kind != "f":
            return volume
        if not _all_finite(volume):
            bad = ~np.isfinite(volume)
            if bad.mean() > NOT_FINITE_SHARE:
                raise BrokenSubtomogramError(
                    f"{self._images[index].path} holds no finite density in {bad.sum()} of {bad.size} voxels"
                )
            self._not_finite[index] = int(bad.sum())
            volume = np.where(bad, volume.dtype.type(0), volume)
        return volume


def _all_finite(volume: np.ndarray) -> bool:
    """Whether no value is infinite or NaN."""
    if volume.dtype == np.float16:  # by its bits: np.isfinite takes five times as long
        return bool((volume.view(np.uint16) & 0x7FFF).max() < 0x7C00)
    return bool(np.isfinite(volume).all())


def _stamp(path: Path) -> tuple[int, int]:
    """Changes when a file is written again or cut."""
    status = path.stat()
    return status.st_mtime_ns, status.st_size


def pooled_std(source: Voxels, count: int, sample: int = SCALE_SAMPLE) -> float:
    """One standard deviation for all ``count``: pooled over the first quarter of the z slices of ``sample`` of them.

    Raises
    ------
    UserError
        The subtomograms are constant.
    """
    chosen = np.unique(np.linspace(0, count - 1, min(count, sample)).astype(int))
    slices = max(1, source.box // 4)
    values = []
    for index in chosen:
        with suppress(BrokenSubtomogramError):
            values.append(source.read(int(index))[:slices].astype(np.float64))
    if not values:
        raise UserError("none of the subtomograms looked at can be used; check the files the particle table names")
    number = sum(v.size for v in values)
    mean = sum(float(v.sum()) for v in values) / number
    variance = sum(float(((v - mean) ** 2).sum()) for v in values) / number
    if variance <= 0:
        raise UserError("the subtomograms hold one constant value; check the files the particle table names")
    return float(np.sqrt(variance))
