"""Random orientations and origins of simulated particles, and errors added to them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from opustomo.geometry.euler import matrix_to_euler


@dataclass(frozen=True)
class PoseSet:
    """RELION poses: matrices A from reference to subtomogram, (N, 3, 3), and origins x, y, z in voxels, (N, 3)."""

    rotations: np.ndarray
    origins: np.ndarray

    @property
    def eulers_deg(self) -> np.ndarray:
        """Euler angles rot, tilt, psi in degrees, (N, 3)."""
        return matrix_to_euler(torch.from_numpy(self.rotations)).numpy()


def draw_poses(count: int, largest_shift: float, rng: np.random.Generator) -> PoseSet:
    """Draw orientations uniformly on SO(3) and each component of the origin uniformly in ±`largest_shift` voxels."""
    rotations = Rotation.random(count, rng).as_matrix()
    return PoseSet(rotations, rng.uniform(-largest_shift, largest_shift, (count, 3)))


def disturb_poses(poses: PoseSet, angle_deg: float, shift: float, rng: np.random.Generator) -> PoseSet:
    """Add errors to poses, which imitate an imperfect alignment.

    Each orientation is rotated about a random axis by a normally distributed angle with standard deviation
    `angle_deg`, and each component of the origin gets a normally distributed error with standard deviation `shift`.
    """
    count = len(poses.rotations)
    axes = rng.normal(size=(count, 3))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    errors = Rotation.from_rotvec(axes * np.deg2rad(angle_deg) * rng.normal(size=(count, 1)))
    rotations = (Rotation.from_matrix(poses.rotations) * errors).as_matrix()
    return PoseSet(rotations, poses.origins + shift * rng.normal(size=(count, 3)))
