"""A soft solvent mask that covers every state of a simulated set."""

from __future__ import annotations

import numpy as np
from scipy import ndimage


def covering_mask(
    volumes: np.ndarray, apix: float, *, level: float = 0.05, margin: float = 2.0
) -> np.ndarray:
    """Mask around everything that any of the volumes shows above `level` of its maximum.

    Parameters
    ----------
    volumes
        (K, D, D, D) densities, protein bright.
    apix
        Pixel size in Å; the soft edge is a raised cosine of about 24 Å, at least 3 voxels.
    level
        Fraction of each volume's maximum.
    margin
        Voxels between the density and the soft edge.

    Returns
    -------
    float32 (D, D, D), 0 … 1; 1 wherever a volume is above its level.
    """
    inside = np.zeros(volumes.shape[1:], dtype=bool)
    for volume in volumes:
        inside |= volume > level * volume.max()
    edge = max(3.0, 24.0 / apix)
    distance = ndimage.distance_transform_edt(~inside) - margin
    return (0.5 + 0.5 * np.cos(np.pi * np.clip(distance / edge, 0.0, 1.0))).astype(np.float32)
