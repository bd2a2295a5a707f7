"""B-factor envelopes of the data and the model side (docs/method.md, section 2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from opustomo.physics.fourier import frequencies, squared_radius


def sharpening(size: int, bfactor_px: Tensor) -> Tensor:
    """``exp(π² b k²)`` on the half spectrum, k in cycles/pixel; negative b blurs.

    Parameters
    ----------
    size
        Box.
    bfactor_px
        (B,), b in pixel² (bfactor in Å² over pixel size squared).

    Returns
    -------
    Tensor
        (B, size, size, size/2+1).
    """
    k2 = squared_radius(size, bfactor_px.device).to(bfactor_px)
    return torch.exp(math.pi**2 * bfactor_px.view(-1, 1, 1, 1) * k2)


def model_envelope(size: int, bfactor_px: Tensor) -> Tensor:
    """``exp(-π² b/2 k² (1 + |atan2(kz, kx)|))``: damping that grows with the tilt of the slice through k; kx ≥ 0.

    Shapes as in :func:`sharpening`.
    """
    kz, _, kx = (k.to(bfactor_px) for k in frequencies(size, bfactor_px.device))
    tilt = torch.atan2(kz.abs(), kx)  # 0 … π/2
    exponent = squared_radius(size, bfactor_px.device).to(bfactor_px) * (1.0 + tilt)
    return torch.exp(-0.5 * math.pi**2 * bfactor_px.view(-1, 1, 1, 1) * exponent)
