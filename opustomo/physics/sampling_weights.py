"""How many slices reach a voxel, and what divides plain back-projections by that."""

from __future__ import annotations

from torch import Tensor

from opustomo.physics.ctf3d import linear_kernel, slice_sampling
from opustomo.physics.fourier import half_spectrum_weights
from opustomo.physics.tilts import TiltBatch


def sampling_weights(tilts: TiltBatch, size: int, nyquist: float | None = None) -> Tensor:
    """How many slices reach a voxel, ``w = Σ W₁(d)`` over the tilts in use.

    Parameters are those of :func:`opustomo.physics.ctf3d.ctf_volume`.

    Returns
    -------
    Tensor
        (B, Dr, 1, Dr/2+1), native order; the same for all ky, as the tilt axis is y.
    """
    limit = size / 2 if nyquist is None else nyquist
    return slice_sampling(tilts, size, limit, linear_kernel)[1].sum(1)[:, :, None, :]


def division(tilts: TiltBatch, size: int, nyquist: float | None = None) -> Tensor:
    """Filters ``g ~ 1 / max(w, 1)`` that make of a plain back-projection what a normalised 3D CTF stands for.

    Where slices overlap the power of a plain back-projection's noise grows with w, that of its signal with w², so that
    an unweighted comparison sees little but the lowest frequencies. The power of white noise of the tilt images is
    kept, ``Σ w g² = Σ w``. Not in the original.

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
