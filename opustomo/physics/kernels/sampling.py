"""Triton kernels of the trilinear sampling of posed volumes, of its gradients, and of sums over posed volumes.

A program works on a cube of ``SIDE``³ voxels. Voxels that are close to each other read the same part of the volume at
any rotation, while a row of voxels would read it from all over the volume.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from opustomo.physics.kernels.launch import Kernel

SIDE = 8
PAIRS = 1024


def _tiles(size: int) -> int:
    """Return the number of programs that cover a cube of ``size`` voxels."""
    return triton.cdiv(size, SIDE) ** 3


@triton.jit
def _corner_of_tile(size: tl.constexpr, side: tl.constexpr):
    """Return x, y, z of the first voxel of the cube that a program works on."""
    across: tl.constexpr = (size + side - 1) // side
    tile = tl.program_id(0)
    return tile % across * side, (tile // across) % across * side, tile // (across * across) * side


@triton.jit
def _voxels(x0, y0, z0, side: tl.constexpr):
    """Return x, y, z of the voxels of a cube."""
    within = tl.arange(0, side * side * side)
    return x0 + within % side, y0 + (within // side) % side, z0 + within // (side * side)


@triton.jit
def _inputs(points, x, y, z, valid, size: tl.constexpr, moved: tl.constexpr):
    """Return the inputs of the affine maps for output voxels of a cube."""
    if moved:
        total: tl.constexpr = size * size * size
        index = (z * size + y) * size + x
        u = tl.load(points + index, mask=valid, other=0.0)
        v = tl.load(points + total + index, mask=valid, other=0.0)
        w = tl.load(points + 2 * total + index, mask=valid, other=0.0)
    else:
        u, v, w = x.to(tl.float32), y.to(tl.float32), z.to(tl.float32)
    return u, v, w


@triton.jit
def _position(affine, x, y, z):
    """Return the sampled voxel coordinates."""
    px = tl.load(affine) * x + tl.load(affine + 1) * y + tl.load(affine + 2) * z + tl.load(affine + 3)
    py = tl.load(affine + 4) * x + tl.load(affine + 5) * y + tl.load(affine + 6) * z + tl.load(affine + 7)
    pz = tl.load(affine + 8) * x + tl.load(affine + 9) * y + tl.load(affine + 10) * z + tl.load(affine + 11)
    return px, py, pz


@triton.jit
def _corner(volume, ix, iy, iz, width: tl.constexpr, valid):
    inside = valid & (ix >= 0) & (ix < width) & (iy >= 0) & (iy < width) & (iz >= 0) & (iz < width)
    return tl.load(volume + (iz * width + iy) * width + ix, mask=inside, other=0.0)


@triton.jit
def _interpolated(volume, px, py, pz, width: tl.constexpr, valid):
    """Return a volume at voxel coordinates by trilinear interpolation."""
    fx, fy, fz = tl.floor(px), tl.floor(py), tl.floor(pz)
    wx, wy, wz = px - fx, py - fy, pz - fz
    ix, iy, iz = fx.to(tl.int32), fy.to(tl.int32), fz.to(tl.int32)
    low = _corner(volume, ix, iy, iz, width, valid) * (1 - wx) + _corner(volume, ix + 1, iy, iz, width, valid) * wx
    high = _corner(volume, ix, iy + 1, iz, width, valid) * (1 - wx)
    high += _corner(volume, ix + 1, iy + 1, iz, width, valid) * wx
    near = low * (1 - wy) + high * wy
    low = _corner(volume, ix, iy, iz + 1, width, valid) * (1 - wx)
    low += _corner(volume, ix + 1, iy, iz + 1, width, valid) * wx
    high = _corner(volume, ix, iy + 1, iz + 1, width, valid) * (1 - wx)
    high += _corner(volume, ix + 1, iy + 1, iz + 1, width, valid) * wx
    return near * (1 - wz) + (low * (1 - wy) + high * wy) * wz


@triton.jit
def _is_padding(x0, y0, z0, side: tl.constexpr, first: tl.constexpr, end: tl.constexpr):
    """Return whether the cube that a program works on lies outside of the voxels from ``first`` to ``end``."""
    below = (x0 + side <= first) | (y0 + side <= first) | (z0 + side <= first)
    return below | (x0 >= end) | (y0 >= end) | (z0 >= end)


@Kernel
def _sample_kernel(
    out, volumes, affines, points, poses, width: tl.constexpr, size: tl.constexpr, padded: tl.constexpr,
    moved: tl.constexpr, side: tl.constexpr,
):  # fmt: skip
    item = tl.program_id(1).to(tl.int64)
    before: tl.constexpr = padded // 2 - size // 2
    total: tl.constexpr = padded * padded * padded
    x0, y0, z0 = _corner_of_tile(padded, side)
    x, y, z = _voxels(x0, y0, z0, side)
    exists = (x < padded) & (y < padded) & (z < padded)
    to = out + item * total + (z * padded + y) * padded + x
    if _is_padding(x0, y0, z0, side, before, before + size):
        tl.store(to, tl.zeros((side * side * side,), tl.float32), mask=exists)
        return
    x, y, z = x - before, y - before, z - before
    valid = (x >= 0) & (x < size) & (y >= 0) & (y < size) & (z >= 0) & (z < size)
    u, v, w = _inputs(points + (item // poses) * (3 * size * size * size), x, y, z, valid, size, moved)
    px, py, pz = _position(affines + item * 12, u, v, w)
    value = _interpolated(volumes + (item // poses) * width * width * width, px, py, pz, width, valid)
    tl.store(to, value, mask=exists)


@Kernel
def _pairs_kernel(out, volumes, total, width: tl.constexpr, block: tl.constexpr):
    """Voxels x - 1 and x, in bfloat16, as one number for each x from 0 to the width."""
    place = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    x, row = place % (width + 1), place // (width + 1)
    exists = place < total
    low = tl.load(volumes + row * width + x - 1, mask=exists & (x > 0), other=0.0)
    high = tl.load(volumes + row * width + x, mask=exists & (x < width), other=0.0)
    low, high = low.to(tl.uint32, bitcast=True) + 0x8000, high.to(tl.uint32, bitcast=True) + 0x8000  # rounds
    tl.store(out + place, (high & 0xFFFF0000) | (low >> 16), mask=exists)


@triton.jit
def _along_x(pairs, ix, iy, iz, wx, width: tl.constexpr, valid):
    """Return a volume at ix + wx along x, interpolated between the two voxels of a pair."""
    inside = valid & (ix >= -1) & (ix < width) & (iy >= 0) & (iy < width) & (iz >= 0) & (iz < width)
    pair = tl.load(pairs + (iz * width + iy) * (width + 1) + ix + 1, mask=inside, other=0)
    low, high = (pair << 16).to(tl.float32, bitcast=True), (pair & 0xFFFF0000).to(tl.float32, bitcast=True)
    return low + wx * (high - low)


@triton.jit
def _interpolated_pairs(pairs, px, py, pz, width: tl.constexpr, valid):
    """Return :func:`_interpolated` of a volume in pairs."""
    fx, fy, fz = tl.floor(px), tl.floor(py), tl.floor(pz)
    wx, wy, wz = px - fx, py - fy, pz - fz
    ix, iy, iz = fx.to(tl.int32), fy.to(tl.int32), fz.to(tl.int32)
    near = _along_x(pairs, ix, iy, iz, wx, width, valid) * (1 - wy)
    near += _along_x(pairs, ix, iy + 1, iz, wx, width, valid) * wy
    far = _along_x(pairs, ix, iy, iz + 1, wx, width, valid) * (1 - wy)
    far += _along_x(pairs, ix, iy + 1, iz + 1, wx, width, valid) * wy
    return near * (1 - wz) + far * wz


@Kernel
def _sampled_cross_kernel(
    partial, first, second, pairs, affines, points, poses, width: tl.constexpr, size: tl.constexpr,
    padded: tl.constexpr, moved: tl.constexpr, side: tl.constexpr,
):  # fmt: skip
    item = tl.program_id(1).to(tl.int64)
    before: tl.constexpr = padded // 2 - size // 2
    x0, y0, z0 = _corner_of_tile(size, side)
    x, y, z = _voxels(x0, y0, z0, side)
    valid = (x < size) & (y < size) & (z < size)
    at = item * (padded * padded * padded) + ((z + before) * padded + y + before) * padded + x + before
    h, g = tl.load(first + at, mask=valid, other=0.0), tl.load(second + at, mask=valid, other=0.0)
    u, v, w = _inputs(points + item * (3 * size * size * size), x, y, z, valid, size, moved)
    volume = pairs + item * width * width * (width + 1)
    for pose in range(poses):
        px, py, pz = _position(affines + (item * poses + pose) * 12, u, v, w)
        value = _interpolated_pairs(volume, px, py, pz, width, valid)
        to = partial + (2 * item * poses + pose) * tl.num_programs(0) + tl.program_id(0)
        tl.store(to, tl.sum(h * value))
        tl.store(to + poses * tl.num_programs(0), tl.sum(g * value))


@triton.jit
def _gradient_at(volume, ix, iy, iz, wx, wy, wz, width: tl.constexpr, valid):
    """Return the derivatives of trilinear interpolation by x, y and z."""
    ux, uy, uz = 1 - wx, 1 - wy, 1 - wz
    v000 = _corner(volume, ix, iy, iz, width, valid)
    v001 = _corner(volume, ix + 1, iy, iz, width, valid)
    v010 = _corner(volume, ix, iy + 1, iz, width, valid)
    v011 = _corner(volume, ix + 1, iy + 1, iz, width, valid)
    v100 = _corner(volume, ix, iy, iz + 1, width, valid)
    v101 = _corner(volume, ix + 1, iy, iz + 1, width, valid)
    v110 = _corner(volume, ix, iy + 1, iz + 1, width, valid)
    v111 = _corner(volume, ix + 1, iy + 1, iz + 1, width, valid)
    dx = ((v001 - v000) * uy + (v011 - v010) * wy) * uz + ((v101 - v100) * uy + (v111 - v110) * wy) * wz
    dy = ((v010 - v000) * ux + (v011 - v001) * wx) * uz + ((v110 - v100) * ux + (v111 - v101) * wx) * wz
    dz = ((v100 - v000) * ux + (v101 - v001) * wx) * uy + ((v110 - v010) * ux + (v111 - v011) * wx) * wy
    return dx, dy, dz


@triton.jit
def _spread(gradient, ix, iy, iz, value, width: tl.constexpr, valid):
    inside = valid & (ix >= 0) & (ix < width) & (iy >= 0) & (iy < width) & (iz >= 0) & (iz < width)
    tl.atomic_add(gradient + (iz * width + iy) * width + ix, value, mask=inside, sem="relaxed")


@Kernel
def _gradient_kernel(
    to_volumes, to_affines, to_points, grad, volumes, affines, points, poses, blocks, width: tl.constexpr,
    size: tl.constexpr, padded: tl.constexpr, moved: tl.constexpr, slopes: tl.constexpr,
    side: tl.constexpr,
):  # fmt: skip
    item = tl.program_id(1).to(tl.int64)
    total: tl.constexpr = size * size * size
    before: tl.constexpr = padded // 2 - size // 2
    x0, y0, z0 = _corner_of_tile(size, side)
    column, row, plane = _voxels(x0, y0, z0, side)
    valid = (column < size) & (row < size) & (plane < size)
    affine, first = affines + item * 12, (item // poses) * (3 * total)
    x, y, z = _inputs(points + first, column, row, plane, valid, size, moved)
    px, py, pz = _position(affine, x, y, z)
    place = ((plane + before) * padded + row + before) * padded + column + before
    g = tl.load(grad + item * (padded * padded * padded) + place, mask=valid, other=0.0)
    fx, fy, fz = tl.floor(px), tl.floor(py), tl.floor(pz)
    wx, wy, wz = px - fx, py - fy, pz - fz
    ux, uy, uz = 1 - wx, 1 - wy, 1 - wz
    ix, iy, iz = fx.to(tl.int32), fy.to(tl.int32), fz.to(tl.int32)
    start = (item // poses) * width * width * width
    volume, spread = volumes + start, to_volumes + start
    _spread(spread, ix, iy, iz, g * ux * uy * uz, width, valid)
    _spread(spread, ix + 1, iy, iz, g * wx * uy * uz, width, valid)
    _spread(spread, ix, iy + 1, iz, g * ux * wy * uz, width, valid)
    _spread(spread, ix + 1, iy + 1, iz, g * wx * wy * uz, width, valid)
    _spread(spread, ix, iy, iz + 1, g * ux * uy * wz, width, valid)
    _spread(spread, ix + 1, iy, iz + 1, g * wx * uy * wz, width, valid)
    _spread(spread, ix, iy + 1, iz + 1, g * ux * wy * wz, width, valid)
    _spread(spread, ix + 1, iy + 1, iz + 1, g * wx * wy * wz, width, valid)
    if slopes:
        dx, dy, dz = _gradient_at(volume, ix, iy, iz, wx, wy, wz, width, valid)
        dx, dy, dz = dx * g, dy * g, dz * g
        if moved:
            for axis in tl.static_range(3):
                to = tl.load(affine + axis) * dx + tl.load(affine + 4 + axis) * dy + tl.load(affine + 8 + axis) * dz
                to_here = to_points + first + axis * total + (plane * size + row) * size + column
                tl.atomic_add(to_here, to, mask=valid, sem="relaxed")
        sums = to_affines + (item * blocks + tl.program_id(0)) * 12
        tl.store(sums, tl.sum(dx * x))
        tl.store(sums + 1, tl.sum(dx * y))
        tl.store(sums + 2, tl.sum(dx * z))
        tl.store(sums + 3, tl.sum(dx))
        tl.store(sums + 4, tl.sum(dy * x))
        tl.store(sums + 5, tl.sum(dy * y))
        tl.store(sums + 6, tl.sum(dy * z))
        tl.store(sums + 7, tl.sum(dy))
        tl.store(sums + 8, tl.sum(dz * x))
        tl.store(sums + 9, tl.sum(dz * y))
        tl.store(sums + 10, tl.sum(dz * z))
        tl.store(sums + 11, tl.sum(dz))


@triton.jit
def _cubic_weights(t):
    """Return the weights of Keys' cubic convolution (a = -0.75) of four neighbors, the second at distance t."""
    a: tl.constexpr = -0.75
    far, near, next_, last = t + 1.0, t, 1.0 - t, 2.0 - t
    w0 = ((a * far - 5.0 * a) * far + 8.0 * a) * far - 4.0 * a
    w1 = ((a + 2.0) * near - (a + 3.0)) * near * near + 1.0
    w2 = ((a + 2.0) * next_ - (a + 3.0)) * next_ * next_ + 1.0
    w3 = ((a * last - 5.0 * a) * last + 8.0 * a) * last - 4.0 * a
    return w0, w1, w2, w3


