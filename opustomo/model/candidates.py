"""Rotations around the current pose: those of the slopes, and the candidates of OPUS-TOMO.

The eight candidates of OPUS-TOMO omit the identity, and their mean is a rotation by 1.3°, which the template adopts.
The set for the slopes contains the identity and rotations by ± one angle about each axis.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

DEFAULT_ANGLE_DEG = 1.46


def symmetric_candidates(angle_deg: float = DEFAULT_ANGLE_DEG) -> Tensor:
    """Return the identity and rotations by ± ``angle_deg`` about x, y and z, (7, 3, 3)."""
    axes = np.concatenate([np.zeros((1, 3)), np.eye(3), -np.eye(3)])
    matrices = Rotation.from_rotvec(np.radians(angle_deg) * axes).as_matrix()
    return torch.from_numpy(matrices).float()


def original_candidates() -> Tensor:
    """Return the rotations of OPUS-TOMO, R(φ, θ, 0) at the HEALPix neighbors of the pixel at the pole, (8, 3, 3)."""
    rings = (1.46, (135, 225, 315)), (2.92, (22.5, 67.5, 112.5, 337.5)), (4.39, (45,))
    hopf = np.radians([(phi, theta) for theta, ring in rings for phi in ring])
    phi, theta = hopf.T
    vectors = theta[:, None] * np.stack([np.sin(phi), np.cos(phi), np.zeros_like(phi)], 1)
    return torch.from_numpy(Rotation.from_rotvec(vectors).as_matrix()).float()


def candidate_rotations(kind: str) -> Tensor:
    """Return the candidates of a kind, ``symmetric`` or ``original``.

    Raises
    ------
    ValueError
        If the kind is neither.
    """
    kinds = {"symmetric": symmetric_candidates, "original": original_candidates}
    if kind not in kinds:
        raise ValueError(f"candidates must be symmetric or original, got {kind}")
    return kinds[kind]()
