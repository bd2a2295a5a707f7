"""Stability of clusters: agreement of clusterings that are fitted to disjoint halves of the latents."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from opustomo.analysis.clusters.clustering import cluster_latents

REPEATS = 4
CONTROLS = 19
"""Number of sets of latents without clusters from which the agreement by chance is determined."""
MOST_CLUSTERS = 12
MOST_PARTICLES = 1000
DISSOLVED = 0.5
"""Jaccard index up to which a cluster is said to dissolve (Hennig 2007)."""
AGREEMENT = 0.5
"""Least adjusted Rand index between the memberships of a class in clusterings of disjoint halves."""
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Stability:
    """Agreement of clusterings that were fitted to disjoint random halves of the particles.

    Attributes
    ----------
    num_clusters
        Requested number of clusters, K.
    ari
        Mean adjusted Rand index for each number of clusters.
    low, high
        Range of the adjusted Rand index over repeats for the requested number.
    jaccard
        Mean Jaccard index of each given cluster with the most similar cluster of a half, (K,).
    agreement
        Mean adjusted Rand index between both halves of the membership in the cluster that is most similar to each given
        one, (K,).
    chance
        Agreement of clusters of latents without clusters, in any order.
    """

    num_clusters: int
    ari: dict[int, float]
    low: float
    high: float
    jaccard: np.ndarray
    agreement: np.ndarray
    chance: np.ndarray = field(repr=False)

    @property
    def most_stable(self) -> int:
        """Number of clusters with the highest agreement; the largest of those that agree within 0.02."""
        best = max(self.ari.values())
        return max(number for number, value in self.ari.items() if value >= best - 0.02)

    def p_value(self, number: int) -> float:
        """Return the probability that a cluster of latents without clusters agrees as well as cluster `number`."""
        return float((1 + (self.chance >= self.agreement[number]).sum()) / (1 + len(self.chance)))

    def comes_back(self, number: int) -> bool:
        """Return whether cluster `number` is found in both of two disjoint halves, more than by chance."""
        return bool(
            self.jaccard[number] > DISSOLVED
            and self.agreement[number] >= AGREEMENT
            and self.p_value(number) <= SIGNIFICANT
        )

    def class_sentence(self, number: int) -> str:
        """Return in words whether cluster `number` is reproduced."""
        halves = f"agreement {self.agreement[number]:.2f} between disjoint halves"
        if self.comes_back(number):
            return f"It is reproduced when half of the particles are clustered ({halves})."
        chance = float(np.quantile(self.chance, 1 - SIGNIFICANT))
        if self.jaccard[number] <= DISSOLVED:
            reason = f"Jaccard index {self.jaccard[number]:.2f}; more than {DISSOLVED} is required"
        else:
            reason = (
                f"{halves}; at least {AGREEMENT} is required, and more than the {chance:.2f} that latents without "
                "clusters reach"
            )
        return f"It is not reproduced when half of the particles are clustered ({reason})."

    def sentence(self) -> str:
        """Return the result in words."""
        own = self.ari[self.num_clusters]
        text = (
            f"Clusterings of disjoint halves of the latents agree with ARI {own:.2f} ({self.low:.2f} to "
            f"{self.high:.2f}) for {self.num_clusters} clusters"
        )
        if self.most_stable == self.num_clusters:
            return f"{text}, which is the most stable number."
        if self.ari[self.most_stable] <= own:
            return f"{text}; {self.most_stable} clusters agree as well (ARI {self.ari[self.most_stable]:.2f})."
        return f"{text}; the most stable number is {self.most_stable} (ARI {self.ari[self.most_stable]:.2f})."


def cluster_stability(
    latents: np.ndarray, labels: np.ndarray, num_clusters: int, method: str = "kmeans", seed: int = 0
) -> Stability | None:
    """Cluster disjoint halves of the latents, assign all particles by their neighbors, and compare.

    K-means divides any latents, and its clusters agree between halves to some extent: three clusters of a
    two-dimensional normal distribution have an agreement of 0.5. This chance is determined from isotropic normal
    latents of the same number, with as many dimensions as the latents effectively have (participation ratio of the
    variances, at least 2).

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

    rng = np.random.default_rng(seed)
    if len(latents) > MOST_PARTICLES:
        chosen = rng.choice(len(latents), MOST_PARTICLES, replace=False)
        latents, labels = latents[chosen], labels[chosen]
    if num_clusters < 2 or len(latents) < 4 * num_clusters:
        return None
    largest = min(num_clusters + 2, MOST_CLUSTERS, len(latents) // 4)
    ari: dict[int, list[float]] = {number: [] for number in sorted({*range(2, largest + 1), num_clusters})}
    jaccard, agreement = [], []
    for _ in range(REPEATS):
        halves = np.array_split(rng.permutation(len(latents)), 2)
        for number, values in ari.items():
            assigned = [_assigned(latents, half, number, method) for half in halves]
            values.append(float(adjusted_rand_score(*assigned)))
            if number == num_clusters:
                indices, shared = _memberships(labels, assigned, number)
                jaccard += indices
                agreement.append(shared)
    chance = []
    dimension = effective_dimension(latents)
    for _ in range(CONTROLS):
        control = rng.normal(size=(len(latents), dimension))
        clusters = cluster_latents(control, num_clusters, method=method).labels
        repeats = []
        for _ in range(REPEATS):
            halves = np.array_split(rng.permutation(len(control)), 2)
            assigned = [_assigned(control, half, num_clusters, method) for half in halves]
            repeats.append(_memberships(clusters, assigned, num_clusters)[1])
        chance.append(np.mean(repeats, 0))
    own = ari[num_clusters]
    return Stability(
        num_clusters,
        {number: float(np.mean(values)) for number, values in ari.items()},
        min(own),
        max(own),
        np.mean(jaccard, 0),
        np.mean(agreement, 0),
        np.concatenate(chance),
    )


def effective_dimension(latents: np.ndarray) -> int:
    """Return the participation ratio of the variances of latents (n, zdim), rounded up, and at least 2."""
    variances = np.linalg.eigvalsh(np.atleast_2d(np.cov(latents.T)))
    total = float((variances**2).sum())
    return max(2, int(np.ceil(float(variances.sum()) ** 2 / total))) if total > 0 else 2


def _assigned(latents: np.ndarray, half: np.ndarray, number: int, method: str) -> np.ndarray:
    """Cluster the particles of a half and return the clusters (n,) of all particles by their three neighbors."""
    from sklearn.neighbors import KNeighborsClassifier

    fitted = cluster_latents(latents[half], number, method=method).labels
    return np.asarray(KNeighborsClassifier(3).fit(latents[half], fitted).predict(latents))


def _memberships(labels: np.ndarray, assigned: list[np.ndarray], number: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Return the Jaccard indices (K,) of given clusters in each half, and the agreement (K,) of both halves."""
    from sklearn.metrics import adjusted_rand_score

    overlap = [_jaccard(labels, found, number) for found in assigned]
    matches = [values.argmax(1) for values in overlap]
    agreement = [adjusted_rand_score(assigned[0] == one, assigned[1] == two) for one, two in zip(*matches, strict=True)]
    return [values.max(1) for values in overlap], np.array(agreement)


def _jaccard(labels: np.ndarray, found: np.ndarray, number: int) -> np.ndarray:
    """Return the Jaccard index (K, K) of each cluster of `labels` with each cluster of `found`."""
    given = labels == np.arange(number)[:, None]
    other = found == np.arange(number)[:, None]
    both = (given[:, None] & other).sum(-1)
    either = (given[:, None] | other).sum(-1)
    return np.asarray(both / np.maximum(either, 1))
