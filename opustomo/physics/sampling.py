"""Sampling of volumes at rotated and shifted positions about voxel Dc/2 (docs/method.md, section 2).

A grid with ``align_corners=True`` is centered at (Dc-1)/2, but FFT, origins and RELION poses are centered at Dc/2.
Volumes are therefore sampled at ``M (g - e) + e + t`` with e = 1/(Dc-1) in each component.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from opustomo.physics import kernels
from opustomo.physics.fourier import crop_center, pad_center


@lru_cache(maxsize=8)
def cube_points(size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return the grid coordinates x, y, z of all voxels of a cube with end voxels at ±1, (1, size³, 3)."""
    at = torch.linspace(-1.0, 1.0, size, device=device, dtype=dtype)
    z, y, x = torch.meshgrid(at, at, at, indexing="ij")
    return torch.stack([x, y, z], -1).view(1, -1, 3)


def affine_matrices(matrices: Tensor, center: float, shift: Tensor | None = None) -> Tensor:
    """Return affine matrices for :func:`torch.nn.functional.affine_grid` that rotate about ``center``.

    Parameters
    ----------
    matrices
        Matrices that map output to input positions, (..., n, n) with n = 2 or 3.
    center
        Grid coordinate of the center of rotation on each axis.
    shift
        Shift of the sampled positions in grid units, (..., n).

    Returns
    -------
    Tensor, (..., n, n + 1)
    """
    offset = center * (1.0 - matrices.sum(-1))  # e - M e
    if shift is not None:
        offset = offset + shift
    return torch.cat([matrices, offset[..., None]], -1)


def sample_posed(
    volumes: Tensor, matrices: Tensor, size: int, shift: Tensor | None = None, padded: int | None = None
) -> Tensor:
    """Sample volumes trilinearly at ``M (x - e) + e + t`` on a cube, for several poses of each volume.

    Parameters
    ----------
    volumes
        Densities that span the cube, with end voxels at ±1, (B, T, T, T).
    matrices
        Matrices M for vectors (x, y, z), (B, P, 3, 3); the transpose of RELION's A for a density with this pose.
    size
        Size Dc of the cube in voxels; its center is voxel Dc/2.
    shift
        Shifts t in grid units, (B, P, 3) or (B, 1, 3).
    padded
        Size n of the zero-padded output box; ``size`` by default.

    Returns
    -------
    Tensor
        Samples, (B, P, n, n, n); zero outside the volume.
    """
    batch, poses = matrices.shape[:2]
    padded = size if padded is None else padded
    rows = affine_matrices(matrices, 1.0 / (size - 1), shift)
    if kernels.usable(volumes, rows):
        from opustomo.physics.kernels.sampling import Sample

        sampled: Tensor = Sample.apply(volumes, voxel_affines(rows, size, volumes.shape[-1]), None, size, padded)
        return sampled
    rows = rows.flatten(0, 1)
    points = cube_points(size, volumes.device, volumes.dtype).expand(batch * poses, -1, -1)
    grid = torch.baddbmm(rows[:, None, :, 3], points, rows[:, :, :3].mT)
    grid = grid.view(batch, poses * size, size, size, 3)
    sampled = functional.grid_sample(volumes[:, None], grid, align_corners=True).view(batch, poses, size, size, size)
    return sampled if padded == size else pad_center(sampled, padded)


def cross_of_posed(
    volumes: Tensor, matrices: Tensor, size: int, shift: Tensor | None, fields: tuple[Tensor, Tensor]
) -> Tensor:
    """Return ``Σ_x V_p(x) h(x)``, (B, 2, P), without gradient, of what :func:`sample_posed` samples and two fields h.

    Parameters
    ----------
    volumes, matrices, size, shift
        As in :func:`sample_posed`.
    fields
        h on the padded box, (B, n, n, n) each.
    """
    rows = affine_matrices(matrices, 1.0 / (size - 1), shift)
    if kernels.usable(volumes, rows, *fields):
        from opustomo.physics.kernels.sampling import cross_of_samples

        return cross_of_samples(volumes, voxel_affines(rows, size, volumes.shape[-1]), None, size, fields)
    return cross_sums(sample_posed(volumes, matrices, size, shift), fields)


def cross_sums(volumes: Tensor, fields: tuple[Tensor, Tensor]) -> Tensor:
    """Return ``Σ_x V h``, (B, 2, P), of volumes V (B, P, n, n, n) and the centers of two fields h (B, m, m, m)."""
    both = torch.stack([crop_center(field, volumes.shape[-1]) for field in fields], 1)
    return both.flatten(2) @ volumes.flatten(2).mT


def voxel_affines(rows: Tensor, size: int, width: int) -> Tensor:
    """Convert affine matrices (..., n, n + 1) on [-1, 1] to maps from voxels of ``size`` to those of ``width``."""
    half = (width - 1) / 2
    linear = rows[..., :-1]
    offset = (rows[..., -1] - linear.sum(-1) + 1.0) * half
    return torch.cat([linear * (2.0 * half / (size - 1)), offset[..., None]], -1)


def rotate_about_z(volumes: Tensor, matrices: Tensor) -> Tensor:
    """Rotate volumes (B, D, D, D) about z by bicubic sampling at ``M x`` about voxel D/2, with matrices M (B, 2, 2)."""
    size = volumes.shape[-1]
    rows = affine_matrices(matrices, 1.0 / (size - 1))
    if kernels.usable(volumes, rows) and not volumes.requires_grad:
        from opustomo.physics.kernels.sampling import rotate_about_z as rotate_with_kernel

        return rotate_with_kernel(volumes, voxel_affines(rows, size, size))
    grid = functional.affine_grid(rows, [len(volumes), 1, size, size], align_corners=True)
    return functional.grid_sample(volumes, grid, mode="bicubic", align_corners=True)


def resample_cube(volumes: Tensor, spacing: float, size: int) -> Tensor:
    """Resample volumes (B, n, n, n) trilinearly at ``(i - size/2)·spacing + n/2`` (input voxels).

    Voxel n/2 becomes voxel size/2 for any spacing. Samples outside the volumes are zero.
    """
    n = volumes.shape[-1]
    at = (torch.arange(size, device=volumes.device, dtype=torch.float32) - size // 2) * spacing + n // 2
    at = at * 2.0 / (n - 1) - 1.0
    grid = torch.stack(torch.meshgrid(at, at, at, indexing="ij")[::-1], -1).to(volumes)
    grid = grid[None].expand(len(volumes), -1, -1, -1, -1)
    return functional.grid_sample(volumes[:, None], grid, align_corners=True)[:, 0]


def to_template(volume: Tensor, size: int) -> Tensor:
    """Resample a density or mask (Dc, Dc, Dc) trilinearly to a template (T, T, T); both span the crop."""
    return functional.interpolate(volume[None, None], (size,) * 3, mode="trilinear", align_corners=True)[0, 0]
