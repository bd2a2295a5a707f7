"""Densities with known answers."""

from __future__ import annotations

import numpy as np

BOX = 32


def gaussian_blob(centre_xyz: np.ndarray, sigma: float = 1.6, box: int = BOX) -> np.ndarray:
    """Density (box, box, box) of one Gaussian at `centre_xyz` voxels from the centre of the box."""
    axis = np.arange(box) - box // 2
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    squared = (x - centre_xyz[0]) ** 2 + (y - centre_xyz[1]) ** 2 + (z - centre_xyz[2]) ** 2
    return np.exp(-0.5 * squared / sigma**2).astype(np.float32)


def centroid(density: np.ndarray) -> np.ndarray:
    """Centre of mass x, y, z of |density|^3, in voxels from the centre of the box."""
    weight = np.abs(density.astype(np.float64)) ** 3
    axis = np.arange(density.shape[0]) - density.shape[0] // 2
    sums = [weight.sum(axis=other) @ axis for other in ((0, 1), (0, 2), (1, 2))]
    return np.array(sums) / weight.sum()