@triton.jit
def _pixel(plane, ix, iy, row_stride, size: tl.constexpr, valid):
    inside = valid & (ix >= 0) & (ix < size) & (iy >= 0) & (iy < size)
    return tl.load(plane + iy * row_stride + ix, mask=inside, other=0.0)


@triton.jit
def _row(plane, ix, iy, w0, w1, w2, w3, row_stride, size: tl.constexpr, valid):
    value = _pixel(plane, ix - 1, iy, row_stride, size, valid) * w0
    value += _pixel(plane, ix, iy, row_stride, size, valid) * w1
    value += _pixel(plane, ix + 1, iy, row_stride, size, valid) * w2
    return value + _pixel(plane, ix + 2, iy, row_stride, size, valid) * w3


@Kernel
def _rotate_kernel(
    out, volumes, affines, item_stride, plane_stride, row_stride, size: tl.constexpr, side: tl.constexpr
):  # fmt: skip
    item = tl.program_id(1).to(tl.int64)
    x0, y0, z0 = _corner_of_tile(size, side)
    x, y, z = _voxels(x0, y0, z0, side)
    valid = (x < size) & (y < size) & (z < size)
    affine = affines + item * 6
    px = tl.load(affine) * x + tl.load(affine + 1) * y + tl.load(affine + 2)
    py = tl.load(affine + 3) * x + tl.load(affine + 4) * y + tl.load(affine + 5)
    fx, fy = tl.floor(px), tl.floor(py)
    a0, a1, a2, a3 = _cubic_weights(px - fx)
    b0, b1, b2, b3 = _cubic_weights(py - fy)
    ix, iy = fx.to(tl.int32), fy.to(tl.int32)
    plane = volumes + item * item_stride + z * plane_stride
    value = _row(plane, ix, iy - 1, a0, a1, a2, a3, row_stride, size, valid) * b0
    value += _row(plane, ix, iy, a0, a1, a2, a3, row_stride, size, valid) * b1
    value += _row(plane, ix, iy + 1, a0, a1, a2, a3, row_stride, size, valid) * b2
    value += _row(plane, ix, iy + 2, a0, a1, a2, a3, row_stride, size, valid) * b3
    tl.store(out + ((item * size + z) * size + y) * size + x, value, mask=valid)


