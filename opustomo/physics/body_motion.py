"""Moving bodies in the decoder: every body pulls a grid of its own, and the grids are blended (docs/dynamics.md).

Positions are grid units of the crop (end voxels at ±1) counted from voxel Dc/2, the centre of rotation; only
:func:`sample_on_grid` adds that centre. Pull-back: the density at ``x`` is read from the reference at ``g(x)``.
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
from opustomo.physics.fourier import pad_centre
from opustomo.physics.sampling import cube_points

FALLOFF = 0.2
FLOOR = 1e-5


@dataclass(frozen=True)
class Bodies:
    """Geometry of K bodies in grid units of the crop.

    Attributes
    ----------
    centres, levers, radii
        (K, 3).
    frames, axes
        (K, 3, 3): frames of the rotations, principal axes as rows.
    """

    centres: Tensor
    levers: Tensor
    radii: Tensor
    frames: Tensor
    axes: Tensor

    @classmethod
    def on_crop(cls, geometry: BodyGeometry, boxes: Boxes) -> Bodies:
        """From lengths in voxels of the input box to the grid of the crop."""
        unit = boxes.grid_per_pixel
        return cls(
            geometry.tensor("com_bodies") * unit,
            geometry.tensor("rotate_directions") * unit,
            geometry.tensor("radii_bodies") * unit,
            geometry.tensor("orient_bodies"),
            geometry.tensor("principal_axes"),
        )

    def __len__(self) -> int:
        return len(self.centres)


class Motion(NamedTuple):
    """``turns`` R_b (B, K, 3, 3) and ``shifts`` s_b (B, K, 3): in the reference frame a body moves by
    ``p ↦ R_b (p - c_b - s_b) + c_b`` with its centre c_b."""

    turns: Tensor
    shifts: Tensor


def body_motion(turns: Tensor, swings: Tensor, bodies: Bodies) -> Motion:
    """Motion from rotations in the bodies' frames, ``R_b = oᵀ R o`` and ``s_b = oᵀ S o · lever - lever``.

    Parameters
    ----------
    turns, swings
        (B, K, 3, 3): R turns a body about its centre, S swings the centre about the parent's.
    """
    frames = bodies.frames
    turned = frames.mT @ turns @ frames
    swung = frames.mT @ swings @ frames
    levers = bodies.levers
    return Motion(turned, (swung @ levers[..., None])[..., 0] - levers)


def pull_back(points: Sequence[Tensor], rotation: Tensor, motion: Motion, bodies: Bodies) -> Tensor:
    """Where the density at given points comes from.

    ``g(x) = Σ_b w_b (u_b + c_b)`` with ``u_b = (A δA R_b)ᵀ (x - A δA c_b) + s_b`` and
    ``w_b ∝ exp(-0.2 Σ_k (a_k·u_b / radius_k)²) + 1e-5`` (no gradient).

    Parameters
    ----------
    points
        x, y and z, each (B or 1, 1, ...) and together broadcast to S, so that axes of a grid stay axes.
    rotation
        (B, 3, 3) A δA.

    Returns
    -------
    Tensor
        (B, 3, S).
    """
    pulled, weights = [], []
    for body in range(len(bodies)):
        turn, centre = motion.turns[:, body], bodies.centres[body]
        matrix, offset = rotation @ turn, motion.shifts[:, body] - centre @ turn
        with torch.no_grad():
            scale = (bodies.axes[body] / bodies.radii[body][:, None]).mT
            scaled = _linear(points, matrix @ scale, offset @ scale)
            weights.append(torch.exp(-FALLOFF * scaled.square_().sum(1, keepdim=True)) + FLOOR)
        pulled.append(_linear(points, matrix, offset + centre) * weights[-1])
    return reduce(torch.add, pulled) / reduce(torch.add, weights)


def _linear(points: Sequence[Tensor], matrix: Tensor, offset: Tensor) -> Tensor:
    """``xᵀ M + o`` of points as in :func:`pull_back`, M (B, 3, 3) and o (B, 3); shorter axes are added first."""
    x, y, z = points
    ends = (1,) * (x.dim() - 2)
    rows = matrix.unflatten(2, (3, *ends))
    return x * rows[:, 0] + y * rows[:, 1] + (z * rows[:, 2] + offset.unflatten(1, (3, *ends)))


def coarse_grid(rotation: Tensor, motion: Motion, bodies: Bodies, size: int) -> Tensor:
    """:func:`pull_back` of Dc/2 points a side that span the crop (``size`` Dc): (B, 3, Dc/2, Dc/2, Dc/2)."""
    at = _coarse_axis(size, rotation.device, rotation.dtype)
    return pull_back((at, at.mT, at.movedim(4, 2)), rotation, motion, bodies)


@lru_cache(maxsize=8)
def _coarse_axis(size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Coordinates (1, 1, 1, 1, Dc/2) of the points of a row."""
    at = torch.linspace(-1.0, 1.0, max(size // 2, 2), device=device, dtype=dtype)
    return at.view(1, 1, 1, 1, -1) - 1.0 / (size - 1)


@lru_cache(maxsize=8)
def _refinement(size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Linear interpolation (Dc, Dc/2) from the points of a row to its voxels, end points on end voxels."""
    points = torch.eye(max(size // 2, 2), device=device, dtype=dtype)
    return functional.interpolate(points[None], size=size, mode="linear", align_corners=True)[0].mT.contiguous()


def blended_grid(rotation: Tensor, motion: Motion, bodies: Bodies, size: int) -> Tensor:
    """Where the density at every voxel of the crop comes from, (B, 3, Dc³): :func:`coarse_grid`, interpolated.

    Interpolated axis by axis, as matrix products: the gradient of torch's own adds up voxel by voxel.
    """
    grid = coarse_grid(rotation, motion, bodies, size)
    finer = _refinement(size, grid.device, grid.dtype)
    grid = finer @ (grid @ finer.mT)
    return (finer @ grid.flatten(3)).flatten(2)


def stated_motion(motion: Motion, bodies: Bodies) -> tuple[Tensor, Tensor]:
    """R_b and s_b as rigid motions ``p ↦ R p + d`` of the bodies: R (B, K, 3, 3) and d (B, K, 3) in grid units."""
    centres = bodies.centres
    return motion.turns, centres - torch.einsum("bkij,bkj->bki", motion.turns, centres + motion.shifts)


def realised_motion(motion: Motion, bodies: Bodies) -> tuple[Tensor, Tensor]:
    """Rigid motions ``p ↦ R p + d`` that come nearest to how each body's inside really moves.

    Grids are blended, so a body follows its neighbours in part and moves less than R_b and s_b say. Points that fill an
    ellipsoid of each body's radii are put where R_b and s_b would take them, traced back by :func:`pull_back`, and the
    two sets superposed (Kabsch).

    Returns
    -------
    Tensor, Tensor
        R (B, K, 3, 3) and d (B, K, 3) in grid units.
    """
    count, number = motion.shifts.shape[:2]
    eye = torch.eye(3, device=motion.turns.device, dtype=motion.turns.dtype).expand(count, 3, 3)
    filling = _ball_points(motion.turns.device, motion.turns.dtype)
    turns, shifts = [], []
    for body in range(number):
        turn, centre = motion.turns[:, body], bodies.centres[body]
        inside = (filling * (SOLID * bodies.radii[body])) @ bodies.axes[body]
        moved = (inside - motion.shifts[:, body, None]) @ turn.mT + centre
        origin = pull_back(moved.mT[:, :, None].unbind(1), eye, motion, bodies).mT
        to, start = moved.mean(1, keepdim=True), origin.mean(1, keepdim=True)
        u, _, vt = torch.linalg.svd((moved - to).mT @ (origin - start))
        sign = torch.ones_like(u[:, 0])
        sign[:, 2] = torch.linalg.det(u @ vt).sign()
        best = (u * sign[:, None]) @ vt
        turns.append(best)
        shifts.append((to - start @ best.mT)[:, 0])
    return torch.stack(turns, 1), torch.stack(shifts, 1)


SOLID = 5.0**0.5
"""Half-axis of a solid ellipsoid per radius (root of a covariance eigenvalue)."""


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
    """Trilinear samples ``V(Q_pᵀ g(x) + t)`` for every candidate rotation.

    Parameters
    ----------
    volumes
        (B, T, T, T) densities spanning the crop.
    grid
        (B, 3, Dc³) of :func:`blended_grid`.
    candidates
        Q, (P, 3, 3) or (B, P, 3, 3).
    size
        Dc.
    shift
        t, (B, 1, 3) in grid units, optional.
    padded
        Side n of the box, zero around the crop, that is given back; ``size`` by default.

    Returns
    -------
    Tensor
        (B, P, n, n, n); zero outside the volume.
    """
    count, poses = len(grid), candidates.shape[-3]
    centre = torch.full((count, 1, 3), 1.0 / (size - 1), device=grid.device, dtype=grid.dtype)
    offset = (centre if shift is None else centre + shift).expand(-1, poses, -1)
    if kernels.usable(volumes, grid, offset):
        from opustomo.physics.kernels.sampling import Sample

        half = (volumes.shape[-1] - 1) / 2
        rows = torch.cat([candidates.mT.expand(count, -1, -1, -1), (offset + 1.0)[..., None]], -1) * half
        on_kernel: Tensor = Sample.apply(volumes, rows, grid, size, padded or size)
        return on_kernel
    positions = (grid.mT[:, None] @ candidates).add_(offset[:, :, None]).view(count, poses * size, size, size, 3)
    sampled = functional.grid_sample(volumes[:, None], positions, align_corners=True)
    sampled = sampled.view(count, poses, size, size, size)
    return sampled if padded is None or padded == size else pad_centre(sampled, padded)
