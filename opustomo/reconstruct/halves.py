"""Assignment of particles to half sets."""

from __future__ import annotations

import numpy as np

from opustomo.io.star import ParticleStar

SUBSET_COLUMN = "rlnRandomSubset"


def half_sets(star: ParticleStar) -> tuple[np.ndarray, str]:
    """Return the half set of each particle, 0 or 1, (N,), and a description of its origin.

    The half sets follow ``rlnRandomSubset`` if it contains both 1 and 2 and no other values. Otherwise, particles are
    assigned to the half sets alternately.
    """
    if SUBSET_COLUMN in star:
        subset = star.numbers(SUBSET_COLUMN)
        if set(np.unique(subset)) == {1.0, 2.0}:
            return subset.astype(np.int64) - 1, SUBSET_COLUMN
        return np.arange(len(star)) % 2, f"odd and even rows ({SUBSET_COLUMN} does not contain 1 and 2)"
    return np.arange(len(star)) % 2, f"odd and even rows (no {SUBSET_COLUMN})"
