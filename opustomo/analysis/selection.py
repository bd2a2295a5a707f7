"""From cluster labels to STAR files of the particles of each cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from opustomo.errors import UserError
from opustomo.io.pickles import load_pickle

if TYPE_CHECKING:
    from opustomo.io.star import ParticleStar


def load_labels(path: Path) -> np.ndarray:
    """Read a pickle of cluster labels.

    Parameters
    ----------
    path
        Pickle of N integers (``labels.pkl`` of an analysis, or any other list of whole numbers).

    Returns
    -------
    numpy.ndarray
        Labels, shape (N,), int64.

    Raises
    ------
    UserError
        The file is absent or does not hold one non-negative whole number per particle.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist; expected a pickle with one cluster label per particle.")
    content = load_pickle(path)
    try:
        return check_labels(np.asarray(content))
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} is not a list of cluster labels: {error}.") from error


def check_labels(labels: np.ndarray) -> np.ndarray:
    """Return labels as int64 of shape (N,); ``ValueError`` unless they are non-negative whole numbers."""
    if labels.ndim != 1 or labels.size == 0:
        raise ValueError(f"expected one label per particle, got an array of shape {labels.shape}")
    if labels.dtype.kind not in "iuf" or not np.all(np.isfinite(labels)):
        raise ValueError("expected whole numbers")
    whole = labels.astype(np.int64)
    if np.any(whole != labels) or whole.min() < 0:
        raise ValueError("expected non-negative whole numbers")
    return whole


def write_cluster_stars(
    star: ParticleStar, labels: np.ndarray, outdir: Path, num_clusters: int | None = None
) -> list[Path]:
    """Write ``pre{i}.star`` with the particles of cluster i, every block and column of the input kept.

    Parameters
    ----------
    star
        The particle table, N rows.
    labels
        Cluster of each row, shape (N,), in the order of the STAR file.
    outdir
        Folder to write to; made if absent.
    num_clusters
        Write clusters 0 … num_clusters - 1 only: a second round labels the particles it left out with the
        number of clusters. All labels that occur when None.

    Returns
    -------
    list of Path
        The files, by cluster number. A cluster without particles gets no file, because an empty particle
        table is refused by everything that would read it.

    Raises
    ------
    UserError
        Rows and labels differ in number, or the labels are not non-negative whole numbers.
    """
    try:
        whole = check_labels(np.asarray(labels))
    except ValueError as error:
        raise UserError(f"The cluster labels cannot be used: {error}.") from error
    if len(whole) != len(star):
        raise UserError(
            f"{star.path or 'The STAR file'} has {len(star)} particles but there are {len(whole)} cluster "
            "labels; give the STAR file that was used for training."
        )
    clusters = [int(i) for i in np.unique(whole) if num_clusters is None or i < num_clusters]
    if not clusters:
        raise UserError(f"No particle has a cluster label below {num_clusters}; nothing to write.")
    outdir = Path(outdir)
    outdir.mkdir(parents=True, exist_ok=True)
    written = []
    for cluster in clusters:
        path = outdir / f"pre{cluster}.star"
        star.subset(np.flatnonzero(whole == cluster)).write(path)
        written.append(path)
    return written
