"""The bodies of a particle as a RELION multi-body STAR file defines them: masks, and which body each is relative to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from opustomo.errors import UserError
from opustomo.geometry.bodies import LEAST_BODIES
from opustomo.io.mrc import read_volume
from opustomo.io.star import read_table, to_numbers

MASK_COLUMN, PARENT_COLUMN = "rlnBodyMaskName", "rlnBodyRotateRelativeTo"
LARGEST_OVERLAP = 0.25
"""Share of the smaller of two bodies that may lie in the other: soft edges meet, bodies do not."""


@dataclass(frozen=True, eq=False)
class BodyMasks:
    """Masks of all bodies on one grid.

    Attributes
    ----------
    star
        The file that names them.
    names
        Path of each mask.
    masks
        float32 (B, N, N, N), negative values cut off.
    apix
        Their pixel size in Å; None when no header tells it.
    parents
        Which body each is relative to, from 0.
    """

    star: Path
    names: tuple[Path, ...]
    masks: npt.NDArray[np.float32]
    apix: float | None
    parents: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.names)


def read_bodies(star: Path, count: int | None = None) -> BodyMasks:
    """Read and check the definition of the bodies.

    Parameters
    ----------
    star
        RELION multi-body STAR; mask names are relative to its folder. Sigma columns are ignored.
    count
        How many bodies there should be.

    Raises
    ------
    UserError
        A mask is missing, empty, not an even cube, of another pixel size or box, or lies in another one; a body is
        relative to itself or to none of the file; the number of bodies is not ``count``.
    """
    table = read_table(star, (MASK_COLUMN, PARENT_COLUMN))
    names = tuple(star.parent / str(name) for name in table[MASK_COLUMN])
    if len(names) < LEAST_BODIES:
        raise UserError(f"{star}: {len(names)} body is defined; at least {LEAST_BODIES} are needed to move.")
    if count is not None and count != len(names):
        raise UserError(f"{star}: defines {len(names)} bodies, but {count} were asked for; give that number.")
    parents = _parents(star, table[PARENT_COLUMN].tolist())
    read = [read_volume(path) for path in names]
    for path, (mask, _) in zip(names, read, strict=True):
        if len(set(mask.shape)) != 1 or mask.shape[0] % 2:
            size = "×".join(str(n) for n in reversed(mask.shape))
            raise UserError(f"{path}: the mask is {size} voxels; an even cube is needed, pad or crop it.")
        if not np.isfinite(mask).all():
            raise UserError(f"{path}: the mask holds values that are not finite; make it again.")
        if not (mask > 0).any():
            raise UserError(f"{path}: the mask is empty; give one with voxels above 0.")
    first, first_apix = read[0][0], read[0][1]
    for path, (mask, apix) in zip(names, read, strict=True):
        if (apix is None) != (first_apix is None) or (apix and first_apix and abs(apix / first_apix - 1) > 1e-3):
            raise UserError(
                f"{path}: pixel size {_angst(apix)} but {names[0].name} has {_angst(first_apix)}; "
                "bring all masks to one pixel size."
            )
        if mask.shape != first.shape:
            raise UserError(
                f"{path}: {mask.shape[0]} voxels a side but {names[0].name} has {first.shape[0]}; "
                "bring all masks to one box."
            )
    masks = np.stack([np.maximum(mask, 0.0) for mask, _ in read])
    _check_overlap(names, masks)
    return BodyMasks(star, names, masks, first_apix, parents)


def _parents(star: Path, values: list[object]) -> tuple[int, ...]:
    numbers = to_numbers([str(value) for value in values], PARENT_COLUMN, str(star))
    for body, number in enumerate(numbers, 1):
        if number != int(number) or not 1 <= number <= len(numbers):
            raise UserError(
                f"{star}: body {body} is relative to body {number:g}, which does not exist; "
                f"{PARENT_COLUMN} counts from 1 to {len(numbers)}."
            )
        if number == body:
            raise UserError(
                f"{star}: body {body} is relative to itself; name another body in {PARENT_COLUMN}, for the first too."
            )
    return tuple(int(number) - 1 for number in numbers)


def _check_overlap(names: tuple[Path, ...], masks: npt.NDArray[np.float32]) -> None:
    sums = masks.sum((1, 2, 3), dtype=np.float64)
    for a in range(len(masks)):
        for b in range(a):
            share = float(np.minimum(masks[a], masks[b]).sum(dtype=np.float64) / min(sums[a], sums[b]))
            if share > LARGEST_OVERLAP:
                raise UserError(
                    f"{names[a]}: overlaps with {names[b].name} by {share:.0%} of the smaller mask, at most "
                    f"{LARGEST_OVERLAP:.0%} can be; make masks that meet at their edges only."
                )


def _angst(apix: float | None) -> str:
    return "not in the header" if apix is None else f"{apix:g} Å"
