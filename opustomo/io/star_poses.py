"""Poses out of and into particle tables, where origins are pixels or Å instead of fractions of the box."""

from opustomo.errors import UserError
from opustomo.io.images import resolve_images
from opustomo.io.mrc import read_header
from opustomo.io.poses import Poses
from opustomo.io.star import ParticleStar


def poses_from_star(star: ParticleStar, box: int, apix: float | None = None) -> Poses:
    """Take the poses of a particle table.

    Parameters
    ----------
    star
        The particles; without origin columns the origins are 0.
    box
        Box length of the subtomograms in pixels.
    apix
        Pixel size in Å of origins in Å; None takes each row's own.

    Raises
    ------
    UserError
        A column is missing or not numeric, or origins are in Å and the pixel size is unknown.
    """
    return Poses(eulers_deg=star.eulers_deg(), origins=star.origins_px(apix) / box)


def star_with_poses(star: ParticleStar, poses: Poses, box: int, apix: float | None = None) -> ParticleStar:
    """Put poses into a particle table, all other columns and blocks kept.

    Parameters
    ----------
    star
        The particles.
    poses
        One pose per row, in the order of the table.
    box
        Box length of the subtomograms in pixels.
    apix
        Pixel size in Å for origin columns in Å; None takes each row's own.

    Raises
    ------
    UserError
        The numbers of poses and particles differ.
    """
    if len(poses) != len(star):
        raise UserError(
            f"{star.path or 'the particle table'}: {len(star)} particles but {len(poses)} poses; "
            "give the poses made from this STAR file."
        )
    return star.with_poses(poses.eulers_deg, poses.origins * box, apix)


def check_box(star: ParticleStar, box: int) -> int:
    """Compare a box length with the first subtomogram, if it lies beside the STAR file.

    Scripts for the original may give an odd number, one less or one more than the box, as it has odd grids.

    Returns
    -------
    int
        The box length: ``box`` if it is even; otherwise the side of the first subtomogram, or ``box`` + 1 if there is
        no subtomogram to look at.

    Raises
    ------
    UserError
        The box length is not positive, or the subtomogram has another one.
    """
    if box < 2:
        raise UserError(f"the box length -D must be a positive even number of pixels, not {box}.")
    if "rlnImageName" not in star:
        return box + box % 2
    try:
        first = resolve_images(star.subset([0]), None)[0]
    except UserError:
        return box + box % 2
    found = read_header(first).shape
    meant = (box,) if box % 2 == 0 else (box - 1, box + 1)
    if len(set(found)) != 1 or found[0] not in meant:
        raise UserError(
            f"{first}: {'×'.join(map(str, reversed(found)))} voxels, but the box length -D is {box}; "
            "give the length of the subtomograms."
        )
    return found[0]


def box_note(given: int, meant: int) -> None:
    """Print a note if an odd box length was taken for an even one."""
    if given != meant:
        print(f"Note: a box length of {given} is odd; the box of the subtomograms is taken to be {meant} pixels.")
