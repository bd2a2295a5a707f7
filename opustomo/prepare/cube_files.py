"""Writes the cubes of a tomogram, their stack and their particle table."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import mrcfile
import numpy as np

from opustomo.errors import UserError
from opustomo.io.atomic import atomic_path
from opustomo.io.mrc import MrcHeader, write_volume
from opustomo.io.progress import progress
from opustomo.io.star import ORIGIN_ANGST_COLUMNS, ORIGIN_COLUMNS, ParticleStar
from opustomo.prepare.cubes import CubePlan, cut_cubes, plan_cubes
from opustomo.prepare.particle_columns import with_columns


@dataclass(frozen=True)
class CubeConfig:
    """What is cut, and how it is written.

    Attributes
    ----------
    box
        Side of the cubes in voxels.
    folder
        Where they go.
    apix
        Pixel size of the tomogram, Å.
    coord_columns
        Columns of x, y, z.
    coord_scale
        Factor that brings coordinates (and origins in pixels) to voxels of the tomogram.
    one_based
        Coordinates count from 1.
    round_mode
        See `cubes.ROUND_MODES`.
    pad_outside
        Keep cubes that reach over the rim.
    normalise, float16
        Mean 0 and deviation 1; half precision.
    prefix, start_index
        Files are `{prefix}_{index:06d}.mrc`.
    write_stack
        Write `{prefix}_stack.mrcs` too.
    out_star
        Particle table of the cubes; None for none.
    """

    box: int
    folder: Path
    apix: float
    coord_columns: Sequence[str] = ("rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ")
    coord_scale: float = 1.0
    one_based: bool = False
    round_mode: str = "round"
    pad_outside: bool = False
    normalise: bool = True
    float16: bool = False
    prefix: str = "cube"
    start_index: int = 1
    write_stack: bool = False
    out_star: Path | None = None


def extract_cubes(header: MrcHeader, star: ParticleStar, config: CubeConfig) -> int:
    """Cut and write the cubes of the particles of one tomogram.

    Returns
    -------
    int
        Number written; the others reach over the rim of the tomogram.

    Raises
    ------
    UserError
        A coordinate is no number, or no cube lies in the tomogram.
    """
    positions = np.stack([star.numbers(column) for column in config.coord_columns], axis=1) * config.coord_scale
    if config.one_based:
        positions -= 1.0
    plan = plan_cubes(positions, config.box, header.shape, config.round_mode)
    rows = np.flatnonzero(plan.reachable if config.pad_outside else plan.inside)
    if not rows.size:
        size = "×".join(str(n) for n in reversed(header.shape))
        low, high = positions.min(axis=0), positions.max(axis=0)
        span = ", ".join(f"{a:.0f} … {b:.0f}" for a, b in zip(low, high, strict=True))
        raise UserError(
            f"{star.path}: no box of {config.box} at x, y, z = {span} fits the tomogram of {size} voxels; "
            "see --coord-scale, --box-size and --pad-outside."
        )
    names = [f"{config.prefix}_{config.start_index + i:06d}.mrc" for i in range(len(rows))]
    dtype = np.float16 if config.float16 else np.float32
    config.folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as files:
        stack = _open_stack(files, config, len(rows)) if config.write_stack else None
        advance = files.enter_context(progress(len(rows), "cubes"))
        cubes = cut_cubes(header, plan.centres[rows], config.box, normalise=config.normalise)
        for index, (name, cube) in enumerate(zip(names, cubes, strict=True)):
            write_volume(config.folder / name, cube.astype(dtype), config.apix)
            if stack is not None:
                stack.data[index] = cube
            advance(1)
        if stack is not None:
            stack.update_header_stats()
    if config.out_star is not None:
        _cube_table(star, plan, rows, names, config).write(config.out_star)
    return len(rows)


def _open_stack(files: ExitStack, config: CubeConfig, count: int) -> mrcfile.mrcmemmap.MrcMemmap:
    """A stack of volumes, filled cube by cube on the disk; float32, because the header's statistics are."""
    path = files.enter_context(atomic_path(config.folder / f"{config.prefix}_stack.mrcs"))
    handle = mrcfile.new_mmap(path, shape=(count, *(config.box,) * 3), mrc_mode=2)
    files.callback(handle.close)
    handle.voxel_size = config.apix
    return handle


def _cube_table(
    star: ParticleStar, plan: CubePlan, rows: np.ndarray, names: list[str], config: CubeConfig
) -> ParticleStar:
    """Rows that were cut: image names, coordinates in voxels of the tomogram, what rounding left in the origins."""
    assert config.out_star is not None
    cut = star.subset(rows)
    in_angst = any(column in cut for column in ORIGIN_ANGST_COLUMNS)
    columns = ORIGIN_ANGST_COLUMNS if in_angst else ORIGIN_COLUMNS
    unit, factor = (config.apix, 1.0) if in_angst else (1.0, config.coord_scale)
    folder = os.path.relpath(config.folder, config.out_star.parent)
    values: dict[str, list[str]] = {"rlnImageName": [str(Path(folder) / name) for name in names]}
    for axis in range(3):
        values[config.coord_columns[axis]] = [str(at) for at in plan.centres[rows, axis]]
        old = cut.numbers(columns[axis]) if columns[axis] in cut else np.zeros(len(rows))
        origin = old * factor - plan.remainder[rows, axis] * unit
        values[columns[axis]] = [f"{value:.6f}" for value in origin]
    return with_columns(cut, values)
