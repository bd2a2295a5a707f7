"""Moving bodies in the decoder: every body pulls a grid of its own, and the grids are blended (spec 4).

Positions are grid units of the crop (end voxels at ±1) counted from voxel Dc/2, the centre of rotation; only
:func:`sample_on_grid` adds that centre. Pull-back: the density at ``x`` is read from the reference at ``g(x)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from opustomo.geometry.bodies import BodyGeometry
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


def pull_back(points: Tensor, rotation: Tensor, motion: Motion, bodies: Bodies) -> Tensor:
    """Where the density at given points comes from.

    ``g(x) = Σ_b w_b (u_b + c_b)`` with ``u_b = (A δA R_b)ᵀ (x - A δA c_b) + s_b`` and
    ``w_b ∝ exp(-0.2 Σ_k (a_k·u_b / radius_k)²) + 1e-5`` (no gradient).

    Parameters
    ----------
    points
        x, (B, n, 3) or (1, n, 3).
    rotation
        (B, 3, 3) A δA.

    Returns
    -------
    Tensor
        (B, n, 3).
    """
    count, number = motion.shifts.shape[:2]
    positions, weights = [], []
    for body in range(number):
        turn, centre = motion.turns[:, body], bodies.centres[body]
        offset = motion.shifts[:, body] - torch.einsum("j,bji->bi", centre, turn)
        relative = torch.baddbmm(offset[:, None], points.expand(count, -1, -1), rotation @ turn)
        positions.append(relative + centre)
        with torch.no_grad():
            scaled = relative @ (bodies.axes[body] / bodies.radii[body][:, None]).mT
            weights.append(torch.exp(-FALLOFF * scaled.square().sum(-1)) + FLOOR)
    share = torch.stack(weights, 1)
    share = share / share.sum(1, keepdim=True)
    return torch.einsum("bkn,bknc->bnc", share, torch.stack(positions, 1))


def coarse_grid(rotation: Tensor, motion: Motion, bodies: Bodies, size: int) -> Tensor:
    """:func:`pull_back` of Dc/2 points a side that span the crop (``size`` Dc): (B, 3, Dc/2, Dc/2, Dc/2)."""
    coarse = max(size // 2, 2)
    points = cube_points(coarse, rotation.device, rotation.dtype) - 1.0 / (size - 1)
    return pull_back(points, rotation, motion, bodies).mT.unflatten(-1, (coarse, coarse, coarse))


def blended_grid(rotation: Tensor, motion: Motion, bodies: Bodies, size: int) -> Tensor:
    """Where the density at every voxel of the crop comes from, (B, Dc³, 3): :func:`coarse_grid`, interpolated."""
    grid = coarse_grid(rotation, motion, bodies, size)
    return functional.interpolate(grid, size=(size,) * 3, mode="trilinear", align_corners=True).flatten(2).mT


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
        origin = pull_back(moved, eye, motion, bodies)
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
        (B, Dc³, 3) of :func:`blended_grid`.
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
    offset = torch.full((count, 1, 1, 3), 1.0 / (size - 1), device=grid.device, dtype=grid.dtype)
    if shift is not None:
        offset = offset + shift[:, :, None]
    positions = (grid[:, None] @ candidates).add_(offset).view(count, poses * size, size, size, 3)
    sampled = functional.grid_sample(volumes[:, None], positions, align_corners=True)
    sampled = sampled.view(count, poses, size, size, size)
    return sampled if padded is None or padded == size else pad_centre(sampled, padded)
