"""What the pixels of coordinates are.

RELION 4 counts rlnCoordinateX, Y, Z in pixels of the tilt series (rlnTomoTiltSeriesPixelSize), older versions and WARP
in pixels of the images. WarpTools' exports of 2D stacks (rlnTomoSubTomosAre2DStacks with rlnCoordinateX, Y, Z) have the
columns of RELION 4 and 5, but count in rlnImagePixelSize.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from opustomo.io.particle_kinds import is_stack_set
from opustomo.io.star import ParticleStar

CORNER = tuple(f"rlnCoordinate{axis}" for axis in "XYZ")
CENTRED = tuple(f"rlnCenteredCoordinate{axis}Angst" for axis in "XYZ")
SERIES_APIX = "rlnTomoTiltSeriesPixelSize"
OWN_APIX = "opusCoordinatePixelSize"
"""Column of opustomo for sets of 2D stacks whose coordinates do not count as WarpTools' do, Å."""


def coordinate_sizes(star: ParticleStar) -> npt.NDArray[np.float64] | None:
    """Return the pixel size of rlnCoordinateX, Y, Z of each particle, (N,) Å; None when the table does not tell it."""
    if OWN_APIX in star:
        return star.numbers(OWN_APIX)
    series = star.value_per_particle(SERIES_APIX)
    if series is None or counts_in_image_pixels(star):
        return star.pixel_sizes()
    return series


def counts_in_image_pixels(star: ParticleStar) -> bool:
    """Whether a table is one of WarpTools' 2D exports, whose coordinates count in pixels of the images."""
    return (
        CORNER[0] in star
        and CENTRED[0] not in star
        and OWN_APIX not in star
        and is_stack_set(star)
        and star.value_per_particle("rlnImagePixelSize") is not None
    )
