"""Real-input 3D Fourier transforms in native (unshifted) order.

All boxes are even with their real-space centre at D/2. Filters applied here are real and even, and the centring phases
(-1)^k of box and cropped box are the same, so neither filters nor crops need an ``fftshift``.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor


def rfft3(volumes: Tensor) -> Tensor:
    """Transform real volumes (..., D, D, D) to half spectra (..., D, D, D/2+1); order z, y, x."""
    return torch.fft.rfftn(volumes, dim=(-3, -2, -1))


def irfft3(spectra: Tensor) -> Tensor:
    """Inverse of :func:`rfft3` for even boxes: (..., D, D, D/2+1) to (..., D, D, D)."""
    size = spectra.shape[-2]
    return torch.fft.irfftn(spectra, s=(size, size, size), dim=(-3, -2, -1))


def frequencies(size: int, device: torch.device | str | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Frequencies kz, ky, kx in voxels (integers as float32), shaped to broadcast to (D, D, D/2+1)."""
    full = torch.fft.fftfreq(size, d=1.0 / size, device=device)
    half = torch.arange(size // 2 + 1, device=device, dtype=full.dtype)
    return full[:, None, None], full[None, :, None], half[None, None, :]


def squared_radius(size: int, device: torch.device | str | None = None) -> Tensor:
    """k² in (cycles/pixel)² on the half spectrum (D, D, D/2+1)."""
    kz, ky, kx = frequencies(size, device)
    return (kz**2 + ky**2 + kx**2) / size**2


def crop_spectrum(spectra: Tensor, size: int) -> Tensor:
    """Keep the low frequencies of half spectra (..., D, D, D/2+1): the transform of the volume resampled to ``size``.

    Frequencies -size/2 … size/2-1 along z and y and 0 … size/2 along x remain, times (size/D)³ so that densities keep
    their values.
    """
    full = spectra.shape[-2]
    if size > full or size % 2:
        raise ValueError(f"cannot crop a spectrum of box {full} to {size}: need an even size of at most {full}")
    if size == full:
        return spectra
    half = size // 2
    keep = torch.arange(size, device=spectra.device)
    keep = torch.where(keep < half, keep, keep + (full - size))
    kept = spectra[..., : half + 1].index_select(-3, keep).index_select(-2, keep)
    return kept * (size / full) ** 3


def shift_phases(shift_px: Tensor, box: int, size: int) -> Tensor:
    """Phases that move content by ``shift_px`` (pixels of ``box``): exp(-2πi k·shift/box).

    Parameters
    ----------
    shift_px
        (B, 3), x, y, z.
    box
        Box in whose pixels the shift is given.
    size
        Box of the (possibly cropped) spectra the phases are for.

    Returns
    -------
    Tensor
        (B, size, size, size/2+1), complex64 (complex128 for float64 shifts).
    """
    kz, ky, kx = (k.flatten().to(shift_px) for k in frequencies(size, shift_px.device))
    angle = -2.0 * math.pi / box * shift_px
    along = [torch.polar(torch.ones_like(a), a) for a in (angle[:, i, None] * k for i, k in enumerate((kx, ky, kz)))]
    return along[2][:, :, None, None] * along[1][:, None, :, None] * along[0][:, None, None, :]


def centred_full(half: Tensor) -> Tensor:
    """Real, even half spectra (..., D, D, D/2+1) as people look at them: (..., D, D, D), zero frequency at D/2."""
    size = half.shape[-2]
    mates = half[..., 1 : size // 2].flip(-3, -2, -1).roll((1, 1), (-3, -2))  # c(-k) = c(k)
    return torch.fft.fftshift(torch.cat([half, mates], -1), dim=(-3, -2, -1))


@lru_cache
def half_spectrum_weights(size: int, device: torch.device | str | None = None) -> Tensor:
    """How often each kx of a half spectrum stands in the full one: 1 at 0 and Nyquist, else 2; (D/2+1,)."""
    kx = torch.arange(size // 2 + 1, device=device)
    return 2.0 - ((kx == 0) | (kx == size // 2)).float()


def crop_centre(volumes: Tensor, size: int) -> Tensor:
    """Central cube of (..., D, D, D), voxel D/2 going to size/2."""
    start = volumes.shape[-1] // 2 - size // 2
    return volumes[..., start : start + size, start : start + size, start : start + size]


def pad_centre(volumes: Tensor, size: int) -> Tensor:
    """Zero-pad (..., D, D, D) to ``size``, voxel D/2 going to size/2."""
    before = size // 2 - volumes.shape[-1] // 2
    after = size - volumes.shape[-1] - before
    return torch.nn.functional.pad(volumes, (before, after) * 3)
