"""Random orientations and origins of simulated particles, and the errors added to them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from opustomo.geometry.euler import matrix_to_euler


@dataclass(frozen=True)
class PoseSet:
    """RELION poses: (N, 3, 3) matrices A, reference to subtomogram; (N, 3) origins x, y, z in voxels."""

    rotations: np.ndarray
    origins: np.ndarray

    @property
    def eulers_deg(self) -> np.ndarray:
        """(N, 3) rot, tilt, psi in degrees."""
        return matrix_to_euler(torch.from_numpy(self.rotations)).numpy()


def draw_poses(count: int, largest_shift: float, rng: np.random.Generator) -> PoseSet:
    """Orientations uniform on SO(3); each component of the origin uniform in ±`largest_shift` voxels."""
    rotations = Rotation.random(count, rng).as_matrix()
    return PoseSet(rotations, rng.uniform(-largest_shift, largest_shift, (count, 3)))


def disturb_poses(poses: PoseSet, angle_deg: float, shift: float, rng: np.random.Generator) -> PoseSet:
    """Poses as an earlier alignment would have found them.

    Each is turned about a random axis by a normal angle of standard deviation `angle_deg` and shifted by
    normal errors of `shift` voxels per component.
    """
    count = len(poses.rotations)
    axes = rng.normal(size=(count, 3))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    turn = Rotation.from_rotvec(axes * np.deg2rad(angle_deg) * rng.normal(size=(count, 1)))
    rotations = (Rotation.from_matrix(poses.rotations) * turn).as_matrix()
    return PoseSet(rotations, poses.origins + shift * rng.normal(size=(count, 3)))
