"""Triton kernels of the first layer of the encoder: a stride-2 convolution from one channel, with bias and LeakyReLU.

Output j reads the voxels 2j - 1 … 2j + 2 along each axis. These are 2³ blocks of 2³ voxels, so that the layer is a
product of 64 voxels per output with the weights. Libraries run it slowly, because there is one channel. The input needs
no gradient, and the backward pass reads the gradient of the output once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from opustomo.model.kernels.convolution import (
    ROWS,
    by_blocks,
    from_blocks,
    padded_blocks,
    split_rows,
    windows_of_blocks,
)
from opustomo.physics.kernels.launch import Kernel


@Kernel
def _first_layer_kernel(
    out, blocks, weights, bias, slope, total, m: tl.constexpr, channels: tl.constexpr, rows: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0) * rows + tl.arange(0, rows)
    inside = row < total
    k, c = tl.arange(0, 64), tl.arange(0, channels)
    weight = tl.load(weights + k[:, None] * channels + c[None, :])
    value = tl.dot(windows_of_blocks(blocks, row, inside, m), weight) + tl.load(bias + c)[None, :]
    value = tl.where(value > 0, value, value * slope)
    tl.store(out + row.to(tl.int64)[:, None] * channels + c[None, :], value, mask=inside[:, None])


@Kernel
def _first_layer_gradient_kernel(
    to_weights, to_bias, grad, out, blocks, slope, total, steps, m: tl.constexpr, channels: tl.constexpr,
    rows: tl.constexpr,
):  # fmt: skip
    program, k, c = tl.program_id(0), tl.arange(0, 64), tl.arange(0, channels)
    by_weights, by_bias = tl.zeros((64, channels), tl.float32), tl.zeros((channels,), tl.float32)
    for step in range(steps):
        row = (program * steps + step) * rows + tl.arange(0, rows)
        inside = row < total
        at = row.to(tl.int64)[:, None] * channels + c[None, :]
        g = tl.load(grad + at, mask=inside[:, None], other=0.0).to(tl.float32)
        g = tl.where(tl.load(out + at, mask=inside[:, None], other=0.0) > 0, g, g * slope)
        by_bias += tl.sum(g, 0)
        windows = windows_of_blocks(blocks, row, inside, m)
        by_weights += tl.dot(tl.trans(windows), g.to(windows.dtype))
    tl.store(to_weights + program * 64 * channels + k[:, None] * channels + c[None, :], by_weights)
    tl.store(to_bias + program * channels + c, by_bias)


class FirstLayer(torch.autograd.Function):
    """``leaky(conv3d(grid, weight, bias, stride=2, padding=1))`` of (B, n, n, n) to (B, m, m, m, C), m = n // 2.

    ``weight`` is (C, 1, 4, 4, 4), C a power of two of at least 16; results have the half precision ``kind``.
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, grid: Tensor, weight: Tensor, bias: Tensor, slope: float,
        kind: torch.dtype,
    ) -> Tensor:  # fmt: skip
        batch, m, channels = len(grid), grid.shape[1] // 2, len(weight)
        blocks = padded_blocks(grid[..., None], kind)
        out = torch.empty(batch, m, m, m, channels, device=grid.device, dtype=kind)
        taps, total = by_blocks(weight[:, 0]).to(kind).contiguous(), batch * m**3
        _first_layer_kernel[(triton.cdiv(total, ROWS),)](out, blocks, taps, bias, slope, total, m, channels, ROWS)
        ctx.save_for_backward(blocks, out)
        ctx.slope = slope  # type: ignore[attr-defined]
        return out

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[None, Tensor, Tensor, None, None]:
        blocks, out = ctx.saved_tensors  # type: ignore[attr-defined]
        slope: float = ctx.slope  # type: ignore[attr-defined]
        m, channels = out.shape[1], out.shape[-1]
        total = out.numel() // channels
        programs, steps = split_rows(total)
        to_weights = torch.empty(programs, 64, channels, device=out.device, dtype=torch.float32)
        to_bias = torch.empty(programs, channels, device=out.device, dtype=torch.float32)
        _first_layer_gradient_kernel[(programs,)](
            to_weights, to_bias, grad.contiguous(), out, blocks, slope, total, steps, m, channels, ROWS
        )
        return None, from_blocks(to_weights.sum(0))[:, None], to_bias.sum(0), None, None
