"""Classes of latents, represented by real particles and numbered so that neighbours look alike."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from opustomo.analysis.pca import fit_pca
from opustomo.errors import UserError

METHODS = {"kmeans": "k-means", "gmm": "Gaussian mixture"}
"""Ways to find classes: the start of their folder's name, and their name in figures."""


@dataclass(frozen=True)
class Clustering:
    """How latents are divided.

    Attributes
    ----------
    number
        Number of classes, K.
    method
        One of `METHODS`.
    """

    number: int
    method: str = "kmeans"

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method {self.method!r}")

    @property
    def folder(self) -> str:
        """Name of the folder of its files within an analysis, ``kmeans20`` say."""
        return f"{self.method}{self.number}"

    @property
    def title(self) -> str:
        """Name for people."""
        return METHODS[self.method]


@dataclass(frozen=True)
class Clusters:
    """K classes of N particles.

    Attributes
    ----------
    labels
        Class of each particle, shape (N,), int64, 0 … K - 1; K for particles that a later round leaves out.
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
        return np.bincount(self.labels, minlength=len(self))[: len(self)]


def cluster_latents(latents: np.ndarray, num_clusters: int, seed: int = 0, method: str = "kmeans") -> Clusters:
    """Divide latents; centres are replaced by their nearest particles, classes ordered along a tree of the centres.

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
        Random state.
    method
        ``kmeans``, or ``gmm`` for a mixture of Gaussians, whose classes may differ in size and be longish.
        Its covariances are full where every class has at least five particles per parameter on average,
        else diagonal.

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
    from sklearn.exceptions import ConvergenceWarning

    values = latents.astype(np.float64)
    with warnings.catch_warnings():
        # Fewer distinct latents than classes: told to the user in words by the caller, see `Clusters.sizes`.
        warnings.simplefilter("ignore", ConvergenceWarning)
        labels, centers = {"kmeans": _k_means, "gmm": _gaussian_mixture}[method](values, num_clusters, seed)
    nearest = np.array([_nearest(values, labels, centers[i], i) for i in range(num_clusters)])
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


def _k_means(values: np.ndarray, num_clusters: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.cluster import KMeans

    model = KMeans(num_clusters, n_init=10, random_state=seed).fit(values)
    return model.labels_.astype(np.int64), model.cluster_centers_


def _gaussian_mixture(values: np.ndarray, num_clusters: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.mixture import GaussianMixture

    dimension = values.shape[1]
    parameters = dimension * (dimension + 3) / 2
    shape = "full" if len(values) >= 5 * parameters * num_clusters else "diag"
    pca = fit_pca(values)
    scale = float(np.sqrt(pca.variance.max())) or 1.0
    # EM stays near its start, a k-means. With the axes as they are k-means cuts long classes; with all axes made
    # equally long it may cut others. The likelier end counts.
    spaces = [np.full(dimension, scale)]
    if pca.variance.min() > 1e-6 * pca.variance.max():
        spaces.append(np.sqrt(pca.variance))
    ends = []
    for widths in spaces:
        scores = pca.scores(values) / widths
        model = GaussianMixture(
            num_clusters, covariance_type=shape, reg_covar=1e-4, max_iter=500, random_state=seed
        ).fit(scores)
        likelihood = model.score(scores) - np.log(widths).sum()
        ends.append((likelihood, model.predict(scores).astype(np.int64), pca.latents(model.means_ * widths)))
    _, labels, centers = max(ends, key=lambda end: end[0])
    return labels, centers


def _nearest(values: np.ndarray, labels: np.ndarray, center: np.ndarray, cluster: int) -> int:
    members = np.flatnonzero(labels == cluster)
    if len(members) == 0:
        members = np.arange(len(values))
    return int(members[((values[members] - center) ** 2).sum(axis=1).argmin()])
