"""Checks and output that the conversions of particle tables share."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from opustomo.errors import UserError

if TYPE_CHECKING:
    from opustomo.convert import Converted
    from opustomo.io.star_tables import ParticleStar


def doubtful_angles(star: ParticleStar) -> str | None:
    """Return a description of implausible Euler angles in a table, or None if there are none.

    Raises
    ------
    UserError
        If an angle is not finite, or too large for an angle in degrees.
    """
    from opustomo.io.poses import angle_note
    from opustomo.io.star_tables import EULER_COLUMNS

    return angle_note(star.eulers_deg()) if all(column in star for column in EULER_COLUMNS) else None


def write_converted(result: Converted, out: Path, *, trained_on: bool = True, sources: Iterable[Path] = ()) -> None:
    """Write a converted table, print its notes and numbers of particles, and the next command.

    Parameters
    ----------
    result
        The converted table.
    out
        Output file.
    trained_on
        Whether opustomo trains on the table, so that the next command is printed.
    sources
        Tables from which the result was made.
    """
    from opustomo.commands.next_commands import print_after_table
    from opustomo.io.star_conventions import ignored_origins

    if out.suffix.lower() != ".star":
        raise UserError(f"The output file is {out}, but its name must end in .star.")
    angles = doubtful_angles(result.star)
    result.star.write(out)
    for note in (*(f"{note}." for note in result.notes), ignored_origins(result.star), angles and f"{angles}."):
        if note is not None:
            print(f"Note: {note}")
    print(f"Wrote {len(result.star)} of {result.count_in} particles to {out}")
    if trained_on and len(result.star):
        print_after_table(out, sources, result.star)
