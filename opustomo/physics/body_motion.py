"""Motion of rigid bodies: the sampling grids of the bodies are blended to one deformation (docs/dynamics.md).

Positions are in grid units of the crop (end voxels at ±1) relative to voxel Dc/2, the center of rotation, which only
:func:`sample_on_grid` adds. Deformations are pull-backs: the density at ``x`` is sampled from the reference at
``g(x)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from opustomo.geometry.rigid_bodies import BodyGeometry
from opustomo.physics import kernels
from opustomo.physics.boxes import Boxes
from opustomo.physics.fourier import pad_center
from opustomo.physics.sampling import cross_sums, cube_points

FALLOFF = 0.2
"""Decay of the weight of a body with the squared distance from its center, in units of its radii."""
FLOOR = 1e-5
"""Least weight of a body, which keeps the sum of the weights above zero far from all bodies."""


@dataclass(frozen=True)
class Bodies:
    """Geometry of K rigid bodies in grid units of the crop.

    Attributes
    ----------
    centers, levers, radii
        Centers of mass, lever arms from the parents and radii along the principal axes, (K, 3).
    frames, axes
        Frames of the rotations and principal axes as rows, (K, 3, 3).
    """

    centers: Tensor
    levers: Tensor
    radii: Tensor
    frames: Tensor
    axes: Tensor

    @classmethod
    def on_crop(cls, geometry: BodyGeometry, boxes: Boxes) -> Bodies:
        """Convert a geometry in voxels of the input box to grid units of the crop."""
        scale = boxes.grid_per_pixel
        return cls(
            geometry.tensor("com_bodies") * scale,
            geometry.tensor("rotate_directions") * scale,
            geometry.tensor("radii_bodies") * scale,
            geometry.tensor("orient_bodies"),
            geometry.tensor("principal_axes"),
        )

    def __len__(self) -> int:
        return len(self.centers)


class Motion(NamedTuple):
    """Motion of K bodies: a body with the center c_b moves by ``p ↦ R_b (p - c_b - s_b) + c_b`` in the reference frame.

    Attributes
    ----------
    rotations
        Rotations R_b, (B, K, 3, 3).
    shifts
        Shifts s_b in grid units, (B, K, 3).
    """

    rotations: Tensor
    shifts: Tensor


def body_motion(rotations: Tensor, swings: Tensor, bodies: Bodies) -> Motion:
    """Convert rotations in the frames o of the bodies to ``R_b = oᵀ R o`` and ``s_b = oᵀ S o · lever - lever``.

    Parameters
    ----------
    rotations, swings
        Rotations R of the bodies about their centers, and S of their centers about those of their parents,
        (B, K, 3, 3).
    """
    frames = bodies.frames
    rotated = frames.mT @ rotations @ frames
    swung = frames.mT @ swings @ frames
    levers = bodies.levers
    return Motion(rotated, (swung @ levers[..., None])[..., 0] - levers)


def pull_back(points: Sequence[Tensor], rotation: Tensor, motion: Motion, bodies: Bodies) -> Tensor:
    """Return the positions in the reference from which the density at given points is sampled.

    ``g(x) = Σ_b w_b (u_b + c_b)`` with ``u_b = (A δA R_b)ᵀ (x - A δA c_b) + s_b`` and
    ``w_b ∝ exp(-0.2 Σ_k (a_k·u_b / radius_k)²) + 1e-5``, through which no gradient flows.

    Parameters
    ----------
    points
        Coordinates x, y and z, each (B or 1, 1, ...), which broadcast to the shape S of the points.
    rotation
        Poses A δA, (B, 3, 3).
    motion, bodies
        Motion and geometry of the bodies.

    Returns
    -------
    Tensor
        Positions g(x), (B, 3, S).
    """
    pulled, weights = [], []
    for body in range(len(bodies)):
        body_rotation, center = motion.rotations[:, body], bodies.centers[body]
        matrix, offset = rotation @ body_rotation, motion.shifts[:, body] - center @ body_rotation
        with torch.no_grad():
            scale = (bodies.axes[body] / bodies.radii[body][:, None]).mT
            scaled = _linear(points, matrix @ scale, offset @ scale)
            weights.append(torch.exp(-FALLOFF * scaled.square_().sum(1, keepdim=True)) + FLOOR)
        pulled.append(_linear(points, matrix, offset + center) * weights[-1])
    return reduce(torch.add, pulled) / reduce(torch.add, weights)


def _linear(points: Sequence[Tensor], matrix: Tensor, offset: Tensor) -> Tensor:
    """Return ``xᵀ M + o`` for points as in :func:`pull_back`, M (B, 3, 3) and o (B, 3), small arrays first."""
    x, y, z = points
    ends = (1,) * (x.dim() - 2)
    rows = matrix.unflatten(2, (3, *ends))
    return x * rows[:, 0] + y * rows[:, 1] + (z * rows[:, 2] + offset.unflatten(1, (3, *ends)))


def coarse_grid(rotation: Tensor, motion: Motion, bodies: Bodies, size: int) -> Tensor:
    """Return :func:`pull_back` on Dc/2 points per axis that span the crop of ``size`` Dc, (B, 3, Dc/2, Dc/2, Dc/2)."""
    at = _coarse_axis(size, rotation.device, rotation.dtype)
    return pull_back((at, at.mT, at.movedim(4, 2)), rotation, motion, bodies)


@lru_cache(maxsize=8)
def _coarse_axis(size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return the coordinates of the points along an axis, (1, 1, 1, 1, Dc/2)."""
    at = torch.linspace(-1.0, 1.0, max(size // 2, 2), device=device, dtype=dtype)
    return at.view(1, 1, 1, 1, -1) - 1.0 / (size - 1)


@lru_cache(maxsize=8)
def _refinement(size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return the matrix (Dc, Dc/2) of linear interpolation from the points along an axis to its voxels."""
    points = torch.eye(max(size // 2, 2), device=device, dtype=dtype)
    return functional.interpolate(points[None], size=size, mode="linear", align_corners=True)[0].mT.contiguous()


def blended_grid(rotation: Tensor, motion: Motion, bodies: Bodies, size: int) -> Tensor:
    """Return the sampling position of each voxel of the crop, (B, 3, Dc³), interpolated from :func:`coarse_grid`.

    Interpolation along each axis is a matrix product, whose gradient is faster than that of torch's interpolation.
    """
    grid = coarse_grid(rotation, motion, bodies, size)
    finer = _refinement(size, grid.device, grid.dtype)
    grid = finer @ (grid @ finer.mT)
    return (finer @ grid.flatten(3)).flatten(2)


def nominal_motion(motion: Motion, bodies: Bodies) -> tuple[Tensor, Tensor]:
    """Return R_b and s_b as rigid motions ``p ↦ R p + d``: R (B, K, 3, 3) and d (B, K, 3) in grid units."""
    centers = bodies.centers
    return motion.rotations, centers - torch.einsum("bkij,bkj->bki", motion.rotations, centers + motion.shifts)


def effective_motion(motion: Motion, bodies: Bodies) -> tuple[Tensor, Tensor]:
    """Fit rigid motions ``p ↦ R p + d`` to the deformation of the interior of each body.

    Because grids are blended, a body partly follows its neighbors and moves less than R_b and s_b indicate. Points in
    the ellipsoid of each body are moved by R_b and s_b and traced back by :func:`pull_back`. The two sets of points are
    superposed by the Kabsch algorithm.

    Returns
    -------
    Tensor, Tensor
        Rotations R, (B, K, 3, 3), and shifts d in grid units, (B, K, 3).
    """
    count, number = motion.shifts.shape[:2]
    eye = torch.eye(3, device=motion.rotations.device, dtype=motion.rotations.dtype).expand(count, 3, 3)
    unit_ball = _ball_points(motion.rotations.device, motion.rotations.dtype)
    rotations, shifts = [], []
    for body in range(number):
        rotation, center = motion.rotations[:, body], bodies.centers[body]
        inside = (unit_ball * (HALF_AXIS_PER_RADIUS * bodies.radii[body])) @ bodies.axes[body]
        moved = (inside - motion.shifts[:, body, None]) @ rotation.mT + center
        origin = pull_back(moved.mT[:, :, None].unbind(1), eye, motion, bodies).mT
        moved_center, origin_center = moved.mean(1, keepdim=True), origin.mean(1, keepdim=True)
        u, _, vt = torch.linalg.svd((moved - moved_center).mT @ (origin - origin_center))
        sign = torch.ones_like(u[:, 0])
        sign[:, 2] = torch.linalg.det(u @ vt).sign()
        best = (u * sign[:, None]) @ vt
        rotations.append(best)
        shifts.append((moved_center - origin_center @ best.mT)[:, 0])
    return torch.stack(rotations, 1), torch.stack(shifts, 1)


HALF_AXIS_PER_RADIUS = 5.0**0.5
"""Ratio of the half-axis of a uniform ellipsoid to the standard deviation of its density along this axis."""


@lru_cache(maxsize=4)
def _ball_points(device: torch.device, dtype: torch.dtype, across: int = 9) -> Tensor:
    points = cube_points(across, device, dtype)[0]
    return points[points.square().sum(1) <= 1.0]


def sample_on_grid(
    volumes: Tensor,
    grid: Tensor,
    candidates: Tensor,
    size: int,
    shift: Tensor | None = None,
    padded: int | None = None,
) -> Tensor:
    """Sample volumes trilinearly at ``Q_pᵀ g(x) + t`` for each candidate rotation Q_p.

    Parameters
    ----------
    volumes
        Densities that span the crop, (B, T, T, T).
    grid
        Positions g(x) of :func:`blended_grid`, (B, 3, Dc³).
    candidates
        Candidate rotations Q, (P, 3, 3) or (B, P, 3, 3).
    size
        Size Dc of the crop in voxels.
    shift
        Shifts t in grid units, (B, 1, 3).
    padded
        Size n of the zero-padded output box; ``size`` by default.

    Returns
    -------
    Tensor
        Samples, (B, P, n, n, n); zero outside the volume.
    """
    count, poses = len(grid), candidates.shape[-3]
    offset = _offsets(grid, shift, poses, size)
    if kernels.usable(volumes, grid, offset):
        from opustomo.physics.kernels.sampling import Sample

        rows = _voxel_rows(candidates, offset, volumes.shape[-1])
        kernel_samples: Tensor = Sample.apply(volumes, rows, grid, size, padded or size)
        return kernel_samples
    positions = (grid.mT[:, None] @ candidates).add_(offset[:, :, None]).view(count, poses * size, size, size, 3)
    sampled = functional.grid_sample(volumes[:, None], positions, align_corners=True)
    sampled = sampled.view(count, poses, size, size, size)
    return sampled if padded is None or padded == size else pad_center(sampled, padded)


def cross_on_grid(
    volumes: Tensor, grid: Tensor, candidates: Tensor, size: int, shift: Tensor | None, fields: tuple[Tensor, Tensor]
) -> Tensor:
    """Return ``Σ_x V_p(x) h(x)``, (B, 2, P), without gradient, of what :func:`sample_on_grid` samples and two fields h.

    Parameters
    ----------
    volumes, grid, candidates, size, shift
        As in :func:`sample_on_grid`.
    fields
        h on the padded box, (B, n, n, n) each.
    """
    offset = _offsets(grid, shift, candidates.shape[-3], size)
    if kernels.usable(volumes, grid, offset, *fields):
        from opustomo.physics.kernels.sampling import cross_of_samples

        return cross_of_samples(volumes, _voxel_rows(candidates, offset, volumes.shape[-1]), grid, size, fields)
    return cross_sums(sample_on_grid(volumes, grid, candidates, size, shift), fields)


def _offsets(grid: Tensor, shift: Tensor | None, poses: int, size: int) -> Tensor:
    """Return the positions of the center of rotation plus the shift, (B, P, 3)."""
    center = torch.full((len(grid), 1, 3), 1.0 / (size - 1), device=grid.device, dtype=grid.dtype)
    return (center if shift is None else center + shift).expand(-1, poses, -1)


def _voxel_rows(candidates: Tensor, offset: Tensor, width: int) -> Tensor:
    """Return the affine maps (B, P, 3, 4) from positions on the grid to voxels of a volume of ``width``."""
    return torch.cat([candidates.mT.expand(len(offset), -1, -1, -1), (offset + 1.0)[..., None]], -1) * ((width - 1) / 2)
