"""Moments and reference frames of bodies, computed from their densities (see docs/dynamics.md)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from opustomo.dynamics.definition import BodyMasks
from opustomo.errors import UserError
from opustomo.geometry.bodies import BodyGeometry
from opustomo.io.bodies import check_inside

Array = npt.NDArray[np.float64]
LEAST_RADIUS = 0.5
"""Lower bound of the radii of a body in voxels, because a flat body has no meaningful extent."""


def align(direction: npt.ArrayLike) -> Array:
    """Return a right-handed frame (3, 3), axes as rows, whose last row is the unit vector `direction` (x, y, z)."""
    x, y, z = np.asarray(direction, dtype=np.float64)
    p = np.hypot(y, z)
    if p <= 1e-5:
        sign = 1.0 if x >= 0 else -1.0
        return np.array([[0.0, 0.0, -sign], [0.0, 1.0, 0.0], [sign, 0.0, 0.0]])
    return np.array([[p, -x * y / p, -x * z / p], [0.0, z / p, -y / p], [x, y, z]])


def centre_of_mass(density: npt.NDArray[np.float32]) -> Array:
    """Compute the center of mass (x, y, z) of the positive density of a cube in voxels relative to index N/2."""
    weights = np.maximum(density, 0.0)
    positions = np.arange(len(weights)) - len(weights) // 2
    profiles = [weights.sum(axes, dtype=np.float64) for axes in ((0, 1), (0, 2), (1, 2))]
    return np.array([profile @ positions / profile.sum() for profile in profiles])


def extent(density: npt.NDArray[np.float32], centre: Array) -> tuple[Array, Array]:
    """Compute the radii (ascending, voxels) and principal axes (rows) of the positive density about `centre`."""
    z, y, x = np.nonzero(density > 0)
    weights = density[z, y, x].astype(np.float64)
    relative = np.stack([x, y, z], 1) - len(density) // 2 - centre
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
    centers = np.stack([centre_of_mass(density) for density in densities])
    extents = [extent(density, center) for density, center in zip(densities, centers, strict=True)]
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
        frames.append(align((-lever if body == origin else lever) / length))
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
