"""Particle tables of WARP and M: M species (`wrp…` columns) to RELION 3.0, and template matching of WARP.

M stores coordinates in Å. Species with several poses over the exposure have one set of columns per pose
(`wrpCoordinateX1`, `wrpCoordinateX2`, …), of which the first is used. Half sets are 1 and 2 as in RELION; old files
count from 0. All other columns are kept.
"""

import os
import re
from pathlib import Path

import numpy as np

from opustomo.convert import Converted
from opustomo.convert.conventions import FRAME_COLUMNS, require_pixels
from opustomo.convert.relion30 import PIXEL_SIZE_COLUMNS
from opustomo.io.star import find_table, read_blocks
from opustomo.io.star_conventions import (
    CENTERED_COORDINATES,
    COORDINATES,
    constant_column,
    format_fixed,
    make_table,
    table_numbers,
    with_columns,
    xyz_columns,
)
from opustomo.io.star_tables import EULER_COLUMNS, ORIGIN_ANGST_COLUMNS, ORIGIN_COLUMNS, ParticleStar
from opustomo.io.tomograms import TomogramChoice

_SCORE, _PYTOM_SCORE = "rlnAutopickFigureOfMerit", "rlnLCCmax"
_PLACE = tuple(f"wrpCoordinate{axis}1" for axis in "XYZ")
_ANGLES = tuple(f"wrpAngle{name}1" for name in ("Rot", "Tilt", "Psi"))
# Columns that would contradict the coordinates and pixel sizes of the output.
_OUTDATED = {*CENTERED_COORDINATES, *ORIGIN_ANGST_COLUMNS, *PIXEL_SIZE_COLUMNS, *FRAME_COLUMNS}


def relion_from_species(path: str | os.PathLike[str], apix: float, kv: float = 300.0, cs: float = 2.7) -> Converted:
    """Read a table of an M species and convert it to a RELION 3.0 particle table.

    Parameters
    ----------
    path
        STAR file of the particles of the species.
    apix
        Pixel size in Å of the output coordinates, which is that of the subtomograms to be exported.
    kv, cs
        Voltage in kV and spherical aberration in mm of the output.

    Returns
    -------
    Converted
        `rlnMicrographName` (from `wrpSourceName`), `rlnCoordinate…` in pixels of `apix`, angles, zero origins,
        `rlnRandomSubset`, pixel size and optics, followed by all columns that were not converted. These values
        replace RELION columns of the table.

    Raises
    ------
    UserError
        The file is not a species table or is empty, or a value is not a number.
    """
    path = Path(path)
    blocks = dict(read_blocks(path))
    needed = (*_PLACE, "wrpSourceName")
    name, table = find_table(
        blocks,
        needed,
        path,
        "an M species table with wrpCoordinateX1, Y1, Z1 and wrpSourceName",
        "give the particle STAR of an M species (RELION tables need no conversion, or dsdsh convert_star)",
    )
    places = np.stack([table_numbers(table, column, path) for column in _PLACE], axis=1) / apix
    columns = {"rlnMicrographName": table["wrpSourceName"].to_numpy(dtype=object), **xyz_columns(COORDINATES, places)}
    translated, notes = {*needed}, []
    for source, column in zip(_ANGLES, EULER_COLUMNS, strict=True):
        if source in table.columns:
            table_numbers(table, source, path)
            columns[column] = table[source].to_numpy(dtype=object)
            translated.add(source)
        else:
            columns[column] = constant_column("0.000000", len(table))
            notes.append(f"{column} is 0, because {source} is missing")
    columns |= {column: constant_column("0.000000", len(table)) for column in ORIGIN_COLUMNS}
    if "wrpRandomSubset" in table.columns:
        subsets = table_numbers(table, "wrpRandomSubset", path)
        columns["rlnRandomSubset"] = table["wrpRandomSubset"].to_numpy(dtype=object)
        translated.add("wrpRandomSubset")
        if (subsets == 0).any() and np.isin(subsets, (0, 1)).all():
            columns["rlnRandomSubset"] = format_fixed(subsets + 1, 0)
            notes.append("half sets 0 and 1 became 1 and 2")
    optics = {
        "rlnMagnification": "10000.0",
        "rlnDetectorPixelSize": f"{apix:g}",
        "rlnVoltage": f"{kv:g}",
        "rlnSphericalAberration": f"{cs:g}",
    }
    columns |= {column: constant_column(value, len(table)) for column, value in optics.items()}
    poses = sum(re.fullmatch(r"wrpCoordinateX\d+", column) is not None for column in table.columns)
    if poses > 1:
        notes.append(f"the first of {poses} poses per particle is used")
    replaced = [column for column in table.columns if column in columns or column in _OUTDATED]
    if replaced:
        notes.append(f"{', '.join(replaced)} of the table were replaced by the values of M's columns")
    translated |= {*replaced}
    columns |= {column: table[column].to_numpy(dtype=object) for column in table.columns if column not in translated}
    others = {key: value for key, value in blocks.items() if key != name}
    return Converted(ParticleStar(path, {name: make_table(columns), **others}, name), len(table), tuple(notes))


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
