"""Particles at their places in tomograms, in STAR files for viewers such as ArtiaX."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

import numpy as np

from opustomo.errors import UserError
from opustomo.io.coordinates import coordinate_sizes
from opustomo.io.star import EULER_COLUMNS, ORIGIN_COLUMNS
from opustomo.io.star_text import write_blocks

if TYPE_CHECKING:
    from opustomo.io.star import ParticleStar

COORDINATES = ("rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ")
CENTRED = tuple(f"rlnCenteredCoordinate{axis}Angst" for axis in "XYZ")


@dataclass(frozen=True)
class TomogramScale:
    """Pixels in which coordinates are given and wanted.

    Attributes
    ----------
    coordinate_apix
        Pixel size of the coordinates in the particle table, Å; None for that of the tilt series where the table has
        it (RELION 4), else that of the subtomograms.
    view_apix
        Pixel size of the tomogram that is looked at, Å; None for that of the coordinates.
    size
        Voxels x, y, z of the tomogram that is looked at; needed for centred coordinates (RELION 5) only.
    """

    coordinate_apix: float | None = None
    view_apix: float | None = None
    size: tuple[int, int, int] | None = None


def tomogram_names(star: ParticleStar) -> list[str]:
    """Tomogram of each particle: rlnTomoName, else rlnMicrographName (``UserError`` when there is neither)."""
    if "rlnTomoName" in star:
        return star.strings("rlnTomoName")
    return star.strings("rlnMicrographName")


def places(star: ParticleStar, scale: TomogramScale) -> tuple[np.ndarray, np.ndarray]:
    """Centres of the particles in voxels of the tomogram that is looked at: coordinates less origins.

    Parameters
    ----------
    star
        The particles; those that are centred lie at coordinate - origin.
    scale
        The pixels.

    Returns
    -------
    centres : numpy.ndarray
        x, y, z of each particle, shape (N, 3).
    apix : numpy.ndarray
        Pixel size of the tomogram that is looked at, Å, shape (N,).

    Raises
    ------
    UserError
        Coordinates, a pixel size or the size of the tomogram is missing.
    """
    table = star.path or "the particle table"
    subtomogram = star.pixel_sizes()
    origins = star.origins_px()
    if origins.any() and subtomogram is None:
        raise UserError(f"{table}: has origins but no pixel size; export it with rlnPixelSize.")
    origins_A = np.zeros_like(origins) if subtomogram is None else origins * subtomogram[:, None]
    centred = CENTRED[0] in star
    if scale.coordinate_apix is not None:
        own: np.ndarray | None = np.full(len(star), scale.coordinate_apix)
    else:
        own = coordinate_sizes(star)
    view = own if scale.view_apix is None else np.full(len(star), scale.view_apix)
    if own is None or view is None:
        raise UserError(f"{table}: does not tell the pixel size of its coordinates; give it with --coord-angpix.")
    if centred:
        if scale.size is None:
            raise UserError(
                f"{table}: coordinates count from the centre of the tomogram (RELION 5); "
                "give the size of the tomogram that you look at with --tomo-size X Y Z."
            )
        coordinates_A = np.stack([star.numbers(column) for column in CENTRED], axis=1)
        centres = (coordinates_A - origins_A) / view[:, None] + np.array(scale.size) / 2
    else:
        coordinates = np.stack([star.numbers(column) for column in COORDINATES], axis=1)
        centres = (coordinates * own[:, None] - origins_A) / view[:, None]
    return centres, view


def write_tomogram_stars(
    star: ParticleStar, labels: np.ndarray, outdir: Path, scale: TomogramScale, num_clusters: int
) -> list[Path]:
    """Write one STAR file per tomogram with the places, angles and clusters of its particles.

    The columns are those that ArtiaX and other readers of RELION tables know: coordinates with the origins taken
    in (which are then 0), Euler angles, and the cluster as rlnClassNumber, counted from 1. ``opusParticle`` is the
    row in the particle table, from 0.

    Parameters
    ----------
    star
        All particles of the run, N rows.
    labels
        Cluster of each, shape (N,); those of ``num_clusters`` and above, left out by a second round, are not written.
    outdir
        Folder for ``{tomogram}.star``.
    scale
        The pixels.
    num_clusters
        Number of clusters.

    Raises
    ------
    UserError
        See `places`.
    """
    import pandas as pd

    centres, apix = places(star, scale)
    tomograms = np.array(tomogram_names(star))
    rows = np.flatnonzero(labels < num_clusters)
    table = pd.DataFrame({"rlnTomoName": tomograms})
    for axis, column in enumerate(COORDINATES):
        table[column] = _text(centres[:, axis], 3)
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
    """A file name for each tomogram: its last part without suffix where that is enough to tell them apart."""
    short = {name: PureWindowsPath(PurePosixPath(name).name).name.split(".")[0] or "tomogram" for name in tomograms}
    if len(set(short.values())) == len(short):
        return short
    return {name: name.strip("/").replace("/", "_").replace("\\", "_") for name in tomograms}
