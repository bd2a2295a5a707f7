"""Lists of particle indices, as pickles (numpy array or list) or text."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from opustomo.errors import UserError
from opustomo.io.pickles import load_pickle


def read_indices(path: Path, count: int) -> np.ndarray:
    """Read particle indices, 0-based, in the order of the file: (n,) int64.

    Raises
    ------
    UserError
        The file is missing or holds no whole numbers, a number twice, or one outside 0 … ``count`` - 1.
    """
    if path.suffix in (".txt", ".csv"):
        try:
            values = np.loadtxt(path, ndmin=1)
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: no list of indices ({error}); give one whole number per line") from error
    else:
        values = np.asarray(load_pickle(path))
    if values.dtype.kind not in "iuf" or not values.size or not np.array_equal(values, np.round(values)):
        raise UserError(f"{path}: no list of whole numbers; give the indices of the particles to take, from 0")
    indices = values.ravel().astype(np.int64)
    if indices.min() < 0 or indices.max() >= count:
        raise UserError(
            f"{path}: indices from {indices.min()} to {indices.max()} but the table has {count} particles (0 … "
            f"{count - 1}); give indices into this STAR file"
        )
    if len(np.unique(indices)) != len(indices):
        raise UserError(f"{path}: some indices stand there twice; give each particle once")
    return indices
