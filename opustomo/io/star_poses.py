"""Poses in particle tables, where origins are in pixels or Å instead of fractions of the box."""

import numpy as np
import numpy.typing as npt

from opustomo.errors import UserError
from opustomo.io.image_paths import resolve_images
from opustomo.io.mrc import read_header
from opustomo.io.poses import Poses, angle_note, require_origins
from opustomo.io.star import format_pixel_sizes
from opustomo.io.star_conventions import is_image_series, is_stack_set, named_size_note
from opustomo.io.star_tables import EULER_COLUMNS, ORIGIN_COLUMNS, ParticleStar


def poses_from_star(
    star: ParticleStar, box: int, apix: float | None = None, rows: npt.NDArray[np.int64] | None = None
) -> Poses:
    """Return the poses of a particle table.

    Parameters
    ----------
    star
        The particles; origins are 0 without origin columns.
    box
        Box length of the subtomograms in pixels.
    apix
        Pixel size in Å by which origins in Å are divided; None uses the value of each row.
    rows
        Row of each particle in the file, from 0, for messages; None if the table has all rows of the file.

    Raises
    ------
    UserError
        A column is missing or not numeric, origins are in Å and the pixel size is unknown, or an origin exceeds half
        the box.
    """
    poses = Poses(eulers_deg=star.eulers_deg(), origins=star.origins_px(apix) / box)
    size = None
    if not star.origins_in_angst:
        sizes = star.pixel_sizes() if apix is None else None
        size = apix if sizes is None else float(sizes.min())
    require_origins(poses.origins, box, star.path or "the particle table", rows, size)
    return poses


def pose_notes(star: ParticleStar, box: int, apix: float | None) -> list[str]:
    """Describe doubtful poses, and contradictions between the table and the given box length and pixel size.

    Parameters
    ----------
    star
        The particles.
    box
        Given box length in pixels.
    apix
        Given pixel size in Å, if any.
    """
    notes = []
    boxes = star.value_per_particle("rlnImageSize")
    if boxes is not None and (boxes != box).any():
        stated = ", ".join(f"{size:g}" for size in np.unique(boxes))
        notes.append(
            f"the given box length is {box} pixels, but {star.path} states {stated} (rlnImageSize); origins are wrong "
            "if the box length is not that of the subtomograms"
        )
    sizes = star.pixel_sizes()
    if apix is not None and sizes is not None and not np.allclose(sizes, apix, rtol=0.01):
        used = f"; origins in Å are divided by {apix:g}" if star.origins_in_angst else ""
        notes.append(f"the given pixel size is {apix:g} Å, but {star.path} states {format_pixel_sizes(sizes)}{used}")
    if is_image_series(star):
        notes.append(
            f"{star.path} has one row per image of a stack, not per particle; make subtomograms with dsd "
            "prepare_subtomos and use their table"
        )
    elif is_stack_set(star):
        notes.append(
            f"{star.path} describes 2D stacks of tilt images; make subtomograms with dsd extract_subtomos and "
            "use their table"
        )
    notes += [note for note in (named_size_note(star, apix), origin_unit_note(star)) if note is not None]
    if all(name in star for name in EULER_COLUMNS) and (note := angle_note(star.eulers_deg())) is not None:
        notes.append(note)
    return notes


def doubtful_notes(star: ParticleStar) -> list[str]:
    """Describe angles of several turns, and names of images that state another pixel size than the table."""
    angles = angle_note(star.eulers_deg()) if all(name in star for name in EULER_COLUMNS) else None
    return [note for note in (angles, named_size_note(star)) if note is not None]


def origin_unit_note(star: ParticleStar) -> str | None:
    """Describe origins in pixels in a table of RELION 3.1 or later, where they are in Å; None for other tables."""
    if star.optics_block is None or star.origins_in_angst:
        return None
    if not any(name in star and star.numbers(name).any() for name in ORIGIN_COLUMNS):
        return None
    return (
        f"{star.path} has optics groups as in RELION 3.1, but origins in pixels (rlnOriginX, Y, Z) instead of Å "
        "(rlnOriginXAngst, YAngst, ZAngst); they are used as pixels"
    )


def star_with_poses(star: ParticleStar, poses: Poses, box: int, apix: float | None = None) -> ParticleStar:
    """Return a particle table with new poses; all other columns and blocks are unchanged.

    Parameters
    ----------
    star
        The particles.
    poses
        One pose per row, in the order of the table.
    box
        Box length of the subtomograms in pixels.
    apix
        Pixel size in Å for origin columns in Å; None uses the value of each row.

    Raises
    ------
    UserError
        The numbers of poses and particles differ.
    """
    if len(poses) != len(star):
        raise UserError(
            f"{star.path or 'the particle table'}: there are {len(star)} particles but {len(poses)} poses; "
            "give the poses that were made from this STAR file."
        )
    return star.with_poses(poses.eulers_deg, poses.origins * box, apix)


def check_box(star: ParticleStar, box: int) -> int:
    """Compare a box length with the first subtomogram, if it is found relative to the STAR file.

    Scripts for OPUS-TOMO, which has odd grids, may give an odd number, one less or one more than the box.

    Returns
    -------
    int
        The box length: ``box`` if it is even, otherwise the size of the first subtomogram, or ``box`` + 1 if the
        subtomogram is not found.

    Raises
    ------
    UserError
        The box length is not positive, or the subtomogram has another size.
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
            f"{first}: the size is {'×'.join(map(str, reversed(found)))} voxels, but the box length -D is {box}; "
            "give the box length of the subtomograms."
        )
    return found[0]


def box_note(given: int, meant: int) -> None:
    """Print a note if an odd box length was replaced by an even one."""
    if given != meant:
        print(f"Note: the box length {given} is odd; {meant} pixels are used as the box of the subtomograms.")