def rotate_about_z(volumes: Tensor, affines: Tensor) -> Tensor:
    """Sample volumes (B, D, D, D) bicubically at ``affines`` (B, 2, 3) · (x, y, 1), in voxels, plane by plane."""
    size = volumes.shape[-1]
    if volumes.stride(-1) != 1:
        volumes = volumes.contiguous()
    out = torch.empty(volumes.shape, device=volumes.device, dtype=volumes.dtype)
    _rotate_kernel[(_tiles(size), len(volumes))](out, volumes, affines.contiguous(), *volumes.stride()[:3], size, SIDE)
    return out


def cross_of_samples(
    volumes: Tensor, affines: Tensor, points: Tensor | None, size: int, fields: tuple[Tensor, Tensor]
) -> Tensor:
    """Return ``Σ_x V_p(x) h(x)``, (B, 2, P), of what :class:`Sample` samples and two fields h (B, n, n, n).

    Volumes are rounded to bfloat16, so that one number holds two neighboring voxels.
    """
    volumes, affines, first, second = (t.contiguous() for t in (volumes, affines, *fields))
    batch, poses = affines.shape[:2]
    width = volumes.shape[-1]
    pairs = torch.empty(batch, width, width, width + 1, device=volumes.device, dtype=torch.uint32)
    _pairs_kernel[(triton.cdiv(pairs.numel(), PAIRS),)](pairs, volumes, pairs.numel(), width, PAIRS)
    partial = first.new_empty(batch, 2, poses, _tiles(size))
    _sampled_cross_kernel[(_tiles(size), batch)](
        partial, first, second, pairs, affines, volumes if points is None else points.contiguous(), poses,
        width, size, first.shape[-1], points is not None, SIDE,
    )  # fmt: skip
    return partial.sum(-1)


