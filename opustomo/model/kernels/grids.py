"""Moves of voxels between the grids of stride-2 layers, with bias and activation on the way; channels last."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024


@triton.jit
def _interleave_kernel(out, phases, bias, slope, total, n: tl.constexpr, channels: tl.constexpr, block: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = place < total
    c = place % channels
    voxel = place // channels
    x, y, z = voxel % (2 * n), (voxel // (2 * n)) % (2 * n), (voxel // (4 * n * n)) % (2 * n)
    item = voxel // (8 * n * n * n)
    px, py, pz = x % 2, y % 2, z % 2
    m: tl.constexpr = n + 1
    source = ((item * m + z // 2 + pz) * m + y // 2 + py) * m + x // 2 + px
    value = tl.load(phases + (source * 8 + pz * 4 + py * 2 + px) * channels + c, mask=inside).to(tl.float32)
    value += tl.load(bias + c, mask=inside)
    tl.store(out + place, tl.where(value > 0, value, value * slope), mask=inside)


@triton.jit
def _interleave_gradient_kernel(
    to_phases, grad, out, slope, total, n: tl.constexpr, channels: tl.constexpr, block: tl.constexpr
):
    place = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = place < total
    c = place % channels
    parity = (place // channels) % 8
    voxel = place // (8 * channels)
    m: tl.constexpr = n + 1
    px, py, pz = parity % 2, (parity // 2) % 2, parity // 4
    x, y, z = voxel % m - px, (voxel // m) % m - py, (voxel // (m * m)) % m - pz
    item = voxel // (m * m * m)
    read = inside & (x >= 0) & (x < n) & (y >= 0) & (y < n) & (z >= 0) & (z < n)
    source = ((item * 2 * n + 2 * z + pz) * 2 * n + 2 * y + py) * 2 * n + 2 * x + px
    g = tl.load(grad + source * channels + c, mask=read, other=0.0).to(tl.float32)
    y_out = tl.load(out + source * channels + c, mask=read, other=0.0)
    tl.store(to_phases + place, tl.where(y_out > 0, g, g * slope), mask=inside)


@triton.jit
def _blocks_kernel(out, grid, total, n: tl.constexpr, m: tl.constexpr, channels: tl.constexpr, block: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = place < total
    c = place % channels
    within = (place // channels) % 8
    voxel = place // (8 * channels)
    x = 2 * (voxel % m) + within % 2 - 1
    y = 2 * ((voxel // m) % m) + (within // 2) % 2 - 1
    z = 2 * ((voxel // (m * m)) % m) + within // 4 - 1
    item = voxel // (m * m * m)
    read = inside & (x >= 0) & (x < n) & (y >= 0) & (y < n) & (z >= 0) & (z < n)
    source = ((item * n + z) * n + y) * n + x
    tl.store(out + place, tl.load(grid + source * channels + c, mask=read, other=0.0), mask=inside)


@triton.jit
def _blocks_gradient_kernel(
    to_grid, grad, total, n: tl.constexpr, m: tl.constexpr, channels: tl.constexpr, block: tl.constexpr
):
    place = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = place < total
    c = place % channels
    voxel = place // channels
    x, y, z = voxel % n + 1, (voxel // n) % n + 1, (voxel // (n * n)) % n + 1
    item = voxel // (n * n * n)
    # of an odd grid the last padding is not there, and so is nothing that would be read from it
    source = ((item * m + z // 2) * m + y // 2) * m + x // 2
    within = (z % 2) * 4 + (y % 2) * 2 + x % 2
    read = inside & (x < 2 * m) & (y < 2 * m) & (z < 2 * m)
    g = tl.load(grad + (source * 8 + within) * channels + c, mask=read, other=0.0)
    tl.store(to_grid + place, g, mask=inside)


@triton.jit
def _activate_kernel(x, bias, slope, total, channels: tl.constexpr, block: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = place < total
    value = tl.load(x + place, mask=inside).to(tl.float32) + tl.load(bias + place % channels, mask=inside)
    tl.store(x + place, tl.where(value > 0, value, value * slope), mask=inside)


@triton.jit
def _activate_gradient_kernel(to_x, grad, out, slope, total, block: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = place < total
    g = tl.load(grad + place, mask=inside).to(tl.float32)
    tl.store(to_x + place, tl.where(tl.load(out + place, mask=inside) > 0, g, g * slope), mask=inside)


def _last(x: Tensor) -> Tensor:
    """(B, C, z, y, x) as contiguous (B, z, y, x, C)."""
    return x.permute(0, 2, 3, 4, 1).contiguous()


def _grid(total: int) -> tuple[int]:
    return (triton.cdiv(total, BLOCK),)


class Interleave(torch.autograd.Function):
    """``leaky(x + bias)`` of parities (B, 8C, n+1, n+1, n+1), shuffled to one grid (B, 2n, 2n, 2n, C)."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, phases: Tensor, bias: Tensor, slope: float) -> Tensor:
        phases = _last(phases)
        batch, n, channels = len(phases), phases.shape[1] - 1, phases.shape[-1] // 8
        out = phases.new_empty(batch, 2 * n, 2 * n, 2 * n, channels)
        _interleave_kernel[_grid(out.numel())](out, phases, bias, slope, out.numel(), n, channels, BLOCK)
        ctx.save_for_backward(out)
        ctx.slope = slope  # type: ignore[attr-defined]
        return out

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        (out,) = ctx.saved_tensors  # type: ignore[attr-defined]
        batch, n, channels = len(out), out.shape[1] // 2, out.shape[-1]
        phases = out.new_empty(batch, n + 1, n + 1, n + 1, 8 * channels)
        total = phases.numel()
        _interleave_gradient_kernel[_grid(total)](
            phases,
            grad.contiguous(),
            out,
            ctx.slope,  # type: ignore[attr-defined]
            total,
            n,
            channels,
            BLOCK,
        )
        to_bias = phases.flatten(0, 3).sum(0, dtype=torch.float32).view(8, channels).sum(0)
        return phases.permute(0, 4, 1, 2, 3), to_bias, None


