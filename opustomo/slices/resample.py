"""Band-limited resampling of densities to another box and pixel size."""

from __future__ import annotations

import numpy as np


def _resampling_matrix(box_in: int, apix_in: float, box_out: int, apix_out: float) -> np.ndarray:
    """(box_out, box_in) matrix: one axis at the new points, without the frequencies they cannot hold."""
    position = (np.arange(box_out) - box_out // 2) * (apix_out / apix_in)
    source = np.arange(box_in) - box_in // 2
    frequency = np.arange(1, box_in // 2 + 1)
    # a frequency at Nyquist, of either grid, has no sine partner: it enters by half
    limit = min(1.0, apix_in / apix_out) * box_in / 2
    share = np.where(frequency < limit - 1e-6, 2.0, np.where(frequency < limit + 1e-6, 1.0, 0.0))
    turns = 2 * np.pi / box_in * (position[:, None] - source)
    matrix = np.ones_like(turns)
    for k, weight in zip(frequency, share, strict=True):
        if weight:
            matrix += weight * np.cos(k * turns)
    # the interpolation is periodic: outside the old box there is nothing
    matrix[(position < -box_in / 2) | (position > box_in / 2 - 1 + 1e-6)] = 0.0
    return matrix / box_in


def resample(density: np.ndarray, apix_in: float, box_out: int, apix_out: float) -> np.ndarray:
    """Density on a grid of `box_out`³ voxels of `apix_out` Å, same centre (voxel box/2) and values.

    Parameters
    ----------
    density
        (D, D, D), axes z, y, x.
    apix_in, apix_out
        Pixel sizes in Å.

    Returns
    -------
    float32 array (box_out, box_out, box_out); zero outside the old box.
    """
    matrix = _resampling_matrix(density.shape[0], apix_in, box_out, apix_out)
    work = density.astype(np.float64)
    for _ in range(3):
        # each pass resamples the last axis and moves it to the front; after three the axes are back in order
        work = np.moveaxis(work @ matrix.T, -1, 0)
    return work.astype(np.float32)
