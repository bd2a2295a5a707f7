"""Triton kernels of the convolutions: moves of voxels between grids, and the last layer of the decoder.

Moves between the grids of stride-2 layers include bias and activation; channels are last. The last layer is a
transposed convolution from 16 channels to one, which libraries run slowly: output ``o = 2i - 1 + k`` gets ``x[i]·w[k]``
along each axis, k = 0 … 3. Each of the 2³ outputs 2j + p of a voxel j reads its 3³ neighbors; each input i reads the 4³
outputs around it in the backward pass, gathered in blocks of 2³.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from opustomo.physics.kernels.launch import Kernel

TILE = 4096
"""Elements that a program works on: runs of channels of some voxels, so that divisions are made once per voxel."""
MOST_CHANNELS = 64
LANES = 64
"""Partial sums of the gradient of a bias, so that programs seldom add to the same number at a time."""


@triton.jit
def _tile(total, channels: tl.constexpr, block_v: tl.constexpr, block_c: tl.constexpr):
    """Return rows (block_v) and channels (block_c) of a program, and which of rows and elements exist."""
    row = tl.program_id(0) * block_v + tl.arange(0, block_v)
    c = tl.program_id(1) * block_c + tl.arange(0, block_c)
    return row, c, row < total, (row < total)[:, None] & (c < channels)[None, :]


@triton.jit
def _at(row, c, channels: tl.constexpr):
    """Return the offsets of channels ``c`` of rows of ``channels`` elements."""
    return row.to(tl.int64)[:, None] * channels + c[None, :]


@triton.jit
def _add_bias(to_bias, values, c, channels: tl.constexpr, lanes: tl.constexpr):
    here = to_bias + (tl.program_id(0) % lanes) * channels + c
    tl.atomic_add(here, tl.sum(values, 0), mask=c < channels, sem="relaxed")


@Kernel
def _interleave_kernel(
    out, phases, bias, slope, total, n: tl.constexpr, channels: tl.constexpr, block_v: tl.constexpr,
    block_c: tl.constexpr,
):  # fmt: skip
    voxel, c, _, inside = _tile(total, channels, block_v, block_c)
    x, y, z = voxel % (2 * n), (voxel // (2 * n)) % (2 * n), (voxel // (4 * n * n)) % (2 * n)
    item = voxel // (8 * n * n * n)
    px, py, pz = x % 2, y % 2, z % 2
    m: tl.constexpr = n + 1
    source = ((item * m + z // 2 + pz) * m + y // 2 + py) * m + x // 2 + px
    source = source.to(tl.int64) * 8 + pz * 4 + py * 2 + px
    value = tl.load(phases + _at(source, c, channels), mask=inside).to(tl.float32)
    value += tl.load(bias + c, mask=c < channels)[None, :]
    tl.store(out + _at(voxel, c, channels), tl.where(value > 0, value, value * slope), mask=inside)


@Kernel
def _interleave_gradient_kernel(
    to_phases, to_bias, grad, out, slope, total, n: tl.constexpr, channels: tl.constexpr, block_v: tl.constexpr,
    block_c: tl.constexpr, lanes: tl.constexpr,
):  # fmt: skip
    row, c, exists, inside = _tile(total, channels, block_v, block_c)
    parity, voxel = row % 8, row // 8
    m: tl.constexpr = n + 1
    px, py, pz = parity % 2, (parity // 2) % 2, parity // 4
    x, y, z = voxel % m - px, (voxel // m) % m - py, (voxel // (m * m)) % m - pz
    item = voxel // (m * m * m)
    meets = exists & (x >= 0) & (x < n) & (y >= 0) & (y < n) & (z >= 0) & (z < n)
    read = meets[:, None] & (c < channels)[None, :]
    source = ((item * 2 * n + 2 * z + pz) * 2 * n + 2 * y + py) * 2 * n + 2 * x + px
    at = _at(source, c, channels)
    g = tl.load(grad + at, mask=read, other=0.0).to(tl.float32)
    g = tl.where(tl.load(out + at, mask=read, other=0.0) > 0, g, g * slope)
    tl.store(to_phases + _at(row, c, channels), g, mask=inside)
    _add_bias(to_bias, g, c, channels, lanes)


@Kernel
def _blocks_kernel(
    out, grid, total, n: tl.constexpr, m: tl.constexpr, channels: tl.constexpr, block_v: tl.constexpr,
    block_c: tl.constexpr,
):  # fmt: skip
    row, c, exists, inside = _tile(total, channels, block_v, block_c)
    within, voxel = row % 8, row // 8
    x = 2 * (voxel % m) + within % 2 - 1
    y = 2 * ((voxel // m) % m) + (within // 2) % 2 - 1
    z = 2 * ((voxel // (m * m)) % m) + within // 4 - 1
    item = voxel // (m * m * m)
    meets = exists & (x >= 0) & (x < n) & (y >= 0) & (y < n) & (z >= 0) & (z < n)
    source = ((item * n + z) * n + y) * n + x
    value = tl.load(grid + _at(source, c, channels), mask=meets[:, None] & (c < channels)[None, :], other=0.0)
    tl.store(out + _at(row, c, channels), value, mask=inside)


@Kernel
def _blocks_gradient_kernel(
    to_grid, grad, total, n: tl.constexpr, m: tl.constexpr, channels: tl.constexpr, block_v: tl.constexpr,
    block_c: tl.constexpr,
):  # fmt: skip
    voxel, c, exists, inside = _tile(total, channels, block_v, block_c)
    x, y, z = voxel % n + 1, (voxel // n) % n + 1, (voxel // (n * n)) % n + 1
    item = voxel // (n * n * n)
    # The last padding of an odd grid does not exist, and nothing is read from it.
    meets = exists & (x < 2 * m) & (y < 2 * m) & (z < 2 * m)
    source = ((item * m + z // 2) * m + y // 2) * m + x // 2
    source = source.to(tl.int64) * 8 + (z % 2) * 4 + (y % 2) * 2 + x % 2
    g = tl.load(grad + _at(source, c, channels), mask=meets[:, None] & (c < channels)[None, :], other=0.0)
    tl.store(to_grid + _at(voxel, c, channels), g, mask=inside)


@triton.jit
def windows_of_blocks(blocks, row, inside, m: tl.constexpr):
    """Return the voxels (rows, 64) of windows of 2³ neighboring blocks, from blocks (B, m + 1, m + 1, m + 1, 8).

    The eight voxels of a block are next to each other in memory and loaded at once.
    """
    k = tl.arange(0, 64)
    across: tl.constexpr = m + 1
    block = ((k // 32) * across + (k // 16) % 2) * across + (k // 8) % 2
    x, y, z, item = row % m, (row // m) % m, (row // (m * m)) % m, row // (m * m * m)
    first = ((item.to(tl.int64) * across + z) * across + y) * across + x
    return tl.load(blocks + first[:, None] * 8 + (block * 8 + k % 8)[None, :], mask=inside[:, None], other=0.0)


@Kernel
def _activate_kernel(
    x, bias, slope, total, channels: tl.constexpr, block_v: tl.constexpr, block_c: tl.constexpr
):  # fmt: skip
    row, c, _, inside = _tile(total, channels, block_v, block_c)
    at = _at(row, c, channels)
    value = tl.load(x + at, mask=inside).to(tl.float32) + tl.load(bias + c, mask=c < channels)[None, :]
    tl.store(x + at, tl.where(value > 0, value, value * slope), mask=inside)


@Kernel
def _activate_gradient_kernel(
    to_x, to_bias, grad, out, slope, total, channels: tl.constexpr, block_v: tl.constexpr, block_c: tl.constexpr,
    lanes: tl.constexpr,
):  # fmt: skip
    row, c, _, inside = _tile(total, channels, block_v, block_c)
    at = _at(row, c, channels)
    g = tl.load(grad + at, mask=inside, other=0.0).to(tl.float32)
    g = tl.where(tl.load(out + at, mask=inside, other=0.0) > 0, g, g * slope)
    tl.store(to_x + at, g, mask=inside)
    _add_bias(to_bias, g, c, channels, lanes)


def _last(x: Tensor) -> Tensor:
    """(B, C, z, y, x) as contiguous (B, z, y, x, C)."""
    return x.permute(0, 2, 3, 4, 1).contiguous()


def _tiles(total: int, channels: int) -> tuple[tuple[int, int], int, int]:
    """Return the grid of programs for ``total`` rows of ``channels``, and the rows and channels of a program."""
    block_c = min(MOST_CHANNELS, triton.next_power_of_2(channels))
    block_v = TILE // block_c
    return (triton.cdiv(total, block_v), triton.cdiv(channels, block_c)), block_v, block_c


class Interleave(torch.autograd.Function):
    """``leaky(x + bias)`` of parities (B, 8C, n+1, n+1, n+1), shuffled to one grid (B, 2n, 2n, 2n, C)."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, phases: Tensor, bias: Tensor, slope: float) -> Tensor:
        phases = _last(phases)
        batch, n, channels = len(phases), phases.shape[1] - 1, phases.shape[-1] // 8
        out = phases.new_empty(batch, 2 * n, 2 * n, 2 * n, channels)
        total = out.numel() // channels
        grid, block_v, block_c = _tiles(total, channels)
        _interleave_kernel[grid](out, phases, bias, slope, total, n, channels, block_v, block_c)
        ctx.save_for_backward(out)
        ctx.slope = slope  # type: ignore[attr-defined]
        return out

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        (out,) = ctx.saved_tensors  # type: ignore[attr-defined]
        slope: float = ctx.slope  # type: ignore[attr-defined]
        batch, n, channels = len(out), out.shape[1] // 2, out.shape[-1]
        phases = out.new_empty(batch, n + 1, n + 1, n + 1, 8 * channels)
        total = phases.numel() // channels
        to_bias = torch.zeros(LANES, channels, device=out.device)
        grid, block_v, block_c = _tiles(total, channels)
        _interleave_gradient_kernel[grid](
            phases, to_bias, grad.contiguous(), out, slope, total, n, channels, block_v, block_c, LANES
        )
        return phases.permute(0, 4, 1, 2, 3), to_bias.sum(0), None


