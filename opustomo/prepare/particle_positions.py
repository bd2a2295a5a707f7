"""Positions of particles in their tomograms, and the tilts in which each particle is visible."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from opustomo.errors import UserError
from opustomo.io.star import format_pixel_sizes
from opustomo.io.star_conventions import (
    CENTERED_COORDINATES,
    COORDINATES,
    OWN_APIX,
    SERIES_APIX,
    coordinate_sizes,
    counts_in_image_pixels,
    is_candidate_table,
    with_columns,
)
from opustomo.io.star_tables import ParticleStar
from opustomo.io.tilt_series.imod import read_columns
from opustomo.io.tilt_series.series import TiltSeries
from opustomo.io.tomograms import tomogram_column, tomogram_stem


def positions_from_star(
    star: ParticleStar, rows: np.ndarray, series: TiltSeries, coord_apix: float | None = None
) -> np.ndarray:
    """Return the positions of the given rows, (N, 3) Å from the center of the tomogram.

    Centered coordinates in Å (RELION 5) are used directly. Other coordinates are in pixels of `coordinate_pixel_size`
    from the corner.

    Raises
    ------
    UserError
        Coordinates are missing, or the size of the tomogram is unknown.
    """
    if all(column in star for column in CENTERED_COORDINATES):
        return np.stack([star.numbers(column)[rows] for column in CENTERED_COORDINATES], axis=1)
    pixels = np.stack([star.numbers(column)[rows] for column in COORDINATES], axis=1)
    return from_corner(pixels, series, coordinate_pixel_size(star, rows, coord_apix))


def coordinate_pixel_size(star: ParticleStar, rows: np.ndarray, coord_apix: float | None) -> np.ndarray | float | None:
    """Return the pixel size of rlnCoordinateX, Y, Z in Å: `coord_apix`, or that of 2D stacks, (N, 1).

    None means the pixel size of the tilt series.
    """
    if coord_apix is not None or not (counts_in_image_pixels(star) or OWN_APIX in star):
        return coord_apix
    sizes = coordinate_sizes(star)
    return None if sizes is None else sizes[rows, None]


def from_corner(pixels: np.ndarray, series: TiltSeries, coord_apix: np.ndarray | float | None = None) -> np.ndarray:
    """Convert pixels from the corner, of `coord_apix` or of the tilt series, to Å from the center at n/2.

    Raises
    ------
    UserError
        The size of the tomogram or the pixel size is unknown.
    """
    if series.volume_px is None:
        raise UserError(
            f"{series.source}: the size of the tomogram {series.name}, which defines its center, is unknown; "
            "give it with --tomo-size."
        )
    if series.apix is None:
        raise UserError(f"{series.source}: the pixel size of {series.name} is unknown. Give it with --series-apix.")
    center = np.array(series.volume_px) / 2 * series.apix
    return pixels * (series.apix if coord_apix is None else coord_apix) - center


def in_series_pixels(star: ParticleStar, coord_apix: float | None = None) -> ParticleStar:
    """Return a table of 2D stacks with coordinates in pixels of the tilt series, as for subtomograms in RELION 4.

    Other tables are returned unchanged. `coord_apix` is the pixel size of the coordinates that the user gave, Å.
    """
    series = star.value_per_particle(SERIES_APIX)
    sizes = coordinate_sizes(star, coord_apix)
    if COORDINATES[0] not in star or series is None or sizes is None:
        return star
    if not counts_in_image_pixels(star) and OWN_APIX not in star:
        return star
    values = {column: [f"{value:.6f}" for value in star.numbers(column) * sizes / series] for column in COORDINATES}
    moved = with_columns(star, values)
    table = moved.particles.drop(columns=[OWN_APIX], errors="ignore")
    return replace(moved, blocks={**moved.blocks, moved.particle_block: table})


def candidates_in_series_pixels(
    star: ParticleStar, rows: dict[str, np.ndarray], found: dict[str, TiltSeries]
) -> tuple[ParticleStar, str | None]:
    """Convert the coordinates of a table of pytom-match-pick to pixels of the tilt series, and describe this.

    Other tables, and those searched at the pixel size of the tilt series, are returned unchanged, with None.
    """
    if not is_candidate_table(star):
        return star, None
    sizes, series = star.numbers("rlnDetectorPixelSize"), np.ones(len(star))
    for name, members in rows.items():
        series[members] = found[name].apix or sizes[members]
    if np.allclose(sizes, series, rtol=1e-3):
        return star, None
    values = {column: [f"{value:.6f}" for value in star.numbers(column) * sizes / series] for column in COORDINATES}
    note = (
        f"the coordinates of pytom-match-pick are in voxels of {format_pixel_sizes(sizes)} (rlnDetectorPixelSize); "
        f"they were converted to pixels of the tilt series, {format_pixel_sizes(series)}"
    )
    sizes_text = {"rlnDetectorPixelSize": [f"{value:.6f}" for value in series]}
    return with_columns(star, values | sizes_text), note


def outside_note(positions_A: Iterable[np.ndarray], series: Iterable[TiltSeries], source: object) -> str | None:
    """Describe particles that lie outside their tomograms, or return None.

    Parameters
    ----------
    positions_A : iterable of ndarray, (N, 3)
        Positions in each tomogram, Å from its center.
    series : iterable of TiltSeries
        Tilt series of each tomogram; series with unknown size of the tomogram are ignored.
    source : object
        Particle table, for the note.
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
        f"{outside} of {total} particles of {source} lie outside their tomograms (first in {names[0]}); check the "
        "pixel size of the coordinates (--coord-apix) and the size of the tomograms"
    )


