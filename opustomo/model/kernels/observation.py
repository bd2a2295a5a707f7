"""Triton kernels of the filters of the observation, which read each spectrum once."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from opustomo.physics.kernels.launch import Kernel

BLOCK = 1024


@triton.jit
def _frequency(place, size: tl.constexpr, half: tl.constexpr):
    """Return kx, ky, kz in Fourier voxels of flat indices into a half spectrum."""
    kx = (place % half).to(tl.float32)
    row = (place // half) % size
    plane = place // (half * size)
    ky = tl.where(row < size // 2, row, row - size).to(tl.float32)
    kz = tl.where(plane < size // 2, plane, plane - size).to(tl.float32)
    return kx, ky, kz


@Kernel
def _shift_or_sharpen_kernel(
    shifted, sharpened, raw, angles, exponents, shifts: tl.constexpr, size: tl.constexpr, half: tl.constexpr,
    block: tl.constexpr,
):  # fmt: skip
    particle = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * block + tl.arange(0, block)
    total: tl.constexpr = size * size * half
    inside = place < total
    kx, ky, kz = _frequency(place, size, half)
    at = 2 * (particle * total + place)
    real, imaginary = tl.load(raw + at, mask=inside), tl.load(raw + at + 1, mask=inside)
    if shifts:
        angle = tl.load(angles + particle * 3) * kx + tl.load(angles + particle * 3 + 1) * ky
        angle += tl.load(angles + particle * 3 + 2) * kz
        cos, sin = tl.cos(angle), tl.sin(angle)
        tl.store(shifted + at, real * cos - imaginary * sin, mask=inside)
        tl.store(shifted + at + 1, real * sin + imaginary * cos, mask=inside)
    else:
        factor = tl.exp(tl.load(exponents + particle) * (kx * kx + ky * ky + kz * kz))
        tl.store(sharpened + at, real * factor, mask=inside)
        tl.store(sharpened + at + 1, imaginary * factor, mask=inside)


@Kernel
def _filter_kernel(
    sharpened, transfer, spectrum, ctf, data_exponent, model_exponent, beta, alpha, flips: tl.constexpr,
    size: tl.constexpr, half: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    particle = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * block + tl.arange(0, block)
    total: tl.constexpr = size * size * half
    inside = place < total
    kx, ky, kz = _frequency(place, size, half)
    k2 = kx * kx + ky * ky + kz * kz
    c = tl.load(ctf + particle * total + place, mask=inside, other=0.0)
    magnitude = tl.abs(c)
    logarithm = tl.log(tl.maximum(magnitude, 1e-30))
    sign = tl.where(c > 0, 1.0, tl.where(c < 0, -1.0, 0.0))
    factor = sign if flips else sign * tl.exp(alpha * logarithm)
    factor = factor * tl.exp(tl.load(data_exponent + particle) * k2)
    at = 2 * (particle * total + place)
    tl.store(sharpened + at, tl.load(spectrum + at, mask=inside) * factor, mask=inside)
    tl.store(sharpened + at + 1, tl.load(spectrum + at + 1, mask=inside) * factor, mask=inside)
    power = tl.load(beta + particle)
    weight = tl.where(magnitude > 0, tl.exp(power * logarithm), tl.where(power == 0.0, 1.0, 0.0))
    # Angle of (kx, |kz|) in 0 … π/2 by a polynomial with an error below 1e-5 rad.
    up = tl.abs(kz)
    low, high = tl.minimum(kx, up), tl.maximum(tl.maximum(kx, up), 1e-20)
    r = low / high
    r2 = r * r
    angle = ((((-0.0117212 * r2 + 0.05265332) * r2 - 0.11643287) * r2 + 0.19354346) * r2 - 0.33262347) * r2
    angle = (angle + 0.99997726) * r
    angle = tl.where(up > kx, 1.5707963267948966 - angle, angle)
    envelope = tl.exp(tl.load(model_exponent + particle) * k2 * (1.0 + angle))
    tl.store(transfer + particle * total + place, weight * envelope, mask=inside)


def _launch_shift_or_sharpen(out: Tensor, spectra: Tensor, values: Tensor, shifts: bool) -> Tensor:
    batch, size, _, half = spectra.shape
    output = torch.view_as_real(out)
    _shift_or_sharpen_kernel[(triton.cdiv(size * size * half, BLOCK), batch)](
        output, output, torch.view_as_real(spectra), values, values, shifts, size, half, BLOCK
    )
    return out


def move(spectra: Tensor, shift_px: Tensor, box: int) -> Tensor:
    """Return spectra (B, Dr, Dr, Dr/2+1) of densities shifted by ``shift_px`` (B, 3; x, y, z; pixels of ``box``)."""
    spectra = spectra.contiguous()
    return _launch_shift_or_sharpen(
        torch.empty_like(spectra), spectra, ((-2.0 * math.pi / box) * shift_px).contiguous(), True
    )


def sharpen(spectra: Tensor, bfactor_px: Tensor) -> Tensor:
    """Return spectra multiplied by ``exp(π² b k²)``, with b (B,) in pixel²."""
    spectra = spectra.contiguous()
    exponent = (math.pi**2 / spectra.shape[1] ** 2) * bfactor_px
    return _launch_shift_or_sharpen(torch.empty_like(spectra), spectra, exponent.contiguous(), False)


def observe(
    spectrum: Tensor, ctf: Tensor, data_px: Tensor, model_px: Tensor, alpha: float, beta: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the filtered data spectrum and the transfer function of the model.

    The results are ``exp(π² b k²) sign(c)|c|^α Y`` and ``|c|^β exp(-π² b/2 k² (1 + |atan2(kz, kx)|))``.

    Parameters
    ----------
    spectrum, ctf
        Spectrum Y and 3D CTF c, (B, Dr, Dr, Dr/2+1).
    data_px, model_px
        B factors b of data and model in pixel², (B,).
    alpha, beta
        Exponents of the CTF; beta (B,).
    """
    batch, size, _, half = spectrum.shape
    spectrum = spectrum.contiguous()
    sharpened, transfer = torch.empty_like(spectrum), torch.empty_like(ctf)
    unit = math.pi**2 / size**2
    _filter_kernel[(triton.cdiv(size * size * half, BLOCK), batch)](
        torch.view_as_real(sharpened), transfer, torch.view_as_real(spectrum), ctf.contiguous(),
        (unit * data_px).contiguous(), (-0.5 * unit * model_px).contiguous(), beta.contiguous(), alpha, alpha == 0,
        size, half, BLOCK,
    )  # fmt: skip
    return sharpened, transfer
