"""Plain text tables of numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from opustomo.errors import UserError
from opustomo.io.atomic import atomic_path


def read_latent_rows(path: Path) -> np.ndarray:
    """Read one latent per row of a text file: (K, zdim).

    Raises
    ------
    UserError
        The file is missing, empty, ragged or not numeric.
    """
    try:
        rows = np.loadtxt(path, dtype=np.float32, ndmin=2)
    except OSError as error:
        raise UserError(f"{path}: cannot be read; give a text file with one latent per row") from error
    except ValueError as error:
        raise UserError(f"{path}: not a table of numbers ({error}); give one latent per row") from error
    if not rows.size or not np.isfinite(rows).all():
        raise UserError(f"{path} is empty or holds numbers that are not finite; give one latent per row")
    return rows


def write_table(path: Path, values: np.ndarray) -> None:
    """Write numbers as text, a row per line, nine digits: float32 values are restored exactly."""
    with atomic_path(path) as partial:
        np.savetxt(partial, values, fmt="%d" if values.dtype.kind in "iu" else "%.9g")
