"""Triton kernels of sums over spectra and volumes, with partial sums per block so that results are reproducible."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from opustomo.physics.kernels.launch import Kernel

BLOCK = 2048


@Kernel
def _power_kernel(partial, spectra, weights, poses, total, block: tl.constexpr):
    item = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * block + tl.arange(0, block)
    inside = place < total
    weight = tl.load(weights + (item // poses) * total + place, mask=inside, other=0.0)
    at = spectra + 2 * (item * total + place)
    real, imaginary = tl.load(at, mask=inside, other=0.0), tl.load(at + 1, mask=inside, other=0.0)
    value = tl.sum(weight * (real * real + imaginary * imaginary))
    tl.store(partial + item * tl.num_programs(0) + tl.program_id(0), value)


@Kernel
def _cross_kernel(partial, posed, filtered, poses, total, block: tl.constexpr):
    item = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * block + tl.arange(0, block)
    inside = place < total
    a = tl.load(posed + item * total + place, mask=inside, other=0.0)
    b = tl.load(filtered + (item // poses) * total + place, mask=inside, other=0.0)
    tl.store(partial + item * tl.num_programs(0) + tl.program_id(0), tl.sum(a * b))


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


def weighted_power(spectra: Tensor, weights: Tensor) -> Tensor:
    """Return ``Σ_k w |S|²``, (B, P), for complex spectra S (B, P, ...) and weights w (B, ...)."""
    batch, poses = spectra.shape[:2]
    total = weights[0].numel()
    blocks = triton.cdiv(total, BLOCK)
    partial = weights.new_empty(batch, poses, blocks)
    _power_kernel[(blocks, batch * poses)](
        partial, torch.view_as_real(spectra.contiguous()), weights.contiguous(), poses, total, BLOCK
    )
    return partial.sum(-1)


def cross(posed: Tensor, filtered: Tensor) -> Tensor:
    """Return ``Σ_x V h``, (B, P), for volumes V (B, P, n, n, n) and fields h (B, n, n, n)."""
    batch, poses = posed.shape[:2]
    total = filtered[0].numel()
    blocks = triton.cdiv(total, BLOCK)
    partial = filtered.new_empty(batch, poses, blocks)
    _cross_kernel[(blocks, batch * poses)](partial, posed.contiguous(), filtered.contiguous(), poses, total, BLOCK)
    return partial.sum(-1)


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
