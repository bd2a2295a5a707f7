"""Where density ends and solvent begins, found from the map's own values."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

BLUR_VOXELS = 1.0
"""Deviation of the Gaussian: noise of single voxels must not fill the valley between solvent and particle."""
BINS = 256
NOISE_DEVIATIONS = 3.0


def blurred(density: np.ndarray) -> np.ndarray:
    """Density without the noise of single voxels, float64: what `automatic_threshold` is meant for."""
    return ndimage.gaussian_filter(np.asarray(density, dtype=np.float64), BLUR_VOXELS, mode="nearest")


def automatic_threshold(density: np.ndarray) -> float:
    """Threshold between solvent and particle of a blurred map.

    Half of Otsu's threshold above the solvent's level, so that weak rims belong to the particle, but at least three
    deviations of the solvent's noise above it. Level and noise are median and 1.4826 · median absolute deviation of
    what Otsu calls solvent (N. Otsu, IEEE Trans. Syst. Man Cybern. 9, 1979).

    Parameters
    ----------
    density
        Map of any shape, particle bright; see `blurred`.

    Raises
    ------
    ValueError
        All voxels are equal.
    """
    if np.ptp(density) <= 1e-9 * max(1.0, np.abs(density).max()):
        raise ValueError("a search for a threshold in a map whose voxels are all equal")
    split = otsu_threshold(density)
    solvent = density[density <= split]
    level = float(np.median(solvent))
    noise = 1.4826 * float(np.median(np.abs(solvent - level)))
    return max(level + 0.5 * (split - level), level + NOISE_DEVIATIONS * noise)


def otsu_threshold(values: np.ndarray) -> float:
    """Threshold that separates two classes of values with the largest variance between them (Otsu 1979)."""
    counts, edges = np.histogram(values, bins=BINS)
    centres = 0.5 * (edges[:-1] + edges[1:])
    below = np.cumsum(counts)[:-1].astype(np.float64)
    above = values.size - below
    sums = np.cumsum(counts * centres)
    mean_below = sums[:-1] / np.maximum(below, 1)
    mean_above = (sums[-1] - sums[:-1]) / np.maximum(above, 1)
    return float(edges[1 + int(np.argmax(below * above * (mean_above - mean_below) ** 2))])