class Sample(torch.autograd.Function):
    """Sample volumes (B, T, T, T) at positions ``affines`` (B, P, 3, 4) · (x, y, z, 1), (B, P, n, n, n).

    ``affines`` map the voxel indices x, y, z of a cube of ``size``, or its ``points`` (B, 3, size³) if given, to voxel
    coordinates of the volume. The cube is zero-padded to a box of n = ``padded`` voxels.
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        volumes: Tensor,
        affines: Tensor,
        points: Tensor | None,
        size: int,
        padded: int,
    ) -> Tensor:
        volumes, affines = volumes.contiguous(), affines.contiguous()
        points = None if points is None else points.contiguous()
        batch, poses = affines.shape[:2]
        out = volumes.new_empty(batch, poses, padded, padded, padded)
        _sample_kernel[(_tiles(padded), batch * poses)](
            out, volumes, affines, volumes if points is None else points, poses, volumes.shape[-1], size, padded,
            points is not None, SIDE,
        )  # fmt: skip
        ctx.save_for_backward(volumes, affines, *(() if points is None else (points,)))
        ctx.sizes = size, padded  # type: ignore[attr-defined]
        return out

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, grad: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor | None, None, None]:
        volumes, affines, *moved = ctx.saved_tensors  # type: ignore[attr-defined]
        points = moved[0] if moved else None
        size, padded = ctx.sizes  # type: ignore[attr-defined]
        batch, poses = affines.shape[:2]
        blocks = _tiles(size)
        to_volumes, to_points = torch.zeros_like(volumes), None if points is None else torch.zeros_like(points)
        slopes = any(ctx.needs_input_grad[1:3])  # type: ignore[attr-defined]
        to_affines = volumes.new_empty(batch, poses, blocks, 12) if slopes else to_volumes
        _gradient_kernel[(blocks, batch * poses)](
            to_volumes, to_affines, to_volumes if to_points is None else to_points, grad.contiguous(), volumes, affines,
            volumes if points is None else points, poses, blocks, volumes.shape[-1], size, padded, points is not None,
            slopes, SIDE,
        )  # fmt: skip
        by_affines = to_affines.sum(2).view(batch, poses, 3, 4) if slopes else None
        return to_volumes, by_affines, to_points, None, None
