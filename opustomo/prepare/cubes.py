"""Cubes cut from a memory-mapped tomogram, their stack and their particle table."""

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
from opustomo.io.star_conventions import COORDINATES, OWN_APIX, with_columns
from opustomo.io.star_tables import ParticleStar
from opustomo.prepare.particle_tables import (
    SUBTOMOGRAM_COLUMNS,
    TomogramPoses,
    origins_of,
    tomogram_poses,
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
    """Positions of cubes in a tomogram.

    Attributes
    ----------
    centers
        (N, 3) voxels x, y, z of the tomogram that become the centers (index box/2) of the cubes.
    remainder
        (N, 3) remainder of rounding: the particle is at box/2 + remainder.
    inside
        (N,) whether the cube is completely inside the tomogram.
    reachable
        (N,) whether at least one voxel of the cube is inside the tomogram.
    """

    centers: np.ndarray
    remainder: np.ndarray
    inside: np.ndarray
    reachable: np.ndarray


def plan_cubes(positions: np.ndarray, box: int, shape: tuple[int, int, int], round_mode: str = "round") -> CubePlan:
    """Round positions to voxels and determine which cubes are inside the tomogram.

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
    centers = ROUND_MODES[round_mode](positions).astype(np.int64)
    first, size = centers - box // 2, np.array(shape[::-1])
    inside = np.all((first >= 0) & (first + box <= size), axis=1)
    reachable = np.all((first + box > 0) & (first < size), axis=1)
    return CubePlan(centers, positions - centers, inside, reachable)


def cut_cubes(header: MrcHeader, centers: np.ndarray, box: int, *, normalize: bool = True) -> Iterator[np.ndarray]:
    """Yield cubes around voxels of a tomogram, float32 (box, box, box), in the given order.

    The file is memory-mapped, so only the pages of the cubes are read. Voxels outside the tomogram are set to the mean
    of those inside.

    Parameters
    ----------
    header
        The tomogram.
    centers
        (N, 3) x, y, z; each cube must overlap with the tomogram.
    box
        Side of the cubes.
    normalize
        Whether every cube is scaled to mean 0 and standard deviation 1, measured inside the tomogram.
    """
    tomogram = np.memmap(header.path, header.dtype, "r", header.offset, header.shape)
    for x, y, z in centers:
        wanted = [(int(at) - box // 2, int(at) - box // 2 + box) for at in (z, y, x)]
        there = tuple(slice(max(a, 0), min(b, n)) for (a, b), n in zip(wanted, header.shape, strict=True))
        voxels = np.asarray(tomogram[there], dtype=np.float32)
        if normalize:
            voxels = _normalized(voxels)
        if voxels.shape != (box, box, box):
            place = tuple(slice(s.start - a, s.stop - a) for s, (a, _) in zip(there, wanted, strict=True))
            cube = np.full((box, box, box), voxels.mean(dtype=np.float64), dtype=np.float32)
            cube[place] = voxels
            voxels = cube
        yield voxels


def _normalized(voxels: np.ndarray) -> np.ndarray:
    # Sums in float32 are too inaccurate for large values.
    mean, deviation = voxels.mean(dtype=np.float64), voxels.std(dtype=np.float64)
    return ((voxels - mean) / (deviation if deviation > 0 else 1.0)).astype(np.float32)


@dataclass(frozen=True)
class CubeConfig:
    """Options of cubes.

    Attributes
    ----------
    box
        Side of the cubes in voxels.
    folder
        Output folder.
    apix
        Pixel size of the tomogram, Å.
    coord_columns
        Columns of x, y, z.
    coord_scale
        Factor that converts coordinates to voxels of the tomogram, and origins in pixels if the table does not state
        the pixel size.
    one_based
        Whether coordinates count from 1.
    round_mode
        Key of `ROUND_MODES`.
    pad_outside
        Whether cubes that extend beyond the tomogram are kept.
    normalize, float16
        Whether cubes are scaled to mean 0 and standard deviation 1, and written in half precision.
    prefix, start_index
        Files are named `{prefix}_{index:06d}.mrc`.
    write_stack
        Whether `{prefix}_stack.mrcs` is written too.
    out_star
        Particle table of the cubes; None writes no table.
    """

    box: int
    folder: Path
    apix: float
    coord_columns: Sequence[str] = COORDINATES
    coord_scale: float = 1.0
    one_based: bool = False
    round_mode: str = "round"
    pad_outside: bool = False
    normalize: bool = True
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
        Number of cubes written; the others extend beyond the tomogram.

    Raises
    ------
    UserError
        A coordinate is not a number, or no cube is inside the tomogram.
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
            f"{star.path}: no box of {config.box} voxels at x, y, z = {span} is inside the tomogram of {size} voxels; "
            "see --coord-scale, --box-size and --pad-outside."
        )
    names = [f"{config.prefix}_{config.start_index + i:06d}.mrc" for i in range(len(rows))]
    dtype = np.float16 if config.float16 else np.float32
    config.folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as files:
        stack = _open_stack(files, config, len(rows)) if config.write_stack else None
        advance = files.enter_context(progress(len(rows), "cubes"))
        cubes = cut_cubes(header, plan.centers[rows], config.box, normalize=config.normalize)
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
    """Return a memory-mapped stack of volumes; it is float32, because the statistics in the header are."""
    path = files.enter_context(atomic_path(config.folder / f"{config.prefix}_stack.mrcs"))
    handle = mrcfile.new_mmap(path, shape=(count, *(config.box,) * 3), mrc_mode=2)
    files.callback(handle.close)
    handle.voxel_size = config.apix
    return handle


def _cube_table(
    star: ParticleStar, plan: CubePlan, rows: np.ndarray, names: list[str], config: CubeConfig
) -> ParticleStar:
    """Return the table of the cubes with names, coordinates in voxels, remainders in the origins, and pixel size.

    Cubes have the axes of the tomogram, so poses in rotated frames (RELION 4 and 5) are rotated back.
    """
    assert config.out_star is not None
    cut = star.subset(rows)
    pixel = config.apix * config.coord_scale
    if SUBTOMOGRAM_COLUMNS[0] in cut:
        poses = tomogram_poses(cut, pixel)
    else:
        # The text of the angles is unchanged.
        poses = TomogramPoses(None, origins_of(cut, pixel))
    poses = replace(poses, origins_A=poses.origins_A - plan.remainder[rows] * config.apix)
    folder = os.path.relpath(config.folder, config.out_star.parent)
    columns = {"rlnImageName": [str(Path(folder) / name) for name in names]}
    for axis, column in enumerate(config.coord_columns):
        columns[column] = [str(at) for at in plan.centers[rows, axis]]
    frames = np.broadcast_to(np.eye(3), (len(rows), 3, 3))
    table = with_subtomograms(cut, poses, frames, box=config.box, apix=config.apix, columns=columns)
    return _places_in_voxels(table, config.apix) if tuple(config.coord_columns) == COORDINATES else table


def _places_in_voxels(star: ParticleStar, apix: float) -> ParticleStar:
    """Return a table whose columns declare coordinates as voxels of the tomogram, not pixels of the tilt series."""
    own = f"{apix:.6f}"
    values = {"rlnTomoTiltSeriesPixelSize": own, "rlnTomoSubtomogramBinning": "1.000000", OWN_APIX: own}
    star = with_columns(star, {name: [value] * len(star) for name, value in values.items() if name in star})
    optics = star.optics_block
    if optics is None:
        return star
    block = star.blocks[optics]
    new = {name: value for name, value in values.items() if name in block}
    changed = {**block, **new} if isinstance(block, dict) else block.assign(**new)
    return replace(star, blocks={**star.blocks, optics: changed})