def coordinate_note(star: ParticleStar, series_apix: float | None, coord_apix: float | None) -> str | None:
    """Describe coordinates that may not be in pixels of the tilt series, or return None."""
    if coord_apix is not None or series_apix is None or CENTERED_COORDINATES[0] in star:
        return None
    images = coordinate_sizes(star) if counts_in_image_pixels(star) else None
    if images is not None:
        return (
            f"coordinates of these 2D stacks are read in pixels of the images, {format_pixel_sizes(images)}, as "
            "WarpTools writes them"
        )
    # In RELION 4 and 5, coordinates are in pixels of the tilt series.
    sizes = star.pixel_sizes() if star.value_per_particle("rlnTomoTiltSeriesPixelSize") is None else None
    if sizes is None or np.allclose(sizes, series_apix, rtol=1e-3):
        return None
    advice = f"give --coord-apix {sizes[0]:g}"
    if not np.allclose(sizes, sizes[0], rtol=1e-3):
        advice = "split the table by pixel size and give --coord-apix for each part"
    return (
        f"coordinates are read in pixels of the tilt series, {series_apix:g} Å; if they are in pixels of the images "
        f"({format_pixel_sizes(sizes)}), {advice}"
    )


def read_coords(path: Path) -> np.ndarray:
    """Read x, y, z in pixels from a .coords file, (N, 3).

    Raises
    ------
    UserError
        The file is missing or does not have three numbers per line.
    """
    return read_columns(path, (3,), "x, y and z")


def rows_by_tomogram(star: ParticleStar) -> dict[str, np.ndarray]:
    """Return the rows of each tomogram in the order of the table; names have no folders, suffixes and pixel size.

    Raises
    ------
    UserError
        The table has no column with names of tomograms.
    """
    column = tomogram_column(star)
    if column is None:
        raise UserError(
            f"{star.path}: the table has neither rlnTomoName nor rlnMicrographName. Add the names of the tomograms."
        )
    names = star.strings(column)
    places: dict[str, int] = {}
    keys = {name: tomogram_stem(name) for name in dict.fromkeys(names)}
    index = np.array([places.setdefault(keys[name], len(places)) for name in names])
    order = np.argsort(index, kind="stable")
    ends = np.searchsorted(index[order], np.arange(1, len(places)))
    return dict(zip(places, np.split(order, ends), strict=True))


COLUMN = "rlnTomoVisibleFrames"
"""Column with one number per tilt, 1 if the particle is visible: `[0,1,1]`."""


def visible_tilts(star: ParticleStar, rows: np.ndarray, series: TiltSeries) -> np.ndarray:
    """Return whether each particle is visible in each tilt, (N, T).

    Particles are not visible in tilts that the series excludes (`TiltSeries.used`). Lists may describe all tilts or
    only the used ones.

    Parameters
    ----------
    star
        The particles.
    rows
        (N,) rows of the particles in this tomogram.
    series
        The tilt series with T tilts.

    Raises
    ------
    UserError
        A list is invalid or has a wrong length, or a particle is visible in no tilt.
    """
    used = np.asarray(series.used, dtype=bool)
    visible = np.broadcast_to(used, (len(rows), len(used))).copy()
    if COLUMN not in star:
        return visible
    texts = star.strings(COLUMN)
    known: dict[str, np.ndarray] = {}
    for index, row in enumerate(rows.tolist()):
        text = texts[row]
        if text not in known:
            known[text] = _listed(text, star, row, series)
        visible[index] &= known[text]
        if not visible[index].any():
            raise UserError(
                f"{star.path}: by {COLUMN} of row {row + 1}, the particle is visible in no used tilt of {series.name}; "
                "remove the particle."
            )
    return visible


def visible_note(visible: list[np.ndarray], star: ParticleStar) -> str | None:
    """Describe the tilts that rlnTomoVisibleFrames hides, or return None."""
    if COLUMN not in star:
        return None
    counts = np.concatenate([tilts.sum(axis=1) for tilts in visible])
    totals = np.concatenate([np.full(len(tilts), tilts.shape[1]) for tilts in visible])
    hidden = counts < totals
    if not hidden.any():
        return None
    least, most = counts[hidden].min(), counts[hidden].max()
    kept = f"{least}" if least == most else f"{least} to {most}"
    return f"{COLUMN} hides tilts of {hidden.sum()} of {len(counts)} particles, which keep {kept} tilts"


def _listed(text: str, star: ParticleStar, row: int, series: TiltSeries) -> np.ndarray:
    if re.fullmatch(r"\[\s*[01](\s*,\s*[01])*\s*\]", text) is None:
        raise UserError(
            f"{star.path}: {COLUMN} of row {row + 1} is {text[:40]}, but it must be a list of 0 and 1 such as [0,1,1]; "
            "correct it."
        )
    listed = np.array([word.strip() == "1" for word in text.strip("[]").split(",")])
    used = np.asarray(series.used, dtype=bool)
    if len(listed) == len(used):
        return listed
    if len(listed) == used.sum():
        every = np.zeros(len(used), dtype=bool)
        every[used] = listed
        return every
    raise UserError(
        f"{star.path}: {COLUMN} of row {row + 1} has {len(listed)} tilts, but {series.source} has {len(used)} for "
        f"{series.name}. Give the tilt series that belong to these particles."
    )
