"""Tomograms of a particle table: their names, rows, and the coordinates and scores of their particles."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from opustomo.errors import UserError
from opustomo.io.star_tables import ParticleStar

# WARP appends _{pixel size}Apx, and .mrc again, to the name of what it reconstructs
_SUFFIX = re.compile(
    r"(?:\.(?:tomostar|mrcs?|rec|map|em|st|ali|hdf|xml)|_\d+(?:\.\d+)?Apx|_\d+\.\d\dA)$", re.IGNORECASE
)


def base_name(text: str) -> str:
    """Last part of a path of Unix or Windows."""
    return re.split(r"[\\/]", text.rstrip("\\/"))[-1]


def tomogram_stem(text: str) -> str:
    """Name without folders and known suffixes: `F:\\x\\TS_01.mrc_15.00Apx.mrc` gives `TS_01`."""
    name = base_name(text)
    while (shorter := _SUFFIX.sub("", name)) not in (name, ""):
        name = shorter
    return name


def rows_of_tomogram(names: Sequence[str], wanted: str, source: object) -> npt.NDArray[np.int64]:
    """Rows that belong to exactly one tomogram.

    A row matches when its whole name is the one wanted; if none does, when the name without folders is; if none
    does, when the name without folders and suffixes is. `TS_1` never matches `TS_10`.

    Raises
    ------
    UserError
        No row matches, or tomograms of several folders do.
    """
    distinct = list(dict.fromkeys(names))
    for shorten in (str, base_name, tomogram_stem):
        target = shorten(wanted)
        found = [name for name in distinct if shorten(name) == target]
        if len({name[: len(name) - len(base_name(name))] for name in found}) > 1:
            raise UserError(
                f"{source}: {wanted!r} fits several tomograms, {', '.join(found[:3])}; give the whole name of one."
            )
        if found:
            chosen = set(found)
            return np.flatnonzero([name in chosen for name in names])
    some = ", ".join(distinct[:5]) + (" …" if len(distinct) > 5 else "")
    raise UserError(f"{source}: no particle is of the tomogram {wanted!r}; it holds {len(distinct)}: {some}.")


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


TOMOGRAM_COLUMNS = ("rlnTomoName", "rlnMicrographName", "wrpSourceName")
COORDINATE_COLUMNS = (
    tuple(f"rlnCoordinate{axis}" for axis in "XYZ"),
    tuple(f"rlnCenteredCoordinate{axis}Angst" for axis in "XYZ"),
    tuple(f"wrpCoordinate{axis}1" for axis in "XYZ"),
)
SCORE_COLUMNS = (
    "rlnAutopickFigureOfMerit",
    "rlnLogLikeliContribution",
    "rlnMaxValueProbDistribution",
    "rlnNormCorrection",
    "rlnParticleFigureOfMerit",
    "wrpCTFResolutionEstimate",
)


@dataclass(frozen=True)
class Tomograms:
    """Names of the tomograms of a table, sorted, and which one each particle lies in, (N,)."""

    names: list[str]
    index: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    @property
    def counts(self) -> np.ndarray:
        """Particles of each tomogram."""
        return np.bincount(self.index, minlength=len(self))


def tomograms_of(star: ParticleStar) -> Tomograms | None:
    """Tomogram of each particle, from the first of ``TOMOGRAM_COLUMNS`` there is; None without any."""
    for column in TOMOGRAM_COLUMNS:
        if column in star:
            names, index = np.unique(np.array(star.strings(column)), return_inverse=True)
            return Tomograms([str(name) for name in names], index.astype(np.int64))
    return None


def coordinates_of(star: ParticleStar) -> np.ndarray | None:
    """Coordinates x, y, z (N, 3) as they stand in the table (pixels, or Å if centred); None without complete ones."""
    for columns in COORDINATE_COLUMNS:
        if all(column in star for column in columns):
            return np.stack([star.numbers(column) for column in columns], 1)
    return None


def scores_of(star: ParticleStar) -> dict[str, np.ndarray]:
    """Numeric columns (N,) that say how good a particle is, by name; those with one value for all are left out."""
    found = {}
    for column in SCORE_COLUMNS:
        if column in star:
            try:
                values = star.numbers(column)
            except UserError:  # a score that is not there for some: not worth stopping for
                continue
            if np.ptp(values) > 0:
                found[column] = values
    return found
