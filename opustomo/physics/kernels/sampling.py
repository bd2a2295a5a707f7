"""Triton kernels of the trilinear sampling of posed volumes and of its gradients."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from opustomo.physics.kernels.launch import Kernel

BLOCK = 512


@triton.jit
def _position(affine, points, index, valid, size: tl.constexpr, moved: tl.constexpr):
    """Return the input of ``affine`` for output voxels ``index`` of a cube, and the sampled voxel coordinates."""
    if moved:
        total: tl.constexpr = size * size * size
        x = tl.load(points + index, mask=valid, other=0.0)
        y = tl.load(points + total + index, mask=valid, other=0.0)
        z = tl.load(points + 2 * total + index, mask=valid, other=0.0)
    else:
        x = (index % size).to(tl.float32)
        y = ((index // size) % size).to(tl.float32)
        z = (index // (size * size)).to(tl.float32)
    px = tl.load(affine) * x + tl.load(affine + 1) * y + tl.load(affine + 2) * z + tl.load(affine + 3)
    py = tl.load(affine + 4) * x + tl.load(affine + 5) * y + tl.load(affine + 6) * z + tl.load(affine + 7)
    pz = tl.load(affine + 8) * x + tl.load(affine + 9) * y + tl.load(affine + 10) * z + tl.load(affine + 11)
    return x, y, z, px, py, pz


@triton.jit
def _corner(volume, ix, iy, iz, width: tl.constexpr, valid):
    inside = valid & (ix >= 0) & (ix < width) & (iy >= 0) & (iy < width) & (iz >= 0) & (iz < width)
    return tl.load(volume + (iz * width + iy) * width + ix, mask=inside, other=0.0)


@triton.jit
def _is_padding(first, block: tl.constexpr, size: tl.constexpr, padded: tl.constexpr, before: tl.constexpr):
    """Return whether ``block`` voxels of the padded box from ``first`` on lie in planes or rows outside the cube."""
    top, bottom = first // padded, (first + block - 1) // padded  # rows, counted through all planes
    outside = (bottom < before * padded) | (top >= (before + size) * padded)
    return outside | (
        (top // padded == bottom // padded) & ((bottom % padded < before) | (top % padded >= before + size))
    )


@Kernel
def _sample_kernel(
    out, volumes, affines, points, poses, width: tl.constexpr, size: tl.constexpr, padded: tl.constexpr,
    moved: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    item = tl.program_id(1).to(tl.int64)
    first = tl.program_id(0) * block
    place = first + tl.arange(0, block)
    before: tl.constexpr = padded // 2 - size // 2
    total: tl.constexpr = padded * padded * padded
    if _is_padding(first, block, size, padded, before):
        tl.store(out + item * total + place, 0.0, mask=place < total)
        return
    x, y, z = place % padded - before, (place // padded) % padded - before, place // (padded * padded) - before
    valid = (x >= 0) & (x < size) & (y >= 0) & (y < size) & (z >= 0) & (z < size)
    index = (z * size + y) * size + x
    points += (item // poses) * (3 * size * size * size)
    _, _, _, px, py, pz = _position(affines + item * 12, points, index, valid, size, moved)
    fx, fy, fz = tl.floor(px), tl.floor(py), tl.floor(pz)
    wx, wy, wz = px - fx, py - fy, pz - fz
    ix, iy, iz = fx.to(tl.int32), fy.to(tl.int32), fz.to(tl.int32)
    volume = volumes + (item // poses) * width * width * width
    low = _corner(volume, ix, iy, iz, width, valid) * (1 - wx) + _corner(volume, ix + 1, iy, iz, width, valid) * wx
    high = _corner(volume, ix, iy + 1, iz, width, valid) * (1 - wx)
    high += _corner(volume, ix + 1, iy + 1, iz, width, valid) * wx
    near = low * (1 - wy) + high * wy
    low = _corner(volume, ix, iy, iz + 1, width, valid) * (1 - wx)
    low += _corner(volume, ix + 1, iy, iz + 1, width, valid) * wx
    high = _corner(volume, ix, iy + 1, iz + 1, width, valid) * (1 - wx)
    high += _corner(volume, ix + 1, iy + 1, iz + 1, width, valid) * wx
    value = near * (1 - wz) + (low * (1 - wy) + high * wy) * wz
    tl.store(out + item * total + place, value, mask=place < total)


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
    block: tl.constexpr,
):  # fmt: skip
    item = tl.program_id(1).to(tl.int64)
    index = tl.program_id(0) * block + tl.arange(0, block)
    total: tl.constexpr = size * size * size
    valid = index < total
    affine, first = affines + item * 12, (item // poses) * (3 * total)
    x, y, z, px, py, pz = _position(affine, points + first, index, valid, size, moved)
    before: tl.constexpr = padded // 2 - size // 2
    place = ((index // (size * size) + before) * padded + (index // size) % size + before) * padded
    place += index % size + before
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
                tl.atomic_add(to_points + first + axis * total + index, to, mask=valid, sem="relaxed")
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
    out, volumes, affines, item_stride, plane_stride, row_stride, size: tl.constexpr, block: tl.constexpr
):  # fmt: skip
    item = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * block + tl.arange(0, block)
    valid = place < size * size * size
    x, y, z = (place % size).to(tl.float32), ((place // size) % size).to(tl.float32), place // (size * size)
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
    tl.store(out + item * size * size * size + place, value, mask=valid)


def rotate_about_z(volumes: Tensor, affines: Tensor) -> Tensor:
    """Sample volumes (B, D, D, D) bicubically at ``affines`` (B, 2, 3) · (x, y, 1), in voxels, plane by plane."""
    size = volumes.shape[-1]
    if volumes.stride(-1) != 1:
        volumes = volumes.contiguous()
    out = torch.empty(volumes.shape, device=volumes.device, dtype=volumes.dtype)
    _rotate_kernel[(triton.cdiv(size**3, BLOCK), len(volumes))](
        out, volumes, affines.contiguous(), *volumes.stride()[:3], size, BLOCK
    )
    return out


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
        grid = (triton.cdiv(padded**3, BLOCK), batch * poses)
        _sample_kernel[grid](
            out, volumes, affines, volumes if points is None else points, poses, volumes.shape[-1], size, padded,
            points is not None, BLOCK,
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
        blocks = triton.cdiv(size**3, BLOCK)
        to_volumes, to_points = torch.zeros_like(volumes), None if points is None else torch.zeros_like(points)
        slopes = any(ctx.needs_input_grad[1:3])  # type: ignore[attr-defined]
        to_affines = volumes.new_empty(batch, poses, blocks, 12) if slopes else to_volumes
        _gradient_kernel[(blocks, batch * poses)](
            to_volumes, to_affines, to_volumes if to_points is None else to_points, grad.contiguous(), volumes, affines,
            volumes if points is None else points, poses, blocks, volumes.shape[-1], size, padded, points is not None,
            slopes, BLOCK,
        )  # fmt: skip
        by_affines = to_affines.sum(2).view(batch, poses, 3, 4) if slopes else None
        return to_volumes, by_affines, to_points, None, None
