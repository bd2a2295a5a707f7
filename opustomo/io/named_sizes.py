"""Pixel sizes that names of images tell: WARP and M write `TS_01_0000012_5.00A.mrc`."""

import re

import numpy as np

from opustomo.io.star import ParticleStar
from opustomo.io.star_numbers import listed_sizes

_NAMED = re.compile(r"_(\d+(?:\.\d+)?)A(?:px)?\.(?:mrcs?|st)$", re.IGNORECASE)
_ROUNDING = 0.006
"""Names have two decimals."""


def named_size_note(star: ParticleStar, apix: float | None = None) -> str | None:
    """Describe images whose names tell another pixel size than the table, or return None.

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
        f"the names of {wrong.size} images say {listed_sizes(named[wrong])} per pixel ({names[row]} in row {row + 1}), "
        f"but {listed_sizes(used[wrong])} is used; check which is right"
    )
