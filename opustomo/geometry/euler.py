"""RELION Euler angles and rotation matrices.

Angles are degrees, vectors are (x, y, z). `A` takes reference coordinates to subtomogram coordinates.
"""

import torch
from torch import Tensor


def wrap_degrees(angles: Tensor) -> Tensor:
    """Bring angles into [-180, 180)."""
    return torch.remainder(angles + 180.0, 360.0) - 180.0


def euler_to_matrix(eulers_deg: Tensor) -> Tensor:
    """Turn RELION Euler angles into the matrix `A = Rz(psi) Ry(tilt) Rz(rot)`.

    Parameters
    ----------
    eulers_deg
        rot, tilt, psi in degrees, (..., 3).

    Returns
    -------
    Tensor
        Rotation matrices (..., 3, 3), `x_subtomogram = A x_reference`.
    """
    rot, tilt, psi = torch.deg2rad(eulers_deg).unbind(-1)
    ca, sa = rot.cos(), rot.sin()
    cb, sb = tilt.cos(), tilt.sin()
    cg, sg = psi.cos(), psi.sin()
    rows = (
        (cg * cb * ca - sg * sa, cg * cb * sa + sg * ca, -cg * sb),
        (-sg * cb * ca - cg * sa, -sg * cb * sa + cg * ca, sg * sb),
        (sb * ca, sb * sa, cb),
    )
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def matrix_to_euler(matrices: Tensor) -> Tensor:
    """Turn RELION matrices into Euler angles.

    psi is found from the matrix and the rot already chosen, so that the three angles always give the matrix
    back; at the poles, where only a sum or difference of rot and psi is defined, rot is 0.

    Parameters
    ----------
    matrices
        Rotation matrices A, (..., 3, 3).

    Returns
    -------
    Tensor
        rot in [-180, 180], tilt in [0, 180], psi in [-180, 180] degrees, (..., 3).
    """
    sin_tilt = torch.hypot(matrices[..., 2, 0], matrices[..., 2, 1])
    tilt = torch.atan2(sin_tilt, matrices[..., 2, 2])
    at_pole = sin_tilt < 4 * torch.finfo(matrices.dtype).eps
    # the safe second branch keeps gradients finite at the pole
    x = torch.where(at_pole, torch.ones_like(sin_tilt), matrices[..., 2, 0])
    y = torch.where(at_pole, torch.zeros_like(sin_tilt), matrices[..., 2, 1])
    rot = torch.atan2(y, x)
    # A Rz(rot)^T = Rz(psi) Ry(tilt), whose second column is (sin psi, cos psi, 0)
    sin_psi = matrices[..., 0, 1] * rot.cos() - matrices[..., 0, 0] * rot.sin()
    cos_psi = matrices[..., 1, 1] * rot.cos() - matrices[..., 1, 0] * rot.sin()
    psi = torch.atan2(sin_psi, cos_psi)
    return torch.rad2deg(torch.stack((rot, tilt, psi), dim=-1))
