"""Does a split come back? Agreement of clusterings that are fitted to disjoint halves of the latents."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from opustomo.analysis.clusters.clustering import cluster_latents

REPEATS = 5
MOST_CLUSTERS = 12
MOST_PARTICLES = 2000
DISSOLVED = 0.5
"""Jaccard index up to which a cluster is said to dissolve (Hennig 2007)."""


@dataclass(frozen=True)
class Stability:
    """Agreement of clusterings that were fitted to disjoint random halves of the particles.

    Attributes
    ----------
    num_clusters
        Number of clusters that was asked for, K.
    ari
        Mean adjusted Rand index for each number of clusters.
    low, high
        Range of the adjusted Rand index over repeats for the number that was asked for.
    jaccard
        Mean Jaccard index of each given cluster with the most similar cluster of a half, (K,).
    """

    num_clusters: int
    ari: dict[int, float]
    low: float
    high: float
    jaccard: np.ndarray

    @property
    def most_stable(self) -> int:
        """Number of clusters with the highest agreement; the largest of those that agree within 0.02."""
        best = max(self.ari.values())
        return max(number for number, value in self.ari.items() if value >= best - 0.02)

    def sentence(self) -> str:
        """Return the result in words."""
        own = self.ari[self.num_clusters]
        text = (
            f"Clusterings of disjoint halves of the latents agree with ARI {own:.2f} ({self.low:.2f} to "
            f"{self.high:.2f}) for {self.num_clusters} clusters"
        )
        if self.most_stable == self.num_clusters:
            return f"{text}, which is the most stable number."
        return f"{text}; the most stable number is {self.most_stable} (ARI {self.ari[self.most_stable]:.2f})."


def cluster_stability(
    latents: np.ndarray, labels: np.ndarray, num_clusters: int, method: str = "kmeans", seed: int = 0
) -> Stability | None:
    """Cluster disjoint halves of the latents, assign all particles by their neighbors, and compare.

    Parameters
    ----------
    latents
        Latents of n particles, (n, zdim).
    labels
        Clusters to validate, (n,).
    num_clusters
        Number of clusters, K. Numbers from 2 to K + 2 (at most 12) are compared with it.
    method
        ``kmeans`` or ``gmm``, as in :func:`opustomo.analysis.clusters.clustering.cluster_latents`.
    seed
        Random seed.

    Returns
    -------
    Stability or None
        None for fewer than two clusters or too few particles.
    """
    from sklearn.metrics import adjusted_rand_score
    from sklearn.neighbors import KNeighborsClassifier

    rng = np.random.default_rng(seed)
    if len(latents) > MOST_PARTICLES:
        chosen = rng.choice(len(latents), MOST_PARTICLES, replace=False)
        latents, labels = latents[chosen], labels[chosen]
    if num_clusters < 2 or len(latents) < 4 * num_clusters:
        return None
    largest = min(num_clusters + 2, MOST_CLUSTERS, len(latents) // 4)
    agreement: dict[int, list[float]] = {number: [] for number in sorted({*range(2, largest + 1), num_clusters})}
    jaccard = []
    for _ in range(REPEATS):
        halves = np.array_split(rng.permutation(len(latents)), 2)
        for number, values in agreement.items():
            assigned = []
            for half in halves:
                fitted = cluster_latents(latents[half], number, method=method).labels
                assigned.append(KNeighborsClassifier(3).fit(latents[half], fitted).predict(latents))
            values.append(float(adjusted_rand_score(*assigned)))
            if number == num_clusters:
                jaccard += [_jaccard(labels, found, number) for found in assigned]
    own = agreement[num_clusters]
    return Stability(
        num_clusters,
        {number: float(np.mean(values)) for number, values in agreement.items()},
        min(own),
        max(own),
        np.mean(jaccard, 0),
    )


def _jaccard(labels: np.ndarray, found: np.ndarray, number: int) -> np.ndarray:
    """Return the largest Jaccard index (K,) of each cluster of `labels` with a cluster of `found`."""
    given = labels == np.arange(number)[:, None]
    other = found == np.arange(number)[:, None]
    both = (given[:, None] & other).sum(-1)
    either = (given[:, None] | other).sum(-1)
    return np.asarray((both / np.maximum(either, 1)).max(1))
