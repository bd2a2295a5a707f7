"""Where particles lie in their tomograms, from particle tables and .coords files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from opustomo.errors import UserError
from opustomo.io.coordinates import CENTRED, CORNER, OWN_APIX, SERIES_APIX, coordinate_sizes, counts_in_image_pixels
from opustomo.io.star import ParticleStar
from opustomo.io.star_numbers import listed_sizes
from opustomo.io.tilt_files import read_columns
from opustomo.io.tilt_series import TiltSeries
from opustomo.io.tomogram_names import tomogram_stem
from opustomo.prepare.particle_columns import with_columns
from opustomo.prepare.tomogram_rows import tomogram_column


def positions_from_star(
    star: ParticleStar, rows: np.ndarray, series: TiltSeries, coord_apix: float | None = None
) -> np.ndarray:
    """Positions of some rows, (N, 3) Å from the centre of the tomogram.

    Centred coordinates in Å (RELION 5) are taken as they are, others count pixels of `pixels_of_coordinates` from the
    corner.

    Raises
    ------
    UserError
        There are no coordinates, or the size of the tomogram is not known.
    """
    if all(column in star for column in CENTRED):
        return np.stack([star.numbers(column)[rows] for column in CENTRED], axis=1)
    pixels = np.stack([star.numbers(column)[rows] for column in CORNER], axis=1)
    return from_corner(pixels, series, pixels_of_coordinates(star, rows, coord_apix))


def pixels_of_coordinates(star: ParticleStar, rows: np.ndarray, coord_apix: float | None) -> np.ndarray | float | None:
    """Return the pixel size of rlnCoordinateX, Y, Z: the one given, else that of 2D stacks, (N, 1) Å.

    None stands for the pixel size of the tilt series.
    """
    if coord_apix is not None or not (counts_in_image_pixels(star) or OWN_APIX in star):
        return coord_apix
    sizes = coordinate_sizes(star)
    return None if sizes is None else sizes[rows, None]


def from_corner(pixels: np.ndarray, series: TiltSeries, coord_apix: np.ndarray | float | None = None) -> np.ndarray:
    """Convert pixels from the corner, of `coord_apix` or of the tilt series, to Å from the centre at n/2.

    Raises
    ------
    UserError
        The size of the tomogram or the pixel size is not known.
    """
    if series.volume_px is None:
        raise UserError(
            f"{series.source}: the size of tomogram {series.name} is not known, from whose centre defoci count; "
            "give it with --tomo-size."
        )
    if series.apix is None:
        raise UserError(f"{series.source}: the pixel size of {series.name} is not known; give it with --apix.")
    centre = np.array(series.volume_px) / 2 * series.apix
    return pixels * (series.apix if coord_apix is None else coord_apix) - centre


def in_series_pixels(star: ParticleStar, coord_apix: float | None = None) -> ParticleStar:
    """Return the table with coordinates of 2D stacks in pixels of the tilt series, as RELION 4 counts for subtomograms.

    Other tables come back as they are. `coord_apix` is the pixel size of the coordinates if the user gave it, Å.
    """
    series = star.value_per_particle(SERIES_APIX)
    sizes = coordinate_sizes(star) if coord_apix is None else np.full(len(star), coord_apix)
    if CORNER[0] not in star or series is None or sizes is None:
        return star
    if not counts_in_image_pixels(star) and OWN_APIX not in star:
        return star
    values = {column: [f"{value:.6f}" for value in star.numbers(column) * sizes / series] for column in CORNER}
    moved = with_columns(star, values)
    table = moved.particles.drop(columns=[OWN_APIX], errors="ignore")
    return replace(moved, blocks={**moved.blocks, moved.particle_block: table})


def outside_note(positions_A: Iterable[np.ndarray], series: Iterable[TiltSeries], source: object) -> str | None:
    """Describe particles that lie outside of their tomograms, or return None.

    Parameters
    ----------
    positions_A : iterable of ndarray, (N, 3)
        Positions in each tomogram, Å from its center.
    series : iterable of TiltSeries
        Its tilt series; one that does not tell the size of the tomogram is passed over.
    source : object
        Particle table that the note names.
    """
    outside = total = 0
    names = []
    for positions, one in zip(positions_A, series, strict=True):
        total += len(positions)
        if one.volume_px is None or one.apix is None:
            continue
        half = np.array(one.volume_px) / 2 * one.apix
        count = int((np.abs(positions) > half + one.apix).any(axis=1).sum())
        outside += count
        names += [one.name] if count else []
    if not outside:
        return None
    return (
        f"{outside} of {total} particles of {source} lie outside of their tomograms (first in {names[0]}); check the "
        "pixel size of the coordinates (--coord-apix) and the size of the tomograms"
    )


def coordinate_note(star: ParticleStar, series_apix: float | None, coord_apix: float | None) -> str | None:
    """What to say of coordinates that may count in other pixels than those of the tilt series."""
    if coord_apix is not None or series_apix is None or CENTRED[0] in star:
        return None
    images = coordinate_sizes(star) if counts_in_image_pixels(star) else None
    if images is not None:
        told = " and ".join(f"{size:g}" for size in sorted(set(images.tolist())))
        return f"coordinates of these 2D stacks were taken for pixels of the images, {told} Å, as WarpTools writes them"
    # RELION 4 and 5 do count so
    sizes = star.pixel_sizes() if star.value_per_particle("rlnTomoTiltSeriesPixelSize") is None else None
    if sizes is None or np.allclose(sizes, series_apix, rtol=1e-3):
        return None
    advice = f"give --coord-apix {sizes[0]:g}"
    if not np.allclose(sizes, sizes[0], rtol=1e-3):
        advice = "split the table by pixel size and give --coord-apix for each part"
    return (
        f"coordinates were taken for pixels of the tilt series, {series_apix:g} Å; if they are pixels of the table's "
        f"images ({listed_sizes(sizes)}), {advice}"
    )


def read_coords(path: Path) -> np.ndarray:
    """(N, 3) x, y, z in pixels of a .coords file.

    Raises
    ------
    UserError
        The file is missing or has no three numbers per line.
    """
    return read_columns(path, (3,), "x, y and z")


def rows_by_tomogram(star: ParticleStar) -> dict[str, np.ndarray]:
    """Rows of each tomogram, in the order of the table; names without folders, suffixes and pixel size.

    Raises
    ------
    UserError
        No column names tomograms.
    """
    column = tomogram_column(star)
    if column is None:
        raise UserError(f"{star.path}: has neither rlnTomoName nor rlnMicrographName; add the tomograms' names.")
    names = star.strings(column)
    places: dict[str, int] = {}
    keys = {name: tomogram_stem(name) for name in dict.fromkeys(names)}
    index = np.array([places.setdefault(keys[name], len(places)) for name in names])
    order = np.argsort(index, kind="stable")
    ends = np.searchsorted(index[order], np.arange(1, len(places)))
    return dict(zip(places, np.split(order, ends), strict=True))
