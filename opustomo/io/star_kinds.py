"""What a STAR file holds, in words, so that a converter can say what it was given instead of what it needs."""

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from opustomo.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    Blocks = dict[str, pd.DataFrame | dict[str, str]]

# the first whose columns are all in one block is what the file is; the most telling come first
_KINDS = (
    (("wrpCoordinateX1",), "an M species table (wrpCoordinateX1 …)"),
    (("wrpMovieName",), "a WARP tilt series (wrpMovieName …)"),
    (("rlnCenteredCoordinateXAngst",), "a RELION 5 particle set (rlnCenteredCoordinateXAngst …)"),
    (("rlnTomoTomogramsFile",), "a RELION optimisation set (rlnTomoTomogramsFile …)"),
    (("rlnTomoParticlesFile",), "a RELION optimisation set (rlnTomoParticlesFile …)"),
    (("rlnTomoTiltSeriesName",), "a RELION tomogram set (rlnTomoTiltSeriesName …)"),
    (("rlnTomoTiltSeriesStarFile",), "a RELION tomogram set (rlnTomoTiltSeriesStarFile …)"),
    (("rlnTomoSizeX", "rlnTomoName"), "a RELION tomogram set (rlnTomoSizeX …)"),
    (("rlnTomoParticleName", "rlnAngleRot"), "a RELION 4 particle set (rlnTomoParticleName …)"),
    (("rlnOriginXAngst", "rlnOpticsGroup"), "a RELION 3.1 particle table (rlnOriginXAngst …)"),
    (("rlnBodyMaskName",), "a multi-body mask list (rlnBodyMaskName …)"),
    (("rlnDefocusU", "rlnCtfScalefactor"), "a CTF table (rlnDefocusU, rlnCtfScalefactor …)"),
    (("rlnImageName",), "a RELION particle table (rlnImageName …)"),
    (("rlnCoordinateX", "rlnCoordinateZ"), "a RELION particle table (rlnCoordinateX …)"),
    (("rlnMicrographShiftX",), "motion correction of a movie (rlnMicrographShiftX …)"),
    (("rlnCoordinateX",), "positions in a two-dimensional image, as lists of hot pixels (no rlnCoordinateZ)"),
    (("rlnAngleRot",), "a RELION particle table (rlnAngleRot …)"),
)
_OTHER_CASE = "names of columns in another case than RELION's or WARP's"


_OF_TOMOGRAMS = ("rlnCoordinateZ", "rlnTomoName", "rlnMicrographName")


def has_particles(block: "pd.DataFrame | dict[str, str]") -> bool:
    """Return whether a block describes particles: images, positions in three dimensions, or Euler angles.

    A CTF table has Euler angles too, but neither images nor positions. Two coordinates alone, without the
    name of a tomogram, are a list of hot pixels or of picks in a micrograph.
    """
    if "rlnImageName" in block or "rlnCenteredCoordinateXAngst" in block:
        return True
    if "rlnCoordinateX" in block and any(name in block for name in _OF_TOMOGRAMS):
        return True
    return "rlnAngleRot" in block and "rlnDefocusU" not in block


def describe(blocks: "Blocks") -> str:
    """Say what a STAR file holds."""
    for columns, words in _KINDS:
        if any(all(column in block for column in columns) for block in blocks.values()):
            return words
    known = {column.lower(): column for columns, _ in _KINDS for column in columns}
    for column in (column for block in blocks.values() for column in block):
        if column not in known.values() and column.lower() in known:
            return f"{_OTHER_CASE} ({column} for {known[column.lower()]})"
    names = next((list(block)[:3] for block in blocks.values() if len(list(block))), [])
    return f"a table of {', '.join(names)} …" if names else "no columns"


def remedy(blocks: "Blocks") -> str:
    """Say what to do to get a RELION particle table."""
    words = describe(blocks)
    if "M species" in words:
        return "convert it with dsdsh convert_warp"
    if "optimisation set" in words:
        return "give its particles, or convert it with dsdsh convert_relion5"
    if _OTHER_CASE in words:
        return "write them as these programs do"
    return "give a particle STAR"


def find_block(blocks: "Blocks", columns: Collection[str], path: Path, needed: str, advice: str) -> str:
    """Find the block that has all `columns`.

    Raises
    ------
    UserError
        There is none; the sentence says what was found, what was `needed`, and the `advice`.
    """
    name = next((name for name, block in blocks.items() if all(column in block for column in columns)), None)
    if name is None:
        raise UserError(f"{path}: holds {describe(blocks)}, where {needed} is expected; {advice}.")
    return name
