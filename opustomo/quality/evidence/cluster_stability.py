"""Stability of clusters: agreement of clusterings that are fitted to disjoint halves of the latents."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from opustomo.analysis.clusters.clustering import cluster_latents
from opustomo.analysis.clusters.hdbscan_clusters import default_min_cluster_size
from opustomo.analysis.clusters.nested_clusters import components_to_cluster, nested_clusters
from opustomo.io.progress_bar import hidden_progress, progress

REPEATS = 4
CONTROLS = 19
"""Number of sets of latents without clusters from which the agreement by chance is determined."""
MOST_CLUSTERS = 12
MOST_PARTICLES = {"kmeans": 1000, "gmm": 1000, "hdbscan": 3000}
"""Largest number of particles that are used; more for HDBSCAN, so that rare states keep enough particles."""
DISSOLVED = 0.5
"""Jaccard index up to which a cluster is said to dissolve (Hennig 2007)."""
AGREEMENT = 0.5
"""Least adjusted Rand index between the memberships of a class in clusterings of disjoint halves."""
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class ClusteredValues:
    """Values in which particles were clustered, and the method.

    Attributes
    ----------
    values
        Latents or coordinates of all particles, shape (N, C), with NaN for particles that were not clustered.
    method
        ``kmeans``, ``gmm`` or ``hdbscan``.
    standardized
        Whether these are likelihood coordinates, whose standard errors are 1, rather than latents.
    """

    values: np.ndarray
    method: str = "kmeans"
    standardized: bool = False


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
        Agreement of clusters of latents without clusters, in any order; 0 where none are found.
    source
        What was clustered, ``latents`` or ``coordinates``.
    found
        Least and largest number of clusters of HDBSCAN in a half; None for methods with a given number.
    """

    num_clusters: int
    ari: dict[int, float]
    low: float
    high: float
    jaccard: np.ndarray
    agreement: np.ndarray
    chance: np.ndarray = field(repr=False)
    source: str = "latents"
    found: tuple[int, int] | None = None

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
                f"{halves}; at least {AGREEMENT} is required, and more than the {chance:.2f} that {self.source} "
                "without clusters reach"
            )
        return f"It is not reproduced when half of the particles are clustered ({reason})."

    def sentence(self) -> str:
        """Return the result in words."""
        own = self.ari[self.num_clusters]
        if self.found is not None:
            low, high = self.found
            number = f"{low}" if low == high else f"{low} to {high}"
            return (
                f"HDBSCAN of disjoint halves of the {self.source} agrees with ARI {own:.2f} ({self.low:.2f} to "
                f"{self.high:.2f}) and finds {number} clusters, compared with {self.num_clusters} in all particles."
            )
        text = (
            f"Clusterings of disjoint halves of the {self.source} agree with ARI {own:.2f} ({self.low:.2f} to "
            f"{self.high:.2f}) for {self.num_clusters} clusters"
        )
        if self.most_stable == self.num_clusters:
            return f"{text}, which is the most stable number."
        if self.ari[self.most_stable] <= own:
            return f"{text}; {self.most_stable} clusters agree as well (ARI {self.ari[self.most_stable]:.2f})."
        return f"{text}; the most stable number is {self.most_stable} (ARI {self.ari[self.most_stable]:.2f})."


