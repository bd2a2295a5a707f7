"""Which rows of a particle table belong to a tomogram."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from opustomo.errors import UserError
from opustomo.io.star import ParticleStar
from opustomo.io.tomogram_names import rows_of_tomogram, tomogram_stem

RELION_TOMOGRAM_COLUMNS = ("rlnTomoName", "rlnMicrographName")


def tomogram_column(star: ParticleStar, asked: str | None = None) -> str | None:
    """Column that names the tomogram: the one asked for, else rlnTomoName, else rlnMicrographName, else None.

    Raises
    ------
    UserError
        The column asked for is not there.
    """
    if asked is not None:
        star.strings(asked)  # says what is missing
        return asked
    return next((column for column in RELION_TOMOGRAM_COLUMNS if column in star), None)


def rows_in_tomogram(
    star: ParticleStar, tomogram: Path, column: str | None = None, tomogram_id: str | None = None
) -> np.ndarray:
    """Rows of the particles in one tomogram.

    Parameters
    ----------
    star
        The particles.
    tomogram
        File of the tomogram; without `tomogram_id` its name says which rows are meant. A table of one tomogram only
        is taken whole.
    column, tomogram_id
        Column that names the tomogram, and the name wanted, with or without folders and suffixes.

    Raises
    ------
    UserError
        No row belongs to the tomogram.
    """
    column = tomogram_column(star, column)
    if column is None:
        if tomogram_id is not None:
            raise UserError(f"{star.path}: has no column that names tomograms; give it with --tomo-col.")
        return np.arange(len(star))
    names = np.array(star.strings(column), dtype=object)
    distinct = list(dict.fromkeys(names))
    if tomogram_id is not None:
        return rows_of_tomogram(list(names), tomogram_id, star.path)
    wanted = tomogram_stem(tomogram.name)
    same = {name for name in distinct if tomogram_stem(name) == wanted}
    if not same and len(distinct) == 1:
        return np.arange(len(star))
    rows = np.flatnonzero([name in same for name in names])
    if not rows.size:
        some = ", ".join(distinct[:3]) + (", …" if len(distinct) > 3 else "")
        raise UserError(f"{star.path}: no row of {column} is {wanted}, there are {some}; choose one with --tomo-id.")
    return rows
