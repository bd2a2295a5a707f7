"""Band-limited resampling of densities to another box and pixel size."""

from __future__ import annotations

import numpy as np


def _resampling_matrix(box_in: int, apix_in: float, box_out: int, apix_out: float) -> np.ndarray:
    """Return the matrix (box_out, box_in) that resamples one axis and removes frequencies beyond the new Nyquist."""
    position = (np.arange(box_out) - box_out // 2) * (apix_out / apix_in)
    source = np.arange(box_in) - box_in // 2
    frequency = np.arange(1, box_in // 2 + 1)
    # The Nyquist frequency of either grid has no sine component and gets half the weight.
    limit = min(1.0, apix_in / apix_out) * box_in / 2
    weights = np.where(frequency < limit - 1e-6, 2.0, np.where(frequency < limit + 1e-6, 1.0, 0.0))
    phases = 2 * np.pi / box_in * (position[:, None] - source)
    matrix = np.ones_like(phases)
    for k, weight in zip(frequency, weights, strict=True):
        if weight:
            matrix += weight * np.cos(k * phases)
    # The interpolation is periodic, so points outside of the input box are set to 0.
    matrix[(position < -box_in / 2) | (position > box_in / 2 - 1 + 1e-6)] = 0.0
    return matrix / box_in


def resample(density: np.ndarray, apix_in: float, box_out: int, apix_out: float) -> np.ndarray:
    """Resample a density to `box_out`³ voxels of `apix_out` Å about the same center (voxel box/2).

    Parameters
    ----------
    density
        Density, (D, D, D), axes z, y, x.
    apix_in, apix_out
        Pixel sizes of input and output in Å.
    box_out
        Box size of the output in voxels.

    Returns
    -------
    numpy.ndarray, float32, (box_out, box_out, box_out)
        Resampled density; 0 outside of the input box.
    """
    matrix = _resampling_matrix(density.shape[0], apix_in, box_out, apix_out)
    resampled = density.astype(np.float64)
    for _ in range(3):
        # Each pass resamples the last axis and moves it to the front, so three passes restore the order of the axes.
        resampled = np.moveaxis(resampled @ matrix.T, -1, 0)
    return resampled.astype(np.float32)
