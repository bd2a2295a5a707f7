"""Cubes cut from a tomogram without reading all of it, their stack and their particle table."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import mrcfile
import numpy as np

from opustomo.errors import UserError
from opustomo.io.atomic import atomic_path
from opustomo.io.mrc import MrcHeader, write_volume
from opustomo.io.progress_bar import progress
from opustomo.io.star_conventions import CORNER, OWN_APIX
from opustomo.io.star_tables import ParticleStar
from opustomo.prepare.particle_tables import (
    SUBTOMOGRAM_COLUMNS,
    TomogramPoses,
    origins_of,
    tomogram_poses,
    with_columns,
    with_subtomograms,
)

ROUND_MODES: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "round": np.round,
    "floor": np.floor,
    "ceil": np.ceil,
    "trunc": np.trunc,
}


@dataclass(frozen=True)
class CubePlan:
    """Where cubes are cut.

    Attributes
    ----------
    centres
        (N, 3) voxels x, y, z of the tomogram that become the centres (index box/2) of the cubes.
    remainder
        (N, 3) what rounding left of the positions: the particle lies at box/2 + remainder.
    inside
        (N,) the whole cube lies in the tomogram.
    reachable
        (N,) at least one voxel of it does.
    """

    centres: np.ndarray
    remainder: np.ndarray
    inside: np.ndarray
    reachable: np.ndarray


def plan_cubes(positions: np.ndarray, box: int, shape: tuple[int, int, int], round_mode: str = "round") -> CubePlan:
    """Round positions to voxels and see which cubes fit.

    Parameters
    ----------
    positions
        (N, 3) x, y, z in voxels, counted from 0.
    box
        Side of the cubes.
    shape
        Voxels of the tomogram (z, y, x).
    round_mode
        A key of `ROUND_MODES`.
    """
    centres = ROUND_MODES[round_mode](positions).astype(np.int64)
    first, size = centres - box // 2, np.array(shape[::-1])
    inside = np.all((first >= 0) & (first + box <= size), axis=1)
    reachable = np.all((first + box > 0) & (first < size), axis=1)
    return CubePlan(centres, positions - centres, inside, reachable)


def cut_cubes(header: MrcHeader, centres: np.ndarray, box: int, *, normalise: bool = True) -> Iterator[np.ndarray]:
    """Cubes around voxels of a tomogram, float32 (box, box, box), in the order given.

    The file is mapped, not read: only the pages that hold the cubes are touched. What lies outside the tomogram gets
    the mean of what lies inside.

    Parameters
    ----------
    header
        The tomogram.
    centres
        (N, 3) x, y, z; each cube must reach into the tomogram.
    box
        Side of the cubes.
    normalise
        Bring every cube to mean 0 and standard deviation 1, measured inside the tomogram.
    """
    tomogram = np.memmap(header.path, header.dtype, "r", header.offset, header.shape)
    for x, y, z in centres:
        wanted = [(int(at) - box // 2, int(at) - box // 2 + box) for at in (z, y, x)]
        there = tuple(slice(max(a, 0), min(b, n)) for (a, b), n in zip(wanted, header.shape, strict=True))
        voxels = np.asarray(tomogram[there], dtype=np.float32)
        if normalise:
            voxels = _normalised(voxels)
        if voxels.shape != (box, box, box):
            place = tuple(slice(s.start - a, s.stop - a) for s, (a, _) in zip(there, wanted, strict=True))
            cube = np.full((box, box, box), voxels.mean(dtype=np.float64), dtype=np.float32)
            cube[place] = voxels
            voxels = cube
        yield voxels


def _normalised(voxels: np.ndarray) -> np.ndarray:
    # float32 sums of large values lose the deviation
    mean, deviation = voxels.mean(dtype=np.float64), voxels.std(dtype=np.float64)
    return ((voxels - mean) / (deviation if deviation > 0 else 1.0)).astype(np.float32)


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
        Factor that brings coordinates to voxels of the tomogram, and origins in pixels where the table tells no
        pixel size.
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
    coord_columns: Sequence[str] = CORNER
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
    """Rows that were cut: names, places in voxels, what rounding left in the origins, and the cubes' pixel size.

    Cubes have the axes of the tomogram, so poses in turned frames (RELION 4 and 5) are turned back.
    """
    assert config.out_star is not None
    cut = star.subset(rows)
    pixel = config.apix * config.coord_scale
    if SUBTOMOGRAM_COLUMNS[0] in cut:
        poses = tomogram_poses(cut, pixel)
    else:
        # angles stay as they are written
        poses = TomogramPoses(None, origins_of(cut, pixel))
    poses = replace(poses, origins_A=poses.origins_A - plan.remainder[rows] * config.apix)
    folder = os.path.relpath(config.folder, config.out_star.parent)
    columns = {"rlnImageName": [str(Path(folder) / name) for name in names]}
    for axis, column in enumerate(config.coord_columns):
        columns[column] = [str(at) for at in plan.centres[rows, axis]]
    frames = np.broadcast_to(np.eye(3), (len(rows), 3, 3))
    table = with_subtomograms(cut, poses, frames, box=config.box, apix=config.apix, columns=columns)
    return _places_in_voxels(table, config.apix) if tuple(config.coord_columns) == CORNER else table


def _places_in_voxels(star: ParticleStar, apix: float) -> ParticleStar:
    """RELION 4 counts coordinates in pixels of the tilt series; they are voxels of the tomogram now."""
    own = f"{apix:.6f}"
    says = {"rlnTomoTiltSeriesPixelSize": own, "rlnTomoSubtomogramBinning": "1.000000", OWN_APIX: own}
    star = with_columns(star, {name: [value] * len(star) for name, value in says.items() if name in star})
    optics = star.optics_block
    if optics is None:
        return star
    block = star.blocks[optics]
    told = {name: value for name, value in says.items() if name in block}
    changed = {**block, **told} if isinstance(block, dict) else block.assign(**told)
    return replace(star, blocks={**star.blocks, optics: changed})
