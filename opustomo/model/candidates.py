"""Rotations around the pose in use: those of the slopes, and OPUS-TOMO's candidates.

The original's eight leave out the identity and average to a 1.3° turn, which the template then takes up. This set
holds the identity and turns of ± one angle about each axis, so that it keeps the consensus frame.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

DEFAULT_ANGLE_DEG = 1.46


def symmetric_candidates(angle_deg: float = DEFAULT_ANGLE_DEG) -> Tensor:
    """Identity and ± ``angle_deg`` about x, y and z: (7, 3, 3)."""
    axes = np.concatenate([np.zeros((1, 3)), np.eye(3), -np.eye(3)])
    matrices = Rotation.from_rotvec(np.radians(angle_deg) * axes).as_matrix()
    return torch.from_numpy(matrices).float()


def original_candidates() -> Tensor:
    """The original's eight turns, R(φ, θ, 0) at the HEALPix neighbours of the pixel at the pole: (8, 3, 3)."""
    rings = (1.46, (135, 225, 315)), (2.92, (22.5, 67.5, 112.5, 337.5)), (4.39, (45,))
    hopf = np.radians([(phi, theta) for theta, ring in rings for phi in ring])
    phi, theta = hopf.T
    vectors = theta[:, None] * np.stack([np.sin(phi), np.cos(phi), np.zeros_like(phi)], 1)
    return torch.from_numpy(Rotation.from_rotvec(vectors).as_matrix()).float()


def candidate_rotations(kind: str) -> Tensor:
    """Candidates of a kind, ``symmetric`` or ``original``.

    Raises
    ------
    ValueError
        Another kind.
    """
    kinds = {"symmetric": symmetric_candidates, "original": original_candidates}
    if kind not in kinds:
        raise ValueError(f"candidates must be symmetric or original, got {kind}")
    return kinds[kind]()
