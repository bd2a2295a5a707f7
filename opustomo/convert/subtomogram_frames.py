"""Frames of RELION 4 and 5 subtomograms, and what the pixels of coordinates are.

RELION 4 and 5 may turn a subtomogram against its tomogram by `rlnTomoSubtomogramRot/Tilt/Psi` (S) and keep the
particle's angles (A) and origin (o) in the turned frame. In the tomogram the particle's rotation is `S A` and its
place `coordinate - S o` (ParticleSet::getMatrix3x3 and getPosition of RELION).
"""

import numpy as np

from opustomo.convert.angles import relion_eulers, relion_rotations
from opustomo.convert.columns import Numbers, with_columns, without_columns, xyz, xyz_columns
from opustomo.errors import UserError
from opustomo.io import coordinates
from opustomo.io.star import EULER_COLUMNS, ORIGIN_ANGST_COLUMNS, ORIGIN_COLUMNS, ParticleStar

FRAME_COLUMNS = ("rlnTomoSubtomogramRot", "rlnTomoSubtomogramTilt", "rlnTomoSubtomogramPsi")


def compose_frames(star: ParticleStar) -> ParticleStar:
    """Turn angles and origins into the frame of the tomogram and take the frames' columns out.

    A table without frames comes back as it is; one with frames but without angles gets the frames' angles.

    Raises
    ------
    UserError
        Only some of the three columns are there, or a value is no number.
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


def coordinate_sizes(star: ParticleStar, apix: float | None = None) -> Numbers | None:
    """Å per pixel of `rlnCoordinateX/Y/Z`, (N,), as `io.coordinates` tells it from the table.

    Parameters
    ----------
    star
        The particles.
    apix
        A size that the user gave, which counts for all.

    Returns
    -------
    ndarray or None
        None when neither is told.
    """
    if apix is not None:
        return np.full(len(star), apix)
    return coordinates.coordinate_sizes(star)


def origins_in_coordinate_pixels(star: ParticleStar, apix: float | None = None) -> Numbers:
    """Origins x, y, z in the pixels of the coordinates, (N, 3).

    RELION 4 and 5 bin the images, whose pixels the origins count in, against the coordinates.

    Raises
    ------
    UserError
        Origins are in Å and no pixel size is told.
    """
    sizes = coordinate_sizes(star, apix)
    if star.origins_in_angst:
        origins = star.origins_px(1.0)
        if sizes is None and origins.any():
            raise UserError(f"{star.path}: origins are in Å but no pixel size is told; give it with --angpix.")
        return origins if sizes is None else origins / sizes[:, None]
    images = star.pixel_sizes() if apix is None else None
    origins = star.origins_px()
    return origins if sizes is None or images is None else origins * (images / sizes)[:, None]
