"""Conventions of particle tables: types of images, units of coordinates, pixel sizes in names, signs of B factors.

RELION's subtomogram tables hold positive B factors, which damp as exp(-B s²/4). M, WARP and the tilt-series tables of
RELION 4 and 5 hold negative ones, which damp as exp(+B s²/4). In both |B| is four times the accumulated dose. A table
uses one of the two signs. If the sign were ignored, tables of M and WARP would amplify the tilts with the highest dose.
"""

from __future__ import annotations

import os
import re

import numpy as np
import numpy.typing as npt

from opustomo.errors import UserError
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


COORDINATES = tuple(f"rlnCoordinate{axis}" for axis in "XYZ")
CENTERED_COORDINATES = tuple(f"rlnCenteredCoordinate{axis}Angst" for axis in "XYZ")
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
        COORDINATES[0] in star
        and CENTERED_COORDINATES[0] not in star
        and OWN_APIX not in star
        and is_stack_set(star)
        and star.value_per_particle("rlnImagePixelSize") is not None
    )


def is_candidate_table(star: ParticleStar) -> bool:
    """Return whether a table is of pytom-match-pick, whose coordinates are in voxels of the searched tomogram.

    Their size is rlnDetectorPixelSize. Tables with rlnMagnification have gone through another program.
    """
    columns = ("rlnLCCmax", "rlnCutOff", "rlnDetectorPixelSize", COORDINATES[0])
    return all(name in star for name in columns) and not any(
        name in star for name in ("rlnImageName", "rlnMagnification")
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


BFACTOR_PER_DOSE = 4.0
"""B factor in Å² per accumulated dose in e/Å², as written by RELION, WARP and M."""

_NAMED_ROWS = 5


def damping_bfactors(
    values: npt.NDArray[np.float64], source: str | os.PathLike[str], column: str = "rlnCtfBfactor"
) -> tuple[npt.NDArray[np.float64], int]:
    """Return B factors that damp as exp(-B s²/4), and their sign in the table.

    Parameters
    ----------
    values
        B factors of all rows of a table, (T,).
    source, column
        File and column, for messages.

    Returns
    -------
    bfactors
        Absolute values, (T,).
    sign
        1 or -1; 0 if all values are 0.

    Raises
    ------
    UserError
        The table has both signs.
    """
    positive, negative = np.flatnonzero(values > 0), np.flatnonzero(values < 0)
    if positive.size and negative.size:
        raise UserError(
            f"{source}: {column} is positive in {_rows(values, positive)} but negative in {_rows(values, negative)}; "
            "give all B factors of the table the same sign, because either sign means damping by dose."
        )
    return np.abs(values), int(positive.size > 0) - int(negative.size > 0)


def describe_sign(sign: int) -> str:
    """Return a description of a sign."""
    return {
        1: "positive in the file, damping exp(-B s²/4)",
        -1: "negative in the file, damping exp(+B s²/4)",
        0: "all 0 in the file, no damping",
    }[sign]


def image_bfactors(star: ParticleStar) -> tuple[npt.NDArray[np.float64], int]:
    """Return the B factors of a table with one row per image as in `damping_bfactors`; 0 if it has none."""
    values = star.value_per_particle("rlnCtfBfactor")
    if values is None:
        return np.zeros(len(star)), 0
    return damping_bfactors(values, star.path or "the particle table")


def describe_bfactors(star: ParticleStar) -> str:
    """Return a description of the sign of the B factors of a table of images and of the dose that they imply."""
    values, sign = image_bfactors(star)
    if not sign:
        return "B factors are 0 or missing, so the dose does not damp the images"
    dose = values.max() / BFACTOR_PER_DOSE
    return f"B factors are {describe_sign(sign)}; they imply a dose of up to {dose:.4g} e/Å² (|B|/{BFACTOR_PER_DOSE:g})"


def _rows(values: npt.NDArray[np.float64], rows: npt.NDArray[np.intp]) -> str:
    named = ", ".join(f"{row + 1} ({values[row]:g})" for row in rows[:_NAMED_ROWS].tolist())
    more = f" and {rows.size - _NAMED_ROWS} more" if rows.size > _NAMED_ROWS else ""
    return f"row{'s' if rows.size > 1 else ''} {named}{more}"
