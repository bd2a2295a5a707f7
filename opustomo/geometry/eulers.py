"""Euler angles of RELION, without PyTorch, so that programs that only convert tables start at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def euler_matrices(eulers_deg: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Convert RELION Euler angles to the matrix `A = Rz(psi) Ry(tilt) Rz(rot)`.

    Parameters
    ----------
    eulers_deg
        rot, tilt, psi in degrees, (..., 3).

    Returns
    -------
    ndarray
        Rotation matrices (..., 3, 3), `x_subtomogram = A x_reference`.
    """
    angles = np.deg2rad(eulers_deg)
    cosines, sines = np.moveaxis(np.cos(angles), -1, 0), np.moveaxis(np.sin(angles), -1, 0)
    (ca, cb, cg), (sa, sb, sg) = cosines, sines
    rows = (
        (cg * cb * ca - sg * sa, cg * cb * sa + sg * ca, -cg * sb),
        (-sg * cb * ca - cg * sa, -sg * cb * sa + cg * ca, sg * sb),
        (sb * ca, sb * sa, cb),
    )
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)
