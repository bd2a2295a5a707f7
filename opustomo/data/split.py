"""Training and validation particles (docs/files.md)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from opustomo.errors import UserError
from opustomo.io.pickles import dump_torch, load_torch


def split_particles(count: int, valfrac: float, rng: np.random.Generator) -> np.ndarray:
    """A permutation of the particles, of which the first (1 - valfrac) part trains: (N,)."""
    if not 0 <= valfrac < 1:
        raise ValueError(f"valfrac must lie in [0, 1), got {valfrac}")
    return rng.permutation(count)


def training_count(count: int, valfrac: float) -> int:
    """How many of ``count`` particles train; at least one."""
    return max(1, count - int(count * valfrac))


def write_split(path: Path, permutation: np.ndarray) -> None:
    """Write the permutation as a torch file."""
    dump_torch(path, torch.from_numpy(permutation.astype(np.int64)))


def read_split(path: Path, count: int) -> np.ndarray:
    """Read a permutation and check that it is one of ``count`` particles."""
    content = load_torch(path)
    try:
        values = np.asarray(content, dtype=np.float64).ravel()
    except (TypeError, ValueError):  # not numbers at all
        values = np.empty(0)
    if not np.array_equal(np.sort(values), np.arange(count)):
        raise UserError(
            f"{path} is not a permutation of 0…{count - 1}; it belongs to another particle set, leave --split out"
        )
    return values.astype(np.int64)
