"""Split of the particles into training and held-out particles (docs/files.md)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from opustomo.errors import UserError
from opustomo.io.pickles import dump_torch, load_torch


def split_particles(count: int, valfrac: float, rng: np.random.Generator) -> np.ndarray:
    """Return a permutation of the particles, (N,), whose first fraction of 1 - ``valfrac`` is the training set."""
    if not 0 <= valfrac < 1:
        raise ValueError(f"valfrac must lie in [0, 1), got {valfrac}")
    return rng.permutation(count)


def training_count(count: int, valfrac: float) -> int:
    """Return the number of training particles among ``count`` particles, at least one."""
    return max(1, count - int(count * valfrac))


def write_split(path: Path, permutation: np.ndarray) -> None:
    """Write a permutation as a torch file."""
    dump_torch(path, torch.from_numpy(permutation.astype(np.int64)))


def read_split(path: Path, count: int) -> np.ndarray:
    """Read a permutation; raise ``UserError`` if it is not a permutation of ``count`` particles."""
    content = load_torch(path)
    try:
        values = np.asarray(content, dtype=np.float64).ravel()
    except (TypeError, ValueError):  # not numeric
        values = np.empty(0)
    if not np.array_equal(np.sort(values), np.arange(count)):
        raise UserError(
            f"{path} is not a permutation of 0…{count - 1}, so it belongs to another particle set. Omit --split."
        )
    return values.astype(np.int64)
