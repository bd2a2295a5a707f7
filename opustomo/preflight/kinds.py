"""Particle tables that tell of something else than subtomograms free of the CTF."""

from __future__ import annotations

from opustomo.io.star import ParticleStar


def is_image_series(star: ParticleStar) -> bool:
    """One row per image and tilt, as M's 2D particle series: `000001@stack.mrcs`."""
    return "rlnImageName" in star and "@" in star.strings("rlnImageName")[0]


def is_stack_set(star: ParticleStar) -> bool:
    """RELION 5's 2D stacks: one row and one stack of tilt images per particle."""
    told = any(_says(block, "rlnTomoSubTomosAre2DStacks", "1") for block in star.blocks.values())
    return told or ("rlnTomoVisibleFrames" in star and not is_image_series(star))


def is_premultiplied(star: ParticleStar) -> bool:
    """Images were multiplied by the CTF, as RELION's pseudo-subtomograms."""
    return any(_says(block, "rlnCtfDataAreCtfPremultiplied", "1") for block in star.blocks.values())


def is_not_extracted(star: ParticleStar) -> bool:
    """Picks: coordinates in tomograms, but no images."""
    return "rlnImageName" not in star and any(name in star for name in ("rlnTomoName", "rlnMicrographName"))


def _says(block: object, column: str, value: str) -> bool:
    if column not in block:  # type: ignore[operator]
        return False
    values = block[column]  # type: ignore[index]
    return value in ([str(values)] if isinstance(values, str) else [str(item) for item in values])
