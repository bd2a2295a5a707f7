"""Groups of particles that are seen from nearly the same direction."""

import numpy as np
import numpy.typing as npt
import torch

from opustomo.geometry.hopf import euler_to_hopf


def viewing_groups(eulers_deg: npt.NDArray[np.float64], nside: int = 2) -> npt.NDArray[np.int64]:
    """Number the HEALPix pixel each particle is seen from.

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
