"""Lists of particle indices in pickles (NumPy array or list), text files or JSON files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from opustomo.errors import UserError
from opustomo.io.pickles import load_pickle


def read_indices(path: Path, count: int) -> np.ndarray:
    """Read particle indices, counted from 0, in the order of the file.

    Pickles hold an array or a list. Files ``.txt`` and ``.csv`` hold one number per line; lines that begin with # are
    comments. Files ``.json`` hold a list, or a selection of ``dsdsh report``: ``{"indices": [...], "particles": N}``,
    where N is the number of particles of the run.

    Parameters
    ----------
    path
        File of indices.
    count
        Number of particles.

    Returns
    -------
    ndarray, (n,)
        Indices as int64.

    Raises
    ------
    UserError
        The file is missing, does not hold integers, holds an integer twice or one outside 0 … ``count`` - 1, or was
        made for another number of particles.
    """
    if path.suffix in (".txt", ".csv"):
        try:
            values = np.loadtxt(path, ndmin=1)
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: not a list of indices ({error}). Give one integer per line.") from error
    elif path.suffix == ".json":
        values = _from_json(path, count)
    else:
        values = np.asarray(load_pickle(path))
    if values.dtype.kind not in "iuf" or not values.size or not np.array_equal(values, np.round(values)):
        raise UserError(f"{path}: not a list of integers. Give the indices of the particles, counted from 0.")
    indices = values.ravel().astype(np.int64)
    if indices.min() < 0 or indices.max() >= count:
        raise UserError(
            f"{path}: the indices range from {indices.min()} to {indices.max()}, but the table has {count} particles "
            f"(0 to {count - 1}). Give indices of this STAR file."
        )
    if len(np.unique(indices)) != len(indices):
        raise UserError(f"{path}: some indices occur twice. Give each particle once.")
    return indices


def _from_json(path: Path, count: int) -> np.ndarray:
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a JSON file of indices ({error}). Save the selection again.") from error
    if isinstance(content, dict):
        total = content.get("particles", count)
        if total != count:
            raise UserError(
                f"{path}: made for {total} particles, but the table has {count}. Give the STAR file of that run."
            )
        content = content.get("indices")
    try:
        return np.asarray(content)
    except ValueError as error:  # ragged
        raise UserError(f"{path}: not a list of integers. Save the selection again.") from error
