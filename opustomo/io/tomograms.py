"""Tomograms of a particle table: names, rows, and the coordinates, centers and scores of particles."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from opustomo.errors import UserError
from opustomo.io.star_conventions import (
    CENTERED_COORDINATES,
    COORDINATES,
    coordinate_sizes,
)
from opustomo.io.star_tables import ParticleStar

# WARP appends _{pixel size}Apx and .mrc to the names of reconstructions.
_SUFFIX = re.compile(
    r"(?:\.(?:tomostar|mrcs?|rec|map|em|st|ali|hdf|xml)|_\d+(?:\.\d+)?Apx|_\d+\.\d\dA)$", re.IGNORECASE
)


def base_name(text: str) -> str:
    """Return the last part of a Unix or Windows path."""
    return re.split(r"[\\/]", text.rstrip("\\/"))[-1]


def tomogram_stem(text: str) -> str:
    """Return a name without folders and known suffixes: `F:\\x\\TS_01.mrc_15.00Apx.mrc` becomes `TS_01`."""
    name = base_name(text)
    while (shorter := _SUFFIX.sub("", name)) not in (name, ""):
        name = shorter
    return name


def rows_of_tomogram(names: Sequence[str], wanted: str, source: object) -> npt.NDArray[np.int64]:
    """Return the rows that belong to one tomogram.

    Rows match if their full name is the requested one. If there are none, names are compared without folders, and then
    without folders and suffixes. `TS_1` never matches `TS_10`.

    Raises
    ------
    UserError
        No row matches, or rows of tomograms in several folders match.
    """
    distinct = list(dict.fromkeys(names))
    for shorten in (str, base_name, tomogram_stem):
        target = shorten(wanted)
        found = [name for name in distinct if shorten(name) == target]
        if len({name[: len(name) - len(base_name(name))] for name in found}) > 1:
            raise UserError(
                f"{source}: {wanted!r} matches several tomograms, {', '.join(found[:3])}. Give the full name of one."
            )
        if found:
            chosen = set(found)
            return np.flatnonzero([name in chosen for name in names])
    some = ", ".join(distinct[:5]) + (" …" if len(distinct) > 5 else "")
    raise UserError(
        f"{source}: no particle belongs to the tomogram {wanted!r}; the table has {len(distinct)} tomograms: {some}."
    )


RELION_TOMOGRAM_COLUMNS = ("rlnTomoName", "rlnMicrographName")


def tomogram_column(star: ParticleStar, asked: str | None = None) -> str | None:
    """Return the column with the names of tomograms: `asked`, rlnTomoName, rlnMicrographName, or None.

    Raises
    ------
    UserError
        The column `asked` does not exist.
    """
    if asked is not None:
        star.strings(asked)  # raises an error if the column is missing
        return asked
    return next((column for column in RELION_TOMOGRAM_COLUMNS if column in star), None)


def rows_in_tomogram(
    star: ParticleStar, tomogram: Path, column: str | None = None, tomogram_id: str | None = None
) -> np.ndarray:
    """Return the rows of the particles in one tomogram.

    Parameters
    ----------
    star
        The particles.
    tomogram
        File of the tomogram, whose name selects the rows if `tomogram_id` is None. All rows of a table with a single
        tomogram are selected.
    column, tomogram_id
        Column with the names of tomograms, and the requested name, with or without folders and suffixes.

    Raises
    ------
    UserError
        No row belongs to the tomogram.
    """
    column = tomogram_column(star, column)
    if column is None:
        if tomogram_id is not None:
            raise UserError(f"{star.path}: the table has no column with names of tomograms. Give it with --tomo-col.")
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
        raise UserError(
            f"{star.path}: {column} has no tomogram {wanted}, only {some}. Choose the tomogram with --tomo-id."
        )
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
    """Sorted names of the tomograms of a table, and the index of the tomogram of each particle, (N,)."""

    names: list[str]
    index: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    @property
    def counts(self) -> np.ndarray:
        """Number of particles in each tomogram."""
        return np.bincount(self.index, minlength=len(self))


def tomograms_of(star: ParticleStar) -> Tomograms | None:
    """Return the tomogram of each particle from the first existing column of ``TOMOGRAM_COLUMNS``, or None."""
    for column in TOMOGRAM_COLUMNS:
        if column in star:
            names, index = np.unique(np.array(star.strings(column)), return_inverse=True)
            return Tomograms([str(name) for name in names], index.astype(np.int64))
    return None


def coordinates_of(star: ParticleStar) -> np.ndarray | None:
    """Return the coordinates x, y, z of the table (N, 3), in pixels, or in Å if centered; None if incomplete."""
    for columns in COORDINATE_COLUMNS:
        if all(column in star for column in columns):
            return np.stack([star.numbers(column) for column in columns], 1)
    return None


def scores_of(star: ParticleStar) -> dict[str, np.ndarray]:
    """Return the scores of particles (N,) by column name, without columns whose values are all equal."""
    found = {}
    for column in SCORE_COLUMNS:
        if column in star:
            try:
                values = star.numbers(column)
            except UserError:  # some particles have no score
                continue
            if np.ptp(values) > 0:
                found[column] = values
    return found


@dataclass(frozen=True)
class TomogramScale:
    """Pixel sizes of the particle coordinates and of the displayed tomogram.

    Attributes
    ----------
    coordinate_apix
        Pixel size of the coordinates in the particle table in Å. None takes the pixel size of the tilt series if the
        table contains it (RELION 4), and that of the subtomograms otherwise.
    view_apix
        Pixel size of the displayed tomogram in Å; None for that of the coordinates.
    size
        Size x, y, z of the displayed tomogram in voxels; required only for centered coordinates (RELION 5).
    """

    coordinate_apix: float | None = None
    view_apix: float | None = None
    size: tuple[int, int, int] | None = None


def tomogram_names(star: ParticleStar) -> list[str]:
    """Return the tomogram name of each particle from rlnTomoName or, if absent, rlnMicrographName.

    Raises
    ------
    UserError
        If the table has neither column.
    """
    if "rlnTomoName" in star:
        return star.strings("rlnTomoName")
    return star.strings("rlnMicrographName")


def particle_centers(star: ParticleStar, scale: TomogramScale) -> tuple[np.ndarray, np.ndarray]:
    """Compute the particle centers (coordinate - origin) in voxels of the displayed tomogram.

    Parameters
    ----------
    star
        Particle table.
    scale
        Pixel sizes of the coordinates and of the displayed tomogram.

    Returns
    -------
    centers : numpy.ndarray
        x, y, z of each particle in voxels, shape (N, 3).
    apix : numpy.ndarray
        Pixel size of the displayed tomogram in Å, shape (N,).

    Raises
    ------
    UserError
        If the coordinates, a pixel size or the size of the tomogram is missing.
    """
    table = star.path or "the particle table"
    subtomogram = star.pixel_sizes()
    origins = star.origins_px()
    if origins.any() and subtomogram is None:
        raise UserError(f"{table} has origins but no pixel size. Export it with the column rlnPixelSize.")
    origins_A = np.zeros_like(origins) if subtomogram is None else origins * subtomogram[:, None]
    centered = CENTERED_COORDINATES[0] in star
    coordinate_apix = coordinate_sizes(star, scale.coordinate_apix)
    view_apix = coordinate_apix if scale.view_apix is None else np.full(len(star), scale.view_apix)
    if coordinate_apix is None or view_apix is None:
        raise UserError(f"{table} does not state the pixel size of its coordinates. Give it with --coord-angpix.")
    if centered:
        if scale.size is None:
            raise UserError(
                f"{table} has coordinates relative to the center of the tomogram (RELION 5). "
                "Give the size of the displayed tomogram with --tomo-size X Y Z."
            )
        coordinates_A = np.stack([star.numbers(column) for column in CENTERED_COORDINATES], axis=1)
        centers = (coordinates_A - origins_A) / view_apix[:, None] + np.array(scale.size) / 2
    else:
        coordinates = np.stack([star.numbers(column) for column in COORDINATES], axis=1)
        centers = (coordinates * coordinate_apix[:, None] - origins_A) / view_apix[:, None]
    return centers, view_apix


@dataclass(frozen=True)
class TomogramChoice:
    """Selection of the particles of one tomogram.

    Attributes
    ----------
    tomogram
        Name of the tomogram, with or without folders and suffixes.
    column
        Column with the names of tomograms; None uses `rlnMicrographName`, else `rlnTomoName`.
    """

    tomogram: str
    column: str | None = None

    def of(self, star: ParticleStar) -> ParticleStar:
        """Return the particles of the tomogram.

        Raises
        ------
        UserError
            The column does not exist, or no particle belongs to the tomogram.
        """
        rows = rows_of_tomogram(star.strings(self.column_of(star)), self.tomogram, star.path or "the particle table")
        return star.subset(rows)

    def column_of(self, star: ParticleStar) -> str:
        """Return the column with the names of tomograms."""
        if self.column is not None:
            return self.column.lstrip("_")
        columns = RELION_TOMOGRAM_COLUMNS[::-1]
        found = next((column for column in columns if column in star), None)
        if found is None:
            raise UserError(f"{star.path}: the particle table has neither {' nor '.join(columns)}. Add one.")
        return found
