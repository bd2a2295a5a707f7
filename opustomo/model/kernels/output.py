"""The decoder's last layer: a transposed convolution from 16 channels to one, which libraries run slowly.

Output ``o = 2i - 1 + k`` gets ``x[i]·w[k]`` along each axis, k = 0 … 3. Each of the 2³ outputs 2j + p of a voxel j
reads its 3³ neighbors; each input i reads the 4³ outputs around it in the backward pass.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from opustomo.physics.kernels.launch import Kernel

CHANNELS = 16
ROWS = 128
CHUNKS = 16


@Kernel
def _forward_kernel(out, x, weights, bias, added, n: tl.constexpr, rows: tl.constexpr, adds: tl.constexpr):
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


@triton.jit
def _patches(grad, voxel, inside, n: tl.constexpr):
    """(rows, 64) outputs 2i - 1 + k around inputs i."""
    k = tl.arange(0, 64)
    kx, ky, kz = k % 4, (k // 4) % 4, k // 16
    ix, iy, iz = voxel % n, (voxel // n) % n, voxel // (n * n)
    ox = 2 * ix[:, None] - 1 + kx[None, :]
    oy = 2 * iy[:, None] - 1 + ky[None, :]
    oz = 2 * iz[:, None] - 1 + kz[None, :]
    read = inside[:, None] & (ox >= 0) & (ox < 2 * n) & (oy >= 0) & (oy < 2 * n) & (oz >= 0) & (oz < 2 * n)
    return tl.load(grad + (oz * 2 * n + oy) * 2 * n + ox, mask=read, other=0.0)


@Kernel
def _backward_kernel(
    to_x, partial, grad, x, weights, per_chunk: tl.constexpr, n: tl.constexpr, rows: tl.constexpr, chunks: tl.constexpr
):
    item = tl.program_id(1).to(tl.int64)
    channel = tl.arange(0, 16)
    k = tl.arange(0, 64)
    taps = tl.load(weights + k[:, None] * 16 + channel[None, :])
    to_weights = tl.zeros((16, 64), tl.float32)
    total: tl.constexpr = n * n * n
    for step in range(per_chunk):
        voxel = (tl.program_id(0) * per_chunk + step) * rows + tl.arange(0, rows)
        inside = voxel < total
        patches = _patches(grad + item * 8 * total, voxel, inside, n).to(x.dtype.element_ty)
        at = item * total * 16 + voxel[:, None] * 16 + channel[None, :]
        tl.store(to_x + at, tl.dot(patches, taps), mask=inside[:, None])
        values = tl.load(x + at, mask=inside[:, None], other=0.0)
        to_weights += tl.dot(tl.trans(values), patches)
    here = partial + (item * chunks + tl.program_id(0)) * 1024
    tl.store(here + channel[:, None] * 64 + k[None, :], to_weights)


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
        _forward_kernel[grid](
            out, x, spread, bias, bias if added is None else added.contiguous(), n, ROWS, added is not None
        )
        ctx.save_for_backward(x, weight)
        return out

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors  # type: ignore[attr-defined]
        grad = grad.contiguous()
        batch, n = x.shape[:2]
        to_x = torch.empty_like(x)
        chunks = max(1, min(CHUNKS, n**3 // ROWS))
        per_chunk = triton.cdiv(triton.cdiv(n**3, ROWS), chunks)
        partial = torch.empty(batch * chunks, CHANNELS, 64, device=x.device, dtype=torch.float32)
        taps = weight.flatten(1).t().to(x.dtype).contiguous()  # (64, 16)
        _backward_kernel[(chunks, batch)](to_x, partial, grad, x, taps, per_chunk, n, ROWS, chunks)
        return to_x.permute(0, 4, 1, 2, 3), partial.sum(0).view(CHANNELS, 4, 4, 4), grad.sum().view(1), None
