"""Rigid motions ``p ↦ R p + d`` and their screw axes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

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
