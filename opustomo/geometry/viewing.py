"""Viewing directions: Hopf angles (phi, theta, psi) and groups of particles with similar viewing directions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from opustomo.geometry.rotations import wrap_degrees


def euler_to_hopf(eulers_deg: Tensor) -> Tensor:
    """Convert RELION Euler angles to Hopf angles.

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
    # A negative tilt equals the positive one with rot and psi changed by 180 degrees, which preserves their sum.
    phi = torch.where(tilt < 0, -rot, 180.0 - rot)
    return torch.stack((wrap_degrees(phi), tilt.abs(), wrap_degrees(-(rot + psi))), dim=-1)


def viewing_groups(eulers_deg: npt.NDArray[np.float64], nside: int = 2) -> npt.NDArray[np.int64]:
    """Return the viewing group of each particle, which is a HEALPix pixel.

    Parameters
    ----------
    eulers_deg
        RELION rot, tilt, psi in degrees, (N, 3).
    nside
        HEALPix resolution, a power of two; there are 12 nside² pixels.

    Returns
    -------
    ndarray
        Nested pixel index of the Hopf angles (phi, theta), int64 (N,).
    """
    import healpy

    angles = np.asarray(eulers_deg, dtype=np.float64)
    if angles.ndim != 2 or angles.shape[1] != 3:
        raise ValueError(f"Euler angles must have the shape (N, 3), not {angles.shape}")
    phi, theta, _ = torch.deg2rad(euler_to_hopf(torch.from_numpy(angles))).unbind(-1)
    pixels = healpy.ang2pix(nside, theta.clamp(0, np.pi).numpy(), phi.numpy(), nest=True)
    return np.asarray(pixels, dtype=np.int64)