class Blocks(torch.autograd.Function):
    """Voxels of (B, C, n, n, n), one voxel of zeros around them, in blocks of 2³: (B, 8C, m, m, m), m = (n + 2)//2."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, grid: Tensor) -> Tensor:
        grid = _last(grid)
        batch, n, channels = len(grid), grid.shape[1], grid.shape[-1]
        m = (n + 2) // 2
        out = grid.new_empty(batch, m, m, m, 8 * channels)
        _blocks_kernel[_grid(out.numel())](out, grid, out.numel(), n, m, channels, BLOCK)
        ctx.shape = grid.shape  # type: ignore[attr-defined]
        return out.permute(0, 4, 1, 2, 3)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> Tensor:
        grad = _last(grad)
        to_grid = grad.new_empty(ctx.shape)  # type: ignore[attr-defined]
        _, n, _, _, channels = to_grid.shape
        _blocks_gradient_kernel[_grid(to_grid.numel())](
            to_grid, grad, to_grid.numel(), n, grad.shape[1], channels, BLOCK
        )
        return to_grid.permute(0, 4, 1, 2, 3)


class Activate(torch.autograd.Function):
    """``leaky(x + bias)`` in place, (B, C, z, y, x) with channels last."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, bias: Tensor, slope: float) -> Tensor:
        flat = x.permute(0, 2, 3, 4, 1)
        if not flat.is_contiguous():
            flat = flat.contiguous()
        _activate_kernel[_grid(flat.numel())](flat, bias, slope, flat.numel(), flat.shape[-1], BLOCK)
        out = flat.permute(0, 4, 1, 2, 3)
        if out.data_ptr() == x.data_ptr():
            ctx.mark_dirty(x)
            out = x
        ctx.save_for_backward(out)
        ctx.slope = slope  # type: ignore[attr-defined]
        return out

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        (out,) = ctx.saved_tensors  # type: ignore[attr-defined]
        grad = _last(grad)
        to_x = torch.empty_like(grad)
        _activate_gradient_kernel[_grid(grad.numel())](
            to_x,
            grad,
            out,
            ctx.slope,  # type: ignore[attr-defined]
            grad.numel(),
            BLOCK,
        )
        return to_x.permute(0, 4, 1, 2, 3), to_x.flatten(0, 3).sum(0, dtype=torch.float32), None
