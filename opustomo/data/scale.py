"""Scale of the voxels of a particle set, and detection of outliers.

All subtomograms are divided by one standard deviation (:func:`opustomo.data.voxels.pooled_std`), which a single damaged
file with large values would dominate. Each subtomogram is therefore compared with the median of the set first:

- It is excluded if its standard deviation differs by more than a factor of ``OUTLIER_FACTOR``, if its mean deviates by
  more than this number of standard deviations (of voxels or, if larger, of means), or if a single voxel contributes
  more than half of its variance.
- If more than 5 % of the subtomograms are such outliers, or the 5th and 95th percentiles differ by more than a factor
  of ``DIFFERENT_RATIO``, the files have different units. Each subtomogram is then divided by its own standard
  deviation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from opustomo.data.particles import max_broken
from opustomo.data.voxels import (
    SCALE_SAMPLE,
    BrokenSubtomogramError,
    ScaleLimits,
    VoxelSource,
    VoxelStatistics,
    voxel_statistics,
)

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
