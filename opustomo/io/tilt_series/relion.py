"""Tilt series of RELION 4 and 5: tomograms.star and the tables that it refers to.

The geometry of RELION 5 leads from the center of the tomogram to the center of the image (centers are at n//2):
`Rz(rlnTomoZRot) Ry(rlnTomoYTilt) Rx(rlnTomoXTilt) x + (rlnTomoXShiftAngst, rlnTomoYShiftAngst)` with right-handed
rotations. RELION 4 has 4 × 4 matrices of pixels that count from the corner instead (rlnTomoProjX … W).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING

import numpy as np

from opustomo.errors import UserError
from opustomo.geometry.tilt_geometry import TiltGeometry, rotation_x, rotation_y, rotation_z
from opustomo.io.star import read_blocks, to_numbers
from opustomo.io.star_conventions import BFACTOR_PER_DOSE, damping_bfactors
from opustomo.io.tilt_series.series import TiltImage, TiltOptics, TiltSeries
from opustomo.io.tomograms import tomogram_stem

if TYPE_CHECKING:
    import pandas as pd

ImageSize = Callable[[str], tuple[int, int]]
_PROJECTION = ("rlnTomoProjX", "rlnTomoProjY")


def read_relion_series(
    path: str | os.PathLike[str],
    image_size: ImageSize | None = None,
    *,
    depth_only: bool = False,
    wanted: Collection[str] | None = None,
) -> list[TiltSeries]:
    """Read the tilt series of a tomograms.star.

    Parameters
    ----------
    path
        The file. The tables of the series are blocks of this file (RELION 4) or separate files, which are searched for
        beside it and in the folders above, because their paths are relative to the project folder of RELION.
    image_size
        Function that returns width and height of an image by name; required for the matrices of RELION 4.
    depth_only
        Set shifts that require `image_size` to 0, because only depths are needed.
    wanted
        Names of tomograms without folders and suffixes; None reads all.

    Raises
    ------
    UserError
        A file, column or value is missing or wrong.
    """
    path = Path(path)
    blocks = read_blocks(path)
    name = next((name for name, block in blocks.items() if "rlnTomoName" in block), None)
    if name is None:
        raise UserError(f"{path}: no block has rlnTomoName. Give a tomograms.star of RELION 4 or 5.")
    table = _rows(blocks[name])
    if wanted is not None:
        table = [row for row in table if tomogram_stem(row["rlnTomoName"]) in wanted]
    return [_one_series(path, row, blocks, image_size, depth_only) for row in table]


def _rows(block: pd.DataFrame | dict[str, str]) -> list[dict[str, str]]:
    if isinstance(block, dict):
        return [{key: str(value) for key, value in block.items()}]
    return [dict(zip(block.columns, map(str, values), strict=True)) for values in block.to_numpy()]


def _one_series(
    path: Path,
    row: dict[str, str],
    blocks: dict[str, pd.DataFrame | dict[str, str]],
    image_size: ImageSize | None,
    depth_only: bool,
) -> TiltSeries:
    name = row["rlnTomoName"]
    source, tilts = _tilt_table(path, row, blocks)
    count = len(next(iter(tilts.values())))

    def column(label: str, default: np.ndarray | None = None) -> np.ndarray:
        if label in tilts:
            return to_numbers(tilts[label], label, str(source))
        if default is None:
            raise UserError(
                f"{source}: the table of tilts has no column {label}; {_ADVICE.get(label, 'export it again')}."
            )
        return default

    def number(label: str, default: float | None = None) -> float:
        if label in row:
            return float(to_numbers([row[label]], label, str(path))[0])
        if default is None:
            raise UserError(f"{path}: tomogram {name} has no {label}. Add it.")
        return default

    zeros = np.zeros(count)
    apix = number("rlnTomoTiltSeriesPixelSize", float("nan"))
    if not np.isfinite(apix):
        apix = number("rlnMicrographOriginalPixelSize")
    sizes = [int(number(f"rlnTomoSize{axis}", 0)) for axis in "XYZ"]
    volume = (sizes[0], sizes[1], sizes[2]) if min(sizes) > 0 else None
    images = _images(row, tilts)
    if all(label in tilts for label in _PROJECTION):
        rotations, columns = _matrices(source, tilts)
        shifts = np.zeros((count, 2))
        if not depth_only:
            shifts = apix * _shifts_px(source, rotations, columns, volume, images, image_size)
    else:
        rotations = (
            rotation_z(column("rlnTomoZRot"))
            @ rotation_y(column("rlnTomoYTilt"))
            @ rotation_x(column("rlnTomoXTilt", zeros))
        )
        shifts = np.stack([column("rlnTomoXShiftAngst"), column("rlnTomoYShiftAngst")], axis=1)
    u = column("rlnDefocusU")
    tilted = np.clip(rotations[:, 2, 2], 0.0, 1.0)
    dose = column("rlnMicrographPreExposure", zeros)
    optics = TiltOptics(
        defocus_u_A=u,
        defocus_v_A=column("rlnDefocusV", u),
        astigmatism_deg=column("rlnDefocusAngle", zeros),
        phase_shift_deg=column("rlnPhaseShift", zeros),
        bfactor_A2=damping_bfactors(column("rlnCtfBfactor", BFACTOR_PER_DOSE * dose), source)[0],
        scale=column("rlnCtfScalefactor", tilted),
        voltage_kv=number("rlnVoltage"),
        cs_mm=number("rlnSphericalAberration"),
        amplitude_contrast=number("rlnAmplitudeContrast"),
    )
    hand = -1 if number("rlnTomoHand", -1.0) < 0 else 1
    return TiltSeries(
        name=name,
        source=source,
        geometry=TiltGeometry(rotations, shifts, hand),
        optics=optics,
        used=np.ones(count, dtype=bool),
        images=images,
        apix=apix,
        volume_px=volume,
    )


_ADVICE = {
    "rlnTomoXShiftAngst": "align the tilt series in RELION first (Align tilt-series)",
    "rlnTomoYShiftAngst": "align the tilt series in RELION first (Align tilt-series)",
    "rlnTomoYTilt": "align the tilt series in RELION first (Align tilt-series)",
    "rlnTomoZRot": "align the tilt series in RELION first (Align tilt-series)",
    "rlnDefocusU": "estimate the CTF in RELION first",
}


def _tilt_table(
    path: Path, row: dict[str, str], blocks: dict[str, pd.DataFrame | dict[str, str]]
) -> tuple[Path, dict[str, list[str]]]:
    """Return the file and the columns of the table of tilts."""
    name = row["rlnTomoName"]
    if name in blocks:
        found = [blocks[name]]
        source = path
    elif "rlnTomoTiltSeriesStarFile" in row:
        source = find_beside(row["rlnTomoTiltSeriesStarFile"], path)
        found = list(read_blocks(source).values())
    else:
        raise UserError(
            f"{path}: the tomogram {name} has neither rlnTomoTiltSeriesStarFile nor a block data_{name}. Add one of "
            "them."
        )
    best = max(found, key=lambda block: len(_rows(block)) if not isinstance(block, dict) else 1)
    rows = _rows(best)
    if not rows:
        raise UserError(f"{source}: the table of tilts of {name} has no rows. Export it again.")
    return source, {label: [values[label] for values in rows] for label in rows[0]}


def find_beside(name: str, path: Path) -> Path:
    """Find a file of a RELION project relative to the folder of `path`, folders above it, or the working folder.

    Raises
    ------
    UserError
        The file is in none of these folders.
    """
    relative = Path(PureWindowsPath(name).as_posix() if "\\" in name else name)
    folders = [path.resolve().parent, *path.resolve().parents[1:4], Path()]
    for folder in folders:
        if (folder / relative).is_file():
            return folder / relative
    # The file may have been copied out of its project, possibly with its folder.
    for last in range(len(relative.parts) - 1, 0, -1):
        if (path.parent / Path(*relative.parts[-last:])).is_file():
            return path.parent / Path(*relative.parts[-last:])
    raise UserError(f"{path}: the file {name} is neither beside it nor in a folder above. Copy it there.")


def _images(row: dict[str, str], tilts: dict[str, list[str]]) -> tuple[TiltImage, ...]:
    """Return the tilt images: `00003@stack.mrcs`, single files, or the sections of the stack of the series."""
    if "rlnMicrographName" in tilts:
        return tuple(_image(name) for name in tilts["rlnMicrographName"])
    if "rlnTomoTiltSeriesName" in row:
        count = len(next(iter(tilts.values())))
        stack = row["rlnTomoTiltSeriesName"].removesuffix(":mrc")
        return tuple(TiltImage(stack, section) for section in range(count))
    return ()


def _image(name: str) -> TiltImage:
    match = re.fullmatch(r"(\d+)@(.+)", name)
    return TiltImage(match[2], int(match[1]) - 1) if match else TiltImage(name)


def _matrices(source: Path, tilts: dict[str, list[str]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the rotations (T, 3, 3) and the shifts between corners in pixels (T, 2) of RELION 4's matrices."""
    rows = []
    for label in _PROJECTION:
        try:
            rows.append(np.array([[float(word) for word in text.strip("[]").split(",")] for text in tilts[label]]))
        except ValueError as error:
            raise UserError(
                f"{source}: {label} must have four numbers such as [1,0,0,0] ({error}). Correct it."
            ) from error
        if rows[-1].shape != (len(tilts[label]), 4):
            raise UserError(f"{source}: {label} must have four numbers such as [1,0,0,0]. Correct it.")
    x, y = rows
    rotations = np.stack([x[:, :3], y[:, :3], np.cross(x[:, :3], y[:, :3])], axis=1)
    if np.abs(rotations @ rotations.transpose(0, 2, 1) - np.eye(3)).max() > 0.05:
        raise UserError(f"{source}: rlnTomoProjX and rlnTomoProjY are not a rotation. Export the file again.")
    return rotations, np.stack([x[:, 3], y[:, 3]], axis=1)


def _shifts_px(
    source: Path,
    rotations: np.ndarray,
    corners: np.ndarray,
    volume: tuple[int, int, int] | None,
    images: tuple[TiltImage, ...],
    image_size: ImageSize | None,
) -> np.ndarray:
    """Return the positions of the center of the tomogram in the images in pixels, (T, 2), from shifts of corners."""
    if not corners.any():
        raise UserError(
            f"{source}: the fourth numbers of rlnTomoProjX and rlnTomoProjY are all 0, as WarpTools writes them, so "
            "the shifts of the tilt images are unknown. Give the folder of WARP's XML files with --warp instead."
        )
    if volume is None:
        raise UserError(f"{source}: rlnTomoProjX requires rlnTomoSizeX, Y and Z of the tomogram. Add them.")
    if image_size is None or not images:
        raise UserError(f"{source}: rlnTomoProjX requires the size of the tilt images. Give their folder.")
    center = np.array(volume) / 2
    width, height = image_size(images[0].name)
    return corners + rotations[:, :2] @ center - np.array([width, height]) / 2