def padded_blocks(grid: Tensor, kind: torch.dtype) -> Tensor:
    """Return the voxels of (B, n, n, n, C) as in :class:`Blocks`, channels last, (B, m, m, m, 8C), in a type."""
    grid = grid.contiguous()
    batch, n, channels = len(grid), grid.shape[1], grid.shape[-1]
    m = (n + 2) // 2
    out = torch.empty(batch, m, m, m, 8 * channels, device=grid.device, dtype=kind)
    total = out.numel() // channels
    programs, block_v, block_c = _tiles(total, channels)
    _blocks_kernel[programs](out, grid, total, n, m, channels, block_v, block_c)
    return out


class Blocks(torch.autograd.Function):
    """Voxels of (B, C, n, n, n), one voxel of zeros around them, in blocks of 2³: (B, 8C, m, m, m), m = (n + 2)//2."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, grid: Tensor) -> Tensor:
        grid = _last(grid)
        out = padded_blocks(grid, grid.dtype)
        ctx.shape = grid.shape  # type: ignore[attr-defined]
        return out.permute(0, 4, 1, 2, 3)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> Tensor:
        grad = _last(grad)
        to_grid = grad.new_empty(ctx.shape)  # type: ignore[attr-defined]
        _, n, _, _, channels = to_grid.shape
        total = to_grid.numel() // channels
        programs, block_v, block_c = _tiles(total, channels)
        _blocks_gradient_kernel[programs](to_grid, grad, total, n, grad.shape[1], channels, block_v, block_c)
        return to_grid.permute(0, 4, 1, 2, 3)


def by_blocks(taps: Tensor) -> Tensor:
    """Return weights (C, 4, 4, 4) in the order of :func:`windows_of_blocks`, (64, C)."""
    split = taps.unflatten(3, (2, 2)).unflatten(2, (2, 2)).unflatten(1, (2, 2))
    return split.permute(1, 3, 5, 2, 4, 6, 0).flatten(0, 5)


def from_blocks(taps: Tensor) -> Tensor:
    """Return weights (C, 4, 4, 4) from those of :func:`by_blocks`."""
    split = taps.unflatten(0, (2,) * 6).permute(6, 0, 3, 1, 4, 2, 5)
    return split.flatten(5, 6).flatten(3, 4).flatten(1, 2)


class Activate(torch.autograd.Function):
    """``leaky(x + bias)`` in place, (B, C, z, y, x) with channels last."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, bias: Tensor, slope: float) -> Tensor:
        flat = x.permute(0, 2, 3, 4, 1)
        if not flat.is_contiguous():
            flat = flat.contiguous()
        channels = flat.shape[-1]
        total = flat.numel() // channels
        grid, block_v, block_c = _tiles(total, channels)
        _activate_kernel[grid](flat, bias, slope, total, channels, block_v, block_c)
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
        slope: float = ctx.slope  # type: ignore[attr-defined]
        grad = _last(grad)
        channels = grad.shape[-1]
        total = grad.numel() // channels
        to_x, to_bias = torch.empty_like(grad), torch.zeros(LANES, channels, device=grad.device)
        grid, block_v, block_c = _tiles(total, channels)
        _activate_gradient_kernel[grid](to_x, to_bias, grad, out, slope, total, channels, block_v, block_c, LANES)
        return to_x.permute(0, 4, 1, 2, 3), to_bias.sum(0), None


