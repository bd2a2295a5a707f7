"""Hopf angles (phi, theta, psi): viewing direction on the sphere, and turn in the plane.

The quaternion `(cos(theta/2) cos(psi/2), sin(theta/2) sin(phi - psi/2), sin(theta/2) cos(phi - psi/2),
cos(theta/2) sin(psi/2))` is RELION's A itself, and `A = Rz(-psi) R(phi, theta, 0)`.
"""

import torch
from torch import Tensor

from opustomo.geometry.euler import wrap_degrees
from opustomo.geometry.quaternion import quaternion_to_matrix


def euler_to_hopf(eulers_deg: Tensor) -> Tensor:
    """Turn RELION Euler angles into Hopf angles.

    Parameters
    ----------
    eulers_deg
        rot, tilt, psi in degrees, (..., 3); any tilt.

    Returns
    -------
    Tensor
        phi in [-180, 180), theta in [0, 180], psi in [-180, 180) degrees, (..., 3).
    """
    rot, tilt, psi = eulers_deg.unbind(-1)
    tilt = wrap_degrees(tilt)
    # a negative tilt is the positive one with rot and psi turned by 180 degrees each; their sum stays
    phi = torch.where(tilt < 0, -rot, 180.0 - rot)
    return torch.stack((wrap_degrees(phi), tilt.abs(), wrap_degrees(-(rot + psi))), dim=-1)


def hopf_to_euler(hopf_deg: Tensor) -> Tensor:
    """Turn Hopf angles (..., 3) into RELION rot, tilt, psi in degrees, (..., 3)."""
    phi, theta, psi = hopf_deg.unbind(-1)
    rot = 180.0 - phi
    return torch.stack((wrap_degrees(rot), theta, wrap_degrees(-psi - rot)), dim=-1)


def hopf_to_matrix(hopf_deg: Tensor) -> Tensor:
    """Turn Hopf angles (..., 3) in degrees into RELION matrices A, (..., 3, 3)."""
    phi, theta, psi = torch.deg2rad(hopf_deg).unbind(-1)
    cos_half, sin_half = torch.cos(theta / 2), torch.sin(theta / 2)
    quaternion = torch.stack(
        (
            cos_half * torch.cos(psi / 2),
            sin_half * torch.sin(phi - psi / 2),
            sin_half * torch.cos(phi - psi / 2),
            cos_half * torch.sin(psi / 2),
        ),
        dim=-1,
    )
    return quaternion_to_matrix(quaternion)
