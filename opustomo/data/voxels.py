"""Voxels of subtomograms: reading with known headers, caching of small sets, their scale and its outliers.

All subtomograms are divided by one standard deviation (:func:`pooled_std`), which a single damaged file with large
values would dominate. :func:`examine_scale` therefore compares each subtomogram with the median of the set first:

- It is excluded if its standard deviation differs by more than a factor of ``OUTLIER_FACTOR``, if its mean deviates by
  more than this number of standard deviations (of voxels or, if larger, of means), or if a single voxel contributes
  more than half of its variance.
- If more than 5 % of the subtomograms are such outliers, or the 5th and 95th percentiles differ by more than a factor
  of ``DIFFERENT_RATIO``, the files have different units. Each subtomogram is then divided by its own standard
  deviation.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from opustomo.data.particles import max_broken
from opustomo.errors import UserError
from opustomo.io.mrc import MrcHeader

DEFAULT_CACHE_BYTES = 4 * 2**30
SCALE_SAMPLE = 100
MAX_NONFINITE_FRACTION = 0.5
"""Maximum fraction of voxels that are not finite in a subtomogram."""
MAX_VOXEL_FRACTION = 0.5
"""Maximum fraction of the variance of a subtomogram that a single voxel may contribute."""
PROBE = 4096
"""Number of voxels that are compared first to detect constant subtomograms."""


class BrokenSubtomogramError(UserError):
    """Error for a subtomogram that cannot be used; a run may continue without it."""


@dataclass(frozen=True)
class ScaleLimits:
    """Limits of the mean and standard deviation of subtomograms, see :func:`opustomo.data.voxels.examine_scale`.

    Attributes
    ----------
    low, high
        Minimum and maximum standard deviation.
    median
        Median standard deviation of the set.
    center, max_offset
        Median of the means, and their maximum distance from it.
    per_particle
        Whether each subtomogram is divided by its own standard deviation.
    """

    low: float
    high: float
    median: float
    center: float
    max_offset: float
    per_particle: bool


@dataclass(frozen=True)
class VoxelStatistics:
    """Mean and standard deviation of a subtomogram, and the largest fraction of its variance from one voxel."""

    mean: float
    std: float
    largest_fraction: float


def voxel_statistics(volume: np.ndarray) -> VoxelStatistics:
    """Compute the statistics of the voxels of a subtomogram."""
    deviations = volume.astype(np.float64)
    mean = float(deviations.mean())
    deviations -= mean
    total = float(np.vdot(deviations, deviations))
    largest = max(float(deviations.max()), -float(deviations.min()))
    return VoxelStatistics(mean, float(np.sqrt(total / deviations.size)), largest**2 / total if total > 0 else 1.0)


class Voxels(Protocol):
    """Source of cubic volumes of one box size."""

    box: int

    def read(self, index: int) -> np.ndarray:
        """Return the voxels of a particle, (D, D, D)."""


class VoxelSource:
    """Thread-safe reader of the subtomograms of a set.

    Parameters
    ----------
    images
        Headers of all subtomograms, which have the same box size.
    cache_bytes
        Size of the cache of voxels. A file that has changed is read again, so that damage is detected in cached sets
        too.
    """

    def __init__(self, images: Sequence[MrcHeader], cache_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        self._images = images
        self._cache: dict[int, tuple[np.ndarray, tuple[int, int]]] = {}
        self._free_bytes = cache_bytes
        self._lock = threading.Lock()
        self._not_finite: dict[int, int] = {}
        self.box = images[0].shape[0]
        self._limits: ScaleLimits | None = None
        self._accepted: dict[int, tuple[tuple[int, int], float]] = {}
        # Batches are in half precision only if all files are, because other values may overflow.
        self.half = all(image.dtype.kind == "f" and image.dtype.itemsize == 2 for image in images)

    def limit(self, limits: ScaleLimits) -> None:
        """Set the limits beyond which subtomograms are refused, and the normalization per particle."""
        self._limits = limits
        self._accepted.clear()
        self.half = self.half and not limits.per_particle

    def read(self, index: int) -> np.ndarray:
        """Return the voxels (D, D, D) as stored, or divided by their standard deviation (see :meth:`limit`).

        Values that are not finite are set to 0 and counted.

        Raises
        ------
        BrokenSubtomogramError
            If the file cannot be read, is truncated, has constant or mostly non-finite voxels, or exceeds the limits.
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
                f"{image.path} is truncated to {len(flat)} of {count} voxels. Export this subtomogram again."
            )
        volume = flat.reshape(image.shape)
        if not volume.dtype.isnative:
            volume = volume.astype(volume.dtype.newbyteorder("="))
        volume = self._finite(index, volume)
        if (volume.flat[:PROBE] == volume.flat[0]).all() and (volume == volume.flat[0]).all():
            raise BrokenSubtomogramError(f"{image.path} contains only one constant value")
        with self._lock:
            held = self._cache.pop(index, None)
            self._free_bytes += 0 if held is None else held[0].nbytes
            if self._free_bytes >= volume.nbytes:
                self._free_bytes -= volume.nbytes
                self._cache[index] = volume, stamp
        return self._within_limits(index, volume, stamp)

    def read_batch(self, indices: np.ndarray, out: np.ndarray) -> dict[int, str]:
        """Read the voxels of the particles ``indices`` into ``out`` (B, D, D, D) of any floating-point type.

        Returns
        -------
        dict
            Reason for each broken subtomogram, by position in the batch.
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
        """Whether each subtomogram is divided by its own standard deviation."""
        return self._limits is not None and self._limits.per_particle

    @property
    def not_finite(self) -> dict[int, int]:
        """Number of voxels that are not finite, by particle index."""
        return dict(self._not_finite)

    def _within_limits(self, index: int, volume: np.ndarray, stamp: tuple[int, int]) -> np.ndarray:
        """Check a subtomogram against the limits, once unless its file changes, and normalize it if requested."""
        limits = self._limits
        if limits is None:
            return volume
        accepted = self._accepted.get(index)
        if accepted is None or accepted[0] != stamp:
            path, found = self._images[index].path, voxel_statistics(volume)
            if found.largest_fraction > MAX_VOXEL_FRACTION:
                raise BrokenSubtomogramError(f"one voxel of {path} contributes more than half of its variance")
            if not limits.low <= found.std <= limits.high:
                ratio = max(found.std / limits.median, limits.median / found.std)
                raise BrokenSubtomogramError(
                    f"the standard deviation of {path} is {found.std:.4g}, {ratio:.3g} times "
                    f"{'larger' if found.std > limits.median else 'smaller'} than the median of the set, "
                    f"{limits.median:.4g}"
                )
            if abs(found.mean - limits.center) > limits.max_offset:
                raise BrokenSubtomogramError(
                    f"the mean of {path} is {found.mean:.4g}, but that of the set is {limits.center:.4g} with a "
                    f"standard deviation of {limits.median:.4g}"
                )
            self._accepted[index] = stamp, found.std
        if not limits.per_particle:
            return volume
        return (volume / np.float64(self._accepted[index][1])).astype(np.float32)

    def _finite(self, index: int, volume: np.ndarray) -> np.ndarray:
        if volume.dtype.kind != "f":
            return volume
        if not _all_finite(volume):
            bad = ~np.isfinite(volume)
            if bad.mean() > MAX_NONFINITE_FRACTION:
                raise BrokenSubtomogramError(
                    f"{self._images[index].path} has values that are not finite in {bad.sum()} of {bad.size} voxels"
                )
            self._not_finite[index] = int(bad.sum())
            volume = np.where(bad, volume.dtype.type(0), volume)
        return volume


def _all_finite(volume: np.ndarray) -> bool:
    """Return whether all values are finite."""
    if volume.dtype == np.float16:  # a test of the exponent bits is five times faster than np.isfinite
        return bool((volume.view(np.uint16) & 0x7FFF).max() < 0x7C00)
    return bool(np.isfinite(volume).all())


def _stamp(path: Path) -> tuple[int, int]:
    """Return the modification time and size of a file, which change when it is overwritten or truncated."""
    status = path.stat()
    return status.st_mtime_ns, status.st_size


def pooled_std(source: Voxels, count: int, sample: int = SCALE_SAMPLE) -> float:
    """Compute one standard deviation for a set of ``count`` subtomograms.

    It is pooled over the first quarter of the z slices of up to ``sample`` subtomograms.

    Raises
    ------
    UserError
        If no subtomogram can be used, or all are constant.
    """
    chosen = np.unique(np.linspace(0, count - 1, min(count, sample)).astype(int))
    slices = max(1, source.box // 4)
    values = []
    for index in chosen:
        with suppress(BrokenSubtomogramError):
            values.append(source.read(int(index))[:slices].astype(np.float64))
    if not values:
        raise UserError("None of the examined subtomograms can be used. Check the files that the particle table names.")
    number = sum(v.size for v in values)
    mean = sum(float(v.sum()) for v in values) / number
    variance = sum(float(((v - mean) ** 2).sum()) for v in values) / number
    if variance <= 0:
        raise UserError(
            "The subtomograms contain only one constant value. Check the files that the particle table names."
        )
    return float(np.sqrt(variance))


OUTLIER_FACTOR = 10.0
DIFFERENT_RATIO = 3.0
NORMAL_MAD = 1.4826
"""Ratio of the standard deviation of a normal distribution to its median absolute deviation."""


@dataclass(frozen=True)
class ScaleReport:
    """Standard deviations of the examined subtomograms.

    Attributes
    ----------
    looked_at
        Number of examined subtomograms.
    median, low, high
        Median of the standard deviations, and 5th and 95th percentile without outliers.
    left_out
        Reason for each excluded subtomogram, by particle index.
    per_particle
        Whether each subtomogram is divided by its own standard deviation.
    """

    looked_at: int
    median: float
    low: float
    high: float
    left_out: dict[int, str]
    per_particle: bool


def examine_scale(
    source: VoxelSource, count: int, allow_per_particle: bool = True, sample: int = SCALE_SAMPLE
) -> ScaleReport:
    """Compare the standard deviations of up to ``sample`` of ``count`` subtomograms and set the limits of ``source``.

    Afterwards ``source`` refuses outliers, and divides each subtomogram by its own standard deviation if the files have
    different units and ``allow_per_particle`` is True. It is False if the user gives the scale.
    """
    chosen = np.unique(np.linspace(0, count - 1, min(count, sample)).astype(int))
    left_out: dict[int, str] = {}
    found: dict[int, VoxelStatistics] = {}
    for index in map(int, chosen):
        try:
            found[index] = voxel_statistics(source.read(index))
        except BrokenSubtomogramError as error:
            left_out[index] = str(error)
    if not found:
        return ScaleReport(len(chosen), 0.0, 0.0, 0.0, left_out, False)
    values = np.array([statistics.std for statistics in found.values()])
    means = np.array([statistics.mean for statistics in found.values()])
    median = float(np.exp(np.median(np.log(values))))
    outliers = (values > OUTLIER_FACTOR * median) | (values < median / OUTLIER_FACTOR)
    inliers = values if outliers.sum() > max_broken(len(values)) else values[~outliers]
    low, high = (float(value) for value in np.percentile(inliers, (5, 95)))
    differ = len(inliers) > (~outliers).sum() or high > DIFFERENT_RATIO * low
    per_particle = bool(allow_per_particle and differ)
    center = float(np.median(means))
    max_offset = OUTLIER_FACTOR * max(median, NORMAL_MAD * float(np.median(np.abs(means - center))))
    if differ:
        limits = ScaleLimits(0.0, np.inf, median, center, np.inf, per_particle)
    else:
        limits = ScaleLimits(median / OUTLIER_FACTOR, median * OUTLIER_FACTOR, median, center, max_offset, per_particle)
    source.limit(limits)
    for index in found:
        try:
            source.read(index)
        except BrokenSubtomogramError as error:
            left_out[index] = str(error)
    return ScaleReport(len(chosen), median, low, high, dict(sorted(left_out.items())), per_particle)
