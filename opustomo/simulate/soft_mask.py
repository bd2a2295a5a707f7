"""A soft solvent mask that covers every state of a simulated set."""

from __future__ import annotations

import numpy as np
from scipy import ndimage


def covering_mask(volumes: np.ndarray, apix: float, *, level: float = 0.1) -> np.ndarray:
    """Mask around everything that any of the volumes shows above `level` of its maximum.

    Parameters
    ----------
    volumes
        (K, D, D, D) densities, protein bright.
    apix
        Pixel size in Å. The density gets a margin of 12 Å (at least a voxel), then a soft edge, a raised
        cosine of 24 Å (at least 2 voxels).
    level
        Fraction of each volume's maximum; ringing of a resampled volume stays below a tenth.

    Returns
    -------
    float32 (D, D, D), 0 … 1; 1 wherever a volume is above its level.
    """
    inside = np.zeros(volumes.shape[1:], dtype=bool)
    for volume in volumes:
        inside |= volume > level * volume.max()
    margin, edge = max(1.0, 12.0 / apix), max(2.0, 24.0 / apix)
    distance = ndimage.distance_transform_edt(~inside) - margin
    return (0.5 + 0.5 * np.cos(np.pi * np.clip(distance / edge, 0.0, 1.0))).astype(np.float32)