def cluster_stability(
    clustered: ClusteredValues, labels: np.ndarray, num_clusters: int, seed: int = 0
) -> Stability | None:
    """Cluster disjoint halves of the particles as all were clustered, assign all by their neighbors, and compare.

    K-means divides any latents, and its clusters agree between halves to some extent: three clusters of a
    two-dimensional normal distribution have an agreement of 0.5. This chance is determined from isotropic normal
    latents of the same number and variance, with as many dimensions as the latents effectively have (participation
    ratio of the variances, at least 2). HDBSCAN finds no clusters in most of them, which counts as no agreement.

    Parameters
    ----------
    clustered
        Latents or coordinates of all particles, (N, C), and the method of the clusters.
    labels
        Clusters to validate, (N,). Labels of `num_clusters` denote particles in no cluster.
    num_clusters
        Number of clusters, K. Unless HDBSCAN chooses it, numbers from 2 to K + 2 (at most 12) are compared with it.
    seed
        Random seed.

    Returns
    -------
    Stability or None
        None for fewer than two clusters or too few particles.
    """
    from sklearn.metrics import adjusted_rand_score

    rng = np.random.default_rng(seed)
    known = np.flatnonzero(np.isfinite(clustered.values).all(axis=1))
    most = MOST_PARTICLES[clustered.method]
    if len(known) > most:
        known = rng.choice(known, most, replace=False)
    values, labels = clustered.values[known], np.where(labels[known] < num_clusters, labels[known], -1)
    if num_clusters < 2 or len(values) < 4 * num_clusters:
        return None
    by_density = clustered.method == "hdbscan"
    if clustered.standardized and not by_density:
        values = components_to_cluster(values)
    divide = _Division(clustered.method, clustered.standardized, np.bincount(labels[labels >= 0]))
    largest = min(num_clusters + 2, MOST_CLUSTERS, len(values) // 4)
    tried = {num_clusters} if by_density else {*range(2, largest + 1), num_clusters}
    ari: dict[int, list[float]] = {number: [] for number in sorted(tried)}
    jaccard, agreement, found = [], [], []
    chance = []
    dimension = effective_dimension(values)
    scale = float(np.sqrt(values.var(axis=0).sum() / dimension)) or 1.0
    with progress(REPEATS + CONTROLS, "stability of the classification, repeats and controls") as advance:
        for _ in range(REPEATS):
            halves = np.array_split(rng.permutation(len(values)), 2)
            for number, agreements in ari.items():
                assigned = [divide.assigned(values, half, number) for half in halves]
                empty = min(int(part.max()) for part in assigned) < 0
                agreements.append(0.0 if empty else float(adjusted_rand_score(*assigned)))
                if number == num_clusters:
                    indices, shared = _memberships(labels, assigned, number)
                    jaccard += indices
                    agreement.append(shared)
                    found += [int(part.max()) + 1 for part in assigned]
            advance(1)
        for _ in range(CONTROLS):
            control = scale * rng.normal(size=(len(values), dimension))
            chance.append(_chance_agreement(control, divide, num_clusters, rng))
            advance(1)
    own = ari[num_clusters]
    return Stability(
        num_clusters,
        {number: float(np.mean(agreements)) for number, agreements in ari.items()},
        min(own),
        max(own),
        np.mean(jaccard, 0),
        np.mean(agreement, 0),
        np.concatenate(chance),
        "coordinates" if clustered.standardized else "latents",
        (min(found), max(found)) if by_density else None,
    )


def _chance_agreement(control: np.ndarray, divide: _Division, number: int, rng: np.random.Generator) -> np.ndarray:
    """Return the mean agreement (K,) of the clusters of latents without clusters; 0 if none are found."""
    clusters = divide.clusters(control, number)
    count = int(clusters.max()) + 1
    if not count:
        return np.zeros(1)
    repeats = []
    for _ in range(REPEATS):
        halves = np.array_split(rng.permutation(len(control)), 2)
        assigned = [divide.assigned(control, half, number) for half in halves]
        repeats.append(_memberships(clusters, assigned, count)[1])
    return np.asarray(np.mean(repeats, 0))


def effective_dimension(latents: np.ndarray) -> int:
    """Return the participation ratio of the variances of latents (n, zdim), rounded up, and at least 2."""
    variances = np.linalg.eigvalsh(np.atleast_2d(np.cov(latents.T)))
    total = float((variances**2).sum())
    return max(2, int(np.ceil(float(variances.sum()) ** 2 / total))) if total > 0 else 2


@dataclass(frozen=True)
class _Division:
    """Method that divides particles into clusters.

    Attributes
    ----------
    method, standardized
        See `ClusteredValues`.
    sizes
        Particles of each cluster to validate, shape (K,).
    """

    method: str
    standardized: bool
    sizes: np.ndarray

    def clusters(self, values: np.ndarray, number: int, fraction: float = 1.0) -> np.ndarray:
        """Return the clusters (n,) of values (n, C), a `fraction` of all; -1 in no cluster, or if none are found."""
        if self.method != "hdbscan":
            return cluster_latents(values, number, method=self.method).labels
        smallest = int(fraction * self.sizes[self.sizes > 0].min())
        size = max(2, min(default_min_cluster_size(len(values)), smallest))
        with hidden_progress():
            found = nested_clusters(values, size, self.standardized)
        return found.labels if len(found.stability) else np.full(len(values), -1)

    def assigned(self, values: np.ndarray, half: np.ndarray, number: int) -> np.ndarray:
        """Cluster the particles of a half and return the clusters (n,) of all particles by their three neighbors."""
        from sklearn.neighbors import KNeighborsClassifier

        fitted = self.clusters(values[half], number, len(half) / len(values))
        return np.asarray(KNeighborsClassifier(3).fit(values[half], fitted).predict(values))


def _memberships(labels: np.ndarray, assigned: list[np.ndarray], number: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Return the Jaccard indices (K,) of given clusters in each half, and the agreement (K,) of both halves."""
    from sklearn.metrics import adjusted_rand_score

    overlap = [_jaccard(labels, found, number) for found in assigned]
    matches = [values.argmax(1) for values in overlap]
    agreement = [adjusted_rand_score(assigned[0] == one, assigned[1] == two) for one, two in zip(*matches, strict=True)]
    if min(int(found.max()) for found in assigned) < 0:  # a half without clusters agrees with nothing
        agreement = [0.0] * number
    return [values.max(1) for values in overlap], np.array(agreement)


def _jaccard(labels: np.ndarray, found: np.ndarray, number: int) -> np.ndarray:
    """Return the Jaccard index (K, J) of each cluster of `labels` with each of the J clusters of `found`."""
    given = labels == np.arange(number)[:, None]
    other = found == np.arange(max(number, int(found.max()) + 1))[:, None]
    both = (given[:, None] & other).sum(-1)
    either = (given[:, None] | other).sum(-1)
    return np.asarray(both / np.maximum(either, 1))
