"""Particle positions in tomograms, written as STAR files for viewers such as ArtiaX."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

import numpy as np

from opustomo.errors import UserError
from opustomo.io.star import write_blocks
from opustomo.io.star_conventions import CENTERED_COORDINATES, COORDINATES, coordinate_sizes
from opustomo.io.star_tables import EULER_COLUMNS, ORIGIN_COLUMNS

if TYPE_CHECKING:
    from opustomo.io.star_tables import ParticleStar


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
    if scale.coordinate_apix is not None:
        coordinate_apix: np.ndarray | None = np.full(len(star), scale.coordinate_apix)
    else:
        coordinate_apix = coordinate_sizes(star)
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


def write_tomogram_stars(
    star: ParticleStar, labels: np.ndarray, outdir: Path, scale: TomogramScale, num_clusters: int
) -> list[Path]:
    """Write one STAR file per tomogram with the positions, angles and clusters of its particles.

    The columns are readable by ArtiaX and other readers of RELION tables: coordinates from which the origins are
    subtracted (the origins are then 0), Euler angles, and the cluster as rlnClassNumber, counted from 1.
    ``opusParticle`` is the row in the particle table, counted from 0.

    Parameters
    ----------
    star
        Particle table with all N particles of the run.
    labels
        Cluster of each particle, shape (N,). Particles with labels of `num_clusters` or more, which a second round
        excludes, are not written.
    outdir
        Output folder of the files ``{tomogram}.star``.
    scale
        Pixel sizes of the coordinates and of the displayed tomogram.
    num_clusters
        Number of clusters.

    Raises
    ------
    UserError
        If positions cannot be computed, see `particle_centers`.
    """
    import pandas as pd

    centers, apix = particle_centers(star, scale)
    tomograms = np.array(tomogram_names(star))
    rows = np.flatnonzero(labels < num_clusters)
    table = pd.DataFrame({"rlnTomoName": tomograms})
    for axis, column in enumerate(COORDINATES):
        table[column] = _text(centers[:, axis], 3)
    for column in EULER_COLUMNS:
        table[column] = star.strings(column)
    for column in ORIGIN_COLUMNS:
        table[column] = "0.000"
    table["rlnClassNumber"] = (labels + 1).astype(str)
    table["rlnPixelSize"] = _text(apix, 4)
    table["opusParticle"] = np.arange(len(star)).astype(str)
    names = _file_names(list(dict.fromkeys(tomograms[rows].tolist())))
    written = []
    for tomogram, name in names.items():
        path = outdir / f"{name}.star"
        chosen = rows[tomograms[rows] == tomogram]
        write_blocks(path, {"particles": table.iloc[chosen].reset_index(drop=True)})
        written.append(path)
    return written


def _text(values: np.ndarray, digits: int) -> list[str]:
    return [f"{value:.{digits}f}" for value in values]


def _file_names(tomograms: list[str]) -> dict[str, str]:
    """Return a file name for each tomogram: the last path component without suffix if these are unique."""
    short = {name: PureWindowsPath(PurePosixPath(name).name).name.split(".")[0] or "tomogram" for name in tomograms}
    if len(set(short.values())) == len(short):
        return short
    return {name: name.strip("/").replace("/", "_").replace("\\", "_") for name in tomograms}
