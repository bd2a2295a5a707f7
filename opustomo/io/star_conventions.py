"""Conventions of particle tables, and operations on their columns.

Conventions are types of images, units of coordinates, pixel sizes in names and signs of B factors. Programs differ in
the sign of B factors: WARP and M write the negative values that damp, RELION expects positive ones.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from opustomo.errors import UserError
from opustomo.io.star import format_pixel_sizes, to_numbers
from opustomo.io.star_tables import ORIGIN_COLUMNS, ParticleStar

if TYPE_CHECKING:
    import pandas as pd


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


def coordinate_sizes(star: ParticleStar, apix: float | None = None) -> npt.NDArray[np.float64] | None:
    """Return the pixel size of rlnCoordinateX, Y, Z of each particle, (N,) Å.

    It is `apix` if given, or else what the table states; None if both are missing.
    """
    if apix is not None:
        return np.full(len(star), apix)
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


Numbers = npt.NDArray[np.float64]
Texts = npt.NDArray[np.object_]


def format_fixed(numbers: npt.ArrayLike, decimals: int = 6) -> Texts:
    """Format numbers with a fixed number of decimals as strings, (N,)."""
    pattern = f"%.{decimals}f"
    texts = [pattern % number for number in np.asarray(numbers, np.float64).tolist()]
    return np.array(texts, dtype=object)


def constant_column(text: object, count: int) -> Texts:
    """Return a column with the same text in every row."""
    return np.full(count, str(text), dtype=object)


def make_table(columns: Mapping[str, Any]) -> pd.DataFrame:
    """Return a table of strings, in the order of `columns`."""
    import pandas as pd

    return pd.DataFrame({name: np.asarray(values, dtype=object) for name, values in columns.items()}, dtype=object)


def with_columns(star: ParticleStar, columns: Mapping[str, Sequence[str] | Texts]) -> ParticleStar:
    """Return the table with columns of text replaced, or appended if they do not exist."""
    table = {name: star.particles[name].to_numpy(dtype=object) for name in star.particles.columns}
    return with_table(star, make_table({**table, **columns}))


def with_columns_renamed(star: ParticleStar, names: tuple[str, ...], columns: Mapping[str, Texts]) -> ParticleStar:
    """Return the table with the columns `names` replaced one by one by `columns`; further ones are appended."""
    places = dict(zip(names, columns, strict=False))
    table = {}
    for name in star.particles.columns:
        if name not in columns or name in places:
            target = places.get(name, name)
            table[target] = columns[target] if name in places else star.particles[name].to_numpy(dtype=object)
    return with_table(star, make_table({**table, **columns}))


def without_columns(star: ParticleStar, names: set[str]) -> ParticleStar:
    """Return the table without the given columns, which need not exist."""
    return with_table(star, star.particles[[name for name in star.particles.columns if name not in names]])


def with_table(star: ParticleStar, table: pd.DataFrame) -> ParticleStar:
    """Return the STAR file with another particle table; all other blocks are unchanged."""
    return replace(star, blocks={**star.blocks, star.particle_block: table})


def xyz(star: ParticleStar, columns: tuple[str, ...]) -> Numbers:
    """Return the numbers of several columns, (N, len(columns)).

    Raises
    ------
    UserError
        A column is missing or not numeric.
    """
    return np.stack([star.numbers(column) for column in columns], axis=1)


def xyz_columns(columns: tuple[str, ...], numbers: Numbers, decimals: int = 6) -> dict[str, Texts]:
    """Convert numbers (N, 3) to columns of text."""
    return {column: format_fixed(numbers[:, index], decimals) for index, column in enumerate(columns)}


def table_numbers(table: pd.DataFrame, column: str, source: object) -> Numbers:
    """Return the values of a column of any table as float64 (N,).

    Raises
    ------
    UserError
        A value is not a finite number.
    """
    return to_numbers(table[column].to_numpy(dtype=object).tolist(), column, str(source))
