"""Soft solvent mask that covers all states of a simulated data set."""

from __future__ import annotations

import numpy as np
from scipy import ndimage


def covering_mask(volumes: np.ndarray, apix: float, *, level: float = 0.1) -> np.ndarray:
    """Compute a soft mask around the density of all volumes above `level` of their maximum.

    The mask extends the density by a margin of 12 Å (at least one voxel) and has a raised-cosine edge of 24 Å (at
    least 2 voxels).

    Parameters
    ----------
    volumes
        Densities, (K, D, D, D), protein bright.
    apix
        Pixel size in Å.
    level
        Threshold as a fraction of the maximum of each volume; ringing of a resampled volume is below 0.1.

    Returns
    -------
    numpy.ndarray, float32, (D, D, D)
        Mask between 0 and 1; 1 wherever a volume exceeds its threshold.
    """
    inside = np.zeros(volumes.shape[1:], dtype=bool)
    for volume in volumes:
        inside |= volume > level * volume.max()
    margin, edge = max(1.0, 12.0 / apix), max(2.0, 24.0 / apix)
    distance = ndimage.distance_transform_edt(~inside) - margin
    return (0.5 + 0.5 * np.cos(np.pi * np.clip(distance / edge, 0.0, 1.0))).astype(np.float32)