CHANNELS = 16
ROWS = 128
PROGRAMS = 2048


def split_rows(total: int) -> tuple[int, int]:
    """Return the numbers of programs, and of blocks of rows of each, that sum gradients over ``total`` rows."""
    blocks = triton.cdiv(total, ROWS)
    programs = min(PROGRAMS, blocks)
    return programs, triton.cdiv(blocks, programs)


@Kernel
def _output_layer_kernel(out, x, weights, bias, added, n: tl.constexpr, rows: tl.constexpr, adds: tl.constexpr):
    """Two neighbors along x at a time: they read 4 x 16 numbers in a row of memory and give 16 outputs."""
    pairs: tl.constexpr = (n + 1) // 2
    item = tl.program_id(1).to(tl.int64)
    pair = tl.program_id(0) * rows + tl.arange(0, rows)
    inside = pair < n * n * pairs
    jx, jy, jz = 2 * (pair % pairs), (pair // pairs) % n, pair // (pairs * n)
    read_at, column = tl.arange(0, 64), tl.arange(0, 16)
    ix = (jx - 1)[:, None] + (read_at // 16)[None, :]
    exists = inside[:, None] & (ix >= 0) & (ix < n)
    total = tl.zeros((rows, 16), tl.float32)
    source = x + item * n * n * n * 16
    for neighbor in range(9):
        iy, iz = jy + neighbor % 3 - 1, jz + neighbor // 3 - 1
        read = (iy >= 0) & (iy < n) & (iz >= 0) & (iz < n)
        at = ((iz * n + iy) * n + jx - 1)[:, None] * 16 + read_at[None, :]
        values = tl.load(source + at, mask=exists & read[:, None], other=0.0)
        taps = tl.load(weights + neighbor * 1024 + read_at[:, None] * 16 + column[None, :])
        total += tl.dot(values, taps)
    total += tl.load(bias)
    px, py, pz = column % 4, (column // 4) % 2, column // 8
    oz, oy, ox = 2 * jz[:, None] + pz[None, :], 2 * jy[:, None] + py[None, :], 2 * jx[:, None] + px[None, :]
    place = (oz * 2 * n + oy) * 2 * n + ox
    written = inside[:, None] & (ox < 2 * n)
    if adds:
        total += tl.load(added + place, mask=written, other=0.0)
    tl.store(out + item * 8 * n * n * n + place, total, mask=written)


@Kernel
def _output_layer_gradient_kernel(to_x, partial, blocks, x, weights, total, steps, n: tl.constexpr, rows: tl.constexpr):
    """Each input i reads the outputs 2i - 1 … 2i + 2 along each axis."""
    program, channel, k = tl.program_id(0), tl.arange(0, 16), tl.arange(0, 64)
    taps = tl.load(weights + k[:, None] * 16 + channel[None, :])
    to_weights = tl.zeros((64, 16), tl.float32)
    for step in range(steps):
        voxel = (program * steps + step) * rows + tl.arange(0, rows)
        inside = voxel < total
        windows = windows_of_blocks(blocks, voxel, inside, n)
        at = voxel.to(tl.int64)[:, None] * 16 + channel[None, :]
        tl.store(to_x + at, tl.dot(windows, taps), mask=inside[:, None])
        values = tl.load(x + at, mask=inside[:, None], other=0.0)
        to_weights += tl.dot(tl.trans(windows), values)
    tl.store(partial + program * 1024 + k[:, None] * 16 + channel[None, :], to_weights)


@lru_cache(maxsize=8)
def _choice(device: torch.device) -> Tensor:
    """1 where neighbor d - 1 gives to parity p by tap k = p + 1 - 2(d - 1): (3, 2, 4)."""
    choose = torch.zeros(3, 2, 4)
    for d, p, k in ((0, 0, 3), (1, 0, 1), (1, 1, 2), (2, 1, 0)):
        choose[d, p, k] = 1.0
    return choose.to(device)


def neighbor_weights(weight: Tensor) -> Tensor:
    """Return what 9 rows of 4 neighbors give to the outputs of two voxels, (9, 64, 16), from taps (16, 4, 4, 4).

    Rows are neighbors along x and channels, columns the parities along z and y and the 4 outputs along x.
    """
    choose = _choice(weight.device)
    spread = torch.einsum("dpk,eql,frm,cklm->defcpqr", choose, choose, choose, weight)
    first, second = (torch.nn.functional.pad(spread, (0, 0) * 4 + pad) for pad in ((0, 1), (1, 0)))
    return torch.stack([first, second], -2).reshape(9, 4 * CHANNELS, 16)


class OutputLayer(torch.autograd.Function):
    """Transposed convolution (kernel 4, stride 2, padding 1) of (B, 16, n, n, n) to (B, 2n, 2n, 2n), float32.

    ``weight`` is (16, 4, 4, 4), ``bias`` (1,); ``added`` (2n, 2n, 2n), without gradient, is added to all results.
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor, added: Tensor | None
    ) -> Tensor:
        x = x.permute(0, 2, 3, 4, 1).contiguous()
        batch, n = x.shape[:2]
        out = torch.empty(batch, 2 * n, 2 * n, 2 * n, device=x.device, dtype=torch.float32)
        spread = neighbor_weights(weight).to(x.dtype).contiguous()
        grid = (triton.cdiv(n * n * ((n + 1) // 2), ROWS), batch)
        _output_layer_kernel[grid](
            out, x, spread, bias, bias if added is None else added.contiguous(), n, ROWS, added is not None
        )
        ctx.save_for_backward(x, weight)
        return out

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors  # type: ignore[attr-defined]
        n = x.shape[1]
        total = x.numel() // CHANNELS
        to_x, blocks = torch.empty_like(x), padded_blocks(grad[..., None], x.dtype)
        programs, steps = split_rows(total)
        partial = torch.empty(programs, 64, CHANNELS, device=x.device, dtype=torch.float32)
        taps = by_blocks(weight).to(x.dtype).contiguous()
        _output_layer_gradient_kernel[(programs,)](to_x, partial, blocks, x, taps, total, steps, n, ROWS)
        return to_x.permute(0, 4, 1, 2, 3), from_blocks(partial.sum(0)), grad.sum().view(1), None
