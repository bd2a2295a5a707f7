"""Candidate rotations tried around the current pose (spec 1, "Candidate rotations").

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
