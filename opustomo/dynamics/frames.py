"""Moments and frames of bodies (spec 4): from densities to the geometry of the decoder."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from opustomo.dynamics.definition import BodyMasks
from opustomo.errors import UserError
from opustomo.geometry.bodies import BodyGeometry
from opustomo.io.bodies import check_inside

Array = npt.NDArray[np.float64]
LEAST_RADIUS = 0.5
"""Voxels; a body that is flatter than this has no sensible extent."""


def align(direction: npt.ArrayLike) -> Array:
    """Right-handed frame (3, 3), axes as rows, whose last row is the unit vector ``direction`` (x, y, z)."""
    x, y, z = np.asarray(direction, dtype=np.float64)
    p = np.hypot(y, z)
    if p <= 1e-5:
        sign = 1.0 if x >= 0 else -1.0
        return np.array([[0.0, 0.0, -sign], [0.0, 1.0, 0.0], [sign, 0.0, 0.0]])
    return np.array([[p, -x * y / p, -x * z / p], [0.0, z / p, -y / p], [x, y, z]])


def centre_of_mass(density: npt.NDArray[np.float32]) -> Array:
    """Centre (x, y, z) of the positive density of a cube, voxels relative to index N/2."""
    weights = np.maximum(density, 0.0)
    at = np.arange(len(weights)) - len(weights) // 2
    sums = [weights.sum(axes, dtype=np.float64) for axes in ((0, 1), (0, 2), (1, 2))]
    return np.array([along @ at / along.sum() for along in sums])


def extent(density: npt.NDArray[np.float32], centre: Array) -> tuple[Array, Array]:
    """Radii (ascending) and principal axes (rows) of the positive density about ``centre`` (x, y, z)."""
    z, y, x = np.nonzero(density > 0)
    weights = density[z, y, x].astype(np.float64)
    relative = np.stack([x, y, z], 1) - len(density) // 2 - centre
    covariance = (relative * weights[:, None]).T @ relative / weights.sum()
    values, vectors = np.linalg.eigh(covariance)
    return np.sqrt(np.maximum(values, LEAST_RADIUS**2)), vectors.T


def geometry_of_densities(
    densities: npt.NDArray[np.float32], scale: float, parents: tuple[int, ...], origin: int = 0
) -> BodyGeometry:
    """Geometry of bodies from their densities or masks.

    Parameters
    ----------
    densities
        (B, N, N, N), one density per body.
    scale
        Voxels of the subtomograms per voxel of the densities.
    parents
        Which body each is relative to, from 0.
    origin
        The body, from 0, whose frame looks the other way, so that it agrees with that of its parent's.
    """
    centres = np.stack([centre_of_mass(density) for density in densities])
    extents = [extent(density, centre) for density, centre in zip(densities, centres, strict=True)]
    centres = centres * scale
    relatives = centres[list(parents)]
    levers = centres - relatives
    frames = []
    for body, lever in enumerate(levers):
        length = np.linalg.norm(lever)
        if length < 1e-6:
            raise UserError(
                f"bodies {body + 1} and {parents[body] + 1} have the same centre of mass, so there is no lever between "
                "them; name another body in rlnBodyRotateRelativeTo."
            )
        frames.append(align((-lever if body == origin else lever) / length))
    return BodyGeometry(
        centres,
        relatives,
        levers,
        np.stack(frames),
        np.stack([radii for radii, _ in extents]) * scale,
        np.stack([axes for _, axes in extents]),
        parents,
    )


def mask_scale(bodies: BodyMasks, box: int, apix: float) -> float:
    """Voxels of the subtomograms (side ``box``, ``apix`` Å) per voxel of the masks.

    The ratio of pixel sizes; that of the boxes when the masks' headers hold none.
    """
    return box / bodies.masks.shape[-1] if bodies.apix is None else bodies.apix / apix


def geometry_of_masks(bodies: BodyMasks, box: int, apix: float, origin: int = 0) -> BodyGeometry:
    """Geometry of bodies from their masks, in voxels of the subtomograms.

    Raises
    ------
    UserError
        A body does not lie within the box of the subtomograms, or two bodies have one centre.
    """
    geometry = geometry_of_densities(bodies.masks, mask_scale(bodies, box, apix), bodies.parents, origin)
    check_inside(geometry, box, str(bodies.star))
    return geometry
