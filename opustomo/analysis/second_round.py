"""Choosing clusters of a first k-means for a second round (``--kpc``)."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from opustomo.analysis.results import ResultDir, Round
from opustomo.analysis.selection import load_labels
from opustomo.errors import UserError


@dataclass(frozen=True)
class ClusterChoice:
    """Some clusters of a k-means with ``num_clusters`` classes."""

    num_clusters: int
    chosen: tuple[int, ...]


def parse_cluster_choice(text: str) -> ClusterChoice:
    """Read ``20:2-5,8``: clusters 2, 3, 4, 5 and 8 of the k-means with 20 clusters.

    Raises
    ------
    UserError
        Another form, or a cluster that this k-means does not have.
    """
    match = re.fullmatch(r"\s*(\d+)\s*:\s*(\d+(?:\s*-\s*\d+)?(?:\s*,\s*\d+(?:\s*-\s*\d+)?)*)\s*", text)
    if match is None:
        raise UserError(f"--kpc {text!r} is not understood; give K:clusters such as 20:2-5,8.")
    num_clusters, chosen = int(match[1]), set[int]()
    for item in match[2].split(","):
        first, _, last = item.partition("-")
        low, high = int(first), int(last or first)
        if low > high or high >= num_clusters:
            raise UserError(
                f"--kpc {text!r}: {item.strip()} is not among clusters 0-{num_clusters - 1} of k-means {num_clusters}."
            )
        chosen.update(range(low, high + 1))
    return ClusterChoice(num_clusters, tuple(sorted(chosen)))


def chosen_particles(results: ResultDir, epoch: int, choice: ClusterChoice, total: int) -> np.ndarray:
    """Indices (n,), ascending, of the particles in the chosen clusters of the epoch's first round.

    Raises
    ------
    UserError
        That k-means was not made, belongs to another number of particles, or the clusters are empty.
    """
    path = results.analysed_file(Round(epoch), f"kmeans{choice.num_clusters}", "labels.pkl")
    labels = load_labels(path)
    if len(labels) != total:
        raise UserError(f"{path} has {len(labels)} labels but z.{epoch}.pkl {total} particles; run the analysis again.")
    indices = np.flatnonzero(np.isin(labels, choice.chosen))
    if len(indices) == 0:
        raise UserError(f"{path}: no particle is in clusters {', '.join(map(str, choice.chosen))}; choose others.")
    return indices
