"""k-means classes of latents, represented by real particles and numbered so that neighbours look alike."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from opustomo.errors import UserError


@dataclass(frozen=True)
class Clusters:
    """K classes of N particles.

    Attributes
    ----------
    labels
        Class of each particle, shape (N,), int64, 0 … K - 1.
    centers
        Latent of the particle that represents each class, shape (K, zdim).
    center_indices
        That particle's index, shape (K,), int64.
    """

    labels: np.ndarray
    centers: np.ndarray
    center_indices: np.ndarray

    def __len__(self) -> int:
        return len(self.centers)

    @property
    def sizes(self) -> np.ndarray:
        """Particles per class, shape (K,)."""
        return np.bincount(self.labels, minlength=len(self))


def cluster_latents(latents: np.ndarray, num_clusters: int, seed: int = 0) -> Clusters:
    """k-means; centres are replaced by their nearest particles, classes ordered along a tree of the centres.

    The nearest particle is sought among the members of the class, so that a class is always represented by
    one of its own. The order is that of the leaves of an average-linkage tree of the centres; the centres
    enter the tree sorted, so that the numbers do not depend on the order in which k-means happened to find
    them.

    Parameters
    ----------
    latents
        Shape (N, zdim), finite.
    num_clusters
        K; with fewer than K distinct latents some classes stay empty (their centre is the nearest particle of
        all).
    seed
        Random state of k-means.

    Raises
    ------
    UserError
        K is not between 1 and N.
    """
    if num_clusters < 1:
        raise UserError(f"The number of clusters is {num_clusters}; give 1 or more.")
    if num_clusters > len(latents):
        raise UserError(
            f"{num_clusters} clusters were asked for but there are only {len(latents)} particles; ask for fewer."
        )
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    values = latents.astype(np.float64)
    with warnings.catch_warnings():
        # Fewer distinct latents than classes: told to the user in words by the caller, see `Clusters.sizes`.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = KMeans(num_clusters, n_init=10, random_state=seed).fit(values)
    labels = model.labels_.astype(np.int64)
    nearest = np.array([_nearest(values, labels, model.cluster_centers_[i], i) for i in range(num_clusters)])
    order = tree_order(values[nearest])
    rank = np.empty(num_clusters, dtype=np.int64)
    rank[order] = np.arange(num_clusters)
    return Clusters(rank[labels], latents[nearest[order]], nearest[order].astype(np.int64))


def tree_order(centers: np.ndarray) -> np.ndarray:
    """Leaf order (K,) of the average-linkage tree of centres (K, zdim)."""
    if len(centers) < 2:
        return np.arange(len(centers))
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import pdist

    first = np.lexsort(centers.T[::-1])
    return first[leaves_list(linkage(pdist(centers[first]), method="average"))]


def _nearest(values: np.ndarray, labels: np.ndarray, center: np.ndarray, cluster: int) -> int:
    members = np.flatnonzero(labels == cluster)
    if len(members) == 0:
        members = np.arange(len(values))
    return int(members[((values[members] - center) ** 2).sum(axis=1).argmin()])
