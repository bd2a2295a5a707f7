"""Euler angles of other programs, frames of RELION 4 and 5 subtomograms, and units of coordinates.

Angles are in degrees.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from opustomo.errors import UserError
from opustomo.io.star_conventions import (
    CENTERED_COORDINATES,
    COORDINATES,
    Numbers,
    coordinate_sizes,
    with_columns,
    without_columns,
    xyz,
    xyz_columns,
)
from opustomo.io.star_tables import EULER_COLUMNS, ORIGIN_ANGST_COLUMNS, ORIGIN_COLUMNS, ParticleStar

Angles = npt.NDArray[np.float64]


def wrap_degrees(angles: Angles) -> Angles:
    """Wrap angles to (-180, 180]."""
    return 180.0 - np.mod(180.0 - angles, 360.0)


def relion_from_pytom(zxz_deg: Angles) -> Angles:
    """Convert PyTom's Z1, X, Z2 to RELION's rot, tilt, psi; both are (N, 3) in degrees."""
    z1, x, z2 = np.moveaxis(np.asarray(zxz_deg, np.float64), -1, 0)
    return np.stack([wrap_degrees(90.0 - z1), x, wrap_degrees(-90.0 - z2)], axis=-1)


def relion_from_dynamo(zxz_deg: Angles) -> Angles:
    """Convert Dynamo's tdrot, tilt, narot to RELION's rot, tilt, psi; both are (N, 3) in degrees."""
    tdrot, tilt, narot = np.moveaxis(np.asarray(zxz_deg, np.float64), -1, 0)
    return np.stack([wrap_degrees(narot - 90.0), tilt, wrap_degrees(tdrot + 90.0)], axis=-1)


def dynamo_from_relion(eulers_deg: Angles) -> Angles:
    """Convert RELION's rot, tilt, psi to Dynamo's tdrot, tilt, narot; both are (N, 3) in degrees."""
    rot, tilt, psi = np.moveaxis(np.asarray(eulers_deg, np.float64), -1, 0)
    return np.stack([wrap_degrees(psi - 90.0), tilt, wrap_degrees(rot + 90.0)], axis=-1)


def relion_rotations(eulers_deg: Angles) -> Rotation:
    """Return RELION's rotations A from reference to subtomogram for rot, tilt, psi, (N, 3) in degrees."""
    return Rotation.from_euler("ZYZ", eulers_deg, degrees=True).inv()


def relion_eulers(rotations: Rotation) -> Angles:
    """Return rot, tilt, psi (N, 3) in degrees of RELION's rotations A; tilt is in [0, 180], rot is 0 at the poles."""
    matrices = rotations.as_matrix()
    sin_tilt = np.hypot(matrices[:, 2, 0], matrices[:, 2, 1])
    tilt = np.arctan2(sin_tilt, matrices[:, 2, 2])
    rot = np.where(sin_tilt < 1e-9, 0.0, np.arctan2(matrices[:, 2, 1], matrices[:, 2, 0]))
    # A Rz(rot)ᵀ = Rz(psi) Ry(tilt), whose second column is (sin psi, cos psi, 0), also at the poles.
    sin_psi = matrices[:, 0, 1] * np.cos(rot) - matrices[:, 0, 0] * np.sin(rot)
    cos_psi = matrices[:, 1, 1] * np.cos(rot) - matrices[:, 1, 0] * np.sin(rot)
    return np.rad2deg(np.stack([rot, tilt, np.arctan2(sin_psi, cos_psi)], axis=-1))


FRAME_COLUMNS = ("rlnTomoSubtomogramRot", "rlnTomoSubtomogramTilt", "rlnTomoSubtomogramPsi")


def compose_frames(star: ParticleStar) -> ParticleStar:
    """Rotate angles and origins into the frame of the tomogram and remove the columns of the frames.

    A table without frames is returned unchanged. A table with frames but without angles gets the angles of the frames.

    Raises
    ------
    UserError
        Only some of the three columns exist, or a value is not a number.
    """
    if not any(column in star for column in FRAME_COLUMNS):
        return star
    frames = relion_rotations(xyz(star, FRAME_COLUMNS))
    rotations = frames
    if all(column in star for column in EULER_COLUMNS):
        rotations = frames * relion_rotations(star.eulers_deg())
    columns = xyz_columns(EULER_COLUMNS, relion_eulers(rotations))
    for names in (ORIGIN_ANGST_COLUMNS, ORIGIN_COLUMNS):
        if any(name in star for name in names):
            origins = np.stack([star.numbers(name) if name in star else np.zeros(len(star)) for name in names], axis=1)
            columns |= xyz_columns(names, frames.apply(origins))
    return with_columns(without_columns(star, set(FRAME_COLUMNS)), columns)


def origins_in_coordinate_pixels(star: ParticleStar, apix: float | None = None) -> Numbers:
    """Return origins x, y, z in pixels of the coordinates, (N, 3).

    In RELION 4 and 5, the images may be binned relative to the coordinates, and origins are in pixels of the images.

    Raises
    ------
    UserError
        Origins are in Å and the pixel size is missing.
    """
    sizes = coordinate_sizes(star, apix)
    if star.origins_in_angst:
        origins = star.origins_px(1.0)
        if sizes is None and origins.any():
            raise UserError(f"{star.path}: origins are in Å, but the pixel size is missing. Give it with --angpix.")
        return origins if sizes is None else origins / sizes[:, None]
    images = star.pixel_sizes() if apix is None else None
    origins = star.origins_px()
    return origins if sizes is None or images is None else origins * (images / sizes)[:, None]


def require_pixels(star: ParticleStar) -> None:
    """Raise an error if a table has no coordinates in pixels.

    Raises
    ------
    UserError
        Coordinates are missing, or they are those of RELION 5.
    """
    if COORDINATES[0] not in star and CENTERED_COORDINATES[0] in star:
        raise UserError(
            f"{star.path}: this RELION 5 particle set has coordinates in Å from the center, but coordinates in pixels "
            "are required. Convert it with dsdsh convert_relion5 first."
        )
    xyz(star, COORDINATES)
