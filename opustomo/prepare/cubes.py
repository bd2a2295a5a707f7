"""Cubes cut from a tomogram, one at a time, without reading the whole of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from opustomo.io.mrc import MrcHeader

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
