"""Body masks: masks and parents from a RELION multi-body STAR file, moments and reference frames of densities."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from opustomo.errors import UserError
from opustomo.geometry.rigid_bodies import MIN_BODIES, BodyGeometry
from opustomo.io.body_files import check_inside
from opustomo.io.masks import require_density
from opustomo.io.mrc import read_volume
from opustomo.io.star import to_numbers
from opustomo.io.star_tables import read_table

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
    if len(names) < MIN_BODIES:
        raise UserError(f"{star} defines {len(names)} body, but at least {MIN_BODIES} are required.")
    if count is not None and count != len(names):
        raise UserError(f"{star} defines {len(names)} bodies, but {count} were requested. Give {len(names)}.")
    parents = _parents(star, table[PARENT_COLUMN].tolist())
    volumes = [read_volume(path) for path in names]
    for path, (mask, _) in zip(names, volumes, strict=True):
        if len(set(mask.shape)) != 1 or mask.shape[0] % 2:
            size = "×".join(str(n) for n in reversed(mask.shape))
            raise UserError(f"The mask {path} has {size} voxels, but it must be an even cube. Pad or crop it.")
        require_density(mask, path)
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


Array = npt.NDArray[np.float64]
LEAST_RADIUS = 0.5
"""Lower bound of the radii of a body in voxels, because a flat body has no meaningful extent."""


def frame_along(direction: npt.ArrayLike) -> Array:
    """Return a right-handed frame (3, 3), axes as rows, whose last row is the unit vector `direction` (x, y, z)."""
    x, y, z = np.asarray(direction, dtype=np.float64)
    p = np.hypot(y, z)
    if p <= 1e-5:
        sign = 1.0 if x >= 0 else -1.0
        return np.array([[0.0, 0.0, -sign], [0.0, 1.0, 0.0], [sign, 0.0, 0.0]])
    return np.array([[p, -x * y / p, -x * z / p], [0.0, z / p, -y / p], [x, y, z]])


def center_of_mass(density: npt.NDArray[np.float32]) -> Array:
    """Compute the center of mass (x, y, z) of the positive density of a cube in voxels relative to index N/2."""
    weights = np.maximum(density, 0.0)
    positions = np.arange(len(weights)) - len(weights) // 2
    profiles = [weights.sum(axes, dtype=np.float64) for axes in ((0, 1), (0, 2), (1, 2))]
    return np.array([profile @ positions / profile.sum() for profile in profiles])


def principal_extent(density: npt.NDArray[np.float32], center: Array) -> tuple[Array, Array]:
    """Compute the radii (ascending, voxels) and principal axes (rows) of the positive density about `center`."""
    z, y, x = np.nonzero(density > 0)
    weights = density[z, y, x].astype(np.float64)
    relative = np.stack([x, y, z], 1) - len(density) // 2 - center
    covariance = (relative * weights[:, None]).T @ relative / weights.sum()
    values, vectors = np.linalg.eigh(covariance)
    return np.sqrt(np.maximum(values, LEAST_RADIUS**2)), vectors.T


def geometry_of_densities(
    densities: npt.NDArray[np.float32], scale: float, parents: tuple[int, ...], origin: int = 0
) -> BodyGeometry:
    """Compute the geometry of bodies from their densities or masks.

    Parameters
    ----------
    densities
        Density of each body, (B, N, N, N).
    scale
        Voxels of the subtomograms per voxel of the densities.
    parents
        Index of the parent of each body, counted from 0.
    origin
        Index, counted from 0, of the body whose frame is reversed so that it agrees with the frame of its parent.

    Raises
    ------
    UserError
        If a body has the same center of mass as its parent.
    """
    centers = np.stack([center_of_mass(density) for density in densities])
    extents = [principal_extent(density, center) for density, center in zip(densities, centers, strict=True)]
    centers = centers * scale
    parent_centers = centers[list(parents)]
    levers = centers - parent_centers
    frames = []
    for body, lever in enumerate(levers):
        length = np.linalg.norm(lever)
        if length < 1e-6:
            raise UserError(
                f"Bodies {body + 1} and {parents[body] + 1} have the same center of mass, so no axis connects them. "
                "Give another body in rlnBodyRotateRelativeTo."
            )
        frames.append(frame_along((-lever if body == origin else lever) / length))
    return BodyGeometry(
        centers,
        parent_centers,
        levers,
        np.stack(frames),
        np.stack([radii for radii, _ in extents]) * scale,
        np.stack([axes for _, axes in extents]),
        parents,
    )


def mask_scale(bodies: BodyMasks, box: int, apix: float) -> float:
    """Return the number of subtomogram voxels per mask voxel.

    This is the ratio of the pixel sizes, or the ratio of the boxes if the mask headers have no pixel size.

    Parameters
    ----------
    bodies
        Masks of the bodies.
    box, apix
        Box (voxels) and pixel size (Å) of the subtomograms.
    """
    return box / bodies.masks.shape[-1] if bodies.apix is None else bodies.apix / apix


def geometry_of_masks(bodies: BodyMasks, box: int, apix: float, origin: int = 0) -> BodyGeometry:
    """Compute the geometry of bodies from their masks, in voxels of the subtomograms.

    Raises
    ------
    UserError
        If a body extends beyond the box of the subtomograms or has the same center as its parent.
    """
    geometry = geometry_of_densities(bodies.masks, mask_scale(bodies, box, apix), bodies.parents, origin)
    check_inside(geometry, box, str(bodies.star))
    return geometry
