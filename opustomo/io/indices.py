"""Lists of particle indices, as pickles (numpy array or list), text, or JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from opustomo.errors import UserError
from opustomo.io.pickles import load_pickle


def read_indices(path: Path, count: int) -> np.ndarray:
    """Read particle indices, 0-based, in the order of the file: (n,) int64.

    Pickles hold an array or a list; ``.txt`` and ``.csv`` files a number per line, lines that begin with # aside;
    ``.json`` files a list, or what ``dsdsh report`` saves: ``{"indices": [...], "particles": N}``, N the number of
    particles they were chosen among.

    Raises
    ------
    UserError
        The file is missing or holds no whole numbers, a number twice, or one outside 0 … ``count`` - 1, or was made
        for another number of particles.
    """
    if path.suffix in (".txt", ".csv"):
        try:
            values = np.loadtxt(path, ndmin=1)
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: no list of indices ({error}); give one whole number per line") from error
    elif path.suffix == ".json":
        values = _from_json(path, count)
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


def _from_json(path: Path, count: int) -> np.ndarray:
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no JSON file of indices ({error}); save the selection again") from error
    if isinstance(content, dict):
        total = content.get("particles", count)
        if total != count:
            raise UserError(
                f"{path} was made for {total} particles but the table has {count}; give the STAR file of that run"
            )
        content = content.get("indices")
    try:
        return np.asarray(content)
    except ValueError as error:  # ragged
        raise UserError(f"{path}: no list of whole numbers; save the selection again") from error
