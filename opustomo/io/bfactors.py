"""The sign of B factors, read from the table that holds them.

RELION's subtomogram tables hold positive B factors, which damp as exp(-B s²/4). M, WARP and the tilt-series tables of
RELION 4 and 5 hold negative ones, which damp as exp(+B s²/4). In both |B| is four times the accumulated dose. A table
uses one of the two signs; taken literally, a table of the other kind would amplify the tilts with the highest dose.
"""

from __future__ import annotations

import os

import numpy as np
import numpy.typing as npt

from opustomo.errors import UserError
from opustomo.io.star_tables import ParticleStar

BFACTOR_PER_DOSE = 4.0
"""Å² of B factor per e/Å² of accumulated dose, as RELION, WARP and M write it."""

_NAMED_ROWS = 5


def damping_bfactors(
    values: npt.NDArray[np.float64], source: str | os.PathLike[str], column: str = "rlnCtfBfactor"
) -> tuple[npt.NDArray[np.float64], int]:
    """Return B factors that damp as exp(-B s²/4), and the sign that they have in the table.

    Parameters
    ----------
    values
        B factors of all rows of a table, (T,).
    source, column
        Where they stand, for messages.

    Returns
    -------
    bfactors
        Absolute values, (T,).
    sign
        1 or -1; 0 when all are 0.

    Raises
    ------
    UserError
        Both signs occur.
    """
    positive, negative = np.flatnonzero(values > 0), np.flatnonzero(values < 0)
    if positive.size and negative.size:
        raise UserError(
            f"{source}: {column} is positive in {_rows(values, positive)} but negative in {_rows(values, negative)}; "
            "give all B factors of the table the same sign, since either sign means damping by dose."
        )
    return np.abs(values), int(positive.size > 0) - int(negative.size > 0)


def describe_sign(sign: int) -> str:
    """Return what a sign means, for people."""
    return {
        1: "positive in the file, damping exp(-B s²/4)",
        -1: "negative in the file, damping exp(+B s²/4)",
        0: "all 0 in the file, no damping",
    }[sign]


def image_bfactors(star: ParticleStar) -> tuple[npt.NDArray[np.float64], int]:
    """Return B factors of a table with one row per image, 0 when it has none, as `damping_bfactors` does."""
    values = star.value_per_particle("rlnCtfBfactor")
    if values is None:
        return np.zeros(len(star)), 0
    return damping_bfactors(values, star.path or "the particle table")


def describe_bfactors(star: ParticleStar) -> str:
    """Return the sign that B factors of a table of images have, and the dose that they mean, for people."""
    values, sign = image_bfactors(star)
    if not sign:
        return "B factors are 0 or missing, so that nothing is damped by dose"
    dose = values.max() / BFACTOR_PER_DOSE
    return f"B factors are {describe_sign(sign)}; they mean a dose of up to {dose:.4g} e/Å² (|B|/{BFACTOR_PER_DOSE:g})"


def _rows(values: npt.NDArray[np.float64], rows: npt.NDArray[np.intp]) -> str:
    named = ", ".join(f"{row + 1} ({values[row]:g})" for row in rows[:_NAMED_ROWS].tolist())
    more = f" and {rows.size - _NAMED_ROWS} more" if rows.size > _NAMED_ROWS else ""
    return f"row{'s' if rows.size > 1 else ''} {named}{more}"
