"""Total variation and mean absolute value of volumes in one pass, and their gradient in another."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024
FLOOR = 1e-8


@triton.jit
def _value(volume, x, y, z, width: tl.constexpr, inside):
    return tl.load(volume + (z * width + y) * width + x, mask=inside, other=0.0)


@triton.jit
def _root(volume, x, y, z, width: tl.constexpr, inside):
    """sqrt(1e-8 + |backward difference|²) and the value itself."""
    v = _value(volume, x, y, z, width, inside)
    a = v - _value(volume, x - 1, y, z, width, inside)
    b = v - _value(volume, x, y - 1, z, width, inside)
    c = v - _value(volume, x, y, z - 1, width, inside)
    return tl.sqrt(1e-8 + a * a + b * b + c * c), v


@triton.jit
def _sum_kernel(partial, volumes, x0, y0, z0, nx, ny, nz, width: tl.constexpr, block: tl.constexpr):
    item = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * block + tl.arange(0, block)
    inside = place < nx * ny * nz
    x, y, z = place % nx, (place // nx) % ny, place // (nx * ny)
    inner = inside & (x > 0) & (y > 0) & (z > 0)
    volume = volumes + item * width * width * width
    root, _ = _root(volume, x + x0, y + y0, z + z0, width, inner)
    value = _value(volume, x + x0, y + y0, z + z0, width, inside)
    out = partial + (item * tl.num_programs(0) + tl.program_id(0)) * 2
    tl.store(out, tl.sum(tl.where(inner, root, 0.0)))
    tl.store(out + 1, tl.sum(tl.abs(value)))


@triton.jit
def _gradient_kernel(grad, to_tv, to_l1, volumes, x0, y0, z0, nx, ny, nz, width: tl.constexpr, block: tl.constexpr):
    item = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * block + tl.arange(0, block)
    total: tl.constexpr = width * width * width
    x, y, z = place % width - x0, (place // width) % width - y0, place // (width * width) - z0
    inside = (place < total) & (x >= 0) & (x < nx) & (y >= 0) & (y < ny) & (z >= 0) & (z < nz)
    volume = volumes + item * total
    gx, gy, gz = x + x0, y + y0, z + z0
    value = _value(volume, gx, gy, gz, width, inside)
    # its own term, where all three differences exist
    own = inside & (x > 0) & (y > 0) & (z > 0)
    root, v = _root(volume, gx, gy, gz, width, own)
    a, b, c = (_value(volume, gx - 1, gy, gz, width, own), _value(volume, gx, gy - 1, gz, width, own),
               _value(volume, gx, gy, gz - 1, width, own))  # fmt: skip
    slope = tl.where(own, (3.0 * v - a - b - c) / root, 0.0)
    # the terms of the next voxel along each axis
    ahead = inside & (x + 1 < nx) & (y > 0) & (z > 0)
    root, v = _root(volume, gx + 1, gy, gz, width, ahead)
    slope -= tl.where(ahead, (v - value) / root, 0.0)
    ahead = inside & (y + 1 < ny) & (x > 0) & (z > 0)
    root, v = _root(volume, gx, gy + 1, gz, width, ahead)
    slope -= tl.where(ahead, (v - value) / root, 0.0)
    ahead = inside & (z + 1 < nz) & (x > 0) & (y > 0)
    root, v = _root(volume, gx, gy, gz + 1, width, ahead)
    slope -= tl.where(ahead, (v - value) / root, 0.0)
    sign = tl.where(value > 0, 1.0, tl.where(value < 0, -1.0, 0.0))
    tl.store(grad + item * total + place, slope * tl.load(to_tv) + sign * tl.load(to_l1), mask=place < total)


class Smoothness(torch.autograd.Function):
    """``mean sqrt(1e-8 + |∇V|²)`` and ``mean |V|`` of a part (starts and sizes x, y, z) of volumes (B, T, T, T)."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, volumes: Tensor, part: tuple[int, int, int, int, int, int]
    ) -> tuple[Tensor, Tensor]:
        volumes = volumes.contiguous()
        nx, ny, nz = part[3:]
        blocks = triton.cdiv(nx * ny * nz, BLOCK)
        partial = volumes.new_empty(len(volumes), blocks, 2)
        _sum_kernel[(blocks, len(volumes))](partial, volumes, *part, volumes.shape[-1], BLOCK)
        ctx.save_for_backward(volumes)
        ctx.part = part  # type: ignore[attr-defined]
        sums = partial.sum((0, 1)) / len(volumes)
        return sums[0] / ((nx - 1) * (ny - 1) * (nz - 1)), sums[1] / (nx * ny * nz)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, to_tv: Tensor, to_l1: Tensor) -> tuple[Tensor, None]:
        (volumes,) = ctx.saved_tensors  # type: ignore[attr-defined]
        part = ctx.part  # type: ignore[attr-defined]
        nx, ny, nz = part[3:]
        grad = torch.empty_like(volumes)
        count = len(volumes)
        _gradient_kernel[(triton.cdiv(volumes.shape[-1] ** 3, BLOCK), count)](
            grad,
            to_tv / (count * (nx - 1) * (ny - 1) * (nz - 1)),
            to_l1 / (count * nx * ny * nz),
            volumes, *part, volumes.shape[-1], BLOCK,
        )  # fmt: skip
        return grad, None
