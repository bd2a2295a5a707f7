"""Selection of clusters of one round of analysis for the next round (``--kpc``)."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from opustomo.analysis.clusters import Clustering
from opustomo.analysis.results import ResultDir, Round
from opustomo.analysis.selection import load_labels
from opustomo.errors import UserError
from opustomo.io.indices import read_indices


@dataclass(frozen=True)
class ClusterChoice:
    """Selected clusters of a clustering into `num_clusters` clusters."""

    num_clusters: int
    chosen: tuple[int, ...]
    method: str = "kmeans"

    @property
    def clustering(self) -> Clustering:
        """Clustering that the selected clusters belong to."""
        return Clustering(self.num_clusters, self.method)


def parse_cluster_choice(text: str, option: str = "--kpc") -> ClusterChoice:
    """Parse a selection of clusters.

    ``20:2-5,8`` selects clusters 2, 3, 4, 5 and 8 of k-means with 20 clusters. ``gmm20:…`` selects clusters of a
    Gaussian mixture.

    Raises
    ------
    UserError
        If the text has another form or names a cluster that does not exist.
    """
    match = re.fullmatch(r"\s*(kmeans|gmm)?(\d+)\s*:\s*(\d+(?:\s*-\s*\d+)?(?:\s*,\s*\d+(?:\s*-\s*\d+)?)*)\s*", text)
    if match is None:
        raise UserError(f"{option} {text!r} is not of the form K:clusters, for example 20:2-5,8.")
    num_clusters, chosen = int(match[2]), set[int]()
    for item in match[3].split(","):
        first, _, last = item.partition("-")
        low, high = int(first), int(last or first)
        if low > high or high >= num_clusters:
            raise UserError(
                f"{option} {text!r}: {item.strip()} is not among the clusters 0-{num_clusters - 1} of "
                f"{match[1] or 'kmeans'}{num_clusters}."
            )
        chosen.update(range(low, high + 1))
    return ClusterChoice(num_clusters, tuple(sorted(chosen)), match[1] or "kmeans")


def round_particles(results: ResultDir, which: Round, total: int) -> np.ndarray:
    """Return the ascending indices (n,) of the particles of a round among all `total` particles.

    Raises
    ------
    UserError
        If the round does not exist or belongs to a different number of particles.
    """
    if not which.filtered:
        return np.arange(total)
    return np.sort(read_indices(results.analysed_file(which, f"ind.{which.label}.pkl"), total))


def chosen_particles(results: ResultDir, which: Round, choice: ClusterChoice, total: int) -> np.ndarray:
    """Return the ascending indices (n,) of the particles in the selected clusters of a round.

    Raises
    ------
    UserError
        If the clustering does not exist or belongs to a different number of particles, or if the clusters are empty.
    """
    path = results.analysed_file(which, choice.clustering.folder, "labels.pkl")
    labels = load_labels(path)
    if len(labels) != total:
        raise UserError(
            f"{path} has {len(labels)} labels, but z.{which.epoch}.pkl has {total} particles. Run the analysis again."
        )
    indices = np.flatnonzero(np.isin(labels, choice.chosen))
    if len(indices) == 0:
        raise UserError(
            f"{path} has no particles in clusters {', '.join(map(str, choice.chosen))}. Select other clusters."
        )
    return indices
