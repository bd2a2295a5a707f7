"""Poses of all particles (``*_pose_euler.pkl``, ``pose.N.pkl``) and the limits of plausible poses.

Euler angles are in degrees, origins are fractions of the box."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from opustomo.errors import UserError
from opustomo.geometry.eulers import euler_matrices
from opustomo.io.pickles import dump_pickle, load_pickle

LARGEST_ANGLE_DEG = 1e5
"""Larger angles are errors of a program, and lose digits when they are reduced to one turn."""
SEVERAL_TURNS_DEG = 720.0
LARGEST_ORIGIN = 0.5
"""Largest origin as a fraction of the box."""
LARGE_ORIGIN = 0.25
LARGE_ORIGIN_SHARE = 0.05
"""If more than this fraction of origins exceeds `LARGE_ORIGIN`, the unit is doubtful."""
WRONG_UNIT_SHARE = 0.2
"""If more than this fraction of origins exceeds `LARGE_ORIGIN`, the unit is considered wrong."""
_ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
_NAMED = 5


def require_angles(eulers_deg: npt.NDArray[np.float64], source: object) -> None:
    """Raise an error if an angle is too large for an angle in degrees.

    Parameters
    ----------
    eulers_deg : ndarray, (N, 3)
        Angles rot, tilt, psi in degrees.
    source : object
        File that the error names.

    Raises
    ------
    UserError
        The magnitude of an angle exceeds `LARGEST_ANGLE_DEG`; the first row is named.
    """
    rows, axes = np.nonzero(np.abs(eulers_deg) > LARGEST_ANGLE_DEG)
    if len(rows):
        row, axis = int(rows[0]), int(axes[0])
        raise UserError(
            f"{source}: {_ANGLES[axis]} of row {row + 1} is {eulers_deg[row, axis]:g}, which is not an angle in "
            f"degrees; {_count(len(np.unique(rows)), 'row has', 'rows have')} such angles: correct or remove them."
        )


def angle_note(eulers_deg: npt.NDArray[np.float64]) -> str | None:
    """Describe angles of several turns, or return None if there are none.

    Some programs convert angles from radians to degrees twice; dividing by 57.3 then brings all of them into one turn.
    """
    if not len(eulers_deg) or np.abs(eulers_deg).max() <= SEVERAL_TURNS_DEG:
        return None
    row, axis = np.unravel_index(int(np.abs(eulers_deg).argmax()), eulers_deg.shape)
    said = f"{_ANGLES[axis]} of row {row + 1} is {eulers_deg[row, axis]:g}°, more than two turns"
    if np.abs(np.deg2rad(eulers_deg)).max() <= 360.0:
        return (
            f"{said}: the angles look as if they had been converted from radians to degrees twice; if so, divide "
            "them by 57.29578 and start again"
        )
    return f"{said}; check that the angles are in degrees"


def require_origins(
    origins: npt.NDArray[np.float64],
    box: int,
    source: object,
    rows: Sequence[int] | npt.NDArray[np.int64] | None = None,
    apix: float | None = None,
) -> None:
    """Raise an error if an origin moves a particle out of its subtomogram.

    Parameters
    ----------
    origins : ndarray, (N, 3)
        Origins as fractions of the box length.
    box : int
        Box length in pixels.
    source : object
        File that the error names.
    rows : sequence of int, optional
        Row of each origin in that file, from 0; all rows in order by default.
    apix : float, optional
        Pixel size in Å, given when the origins come from a column in pixels: the error then says whether the column
        looks as if it held Å.

    Raises
    ------
    UserError
        An origin exceeds half the box; the number of such rows and the first of them are named.
    """
    largest = np.abs(origins).max(axis=1, initial=0.0)
    bad = np.flatnonzero(largest > LARGEST_ORIGIN)
    if not bad.size:
        return
    numbers = [int(row if rows is None else rows[row]) + 1 for row in bad[:_NAMED]]
    first = origins[bad[0], int(np.abs(origins[bad[0]]).argmax())] * box
    places = ", ".join(map(str, numbers)) + (" …" if bad.size > _NAMED else "")
    advice = "correct these rows or leave them out"
    if apix is not None and apix > 1 and largest.max() / apix <= LARGE_ORIGIN:
        advice += (
            f"; divided by the pixel size of {apix:g} Å all origins would fit: if the columns hold Å, name them "
            "rlnOriginXAngst, rlnOriginYAngst and rlnOriginZAngst"
        )
    raise UserError(
        f"{source}: {_count(bad.size, 'origin moves its particle', 'origins move their particles')} by more than half "
        f"of the box of {box} pixels (row {places}; the first is {first:g} pixels); {advice}."
    )


def require_unit(
    origins: npt.NDArray[np.float64],
    box: int,
    apix: float,
    source: object,
    rows: Sequence[int] | npt.NDArray[np.int64] | None = None,
) -> None:
    """Raise an error if origins that count as pixels look like Å.

    Parameters
    ----------
    origins, box, source, rows
        As in `require_origins`.
    apix : float
        Pixel size in Å.

    Raises
    ------
    UserError
        More particles than the fraction `WRONG_UNIT_SHARE` have origins beyond a quarter of the box, and division by
        the pixel size brings all of them within it.
    """
    largest = np.abs(origins).max(axis=1, initial=0.0)
    large = largest > LARGE_ORIGIN
    if not large.any() or large.mean() <= WRONG_UNIT_SHARE or largest.max() / apix > LARGE_ORIGIN:
        return
    first = int(np.flatnonzero(large)[0])
    row = int(first if rows is None else rows[first]) + 1
    raise UserError(
        f"{source}: origins of {int(large.sum())} of {len(large)} particles exceed a quarter of the box of {box} "
        f"pixels (the first in row {row}) and would not if they were divided by {apix:g} Å per pixel; if they are in "
        "Å, name the columns rlnOriginXAngst, rlnOriginYAngst and rlnOriginZAngst; if they are in pixels, give --force."
    )


def origin_note(
    origins: npt.NDArray[np.float64], box: int, rows: Sequence[int] | npt.NDArray[np.int64] | None = None
) -> str | None:
    """Describe unusually large origins (fractions of the box), or return None if there are few.

    `rows` are those of the particles in their file, from 0, as in `require_origins`.
    """
    large = np.abs(origins).max(axis=1, initial=0.0) > LARGE_ORIGIN
    if not large.any() or large.mean() <= LARGE_ORIGIN_SHARE:
        return None
    first = int(np.flatnonzero(large)[0])
    row = int(first if rows is None else rows[first]) + 1
    return (
        f"origins of {int(large.sum())} of {len(large)} particles exceed a quarter of the box of {box} pixels (the "
        f"first in row {row}); check that the origins are in the unit that their column names"
    )


def _count(number: int, one: str, more: str) -> str:
    return f"{number:,} {one if number == 1 else more}"


@dataclass(frozen=True, eq=False)
class Poses:
    """Orientation and origin of each particle.

    Attributes
    ----------
    eulers_deg
        RELION rot, tilt, psi in degrees, float64 (N, 3).
    origins
        Origins x, y, z in pixels divided by the box length, sign as in STAR files, float64 (N, 3).
    """

    eulers_deg: npt.NDArray[np.float64]
    origins: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        for name in ("eulers_deg", "origins"):
            values = np.array(getattr(self, name), dtype=np.float64)
            if values.ndim != 2 or values.shape[1] != 3:
                raise ValueError(f"{name} must have the shape (N, 3), not {values.shape}")
            object.__setattr__(self, name, values)
        if len(self.eulers_deg) != len(self.origins):
            raise ValueError(f"{len(self.eulers_deg)} orientations but {len(self.origins)} origins")

    def __len__(self) -> int:
        return len(self.eulers_deg)

    @property
    def rotations(self) -> npt.NDArray[np.float32]:
        """RELION matrices A from reference to subtomogram coordinates, float32 (N, 3, 3)."""
        return euler_matrices(self.eulers_deg).astype(np.float32)

    def subset(self, indices: npt.ArrayLike) -> Poses:
        """Return the poses of the particles at `indices` (integers or a mask), in that order."""
        chosen = np.asarray(indices)
        if not chosen.size:
            chosen = chosen.astype(np.int64)
        return Poses(self.eulers_deg[chosen], self.origins[chosen])


def read_poses(path: str | os.PathLike[str]) -> Poses:
    """Read poses from a pickled tuple (rot, trans, euler), or its multi-body form with five members.

    Only Euler angles and origins are used, because the matrices in `pose.N.pkl` of OPUS-TOMO are out of date.

    Raises
    ------
    UserError
        The file is missing, unsafe or not such a tuple, or an angle is too large for an angle in degrees.
    """
    content = load_pickle(path)
    if not isinstance(content, (tuple, list)) or len(content) not in (3, 5):
        raise UserError(f"{path}: not a tuple (rot, trans, euler) of poses. Make it with dsd parse_pose_star.")
    columns = {}
    for name, values in (("trans", content[1]), ("euler", content[2])):
        try:
            table = np.asarray(values, dtype=np.float64)
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"{path}: '{name}' is not numeric. Make the poses with dsd parse_pose_star.") from error
        if table.ndim != 2 or table.shape[1] != 3:
            raise UserError(f"{path}: '{name}' has the shape {table.shape}, but (particles, 3) is expected.")
        if not np.isfinite(table).all():
            row = int(np.flatnonzero(~np.isfinite(table).all(axis=1))[0])
            raise UserError(f"{path}: '{name}' of particle {row} (counted from 0) is not finite. Make the poses again.")
        columns[name] = table
    if len(columns["trans"]) != len(columns["euler"]):
        raise UserError(
            f"{path}: the file has {len(columns['euler'])} orientations but {len(columns['trans'])} origins. Make the "
            "poses again."
        )
    require_angles(columns["euler"], path)
    return Poses(eulers_deg=columns["euler"], origins=columns["trans"])


def write_poses(path: str | os.PathLike[str], poses: Poses) -> None:
    """Write poses as a pickled tuple of rot float32 (N, 3, 3), trans float64 (N, 3) and euler float64 (N, 3)."""
    dump_pickle(path, (poses.rotations, poses.origins, poses.eulers_deg))
