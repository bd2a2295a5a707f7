"""Subtomograms turned into the reference frame in Fourier space.

A posed density is y(x) = V(Aᵀ x), so its spectrum is Ŷ(k) = V̂(Aᵀ k), and the value of V̂ at k is that of Ŷ at A k.
Spectra are read between grid points with trilinear weights on a grid twice as fine (the box padded with zeros); what
these weights take off on average towards the edge of the box, sinc² along each axis, is divided out before. What is
left is an error of 2 % (rms) for density two fifths of the way to the edge.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from opustomo.physics.fourier import frequencies, irfft3, pad_centre, rfft3

PADDING = 2


def sphere_frequencies(size: int, device: torch.device | str | None = None, padding: int = 1) -> tuple[Tensor, Tensor]:
    """Return the frequencies up to Nyquist of a box of ``size`` on the grid of a box ``padding`` times as large.

    Returns
    -------
    places
        (M,) places in the half spectrum of the larger box.
    at
        (M, 3) frequencies k as x, y, z, in voxels of the spectrum of ``size``: multiples of 1/padding.
    """
    fine = padding * size
    kz, ky, kx = (k.expand(fine, fine, fine // 2 + 1) / padding for k in frequencies(fine, device))
    inside = (kx**2 + ky**2 + kz**2) <= (size / 2) ** 2
    return inside.flatten().nonzero().flatten(), torch.stack([kx[inside], ky[inside], kz[inside]], -1)


def interpolation_loss(size: int, device: torch.device | str | None = None) -> Tensor:
    """Factor (D,) along one axis by which trilinear weights on the padded grid damp a box of ``size``, centre D/2."""
    at = (torch.arange(size, device=device, dtype=torch.float32) - size // 2) / (PADDING * size)
    return torch.sinc(at).square()


def read_turned(spectra: Tensor, rotations: Tensor, at: Tensor) -> Tensor:
    """Values of spectra at turned frequencies.

    Parameters
    ----------
    spectra
        (B, D, D, D/2+1) half spectra in native order, phases about voxel D/2 (see :mod:`opustomo.physics.fourier`).
    rotations
        (B, 3, 3) RELION A.
    at
        (M, 3) frequencies k in voxels, x, y, z.

    Returns
    -------
    Tensor
        (B, M) complex: the spectrum at A k, phases about the centre of rotation.
    """
    size = spectra.shape[-2]
    loss = interpolation_loss(size, spectra.device)
    volumes = irfft3(spectra) / (loss[:, None, None] * loss[:, None] * loss)
    padded = torch.fft.ifftshift(pad_centre(volumes, PADDING * size), dim=(-3, -2, -1))
    fine = rfft3(padded)
    values, mirrored = _sampled(torch.view_as_real(fine).movedim(-1, 1), rotations, PADDING * at)
    return torch.complex(values[:, 0], torch.where(mirrored, -values[:, 1], values[:, 1]))


def read_turned_weights(weights: Tensor, rotations: Tensor, at: Tensor) -> Tensor:
    """Trilinear values (B, M) of real, even half spectra (B, D, D, D/2+1) at A k; never negative if these are not."""
    return _sampled(weights[:, None], rotations, at)[0][:, 0]


def _sampled(channels: Tensor, rotations: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """Read (B, C, n, n, n/2+1) at A k for k (M, 3): values (B, C, M), and where (B, M) -A k was read instead."""
    half = channels.shape[-1] - 1
    turned = torch.einsum("bij,mj->bmi", rotations, at)
    mirrored = turned[..., 0] < 0  # only kx ≥ 0 is stored; the mate at -k is the conjugate
    turned = torch.where(mirrored[..., None], -turned, turned)
    # frequencies -n/2 … n/2, so that the grid ends at ±1; the plane at +n/2 is the one at -n/2
    shifted = torch.fft.fftshift(channels, dim=(-3, -2))
    shifted = torch.cat([shifted, shifted[..., :1, :, :]], -3)
    shifted = torch.cat([shifted, shifted[..., :1, :]], -2)
    scale = turned.new_tensor([2.0 / half, 1.0 / half, 1.0 / half])
    grid = (turned * scale - turned.new_tensor([1.0, 0.0, 0.0]))[:, None, None]
    values = functional.grid_sample(shifted, grid.to(shifted), align_corners=True)[:, :, 0, 0]
    return values, mirrored
