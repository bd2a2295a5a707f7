"""Sampling volumes at turned and shifted positions, about voxel Dc/2 (docs/method.md, section 2).

A grid with ``align_corners=True`` turns about (Dc-1)/2, while FFT, origins and RELION poses have their centre at Dc/2.
So a pull-back by matrix M samples at ``M (g - e) + e + t`` with e = 1/(Dc-1) in each component.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from opustomo.physics import kernels
from opustomo.physics.fourier import pad_centre


@lru_cache(maxsize=8)
def cube_points(size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Grid coordinates x, y, z of all voxels of a cube, end voxels at ±1: (1, size³, 3)."""
    at = torch.linspace(-1.0, 1.0, size, device=device, dtype=dtype)
    z, y, x = torch.meshgrid(at, at, at, indexing="ij")
    return torch.stack([x, y, z], -1).view(1, -1, 3)


def affine_rows(matrices: Tensor, centre: float, shift: Tensor | None = None) -> Tensor:
    """Rows (..., 3, 4) or (..., 2, 3) for :func:`torch.nn.functional.affine_grid` that turn about ``centre``.

    Parameters
    ----------
    matrices
        (..., n, n), n = 2 or 3; positions are pulled back by them.
    centre
        Grid coordinate of the centre of rotation, the same on every axis.
    shift
        (..., n) in grid units, added to the position sampled.
    """
    offset = centre * (1.0 - matrices.sum(-1))  # e - M e
    if shift is not None:
        offset = offset + shift
    return torch.cat([matrices, offset[..., None]], -1)


def sample_posed(
    volumes: Tensor, matrices: Tensor, size: int, shift: Tensor | None = None, padded: int | None = None
) -> Tensor:
    """Trilinear samples ``V(M (x - e) + e + t)`` on a cube of ``size`` voxels, for several poses of each volume.

    Parameters
    ----------
    volumes
        (B, T, T, T) densities spanning the cube, end voxels at ±1.
    matrices
        (B, P, 3, 3), x, y, z order. For a density posed by RELION's A pass the transpose of A.
    size
        Side Dc of the cube, voxels; its centre is voxel Dc/2.
    shift
        (B, P, 3) or (B, 1, 3) in grid units, optional.
    padded
        Side n of the box, zero around the cube, that is given back; ``size`` by default.

    Returns
    -------
    Tensor
        (B, P, n, n, n); zero outside the volume.
    """
    batch, poses = matrices.shape[:2]
    padded = size if padded is None else padded
    rows = affine_rows(matrices, 1.0 / (size - 1), shift)
    if kernels.usable(volumes, rows):
        from opustomo.physics.kernels.sampling import Sample

        sampled: Tensor = Sample.apply(volumes, voxel_rows(rows, size, volumes.shape[-1]), None, size, padded)
        return sampled
    rows = rows.flatten(0, 1)
    points = cube_points(size, volumes.device, volumes.dtype).expand(batch * poses, -1, -1)
    grid = torch.baddbmm(rows[:, None, :, 3], points, rows[:, :, :3].mT)
    grid = grid.view(batch, poses * size, size, size, 3)
    sampled = functional.grid_sample(volumes[:, None], grid, align_corners=True).view(batch, poses, size, size, size)
    return sampled if padded == size else pad_centre(sampled, padded)


def voxel_rows(rows: Tensor, size: int, width: int) -> Tensor:
    """Rows (..., 3, 4) on grids spanning [-1, 1], as maps of voxel numbers of ``size`` to voxels of ``width``."""
    half = (width - 1) / 2
    linear = rows[..., :3]
    offset = (rows[..., 3] - linear.sum(-1) + 1.0) * half
    return torch.cat([linear * (2.0 * half / (size - 1)), offset[..., None]], -1)


def turn_about_z(volumes: Tensor, matrices: Tensor) -> Tensor:
    """Bicubic turn of (B, D, D, D) volumes in the x, y plane: ``y(M x)`` about voxel D/2; matrices (B, 2, 2)."""
    size = volumes.shape[-1]
    rows = affine_rows(matrices, 1.0 / (size - 1))
    grid = functional.affine_grid(rows, [len(volumes), 1, size, size], align_corners=True)
    return functional.grid_sample(volumes, grid, mode="bicubic", align_corners=True)


def resample_cube(volumes: Tensor, spacing: float, size: int) -> Tensor:
    """Trilinear samples of (B, n, n, n) at ``(i - size/2)·spacing + n/2`` (input voxels); zero outside.

    Keeps the centre voxel n/2 at size/2, whatever the spacing.
    """
    n = volumes.shape[-1]
    at = (torch.arange(size, device=volumes.device, dtype=torch.float32) - size // 2) * spacing + n // 2
    at = at * 2.0 / (n - 1) - 1.0
    grid = torch.stack(torch.meshgrid(at, at, at, indexing="ij")[::-1], -1).to(volumes)
    grid = grid[None].expand(len(volumes), -1, -1, -1, -1)
    return functional.grid_sample(volumes[:, None], grid, align_corners=True)[:, 0]
