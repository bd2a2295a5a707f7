"""Latents of all particles of an epoch (``z.N.pkl``) and text tables of latents."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from opustomo.errors import UserError
from opustomo.io.atomic import atomic_path
from opustomo.io.pickles import dump_torch, load_torch


def read_latent_rows(path: Path) -> np.ndarray:
    """Read a text file with one latent per row.

    Returns
    -------
    ndarray, (K, zdim)
        Latents as float32.

    Raises
    ------
    UserError
        The file is missing, empty or not numeric, or its rows differ in length.
    """
    try:
        rows = np.loadtxt(path, dtype=np.float32, ndmin=2)
    except OSError as error:
        raise UserError(f"{path}: cannot be read. Give a text file with one latent per row.") from error
    except ValueError as error:
        raise UserError(f"{path}: not a table of numbers ({error}). Give one latent per row.") from error
    if not rows.size or not np.isfinite(rows).all():
        raise UserError(f"{path}: the file is empty or holds values that are not finite. Give one latent per row.")
    return rows


def write_table(path: Path, values: np.ndarray) -> None:
    """Write numbers as text with nine digits, which restore float32 values exactly, and one row per line."""
    with atomic_path(path) as partial:
        np.savetxt(partial, values, fmt="%d" if values.dtype.kind in "iu" else "%.9g")


def read_latents(
    path: str | os.PathLike[str],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
    """Read the latents of all particles.

    Returns
    -------
    mu
        Composition latents, float32 (N, zdim).
    multi_mu
        Conformation latents, float32 (N, zaffinedim); None if the run has none.

    Raises
    ------
    UserError
        The file is missing or unsafe, or does not hold finite latents.
    """
    content = load_torch(path)
    if not isinstance(content, dict) or content.get("mu") is None:
        raise UserError(f"{path}: the file has no latents 'mu'. Give the z.N.pkl of a training run.")
    mu = _table(path, "mu", content["mu"])
    raw = content.get("multi_mu")
    multi_mu = None if raw is None else _table(path, "multi_mu", raw)
    if multi_mu is not None and len(multi_mu) != len(mu):
        raise UserError(
            f"{path}: 'mu' has {len(mu)} rows, but 'multi_mu' has {len(multi_mu)}. Write the latents again."
        )
    if multi_mu is not None and not multi_mu.shape[1]:
        multi_mu = None
    return mu, multi_mu


def read_latent_table(path: str | os.PathLike[str], conformation: bool = False) -> npt.NDArray[np.float32]:
    """Read latents from a `z.N.pkl` or a text file such as `centers.txt`, float32 (N, dimension).

    Parameters
    ----------
    path
        The file; a name that ends in .txt means text.
    conformation
        Return the conformation latents of a `z.N.pkl` instead of the composition latents.

    Raises
    ------
    UserError
        The file cannot be read, or has no conformation latents.
    """
    if os.fspath(path).endswith(".txt"):
        return read_latent_rows(Path(path))
    mu, multi_mu = read_latents(path)
    if not conformation:
        return mu
    if multi_mu is None:
        raise UserError(f"{path}: the file has no conformation latents 'multi_mu'. Omit --conformation.")
    return multi_mu


def write_latents(path: str | os.PathLike[str], mu: npt.ArrayLike, multi_mu: npt.ArrayLike | None = None) -> None:
    """Write latents as a torch file {"mu", "nn": None, "multi_mu"}, atomically.

    Parameters
    ----------
    path
        Output file.
    mu
        Composition latents (N, zdim).
    multi_mu
        Conformation latents (N, zaffinedim); None omits them from the file.
    """
    import torch

    content: dict[str, Any] = {"mu": torch.tensor(np.asarray(mu, dtype=np.float32)), "nn": None}
    if multi_mu is not None:
        content["multi_mu"] = torch.tensor(np.asarray(multi_mu, dtype=np.float32))
    if any(value is not None and value.ndim != 2 for value in content.values()):
        raise ValueError("latents must have two axes, with one row per particle")
    dump_torch(path, content)


def write_coordinates(path: Path, values: npt.ArrayLike | None) -> None:
    """Write coordinates of compositions (N, K) in units of their standard errors, atomically.

    NaN marks particles without coordinates. None removes the file of an earlier run.
    """
    if values is None:
        path.unlink(missing_ok=True)
        return
    with atomic_path(path) as partial, open(partial, "wb") as file:
        np.save(file, np.asarray(values, dtype=np.float32))


def read_coordinates(path: Path, count: int) -> npt.NDArray[np.float32] | None:
    """Read what :func:`write_coordinates` wrote for ``count`` particles; None if there is no such file.

    Raises
    ------
    UserError
        The file is damaged or belongs to another number of particles.
    """
    if not path.exists():
        return None
    try:
        values = np.load(path, allow_pickle=False)
        if values.ndim != 2 or values.dtype.kind != "f":
            raise ValueError(f"a table of numbers is expected, not {values.dtype} of shape {values.shape}")
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: cannot be read ({error}). Remove the file to cluster latents instead.") from error
    if len(values) != count:
        raise UserError(
            f"{path}: the file has {len(values)} rows, but the run has {count} particles. Remove the file to cluster "
            "latents instead."
        )
    return np.asarray(values, dtype=np.float32)


def _table(path: str | os.PathLike[str], name: str, values: Any) -> npt.NDArray[np.float32]:
    try:
        if hasattr(values, "detach"):  # a tensor that requires gradients, or of a type that NumPy does not have
            values = values.detach().float()
        table = np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: '{name}' is not a table of numbers. Give the z.N.pkl of a training run.") from error
    if table.ndim != 2:
        raise UserError(f"{path}: '{name}' has the shape {table.shape}, but (particles, dimensions) is expected.")
    if not np.isfinite(table).all():
        row = int(np.flatnonzero(~np.isfinite(table).all(axis=1))[0])
        raise UserError(f"{path}: '{name}' of particle {row} (counted from 0) is not finite. Use an earlier epoch.")
    return table
