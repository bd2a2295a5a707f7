"""What the converting commands share: writing the new table and saying what went in and out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from opustomo.errors import UserError

if TYPE_CHECKING:
    from opustomo.convert.columns import Converted
    from opustomo.io.star import ParticleStar


def positive(value: float, option: str) -> float:
    """Return a number given as an option.

    Raises
    ------
    UserError
        It is not positive and finite.
    """
    if not 0 < value < float("inf"):
        raise UserError(f"{option} must be a positive number, not {value:g}.")
    return value


def doubtful_angles(star: ParticleStar) -> str | None:
    """Describe Euler angles of a table that are not plausible, or return None.

    Raises
    ------
    UserError
        An angle is no number, or too large for one in degrees.
    """
    from opustomo.io.pose_limits import angle_note
    from opustomo.io.star import EULER_COLUMNS

    return angle_note(star.eulers_deg()) if all(column in star for column in EULER_COLUMNS) else None


def write_converted(result: Converted, out: Path) -> None:
    """Write the table; print the notes and the numbers of particles."""
    from opustomo.io.star_relion import ignored_origins

    if out.suffix.lower() != ".star":
        raise UserError(f"{out}: the table is a STAR file; give a name that ends in .star.")
    angles = doubtful_angles(result.star)
    result.star.write(out)
    for note in result.notes:
        print(f"Note: {note}.")
    ignored = ignored_origins(result.star)
    if ignored is not None:
        print(f"Note: {ignored}")
    if angles is not None:
        print(f"Note: {angles}.")
    print(f"{result.count_in} particles in, {len(result.star)} out: {out}")
