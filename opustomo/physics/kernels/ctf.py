"""Triton kernel of the 3D CTF: each voxel sums the tilts whose slices reach it."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from opustomo.physics.ctf import TiltBatch, electron_wavelength_A
from opustomo.physics.kernels.launch import Kernel

PARAMETERS = 9
BLOCK_X = 16
BLOCK_Y = 32


@triton.jit
def _cubic(distance):
    d = tl.abs(distance)
    near = (1.25 * d - 2.25) * d * d + 1.0
    far = ((-0.75 * d + 3.75) * d - 6.0) * d + 3.0
    return tl.where(d < 1.0, near, tl.where(d < 2.0, far, 0.0))


@Kernel
def _ctf_kernel(
    out, tilts, nyquist, step, kernel_floor, count: tl.constexpr, size: tl.constexpr, half: tl.constexpr,
    normalized: tl.constexpr, parameters: tl.constexpr, block_x: tl.constexpr, block_y: tl.constexpr,
):  # fmt: skip
    particle = tl.program_id(0).to(tl.int64)
    row = tl.program_id(1)
    blocks_x: tl.constexpr = (half + block_x - 1) // block_x
    kx_index = (tl.program_id(2) % blocks_x) * block_x + tl.arange(0, block_x)
    ky_index = (tl.program_id(2) // blocks_x) * block_y + tl.arange(0, block_y)
    kx = kx_index.to(tl.float32)
    kz = tl.where(row < size // 2, row, row - size).to(tl.float32)
    ky = tl.where(ky_index < size // 2, ky_index, ky_index - size).to(tl.float32)
    y = ky[:, None] * step
    total = tl.zeros((block_y, block_x), tl.float32)
    sampling = tl.zeros((block_x,), tl.float32)
    scales = 0.0
    here = tilts + particle * count * parameters
    for _ in range(count):
        cos, sin, scale = tl.load(here), tl.load(here + 1), tl.load(here + 2)
        distance = kx * sin + kz * cos
        in_plane = kx * cos - kz * sin
        weight = tl.maximum(1.0 - tl.abs(distance), 0.0) if normalized else _cubic(distance)
        covers = (tl.abs(in_plane) <= nyquist) & (tl.abs(weight) > kernel_floor)
        weight = tl.where(covers, weight, 0.0)
        weight = tl.where(scale > 0.0, weight, 0.0)
        scales += scale
        if tl.max(tl.abs(weight), 0) > 0:
            x = in_plane[None, :] * step
            x2, y2 = x * x, y * y
            s2 = x2 + y2
            gamma = tl.load(here + 3) * s2 + tl.load(here + 4) * (x2 - y2) + tl.load(here + 5) * (x * y)
            gamma += tl.load(here + 6) * s2 * s2 - tl.load(here + 7)
            total -= (weight * scale)[None, :] * tl.sin(gamma) * tl.exp(tl.load(here + 8) * s2)
            sampling += weight
        here += parameters
    total = total / tl.maximum(sampling, 1.0)[None, :] if normalized else total / tl.maximum(scales, 1e-3)
    place = ((particle * size + row) * size + ky_index[:, None]) * half + kx_index[None, :]
    tl.store(out + place, total, mask=(ky_index[:, None] < size) & (kx_index[None, :] < half))


def tilt_parameters(tilts: TiltBatch) -> Tensor:
    """Return the parameters of each tilt, (B, T, 9): cos, sin, scale, 4 phase coefficients, phase offset, envelope."""
    wavelength = electron_wavelength_A(tilts.voltage_kv)
    mean = 0.5 * (tilts.defocus_u_A + tilts.defocus_v_A)
    half_difference = 0.5 * (tilts.defocus_u_A - tilts.defocus_v_A)
    axis = torch.deg2rad(2.0 * tilts.astigmatism_deg)
    angle = torch.deg2rad(tilts.tilt_deg)
    w = tilts.amplitude_contrast
    by_s2 = -math.pi * wavelength
    return torch.stack(
        [
            torch.cos(angle),
            torch.sin(angle),
            tilts.scale,
            by_s2 * mean,
            by_s2 * half_difference * torch.cos(axis),
            by_s2 * half_difference * 2.0 * torch.sin(axis),
            0.5 * math.pi * tilts.cs_mm * 1e7 * wavelength**3,
            torch.deg2rad(tilts.phase_shift_deg) + torch.atan2(w, torch.sqrt(1.0 - w * w)),
            -0.25 * tilts.bfactor_A2,
        ],
        -1,
    )


def ctf_volume(
    tilts: TiltBatch, size: int, apix: float, normalized: bool, nyquist: float, kernel_floor: float
) -> Tensor:
    """Compute 3D CTFs, see :func:`opustomo.physics.ctf.ctf_volume`."""
    batch, count = tilts.scale.shape
    half = size // 2 + 1
    out = tilts.scale.new_empty(batch, size, size, half)
    grid = (batch, size, triton.cdiv(half, BLOCK_X) * triton.cdiv(size, BLOCK_Y))
    _ctf_kernel[grid](
        out, tilt_parameters(tilts).contiguous(), nyquist, 1.0 / (size * apix), kernel_floor, count, size, half,
        normalized, PARAMETERS, BLOCK_X, BLOCK_Y,
    )  # fmt: skip
    return out
