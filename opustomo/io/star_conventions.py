"""Conventions of particle tables: types of images, units of coordinates, pixel sizes in names, ignored origins."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

from opustomo.io.star import format_pixel_sizes
from opustomo.io.star_tables import ORIGIN_COLUMNS, ParticleStar


def is_image_series(star: ParticleStar) -> bool:
    """Return whether a table has one row per tilt image, as the 2D particle series of M: `000001@stack.mrcs`."""
    return "rlnImageName" in star and "@" in star.strings("rlnImageName")[0]


def is_stack_set(star: ParticleStar) -> bool:
    """Return whether a table has one row and one stack of tilt images per particle, as in RELION 5 and WarpTools.

    A table without rlnTomoSubTomosAre2DStacks but with rlnTomoVisibleFrames is considered to have stacks.
    """
    if any("rlnTomoSubTomosAre2DStacks" in block for block in star.blocks.values()):
        return any(_says(block, "rlnTomoSubTomosAre2DStacks", "1") for block in star.blocks.values())
    return "rlnTomoVisibleFrames" in star and not is_image_series(star)


def is_premultiplied(star: ParticleStar) -> bool:
    """Return whether images are multiplied by the CTF, as the pseudo-subtomograms of RELION."""
    flags = star.value_per_particle("rlnCtfDataAreCtfPremultiplied")
    return flags is not None and bool(flags.any())


def is_not_extracted(star: ParticleStar) -> bool:
    """Return whether a table holds picks, that is, coordinates in tomograms without images."""
    return "rlnImageName" not in star and any(name in star for name in ("rlnTomoName", "rlnMicrographName"))


def _says(block: object, column: str, value: str) -> bool:
    if column not in block:  # type: ignore[operator]
        return False
    values = block[column]  # type: ignore[index]
    return value in ([str(values)] if isinstance(values, str) else [str(item) for item in values])


CORNER = tuple(f"rlnCoordinate{axis}" for axis in "XYZ")
CENTRED = tuple(f"rlnCenteredCoordinate{axis}Angst" for axis in "XYZ")
SERIES_APIX = "rlnTomoTiltSeriesPixelSize"
OWN_APIX = "opusCoordinatePixelSize"
"""Column of opustomo for sets of 2D stacks whose coordinates are not in the units of WarpTools, Å."""


def coordinate_sizes(star: ParticleStar) -> npt.NDArray[np.float64] | None:
    """Return the pixel size of rlnCoordinateX, Y, Z of each particle, (N,) Å; None if the table does not state it."""
    if OWN_APIX in star:
        return star.numbers(OWN_APIX)
    series = star.value_per_particle(SERIES_APIX)
    if series is None or counts_in_image_pixels(star):
        return star.pixel_sizes()
    return series


def counts_in_image_pixels(star: ParticleStar) -> bool:
    """Return whether a table is a 2D export of WarpTools, whose coordinates are in pixels of the images."""
    return (
        CORNER[0] in star
        and CENTRED[0] not in star
        and OWN_APIX not in star
        and is_stack_set(star)
        and star.value_per_particle("rlnImagePixelSize") is not None
    )


_NAMED = re.compile(r"_(\d+(?:\.\d+)?)A(?:px)?\.(?:mrcs?|st)$", re.IGNORECASE)
_ROUNDING = 0.006
"""Tolerance in Å, because names have two decimals."""


def named_size_note(star: ParticleStar, apix: float | None = None) -> str | None:
    """Describe images whose names state another pixel size than the table, or return None.

    Parameters
    ----------
    star : ParticleStar
        Particles with `rlnImageName`.
    apix : float, optional
        Pixel size in Å that is used instead of the table's.
    """
    if "rlnImageName" not in star:
        return None
    names = star.strings("rlnImageName")
    found = {name: _NAMED.search(name) for name in dict.fromkeys(names)}
    named = np.array([float(match[1]) if (match := found[name]) is not None else np.nan for name in names])
    used = star.pixel_sizes() if apix is None else np.full(len(star), apix)
    if used is None:
        return None
    wrong = np.flatnonzero(np.abs(named - used) > np.maximum(_ROUNDING, 0.01 * used))
    if not wrong.size:
        return None
    row = int(wrong[0])
    return (
        f"the names of {wrong.size} images state {format_pixel_sizes(named[wrong])} per pixel ({names[row]} in row "
        f"{row + 1}), but {format_pixel_sizes(used[wrong])} is used; check which is right"
    )


MICROSCOPE_COLUMNS = ("rlnVoltage", "rlnSphericalAberration")


def ignored_origins(star: ParticleStar) -> str | None:
    """Return a note if RELION 3.1 and later would ignore the origins of a table, otherwise None.

    RELION converts a table without optics block if every row states voltage and spherical aberration. It does not
    convert any other table, and then ignores the columns `rlnOriginX`, `rlnOriginY` and `rlnOriginZ`.
    """
    if star.optics_block is not None or all(column in star for column in MICROSCOPE_COLUMNS):
        return None
    if not any(star.numbers(column).any() for column in ORIGIN_COLUMNS if column in star):
        return None
    return (
        "RELION 3.1 and later ignore origins in pixels in a table without rlnVoltage and rlnSphericalAberration; "
        "dsdsh export_relion writes a set that they read in full."
    )
