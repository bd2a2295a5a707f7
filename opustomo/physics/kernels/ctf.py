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
BLOCK_X = 8
BLOCK_Y = 64


@triton.jit
def _cubic(distance):
    d = tl.abs(distance)
    near = (1.25 * d - 2.25) * d * d + 1.0
    far = ((-0.75 * d + 3.75) * d - 6.0) * d + 3.0
    return tl.where(d < 1.0, near, tl.where(d < 2.0, far, 0.0))


@triton.jit
def _sine_of_turns(t):
    """Return sin(2π t) by a polynomial of half a turn or less, with an error below 3e-7."""
    t = t - tl.floor(t + 0.5)
    t = tl.where(t > 0.25, 0.5 - t, tl.where(t < -0.25, -0.5 - t, t))  # |t| is a quarter of a turn or less
    t2 = t * t
    return ((((39.535702 * t2 - 76.549643) * t2 + 81.600998) * t2 - 41.341655) * t2 + 6.2831852) * t


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
    support: tl.constexpr = 1.0 if normalized else 2.0
    first = ((tl.program_id(2) % blocks_x) * block_x).to(tl.float32)
    here = tilts + particle * count * parameters
    for _ in range(count):
        cos, sin, scale = tl.load(here), tl.load(here + 1), tl.load(here + 2)
        scales += scale
        start = first * sin + kz * cos  # distance of the first column from the slice; it is linear along x
        end = start + (block_x - 1) * sin
        if (scale > 0.0) & (tl.minimum(start, end) < support) & (tl.maximum(start, end) > -support):
            distance = kx * sin + kz * cos
            in_plane = kx * cos - kz * sin
            weight = tl.maximum(1.0 - tl.abs(distance), 0.0) if normalized else _cubic(distance)
            covers = (tl.abs(in_plane) <= nyquist) & (tl.abs(weight) > kernel_floor)
            weight = tl.where(covers, weight, 0.0)
            x = in_plane[None, :] * step
            x2, y2 = x * x, y * y
            s2 = x2 + y2
            gamma = tl.load(here + 3) * s2 + tl.load(here + 4) * (x2 - y2) + tl.load(here + 5) * (x * y)
            gamma += tl.load(here + 6) * s2 * s2 - tl.load(here + 7)
            total -= (weight * scale)[None, :] * _sine_of_turns(gamma) * tl.exp(tl.load(here + 8) * s2)
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
    by_s2 = -0.5 * wavelength  # phases are in turns
    return torch.stack(
        [
            torch.cos(angle),
            torch.sin(angle),
            tilts.scale,
            by_s2 * mean,
            by_s2 * half_difference * torch.cos(axis),
            by_s2 * half_difference * 2.0 * torch.sin(axis),
            0.25 * tilts.cs_mm * 1e7 * wavelength**3,
            tilts.phase_shift_deg / 360.0 + torch.atan2(w, torch.sqrt(1.0 - w * w)) / (2.0 * math.pi),
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
