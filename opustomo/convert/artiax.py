"""Particle lists for ArtiaX: the particles of one tomogram, and the clusters of the particles of each tomogram."""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np

from opustomo.convert import Converted
from opustomo.convert.conventions import require_pixels
from opustomo.io.star import write_blocks
from opustomo.io.star_conventions import COORDINATES, with_columns, xyz, xyz_columns
from opustomo.io.star_tables import EULER_COLUMNS, ORIGIN_COLUMNS, ParticleStar
from opustomo.io.tomograms import TomogramChoice, TomogramScale, particle_centers, tomogram_names


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
