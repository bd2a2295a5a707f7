"""Particle tables that tell of something else than subtomograms free of the CTF."""

from __future__ import annotations

from opustomo.io.star import ParticleStar


def is_image_series(star: ParticleStar) -> bool:
    """Whether a table has one row per image and tilt, as M's 2D particle series: `000001@stack.mrcs`."""
    return "rlnImageName" in star and "@" in star.strings("rlnImageName")[0]


def is_stack_set(star: ParticleStar) -> bool:
    """Whether a table has one row and one stack of tilt images per particle, as those of RELION 5 and WarpTools.

    Without rlnTomoSubTomosAre2DStacks a table with rlnTomoVisibleFrames is taken for one.
    """
    if any("rlnTomoSubTomosAre2DStacks" in block for block in star.blocks.values()):
        return any(_says(block, "rlnTomoSubTomosAre2DStacks", "1") for block in star.blocks.values())
    return "rlnTomoVisibleFrames" in star and not is_image_series(star)


def is_premultiplied(star: ParticleStar) -> bool:
    """Whether images were multiplied by the CTF, as RELION's pseudo-subtomograms."""
    flags = star.value_per_particle("rlnCtfDataAreCtfPremultiplied")
    return flags is not None and bool(flags.any())


def is_not_extracted(star: ParticleStar) -> bool:
    """Whether a table holds picks: coordinates in tomograms, but no images."""
    return "rlnImageName" not in star and any(name in star for name in ("rlnTomoName", "rlnMicrographName"))


def _says(block: object, column: str, value: str) -> bool:
    if column not in block:  # type: ignore[operator]
        return False
    values = block[column]  # type: ignore[index]
    return value in ([str(values)] if isinstance(values, str) else [str(item) for item in values])
