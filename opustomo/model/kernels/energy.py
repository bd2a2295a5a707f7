"""Triton kernels of sums over spectra and volumes, with partial sums per block so that results are reproducible."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from opustomo.physics.kernels.launch import Kernel

BLOCK = 1024


@Kernel
def _comparison_kernel(
    partial, pushed, spectrum, filters, target, size: tl.constexpr, half: tl.constexpr, block: tl.constexpr
):  # fmt: skip
    item = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * block + tl.arange(0, block)
    total: tl.constexpr = size * size * half
    inside = place < total
    kx = place % half
    at = 2 * (item * total + place)
    real, imaginary = tl.load(spectrum + at, mask=inside, other=0.0), tl.load(spectrum + at + 1, mask=inside, other=0.0)
    wanted, wanted_i = tl.load(target + at, mask=inside, other=0.0), tl.load(target + at + 1, mask=inside, other=0.0)
    weight = tl.load(filters + item * total + place, mask=inside, other=0.0)
    real, imaginary = weight * real, weight * imaginary
    tl.store(pushed + at, weight * (real - wanted), mask=inside)
    tl.store(pushed + at + 1, weight * (imaginary - wanted_i), mask=inside)
    unit = tl.where((kx == 0) | (kx == half - 1), 1.0, 2.0) / (size * size * size)
    sums = partial + (item * tl.num_programs(0) + tl.program_id(0)) * 3
    tl.store(sums, tl.sum(unit * (real * real + imaginary * imaginary)))
    tl.store(sums + 1, tl.sum(unit * (real * wanted + imaginary * wanted_i)))
    tl.store(sums + 2, tl.sum(unit * (wanted * wanted + wanted_i * wanted_i)))


@Kernel
def _shifted_cross_kernel(partial, posed, posed_stride, filtered, size, total, block: tl.constexpr):
    item = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * block + tl.arange(0, block)
    inside = place < total
    x, y, z = place % size, (place // size) % size, place // (size * size)
    here = tl.load(posed + item * posed_stride + place, mask=inside, other=0.0)
    field = filtered + item * total + place
    at = partial + (item * tl.num_programs(0) + tl.program_id(0)) * 6
    last = size - 1
    tl.store(at, tl.sum(here * tl.load(field - 1, mask=inside & (x > 0), other=0.0)))
    tl.store(at + 1, tl.sum(here * tl.load(field - size, mask=inside & (y > 0), other=0.0)))
    tl.store(at + 2, tl.sum(here * tl.load(field - size * size, mask=inside & (z > 0), other=0.0)))
    tl.store(at + 3, tl.sum(here * tl.load(field + 1, mask=inside & (x < last), other=0.0)))
    tl.store(at + 4, tl.sum(here * tl.load(field + size, mask=inside & (y < last), other=0.0)))
    tl.store(at + 5, tl.sum(here * tl.load(field + size * size, mask=inside & (z < last), other=0.0)))


@Kernel
def _residual_kernel(
    power_bins, count_bins, target, posed, transfer, measured, weights, mask_powers, shells, batch, total,
    size: tl.constexpr, half: tl.constexpr, lanes: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0) * block + tl.arange(0, block)
    inside = place < total
    kx = place % half
    twice = tl.where((kx == 0) | (kx == size // 2), 1.0, 2.0)
    power, count = tl.zeros((block,), tl.float32), tl.zeros((block,), tl.float32)
    at = place.to(tl.int64)
    for item in range(batch):
        weight = tl.load(weights + item)
        filter_ = tl.load(transfer + at, mask=inside, other=0.0)
        real = tl.load(target + 2 * at, mask=inside, other=0.0)
        real -= filter_ * tl.load(posed + 2 * at, mask=inside, other=0.0)
        imaginary = tl.load(target + 2 * at + 1, mask=inside, other=0.0)
        imaginary -= filter_ * tl.load(posed + 2 * at + 1, mask=inside, other=0.0)
        power += weight * (real * real + imaginary * imaginary)
        known = tl.load(measured + at, mask=inside, other=0.0) != 0.0
        count += tl.where(known, weight * tl.load(mask_powers + item), 0.0)
        at += total
    to = tl.load(shells + place, mask=inside, other=0) * lanes + place % lanes
    tl.atomic_add(power_bins + to, power * twice / (size * size * size), mask=inside, sem="relaxed")
    tl.atomic_add(count_bins + to, count * twice, mask=inside, sem="relaxed")


def residual_bins(
    spectra: tuple[Tensor, Tensor],
    filters: tuple[Tensor, Tensor],
    weights: tuple[Tensor, Tensor],
    shells: Tensor,
    count: int,
    lanes: int,
) -> tuple[Tensor, Tensor]:
    """Sum the power of residuals, and the measured voxels, over particles and shells.

    Parameters
    ----------
    spectra
        R and F of the residuals R - H F, (B, n, n, n/2+1).
    filters
        H, and the CTF, which is zero where nothing was measured, (B, n, n, n/2+1).
    weights
        Weights of the particles, and mean squares of their masks, (B,).
    shells
        Shell of each voxel, (n² (n/2+1),).
    count, lanes
        Number of shells, and of partial sums of each.

    Returns
    -------
    Tensor, Tensor
        Power and number of voxels, (count,).
    """
    (target, posed), (transfer, measured), (weight, mask_power) = spectra, filters, weights
    size, half = transfer.shape[-2:]
    total = transfer[0].numel()
    bins = transfer.new_zeros(2, count * lanes)
    block = 256
    _residual_kernel[(triton.cdiv(total, block),)](
        bins[0], bins[1], torch.view_as_real(target.contiguous()), torch.view_as_real(posed.contiguous()),
        transfer.contiguous(), measured.contiguous(), weight, mask_power, shells, len(transfer), total, size, half,
        lanes, block,
    )  # fmt: skip
    power, voxels = bins.view(2, count, lanes).sum(-1).unbind(0)
    return power, voxels


def comparison(spectrum: Tensor, filters: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Compute :func:`opustomo.model.energy.spectral_sums` of half spectra F, W and T, (B, n, n, n/2+1)."""
    batch, size, _, half = filters.shape
    spectrum, filters, target = spectrum.contiguous(), filters.contiguous(), target.contiguous()
    pushed = torch.empty_like(target)
    blocks = triton.cdiv(filters[0].numel(), BLOCK)
    partial = filters.new_empty(batch, blocks, 3)
    _comparison_kernel[(blocks, batch)](
        partial, *(torch.view_as_real(part) for part in (pushed, spectrum)), filters, torch.view_as_real(target),
        size, half, BLOCK,
    )  # fmt: skip
    return partial.sum(1), pushed


def shifted_cross(posed: Tensor, filtered: Tensor) -> Tensor:
    """Return ``Σ_x V(x) h(x - s)``, (B, 6), for shifts s of one voxel along +x, +y, +z, -x, -y and -z.

    V and h are fields (B, n, n, n) that are zero outside the box.
    """
    batch, size = len(posed), posed.shape[-1]
    total = size**3
    blocks = triton.cdiv(total, BLOCK)
    if posed.stride()[1:] != (size * size, size, 1):
        posed = posed.contiguous()
    partial = filtered.new_empty(batch, blocks, 6)
    _shifted_cross_kernel[(blocks, batch)](partial, posed, posed.stride(0), filtered.contiguous(), size, total, BLOCK)
    return partial.sum(1)
