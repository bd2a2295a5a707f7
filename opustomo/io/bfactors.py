"""Signs of B factors, which differ between programs.

RELION's subtomogram tables hold positive B factors, which damp as exp(-B s²/4). M, WARP and the tilt-series tables of
RELION 4 and 5 hold negative ones, which damp as exp(+B s²/4). In both |B| is four times the accumulated dose. A table
uses one of the two signs. If the sign were ignored, tables of M and WARP would amplify the tilts with the highest dose.
"""

from __future__ import annotations

import os

import numpy as np
import numpy.typing as npt

from opustomo.errors import UserError
from opustomo.io.star_tables import ParticleStar

BFACTOR_PER_DOSE = 4.0
"""B factor in Å² per accumulated dose in e/Å², as written by RELION, WARP and M."""

_NAMED_ROWS = 5


def damping_bfactors(
    values: npt.NDArray[np.float64], source: str | os.PathLike[str], column: str = "rlnCtfBfactor"
) -> tuple[npt.NDArray[np.float64], int]:
    """Return B factors that damp as exp(-B s²/4), and their sign in the table.

    Parameters
    ----------
    values
        B factors of all rows of a table, (T,).
    source, column
        File and column, for messages.

    Returns
    -------
    bfactors
        Absolute values, (T,).
    sign
        1 or -1; 0 if all values are 0.

    Raises
    ------
    UserError
        The table has both signs.
    """
    positive, negative = np.flatnonzero(values > 0), np.flatnonzero(values < 0)
    if positive.size and negative.size:
        raise UserError(
            f"{source}: {column} is positive in {_rows(values, positive)} but negative in {_rows(values, negative)}; "
            "give all B factors of the table the same sign, because either sign means damping by dose."
        )
    return np.abs(values), int(positive.size > 0) - int(negative.size > 0)


def describe_sign(sign: int) -> str:
    """Return a description of a sign."""
    return {
        1: "positive in the file, damping exp(-B s²/4)",
        -1: "negative in the file, damping exp(+B s²/4)",
        0: "all 0 in the file, no damping",
    }[sign]


def image_bfactors(star: ParticleStar) -> tuple[npt.NDArray[np.float64], int]:
    """Return the B factors of a table with one row per image as in `damping_bfactors`; 0 if it has none."""
    values = star.value_per_particle("rlnCtfBfactor")
    if values is None:
        return np.zeros(len(star)), 0
    return damping_bfactors(values, star.path or "the particle table")


def describe_bfactors(star: ParticleStar) -> str:
    """Return a description of the sign of the B factors of a table of images and of the dose that they imply."""
    values, sign = image_bfactors(star)
    if not sign:
        return "B factors are 0 or missing, so the dose does not damp the images"
    dose = values.max() / BFACTOR_PER_DOSE
    return f"B factors are {describe_sign(sign)}; they imply a dose of up to {dose:.4g} e/Å² (|B|/{BFACTOR_PER_DOSE:g})"


def _rows(values: npt.NDArray[np.float64], rows: npt.NDArray[np.intp]) -> str:
    named = ", ".join(f"{row + 1} ({values[row]:g})" for row in rows[:_NAMED_ROWS].tolist())
    more = f" and {rows.size - _NAMED_ROWS} more" if rows.size > _NAMED_ROWS else ""
    return f"row{'s' if rows.size > 1 else ''} {named}{more}"
