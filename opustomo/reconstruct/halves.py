"""Half sets of particles."""

from __future__ import annotations

import numpy as np

from opustomo.io.star import ParticleStar

SUBSET_COLUMN = "rlnRandomSubset"


def half_sets(star: ParticleStar) -> tuple[np.ndarray, str]:
    """Half of each particle, (N,) of 0 and 1, and in words where it comes from.

    ``rlnRandomSubset`` if it holds 1 and 2 and nothing else; otherwise particles go to the halves in turn.
    """
    if SUBSET_COLUMN in star:
        subset = star.numbers(SUBSET_COLUMN)
        if set(np.unique(subset)) == {1.0, 2.0}:
            return subset.astype(np.int64) - 1, SUBSET_COLUMN
        return np.arange(len(star)) % 2, f"odd and even rows ({SUBSET_COLUMN} does not hold 1 and 2)"
    return np.arange(len(star)) % 2, f"odd and even rows (no {SUBSET_COLUMN})"
