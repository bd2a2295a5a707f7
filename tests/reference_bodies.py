"""Reference of moving bodies (docs/method.md, section 6): voxel by voxel in float64, independent of the package."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from opustomo.geometry.rigid_bodies import BodyGeometry


@dataclass(frozen=True)
class Grid:
    """Boxes D, Dr, Dc."""

    box: int
    render: int
    crop: int

    @property
    def unit(self) -> float:
        """Return the grid units per voxel of the input box: divided by D, times 2 Dr/(Dc - 1)."""
        return 2.0 * self.render / (self.crop - 1) / self.box

    @property
    def e(self) -> float:
        """Return voxel Dc/2 on the grid."""
        return 1.0 / (self.crop - 1)


def slow_grid(
    rotation: np.ndarray, turns: np.ndarray, swings: np.ndarray, geometry: BodyGeometry, boxes: Grid
) -> np.ndarray:
    """Return g on Dc/2 points per side, (z, y, x, 3), from voxel Dc/2; rotations (K, 3, 3) in frames of bodies."""
    at = np.linspace(-1.0, 1.0, boxes.crop // 2)
    grid = np.zeros((len(at),) * 3 + (3,))
    for place in np.ndindex(grid.shape[:3]):
        x = np.array([at[place[2]], at[place[1]], at[place[0]]]) - boxes.e
        total, weights = np.zeros(3), 0.0
        for b in range(len(geometry)):
            orient = geometry.array("orient_bodies")[b]
            com = geometry.array("com_bodies")[b] * boxes.unit
            lever = geometry.array("rotate_directions")[b] * boxes.unit
            r_b = orient.T @ turns[b] @ orient
            s_b = orient.T @ swings[b] @ orient @ lever - lever
            u = (rotation @ r_b).T @ (x - rotation @ com) + s_b
            scaled = geometry.array("principal_axes")[b] @ u / (geometry.array("radii_bodies")[b] * boxes.unit)
            w = np.exp(-0.2 * (scaled**2).sum()) + 1e-5
            total += w * (u + com)
            weights += w
        grid[place] = total / weights
    return grid


def upsampled(grid: np.ndarray, size: int) -> np.ndarray:
    """Interpolate trilinearly to (size³, 3); end points are kept."""
    fine = np.linspace(0, len(grid) - 1, size)
    at = np.stack(np.meshgrid(fine, fine, fine, indexing="ij"))
    return np.stack([map_coordinates(grid[..., c], at, order=1).ravel() for c in range(3)], -1)


def rotation_of(numbers: np.ndarray) -> np.ndarray:
    """Return the rotation of the quaternion (16, a)."""
    return Rotation.from_quat([*numbers, 16.0]).as_matrix()


def pulled_grid(rotation: np.ndarray, rows: np.ndarray, geometry: BodyGeometry, boxes: Grid) -> np.ndarray:
    """Return g at all voxels of the crop from the rows of the head of the bodies (K, 6): (Dc³, 3)."""
    turns, swings = (np.stack([rotation_of(row[part]) for row in rows]) for part in (slice(0, 3), slice(3, 6)))
    return upsampled(slow_grid(rotation, turns, swings, geometry, boxes), boxes.crop)


def sample_at(volume: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Sample a volume that spans [-1, 1] trilinearly at grid positions (n, 3), x, y, z; zero outside."""
    index = (positions[:, ::-1] + 1.0) * (len(volume) - 1) / 2
    return map_coordinates(volume, index.T, order=1, mode="grid-constant")
