"""Rigid bodies of a particle (centers, levers, frames, extents), rigid motions ``p ↦ R p + d`` and their screw axes."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

LEAST_BODIES = 2
Numbers = tuple[Any, ...] | npt.NDArray[np.float64]
"""Nested numbers; a geometry turns arrays into tuples."""


@dataclass(frozen=True)
class BodyGeometry:
    """Where the bodies of a particle are and about what they turn.

    Lengths are voxels of the subtomograms, vectors x, y, z, positions relative to voxel D/2. Plain numbers, so that it
    can be compared, hashed and stored anywhere.

    Attributes
    ----------
    com_bodies
        B × 3, centre of mass of each body.
    in_relatives
        B × 3, centre of mass of its parent.
    rotate_directions
        B × 3, lever from the parent's centre to the body's.
    orient_bodies
        B × 3 × 3, frame in which the body's rotations are expressed; vectors go into it by ``orient · x``.
    radii_bodies
        B × 3, root of the eigenvalues of the density's covariance, ascending.
    principal_axes
        B × 3 × 3, the eigenvectors as rows.
    parents
        B, which body each is relative to, from 0; the body itself where that is not known.
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
        if count < LEAST_BODIES:
            raise ValueError(f"bodies: at least {LEAST_BODIES} are needed, got {count}")
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
            raise ValueError(f"bodies: parents must be {count} numbers of bodies, got {parents}")
        object.__setattr__(self, "parents", parents)

    def __len__(self) -> int:
        return len(self.com_bodies)

    def array(self, name: str) -> npt.NDArray[np.float64]:
        """One of the members as an array."""
        return np.asarray(getattr(self, name), dtype=np.float64)

    def tensor(self, name: str) -> Tensor:
        """One of the members as a float32 tensor."""
        return torch.from_numpy(self.array(name)).float()


TENSOR_NAMES = tuple(f.name for f in fields(BodyGeometry) if f.name != "parents")
"""Members that the torch file of masks holds (docs/files.md)."""


def infer_parents(geometry: BodyGeometry) -> tuple[int, ...]:
    """Parents from the geometry alone: the body nearest to where the lever starts.

    A body without lever, the origin of the others, is its own parent.
    """
    centres, levers = geometry.array("com_bodies"), geometry.array("rotate_directions")
    starts = geometry.array("in_relatives")
    parents = []
    for body in range(len(centres)):
        if np.linalg.norm(levers[body]) < 1e-6:
            parents.append(body)
            continue
        distance = np.linalg.norm(centres - starts[body], axis=1)
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
    """Rigid motions of any shape of batch.

    Attributes
    ----------
    turns
        R, (..., 3, 3).
    shifts
        d, (..., 3).
    """

    turns: Array
    shifts: Array

    def __getitem__(self, index: Any) -> RigidMotions:
        return RigidMotions(self.turns[index], self.shifts[index])

    def apply(self, points: Array) -> Array:
        """Where points (..., 3) go."""
        return np.einsum("...ij,...j->...i", self.turns, points) + self.shifts

    def inverse(self) -> RigidMotions:
        """The motions back."""
        back = np.swapaxes(self.turns, -1, -2)
        return RigidMotions(back, -np.einsum("...ij,...j->...i", back, self.shifts))

    def after(self, first: RigidMotions) -> RigidMotions:
        """``first``, then these."""
        return RigidMotions(self.turns @ first.turns, self.apply(first.shifts))

    def rotvecs_deg(self) -> Array:
        """Rotation vectors, degrees, (..., 3)."""
        flat = Rotation.from_matrix(self.turns.reshape(-1, 3, 3)).as_rotvec(degrees=True)
        return flat.reshape(self.shifts.shape)


@dataclass(frozen=True, eq=False)
class Screw:
    """One rigid motion as a turn about a line and a shift along it.

    Attributes
    ----------
    axis
        Unit vector x, y, z; z where nothing turns.
    angle_deg
        Right-handed turn about it, 0 … 180.
    shift
        Along the axis, in the unit of the motion.
    point
        Point of the axis nearest to ``centre`` of :func:`screw_of`.
    """

    axis: Array
    angle_deg: float
    shift: float
    point: Array


LEAST_ANGLE_DEG = 1e-4


def screw_of(motion: RigidMotions, centre: Array | None = None) -> Screw:
    """Screw of a single motion (R (3, 3), d (3,)); the point is the one nearest to ``centre`` (default: the origin).

    With ``d⊥`` the part of d across the axis n, the axis passes through ``½ (d⊥ + cot(θ/2) n × d⊥)`` (Chasles).
    """
    nearest_to = np.zeros(3) if centre is None else np.asarray(centre, dtype=np.float64)
    vector = motion.rotvecs_deg()
    angle = float(np.linalg.norm(vector))
    if angle < LEAST_ANGLE_DEG:
        length = float(np.linalg.norm(motion.shifts))
        axis = motion.shifts / length if length > 0 else np.array([0.0, 0.0, 1.0])
        return Screw(axis, 0.0, length, nearest_to)
    axis = vector / angle
    along = float(motion.shifts @ axis)
    across = motion.shifts - along * axis
    point = 0.5 * (across + np.cross(axis, across) / np.tan(np.radians(angle) / 2))
    return Screw(axis, angle, along, point + ((nearest_to - point) @ axis) * axis)
