"""Files of clusters: reading of the labels of particles, and STAR files of the particles of each cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from opustomo.errors import UserError
from opustomo.io.pickles import load_pickle

if TYPE_CHECKING:
    from opustomo.io.star_tables import ParticleStar


def load_labels(path: Path) -> np.ndarray:
    """Read cluster labels.

    Parameters
    ----------
    path
        Pickle of N non-negative integers, such as ``labels.pkl`` of an analysis.

    Returns
    -------
    numpy.ndarray
        Labels, shape (N,), int64.

    Raises
    ------
    UserError
        If the file is absent or is not a one-dimensional array of non-negative integers.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist. Give a pickle with one cluster label per particle.")
    content = load_pickle(path)
    try:
        return check_labels(np.asarray(content))
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} does not contain cluster labels: {error}.") from error


def check_labels(labels: np.ndarray) -> np.ndarray:
    """Return labels as int64 of shape (N,); raise ``ValueError`` unless they are non-negative integers."""
    if labels.ndim != 1 or labels.size == 0:
        raise ValueError(f"expected one label per particle, got an array of shape {labels.shape}")
    if labels.dtype.kind not in "iuf" or not np.all(np.isfinite(labels)):
        raise ValueError("expected integers")
    integers = labels.astype(np.int64)
    if np.any(integers != labels) or integers.min() < 0:
        raise ValueError("expected non-negative integers")
    return integers


def write_cluster_stars(
    star: ParticleStar, labels: np.ndarray, outdir: Path, num_clusters: int | None = None
) -> list[Path]:
    """Write the particles of each cluster i to ``pre{i}.star``, keeping all blocks and columns of the input.

    Parameters
    ----------
    star
        Particle table with N rows.
    labels
        Cluster of each row, shape (N,), in the order of the STAR file.
    outdir
        Output folder; created if absent.
    num_clusters
        Write only clusters 0 to `num_clusters` - 1, because a second round labels excluded particles with the number
        of clusters. None writes all labels that occur.

    Returns
    -------
    list of Path
        Files in the order of their cluster number. Empty clusters are not written because other programs reject an
        empty particle table.

    Raises
    ------
    UserError
        If the numbers of rows and labels differ or the labels are not non-negative integers.
    """
    try:
        cluster_of_row = check_labels(np.asarray(labels))
    except ValueError as error:
        raise UserError(f"The cluster labels are invalid: {error}.") from error
    if len(cluster_of_row) != len(star):
        raise UserError(
            f"{star.path or 'The STAR file'} has {len(star)} particles, but there are {len(cluster_of_row)} cluster "
            "labels. Give the STAR file that was used for training."
        )
    clusters = [int(i) for i in np.unique(cluster_of_row) if num_clusters is None or i < num_clusters]
    if not clusters:
        raise UserError(f"No particle has a cluster label below {num_clusters}, so there is nothing to write.")
    outdir = Path(outdir)
    outdir.mkdir(parents=True, exist_ok=True)
    written = []
    for cluster in clusters:
        path = outdir / f"pre{cluster}.star"
        star.subset(np.flatnonzero(cluster_of_row == cluster)).write(path)
        written.append(path)
    return written
