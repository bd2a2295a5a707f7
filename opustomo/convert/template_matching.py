"""Particles of one tomogram for WARP, in the form of its template matching, and for ArtiaX."""

from dataclasses import dataclass

import numpy as np

from opustomo.convert import Converted
from opustomo.convert.conventions import require_pixels
from opustomo.errors import UserError
from opustomo.io.star_conventions import COORDINATES, constant_column, with_columns, xyz, xyz_columns
from opustomo.io.star_tables import ORIGIN_COLUMNS, ParticleStar
from opustomo.io.tomograms import rows_of_tomogram

TOMOGRAM_COLUMNS = ("rlnMicrographName", "rlnTomoName")
_SCORE, _PYTOM_SCORE = "rlnAutopickFigureOfMerit", "rlnLCCmax"


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
        found = next((column for column in TOMOGRAM_COLUMNS if column in star), None)
        if found is None:
            raise UserError(f"{star.path}: the particle table has neither {' nor '.join(TOMOGRAM_COLUMNS)}. Add one.")
        return found


def warp_matching(star: ParticleStar, choice: TomogramChoice) -> Converted:
    """Return the particles of one tomogram for WARP, which calls a tilt series `{mic}.tomostar`.

    All columns are kept; `rlnMicrographName` becomes the name of the tilt series. If `rlnAutopickFigureOfMerit` is
    missing, it is the score of pytom-match-pick (`rlnLCCmax`), or else 1.

    Raises
    ------
    UserError
        As in `TomogramChoice.of`, or coordinates in pixels are missing.
    """
    require_pixels(star)
    found = choice.of(star)
    name = choice.tomogram.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1].removesuffix(".tomostar")
    columns = {"rlnMicrographName": constant_column(f"{name}.tomostar", len(found))}
    if _SCORE not in found:
        own = _PYTOM_SCORE in found
        columns[_SCORE] = (
            found.particles[_PYTOM_SCORE].to_numpy(dtype=object) if own else constant_column("1.000000", len(found))
        )
    return Converted(with_columns(found, columns), len(star))


def artiax_list(star: ParticleStar, choice: TomogramChoice, factor: float, deduplicate: bool = False) -> Converted:
    """Return the particles of one tomogram in pixels of this tomogram, for ArtiaX.

    Parameters
    ----------
    star
        Particles of any RELION version with coordinates in pixels.
    choice
        The tomogram.
    factor
        Factor by which coordinates and origins in pixels are multiplied; origins in Å are unchanged.
    deduplicate
        Whether particles at the position of an earlier one (to 0.001 pixel) are removed.

    Raises
    ------
    UserError
        As in `TomogramChoice.of`, or coordinates in pixels are missing.
    """
    require_pixels(star)
    found = choice.of(star)
    places = xyz(found, COORDINATES) * factor
    notes = []
    columns = xyz_columns(COORDINATES, places)
    origins = tuple(column for column in ORIGIN_COLUMNS if column in found)
    if origins:
        columns |= xyz_columns(origins, xyz(found, origins) * factor)
    found = with_columns(found, columns)
    if deduplicate:
        _, first = np.unique(np.round(places, 3), axis=0, return_index=True)
        notes.append(f"{len(found) - len(first)} particles at the position of another were removed")
        found = found.subset(np.sort(first))
    notes.append(f"coordinates were multiplied by {factor:g}")
    return Converted(found, len(star), tuple(notes))
