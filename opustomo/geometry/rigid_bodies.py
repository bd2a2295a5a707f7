"""Rigid bodies of a particle, rigid motions ``p ↦ R p + d`` and their screw axes."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

MIN_BODIES = 2
Numbers = tuple[Any, ...] | npt.NDArray[np.float64]
"""Nested numbers; a geometry converts arrays to tuples."""


@dataclass(frozen=True)
class BodyGeometry:
    """Positions, frames and extents of the bodies of a particle.

    Lengths are in voxels of the subtomograms, vectors are x, y, z, and positions are relative to voxel D/2. Values are
    plain numbers, so a geometry can be compared, hashed and pickled.

    Attributes
    ----------
    com_bodies
        B × 3, center of mass of each body.
    in_relatives
        B × 3, center of mass of its parent.
    rotate_directions
        B × 3, lever from the center of the parent to that of the body.
    orient_bodies
        B × 3 × 3, frame of the rotations of the body; ``orient · x`` transforms a vector into it.
    radii_bodies
        B × 3, square roots of the eigenvalues of the covariance of the density, ascending.
    principal_axes
        B × 3 × 3, the eigenvectors as rows.
    parents
        B, index of the parent of each body, from 0; the body itself if it has none.
    """

    com_bodies: Numbers
    in_relatives: Numbers
    rotate_directions: Numbers
    orient_bodies: Numbers
    radii_bodies: Numbers
    principal_axes: Numbers
    parents: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.com_bodies)
        if count < MIN_BODIES:
            raise ValueError(f"bodies: at least {MIN_BODIES} are required, got {count}")
        for name in TENSOR_NAMES:
            values = np.asarray(getattr(self, name), dtype=np.float64)
            shape = (count, 3, 3) if name in ("orient_bodies", "principal_axes") else (count, 3)
            if values.shape != shape or not np.isfinite(values).all():
                raise ValueError(f"bodies: {name} must be {shape} finite numbers, got {values.shape}")
            object.__setattr__(self, name, _nested(values))
        if not (np.asarray(self.radii_bodies) > 0).all():
            raise ValueError("bodies: radii_bodies must be positive")
        parents = tuple(int(p) for p in self.parents) or infer_parents(self)
        if len(parents) != count or not all(0 <= p < count for p in parents):
            raise ValueError(f"bodies: parents must be {count} indices of bodies, got {parents}")
        object.__setattr__(self, "parents", parents)

    def __len__(self) -> int:
        return len(self.com_bodies)

    @property
    def largest(self) -> int:
        """Index of the body with the largest ellipsoid of inertia."""
        return int(self.array("radii_bodies").prod(1).argmax())

    def array(self, name: str) -> npt.NDArray[np.float64]:
        """Return an attribute as an array."""
        return np.asarray(getattr(self, name), dtype=np.float64)

    def tensor(self, name: str) -> Tensor:
        """Return an attribute as a float32 tensor."""
        return torch.from_numpy(self.array(name)).float()


TENSOR_NAMES = tuple(f.name for f in fields(BodyGeometry) if f.name != "parents")
"""Attributes in the torch file of bodies (docs/files.md)."""


def infer_parents(geometry: BodyGeometry) -> tuple[int, ...]:
    """Return the parents of bodies, which are the bodies nearest to the starts of the levers.

    A body without a lever, relative to which the others move, is its own parent.
    """
    centers, levers = geometry.array("com_bodies"), geometry.array("rotate_directions")
    starts = geometry.array("in_relatives")
    parents = []
    for body in range(len(centers)):
        if np.linalg.norm(levers[body]) < 1e-6:
            parents.append(body)
            continue
        distance = np.linalg.norm(centers - starts[body], axis=1)
        distance[body] = np.inf
        parents.append(int(distance.argmin()))
    return tuple(parents)


def _nested(values: npt.NDArray[np.float64]) -> tuple[Any, ...]:
    if values.ndim == 1:
        return tuple(float(v) for v in values)
    return tuple(_nested(v) for v in values)


Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RigidMotions:
    """Batch of rigid motions.

    Attributes
    ----------
    turns
        Rotation matrices R, (..., 3, 3).
    shifts
        Shifts d, (..., 3).
    """

    turns: Array
    shifts: Array

    def __getitem__(self, index: Any) -> RigidMotions:
        return RigidMotions(self.turns[index], self.shifts[index])

    def apply(self, points: Array) -> Array:
        """Return the moved points (..., 3)."""
        return np.einsum("...ij,...j->...i", self.turns, points) + self.shifts

    def inverse(self) -> RigidMotions:
        """Return the inverse motions."""
        back = np.swapaxes(self.turns, -1, -2)
        return RigidMotions(back, -np.einsum("...ij,...j->...i", back, self.shifts))

    def after(self, first: RigidMotions) -> RigidMotions:
        """Return the composition of these motions after ``first``."""
        return RigidMotions(self.turns @ first.turns, self.apply(first.shifts))

    def rotvecs_deg(self) -> Array:
        """Return rotation vectors in degrees, (..., 3)."""
        from scipy.spatial.transform import Rotation  # which takes long to import

        flat = Rotation.from_matrix(self.turns.reshape(-1, 3, 3)).as_rotvec(degrees=True)
        return flat.reshape(self.shifts.shape)


@dataclass(frozen=True, eq=False)
class Screw:
    """Rigid motion as a rotation about an axis and a shift along it.

    Attributes
    ----------
    axis
        Unit vector x, y, z; the direction of the shift, or z, if there is no rotation.
    angle_deg
        Angle of the right-handed rotation, 0 … 180.
    shift
        Shift along the axis in the unit of the motion.
    point
        Point of the axis nearest to ``center`` of :func:`screw_of`.
    """

    axis: Array
    angle_deg: float
    shift: float
    point: Array


MIN_ANGLE_DEG = 1e-4


def screw_of(motion: RigidMotions, center: Array | None = None) -> Screw:
    """Return the screw of a single motion (R (3, 3), d (3,)); its point is nearest to ``center`` (default: the origin).

    The axis n passes through ``½ (d⊥ + cot(θ/2) n × d⊥)``, where ``d⊥`` is the part of d across the axis (Chasles).
    """
    nearest_to = np.zeros(3) if center is None else np.asarray(center, dtype=np.float64)
    vector = motion.rotvecs_deg()
    angle = float(np.linalg.norm(vector))
    if angle < MIN_ANGLE_DEG:
        length = float(np.linalg.norm(motion.shifts))
        axis = motion.shifts / length if length > 0 else np.array([0.0, 0.0, 1.0])
        return Screw(axis, 0.0, length, nearest_to)
    axis = vector / angle
    along = float(motion.shifts @ axis)
    across = motion.shifts - along * axis
    point = 0.5 * (across + np.cross(axis, across) / np.tan(np.radians(angle) / 2))
    return Screw(axis, angle, along, point + ((nearest_to - point) @ axis) * axis)
