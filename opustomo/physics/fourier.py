"""Real-input 3D Fourier transforms in native (unshifted) order.

All boxes are even and centered at voxel D/2. Filters are real and even, and a box and its cropped box have the same
centering phases (-1)^k, so neither filters nor crops need an ``fftshift``.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor


def rfft3(volumes: Tensor) -> Tensor:
    """Return the half spectra (..., D, D, D/2+1) of real volumes (..., D, D, D), axes z, y, x."""
    return torch.fft.rfftn(volumes, dim=(-3, -2, -1))


def irfft3(spectra: Tensor) -> Tensor:
    """Return the volumes (..., D, D, D) of half spectra (..., D, D, D/2+1), the inverse of :func:`rfft3`; D even."""
    size = spectra.shape[-2]
    return torch.fft.irfftn(spectra, s=(size, size, size), dim=(-3, -2, -1))


def frequencies(size: int, device: torch.device | str | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Return the frequencies kz, ky, kx in Fourier voxels as float32, broadcastable to (D, D, D/2+1)."""
    full = torch.fft.fftfreq(size, d=1.0 / size, device=device)
    half = torch.arange(size // 2 + 1, device=device, dtype=full.dtype)
    return full[:, None, None], full[None, :, None], half[None, None, :]


def squared_radius(size: int, device: torch.device | str | None = None) -> Tensor:
    """Return the squared frequency k² in (cycles/pixel)² on the half spectrum, (D, D, D/2+1)."""
    kz, ky, kx = frequencies(size, device)
    return (kz**2 + ky**2 + kx**2) / size**2


def crop_spectrum(spectra: Tensor, size: int) -> Tensor:
    """Crop half spectra (..., D, D, D/2+1) to the low frequencies, which downsamples the volume to a box of ``size``.

    Frequencies -size/2 … size/2-1 along z and y and 0 … size/2 along x are kept and multiplied by (size/D)³, so that
    densities keep their values.
    """
    full = spectra.shape[-2]
    if size > full or size % 2:
        raise ValueError(f"cannot crop a spectrum of box {full} to {size}: expected an even size of at most {full}")
    if size == full:
        return spectra
    half = size // 2
    keep = torch.arange(size, device=spectra.device)
    keep = torch.where(keep < half, keep, keep + (full - size))
    kept = spectra[..., : half + 1].index_select(-3, keep).index_select(-2, keep)
    return kept * (size / full) ** 3


def pad_spectrum(spectra: Tensor, size: int) -> Tensor:
    """Pad half spectra (..., D, D, D/2+1) with zeros to a box of ``size``, the inverse of :func:`crop_spectrum`."""
    small = spectra.shape[-2]
    if size == small:
        return spectra
    if size < small or size % 2:
        raise ValueError(f"cannot pad a spectrum of box {small} to {size}: expected an even size of at least {small}")
    half = small // 2
    place = torch.arange(small, device=spectra.device)
    place = torch.where(place < half, place, place + (size - small))
    padded = spectra.new_zeros(*spectra.shape[:-3], size, size, size // 2 + 1)
    padded[..., place[:, None], place, : half + 1] = spectra * (size / small) ** 3
    return padded


def crop_in_fourier_space(volumes: Tensor, size: int) -> Tensor:
    """Return real volumes (..., D, D, D) on a grid of `size` voxels per axis, whose frequencies they keep."""
    return irfft3(crop_spectrum(rfft3(volumes), size))


def shift_phases(shift_px: Tensor, box: int, size: int) -> Tensor:
    """Return the phase factors exp(-2πi k·shift/box) that shift a density.

    Parameters
    ----------
    shift_px
        Shifts (x, y, z) in pixels of ``box``, (B, 3).
    box
        Box size that defines the pixels of the shifts.
    size
        Box size of the spectra, which may be cropped.

    Returns
    -------
    Tensor
        (B, size, size, size/2+1), complex64 (complex128 for float64 shifts).
    """
    kz, ky, kx = (k.flatten().to(shift_px) for k in frequencies(size, shift_px.device))
    angle = -2.0 * math.pi / box * shift_px
    factors = [torch.polar(torch.ones_like(a), a) for a in (angle[:, i, None] * k for i, k in enumerate((kx, ky, kz)))]
    return factors[2][:, :, None, None] * factors[1][:, None, :, None] * factors[0][:, None, None, :]


def centered_full(half: Tensor) -> Tensor:
    """Return full spectra (..., D, D, D) of real, even half spectra (..., D, D, D/2+1), zero frequency at D/2."""
    size = half.shape[-2]
    mates = half[..., 1 : size // 2].flip(-3, -2, -1).roll((1, 1), (-3, -2))  # c(-k) = c(k)
    return torch.fft.fftshift(torch.cat([half, mates], -1), dim=(-3, -2, -1))


@lru_cache
def half_spectrum_weights(size: int, device: torch.device | str | None = None) -> Tensor:
    """Return the multiplicity of each kx of a half spectrum in the full one, (D/2+1,): 1 at 0 and Nyquist, else 2."""
    kx = torch.arange(size // 2 + 1, device=device)
    return 2.0 - ((kx == 0) | (kx == size // 2)).float()


def crop_center(volumes: Tensor, size: int) -> Tensor:
    """Crop volumes (..., D, D, D) to the central cube of ``size``, so that voxel D/2 becomes voxel size/2."""
    start = volumes.shape[-1] // 2 - size // 2
    return volumes[..., start : start + size, start : start + size, start : start + size]


def pad_center(volumes: Tensor, size: int) -> Tensor:
    """Zero-pad volumes (..., D, D, D) to ``size``, so that voxel D/2 becomes voxel size/2."""
    before = size // 2 - volumes.shape[-1] // 2
    after = size - volumes.shape[-1] - before
    return torch.nn.functional.pad(volumes, (before, after) * 3)
