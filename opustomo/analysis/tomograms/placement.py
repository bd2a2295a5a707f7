"""Volumes of particles at their places and in their orientations in a tomogram."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class TomogramGrid:
    """Voxel grid of a tomogram.

    Attributes
    ----------
    shape
        Number of voxels along z, y, x.
    apix
        Pixel size in Å.
    """

    shape: tuple[int, int, int]
    apix: float

    def resampled(self, apix: float) -> TomogramGrid:
        """Return a grid of another pixel size that spans the same volume from the same first voxel."""
        shape = tuple(max(1, round(size * self.apix / apix)) for size in self.shape)
        return TomogramGrid((shape[0], shape[1], shape[2]), apix)


@dataclass(frozen=True)
class PlacedMap:
    """Part of a tomogram that holds placed volumes.

    Attributes
    ----------
    voxels
        Densities, axes z, y, x, float32; 0 where no particle lies.
    first
        Index of the first voxel along z, y, x in the grid of the tomogram.
    count
        Number of particles that lie at least partly inside the tomogram.
    """

    voxels: np.ndarray
    first: tuple[int, int, int]
    count: int


def place_volumes(
    grid: TomogramGrid,
    centers_A: np.ndarray,
    rotations: np.ndarray,
    volumes: Iterable[np.ndarray],
    volume_apix: float,
) -> PlacedMap:
    """Place one volume for each particle.

    A voxel at x holds ``V(Aᵀ (x - c))``, trilinearly interpolated. Where volumes overlap, the larger density is kept,
    and negative densities become 0.

    Parameters
    ----------
    grid
        Grid of the tomogram.
    centers_A
        Centers x, y, z relative to the first voxel in Å, shape (n, 3).
    rotations
        Matrices A that take reference to tomogram coordinates, x, y, z order, shape (n, 3, 3).
    volumes
        Volumes (m, m, m), axes z, y, x, with the center of rotation at voxel m/2, one for each particle.
    volume_apix
        Pixel size of the volumes in Å.
    """
    from scipy.ndimage import affine_transform

    shape = np.array(grid.shape)
    at = centers_A[:, ::-1] / grid.apix  # z, y, x in voxels of the tomogram
    placed, low, high, count = None, np.zeros(3, int), shape, 0
    for center, rotation, volume in zip(at, rotations, volumes, strict=True):
        size = len(volume)
        half = size / 2 * volume_apix / grid.apix
        if placed is None:
            low = np.clip(np.floor(at.min(axis=0) - half).astype(int), 0, shape - 1)
            high = np.clip(np.ceil(at.max(axis=0) + half).astype(int) + 1, low + 1, shape)
            placed = np.zeros(high - low, dtype=np.float32)
        first = np.maximum(np.floor(center - half).astype(int), low)
        last = np.minimum(np.ceil(center + half).astype(int) + 1, high)
        if (first >= last).any():
            continue
        # Aᵀ in z, y, x order, from voxels of the tomogram to voxels of the volume.
        matrix = rotation.T[::-1, ::-1] * (grid.apix / volume_apix)
        offset = size // 2 + matrix @ (first - center)
        turned = affine_transform(volume, matrix, offset, output_shape=tuple(last - first), order=1)
        part = tuple(slice(a, b) for a, b in zip(first - low, last - low, strict=True))
        np.maximum(placed[part], turned, out=placed[part])
        count += 1
    if placed is None:
        placed = np.zeros((1, 1, 1), dtype=np.float32)
    return PlacedMap(placed, (int(low[0]), int(low[1]), int(low[2])), count)
