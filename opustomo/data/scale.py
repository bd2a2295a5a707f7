"""Scale of the voxels of a set, and subtomograms that do not belong to it.

All subtomograms are divided by one standard deviation (:func:`opustomo.data.voxels.pooled_std`). One damaged file with
values a thousand times larger would decide on it, so each subtomogram is compared with the median of the set first:

- It is left out if its standard deviation is more than ``OUTLIER_FACTOR`` times larger or smaller, if its mean lies
  more than so many standard deviations (of voxels or, where that is more, of means) off, or if a single voxel makes up
  more than half of its variance.
- If more than 5 % lie outside that factor, or the middle nine tenths spread over more than ``DIFFERENT_RATIO``, the
  files were written in different units. Each subtomogram is then divided by its own standard deviation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from opustomo.data.particles import tolerated
from opustomo.data.voxels import SCALE_SAMPLE, BrokenSubtomogramError, Deviation, Limits, VoxelSource, deviation

OUTLIER_FACTOR = 10.0
DIFFERENT_RATIO = 3.0
NORMAL_MAD = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""


@dataclass(frozen=True)
class ScaleReport:
    """Standard deviations of the subtomograms looked at.

    Attributes
    ----------
    looked_at
        How many.
    median, low, high
        Median standard deviation, and the 5th and 95th percentile of those that are used.
    left_out
        Why subtomograms cannot be used, by particle index.
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
    """Compare the standard deviations of up to ``sample`` of ``count`` subtomograms, and let ``source`` act on it.

    From then on ``source`` refuses subtomograms that do not belong to the set, and divides each by its own standard
    deviation where the report says so. Only if ``allow_per_particle`` it may do that; a scale that the user gives holds
    for all files.
    """
    chosen = np.unique(np.linspace(0, count - 1, min(count, sample)).astype(int))
    left_out: dict[int, str] = {}
    found: dict[int, Deviation] = {}
    for index in map(int, chosen):
        try:
            found[index] = deviation(source.read(index))
        except BrokenSubtomogramError as error:
            left_out[index] = str(error)
    if not found:
        return ScaleReport(len(chosen), 0.0, 0.0, 0.0, left_out, False)
    values = np.array([one.std for one in found.values()])
    means = np.array([one.mean for one in found.values()])
    median = float(np.exp(np.median(np.log(values))))
    far = (values > OUTLIER_FACTOR * median) | (values < median / OUTLIER_FACTOR)
    near = values if far.sum() > tolerated(len(values)) else values[~far]
    low, high = (float(value) for value in np.percentile(near, (5, 95)))
    differ = len(near) > (~far).sum() or high > DIFFERENT_RATIO * low
    per_particle = bool(allow_per_particle and differ)
    centre = float(np.median(means))
    reach = OUTLIER_FACTOR * max(median, NORMAL_MAD * float(np.median(np.abs(means - centre))))
    if differ:
        limits = Limits(0.0, np.inf, median, centre, np.inf, per_particle)
    else:
        limits = Limits(median / OUTLIER_FACTOR, median * OUTLIER_FACTOR, median, centre, reach, per_particle)
    source.limit(limits)
    for index in found:
        try:
            source.read(index)
        except BrokenSubtomogramError as error:
            left_out[index] = str(error)
    return ScaleReport(len(chosen), median, low, high, dict(sorted(left_out.items())), per_particle)
