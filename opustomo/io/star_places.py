"""Where the particles of a table lie, and what scores it gives them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from opustomo.errors import UserError
from opustomo.io.star import ParticleStar

TOMOGRAM_COLUMNS = ("rlnTomoName", "rlnMicrographName", "wrpSourceName")
COORDINATE_COLUMNS = (
    tuple(f"rlnCoordinate{axis}" for axis in "XYZ"),
    tuple(f"rlnCenteredCoordinate{axis}Angst" for axis in "XYZ"),
    tuple(f"wrpCoordinate{axis}1" for axis in "XYZ"),
)
SCORE_COLUMNS = (
    "rlnAutopickFigureOfMerit",
    "rlnLogLikeliContribution",
    "rlnMaxValueProbDistribution",
    "rlnNormCorrection",
    "rlnParticleFigureOfMerit",
    "wrpCTFResolutionEstimate",
)


@dataclass(frozen=True)
class Tomograms:
    """Names of the tomograms of a table, sorted, and which one each particle lies in, (N,)."""

    names: list[str]
    index: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    @property
    def counts(self) -> np.ndarray:
        """Particles of each tomogram."""
        return np.bincount(self.index, minlength=len(self))


def tomograms_of(star: ParticleStar) -> Tomograms | None:
    """Tomogram of each particle, from the first of ``TOMOGRAM_COLUMNS`` there is; None without any."""
    for column in TOMOGRAM_COLUMNS:
        if column in star:
            names, index = np.unique(np.array(star.strings(column)), return_inverse=True)
            return Tomograms([str(name) for name in names], index.astype(np.int64))
    return None


def coordinates_of(star: ParticleStar) -> np.ndarray | None:
    """Coordinates x, y, z (N, 3) as they stand in the table (pixels, or Å if centred); None without complete ones."""
    for columns in COORDINATE_COLUMNS:
        if all(column in star for column in columns):
            return np.stack([star.numbers(column) for column in columns], 1)
    return None


def scores_of(star: ParticleStar) -> dict[str, np.ndarray]:
    """Numeric columns (N,) that say how good a particle is, by name; those with one value for all are left out."""
    found = {}
    for column in SCORE_COLUMNS:
        if column in star:
            try:
                values = star.numbers(column)
            except UserError:  # a score that is not there for some: not worth stopping for
                continue
            if np.ptp(values) > 0:
                found[column] = values
    return found
