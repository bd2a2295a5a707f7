"""Tilt series as WARP lists them before it writes XML files: .tomostar files.

wrpAngleTilt has the opposite sign of SerialEM's and IMOD's angles, wrpAxisAngle is the azimuth of the tilt axis from y,
wrpDose the dose before the exposure in e/Å², and wrpAxisOffsetX and Y, which WarpTools no longer writes, are in Å.
"""

from __future__ import annotations

import os
from pathlib import Path, PureWindowsPath

import numpy as np

from opustomo.io.star import read_table, to_numbers
from opustomo.io.text_tilts import TextTilts, check_angles

_OFFSETS = ("wrpAxisOffsetX", "wrpAxisOffsetY")


def tomostar_tilts(path: str | os.PathLike[str]) -> TextTilts:
    """Return the tilts of a .tomostar file, in its order.

    Raises
    ------
    UserError
        The file is missing or damaged, a column is missing, or a value is no number.
    """
    path = Path(path)
    table = read_table(path, ("wrpAngleTilt", "wrpDose"))

    def column(name: str) -> np.ndarray:
        return np.asarray(to_numbers(table[name], name, str(path)))

    tilt = -column("wrpAngleTilt")
    check_angles(path, tilt)
    placed = all(name in table for name in _OFFSETS)
    names = [str(name) for name in table["wrpMovieName"]] if "wrpMovieName" in table else []
    return TextTilts(
        source=path,
        tilt_deg=tilt,
        axis_deg=column("wrpAxisAngle") if "wrpAxisAngle" in table else np.zeros(len(tilt)),
        shifts=np.stack([column(name) for name in _OFFSETS], axis=1) if placed else None,
        shifts_in_A=True,
        dose=column("wrpDose"),
        images=tuple(PureWindowsPath(name).name for name in names),
    )
