"""How many slices reach a voxel, and what divides plain back-projections by that."""

from __future__ import annotations

import torch
from torch import Tensor

from opustomo.physics.ctf3d import linear_kernel, slice_coordinates
from opustomo.physics.fourier import half_spectrum_weights
from opustomo.physics.tilts import TiltBatch


def sampling_weights(tilts: TiltBatch, size: int, nyquist: float | None = None) -> Tensor:
    """How many slices reach a voxel, ``w = Σ W₁(d)`` over the tilts in use.

    Parameters
    ----------
    tilts
        Fields (B, T).
    size
        Side Dr of the grid, voxels.
    nyquist
        |x'| in voxels at which a slice ends; Dr/2 by default.

    Returns
    -------
    Tensor
        (B, Dr, 1, Dr/2+1), native order; the same for all ky, as the tilt axis is y.
    """
    in_plane, distance = slice_coordinates(tilts, size)
    used = (in_plane.abs() <= (size / 2 if nyquist is None else nyquist)) & (tilts.scale[..., None, None] > 0)
    return torch.where(used, linear_kernel(distance), 0.0).sum(1)[:, :, None, :]


def division(tilts: TiltBatch, size: int, nyquist: float | None = None) -> Tensor:
    """Filters ``g ~ 1 / max(w, 1)`` that make of a plain back-projection what a normalised 3D CTF stands for.

    Where slices overlap noise of a plain back-projection grows with w and signal with w too, so that an unweighted
    comparison of these sees little but the lowest frequencies. The power of white noise of the tilt images is kept,
    ``Σ w g² = Σ w``. Not in the original.

    Returns
    -------
    Tensor
        (B, Dr, 1, Dr/2+1), native order.
    """
    weights = sampling_weights(tilts, size, nyquist)
    filters = weights.clamp(min=1.0).reciprocal()
    noise = weights * half_spectrum_weights(size, weights.device)
    kept = noise.sum((1, 2, 3)) / (noise * filters.square()).sum((1, 2, 3)).clamp(min=1e-12)
    return filters * kept.sqrt()[:, None, None, None]
