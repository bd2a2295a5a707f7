"""Random changes of poses, to test how much of them a training recovers."""

import numpy as np
import numpy.typing as npt
import torch

from opustomo.geometry.euler import euler_to_matrix, matrix_to_euler
from opustomo.geometry.quaternion import quaternion_to_matrix


def perturb_eulers(
    eulers_deg: npt.NDArray[np.float64], max_angle_deg: float, generator: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Turn every orientation about a random axis, by an angle uniform between -max and +max.

    Parameters
    ----------
    eulers_deg
        RELION rot, tilt, psi in degrees, (N, 3).
    max_angle_deg
        Largest angle in degrees.
    generator
        Source of the random numbers.

    Returns
    -------
    ndarray
        RELION rot, tilt, psi in degrees, float64 (N, 3).
    """
    axes = generator.standard_normal((len(eulers_deg), 3))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    half = np.deg2rad(generator.uniform(-max_angle_deg, max_angle_deg, (len(eulers_deg), 1))) / 2
    turns = quaternion_to_matrix(torch.from_numpy(np.hstack([np.cos(half), np.sin(half) * axes])))
    matrices = turns @ euler_to_matrix(torch.from_numpy(np.asarray(eulers_deg, dtype=np.float64)))
    turned: npt.NDArray[np.float64] = matrix_to_euler(matrices).numpy()
    return turned
