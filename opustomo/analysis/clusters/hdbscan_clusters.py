"""Density-based clustering of latents with HDBSCAN, for rare states and for states of unequal size.

K-means minimizes the summed squared distance to K centers. It therefore divides populous states and merges rare ones.
HDBSCAN (Campello et al. 2013, doi:10.1007/978-3-642-37456-2_14) looks for regions of high particle density that are
separated by regions of low density. A state is found whatever fraction of the particles it holds, and the number of
clusters follows from the data.

The density around few particles is uncertain, so HDBSCAN also reports small clusters in structureless data. Clusters
that are not found again in random subsets of the particles are therefore dropped.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from opustomo.errors import UserError
from opustomo.io.progress_bar import progress

UNASSIGNED = -1
"""Label of particles that belong to no cluster."""
SMALLEST_FRACTION = 0.005
"""Default size of the smallest cluster as a fraction of all particles."""
SMALLEST_SIZE = 5
"""Lower limit of the default size of the smallest cluster."""
LEAST_NEIGHBORS = 3
"""Least number of neighbors from which the density is estimated."""
STABLE = 0.6
"""Smallest stability of a cluster that is kept; see Hennig (2007), doi:10.1016/j.csda.2006.11.025."""
SUBSETS = 8
SUBSET_FRACTION = 0.8
SUBSET_LIMIT = 20_000
"""Largest number of particles in a random subset."""
BORDER_RATIO = 0.8
"""Largest ratio of the distances to the nearest and the second nearest cluster of a particle that joins a cluster."""
BORDER_REACH = 2.0
"""Largest distance of a particle that joins a cluster, in units of the largest spacing of its members."""


@dataclass(frozen=True)
class DensityClusters:
    """Clusters of high density.

    Attributes
    ----------
    labels
        Cluster of each particle from 0, or `UNASSIGNED`, shape (N,), int64.
    stability
        Mean Jaccard index of each cluster with the most similar cluster of random subsets, shape (K,). Empty if no
        stable cluster was found; all particles then form one cluster.
    dropped
        Number of clusters of HDBSCAN that were dropped because they were not stable.
    """

    labels: np.ndarray
    stability: np.ndarray
    dropped: int

    def __len__(self) -> int:
        return int(self.labels.max()) + 1


def default_min_cluster_size(count: int) -> int:
    """Return the default size of the smallest cluster among `count` particles: 0.5 % of them, but at least 5."""
    return max(SMALLEST_SIZE, round(SMALLEST_FRACTION * count))


def density_clusters(latents: np.ndarray, min_cluster_size: int | None = None, seed: int = 0) -> DensityClusters:
    """Find stable clusters of high density and assign the particles at their borders.

    HDBSCAN leaves particles in regions of low density unassigned, also at the border of a cluster. Such a particle is
    assigned to the cluster of the nearest clustered particle unless it lies between two clusters or far from all: its
    distance must be less than `BORDER_RATIO` times the distance to any other cluster, and at most `BORDER_REACH` times
    the largest distance between a member of the cluster and its nearest other member.

    Parameters
    ----------
    latents
        Latents, shape (N, zdim), finite.
    min_cluster_size
        Particles of the smallest cluster; None for `default_min_cluster_size`.
    seed
        Random seed of the subsets with which the stability is computed.

    Raises
    ------
    UserError
        If `min_cluster_size` is less than 2 or greater than the number of particles.
    """
    values, count = latents.astype(np.float64), len(latents)
    size = min(default_min_cluster_size(count), count) if min_cluster_size is None else min_cluster_size
    if count < 2:
        return DensityClusters(np.zeros(count, dtype=np.int64), np.zeros(0), 0)
    if not 2 <= size <= count:
        raise UserError(
            f"The smallest cluster has {size} particles (--min-cluster-size), but it must have 2 to {count}, the "
            "number of particles."
        )
    labels = _clusters_with_borders(values, size)
    stability = _stability(values, labels, size, np.random.default_rng(seed))
    kept = np.flatnonzero(stability >= STABLE)
    renumbered = np.full(len(stability) + 1, UNASSIGNED, dtype=np.int64)  # the last entry is that of UNASSIGNED
    renumbered[kept] = np.arange(len(kept))
    dropped = len(stability) - len(kept)
    if len(kept) == 0:
        return DensityClusters(np.zeros(count, dtype=np.int64), np.zeros(0), dropped)
    return DensityClusters(join_borders(values, renumbered[labels]), stability[kept], dropped)


def jaccard_with_best(labels: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the largest Jaccard index of each cluster in `labels` (N,) with the clusters in `others` (N,).

    Negative labels denote particles in no cluster. The index of a cluster without members is 0.
    """
    count, other_count = max(int(labels.max()) + 1, 0), max(int(others.max()) + 1, 0)
    shared = np.zeros((count + 1, other_count + 1))
    np.add.at(shared, (labels, others), 1)  # label -1 is the last row or column
    sizes, other_sizes = shared.sum(axis=1)[:count], shared.sum(axis=0)[:other_count]
    shared = shared[:count, :other_count]
    union = sizes[:, None] + other_sizes[None] - shared
    return (shared / np.maximum(union, 1)).max(axis=1, initial=0.0)


def _clusters_with_borders(values: np.ndarray, min_cluster_size: int) -> np.ndarray:
    from sklearn.cluster import HDBSCAN

    # Half of a rare state: fewer neighbors break up populous states, more blur rare ones (docs/evidence.md).
    min_samples = min(max(LEAST_NEIGHBORS, min_cluster_size // 2), len(values))
    model = HDBSCAN(min_cluster_size=min_cluster_size, min_samples=min_samples, copy=True)
    return join_borders(values, model.fit_predict(values).astype(np.int64))


def _stability(values: np.ndarray, labels: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Return the mean Jaccard index of each cluster with the most similar cluster of random subsets, shape (K,)."""
    num_clusters = int(labels.max()) + 1
    if num_clusters < 1:
        return np.zeros(0)
    count = min(round(SUBSET_FRACTION * len(values)), SUBSET_LIMIT)
    subset_size = min(max(2, round(size * count / len(values))), count)
    indices = np.zeros((SUBSETS, num_clusters))
    with progress(SUBSETS, "stability of the clusters, random subsets") as advance:
        for subset in range(SUBSETS):
            chosen = np.sort(rng.choice(len(values), count, replace=False))
            again = _clusters_with_borders(values[chosen], subset_size)
            indices[subset] = jaccard_with_best(labels[chosen], again)[:num_clusters]
            advance(1)
    return indices.mean(axis=0)


def join_borders(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Assign unassigned particles that are close to one cluster only."""
    from scipy.spatial import KDTree

    outside = np.flatnonzero(labels == UNASSIGNED)
    num_clusters = int(labels.max()) + 1
    if not len(outside) or not num_clusters:
        return labels
    trees = [KDTree(values[labels == cluster]) for cluster in range(num_clusters)]
    reach = np.array([tree.query(tree.data, k=2)[0][:, 1].max() for tree in trees])
    distances = np.stack([tree.query(values[outside])[0] for tree in trees], axis=1)
    nearest = distances.argmin(axis=1)
    ordered = np.sort(distances, axis=1)
    unique = np.ones(len(outside), dtype=bool) if num_clusters < 2 else ordered[:, 0] < BORDER_RATIO * ordered[:, 1]
    close = unique & (ordered[:, 0] <= BORDER_REACH * reach[nearest])
    joined = labels.copy()
    joined[outside[close]] = nearest[close]
    return joined
