"""Definition of the bodies of a particle by a RELION multi-body STAR file: masks and parent bodies."""

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
"""Maximum fraction of the smaller of two masks that may overlap with the other one; soft edges may overlap."""


@dataclass(frozen=True, eq=False)
class BodyMasks:
    """Masks of all bodies on a common grid.

    Attributes
    ----------
    star
        STAR file that defines the bodies.
    names
        Path of each mask.
    masks
        Masks, (B, N, N, N), float32; negative values are set to 0.
    apix
        Pixel size of the masks in Å; None if the MRC headers have no pixel size.
    parents
        Index of the parent of each body, counted from 0.
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
        RELION multi-body STAR file. Mask names are relative to its folder. Sigma columns are ignored.
    count
        Expected number of bodies; None for any number.

    Raises
    ------
    UserError
        If a mask is missing, empty, not an even cube, differs in pixel size or box from the others, or overlaps with
        another one; if a body is relative to itself or to a body that does not exist; or if the number of bodies is
        not `count`.
    """
    table = read_table(star, (MASK_COLUMN, PARENT_COLUMN))
    names = tuple(star.parent / str(name) for name in table[MASK_COLUMN])
    if len(names) < LEAST_BODIES:
        raise UserError(f"{star} defines {len(names)} body, but at least {LEAST_BODIES} are required.")
    if count is not None and count != len(names):
        raise UserError(f"{star} defines {len(names)} bodies, but {count} were requested. Give {len(names)}.")
    parents = _parents(star, table[PARENT_COLUMN].tolist())
    volumes = [read_volume(path) for path in names]
    for path, (mask, _) in zip(names, volumes, strict=True):
        if len(set(mask.shape)) != 1 or mask.shape[0] % 2:
            size = "×".join(str(n) for n in reversed(mask.shape))
            raise UserError(f"The mask {path} has {size} voxels, but it must be an even cube. Pad or crop it.")
        if not np.isfinite(mask).all():
            raise UserError(f"The mask {path} contains non-finite values. Create it again.")
        if not (mask > 0).any():
            raise UserError(f"The mask {path} is empty. Give a mask with voxels above 0.")
    first, first_apix = volumes[0][0], volumes[0][1]
    for path, (mask, apix) in zip(names, volumes, strict=True):
        if (apix is None) != (first_apix is None) or (apix and first_apix and abs(apix / first_apix - 1) > 1e-3):
            raise UserError(
                f"The pixel size of {path} is {_angst(apix)}, but that of {names[0].name} is {_angst(first_apix)}. "
                "Resample all masks to the same pixel size."
            )
        if mask.shape != first.shape:
            raise UserError(
                f"{path} has {mask.shape[0]} voxels per side, but {names[0].name} has {first.shape[0]}. "
                "Resample all masks to the same box."
            )
    masks = np.stack([np.maximum(mask, 0.0) for mask, _ in volumes])
    _check_overlap(names, masks)
    return BodyMasks(star, names, masks, first_apix, parents)


def _parents(star: Path, values: list[object]) -> tuple[int, ...]:
    numbers = to_numbers([str(value) for value in values], PARENT_COLUMN, str(star))
    for body, number in enumerate(numbers, 1):
        if number != int(number) or not 1 <= number <= len(numbers):
            raise UserError(
                f"{star}: body {body} is relative to body {number:g}, which does not exist. "
                f"{PARENT_COLUMN} must be between 1 and {len(numbers)}."
            )
        if number == body:
            raise UserError(
                f"{star}: body {body} is relative to itself. Give another body in {PARENT_COLUMN}, "
                "also for the first body."
            )
    return tuple(int(number) - 1 for number in numbers)


def _check_overlap(names: tuple[Path, ...], masks: npt.NDArray[np.float32]) -> None:
    sums = masks.sum((1, 2, 3), dtype=np.float64)
    for a in range(len(masks)):
        for b in range(a):
            overlap = float(np.minimum(masks[a], masks[b]).sum(dtype=np.float64) / min(sums[a], sums[b]))
            if overlap > LARGEST_OVERLAP:
                raise UserError(
                    f"{names[a]} overlaps with {names[b].name} by {overlap:.0%} of the smaller mask, but at most "
                    f"{LARGEST_OVERLAP:.0%} is allowed. Create masks that overlap only at their edges."
                )


def _angst(apix: float | None) -> str:
    return "missing in the header" if apix is None else f"{apix:g} Å"
