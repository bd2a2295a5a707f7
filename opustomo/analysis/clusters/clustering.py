"""Clusters of latents by k-means or a Gaussian mixture, their labels, and STAR files of their particles.

Cluster numbers are reproducible."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from opustomo.analysis.latents.dimension_reduction import PrincipalComponents, fit_pca
from opustomo.errors import UserError

if TYPE_CHECKING:
    from sklearn.mixture import GaussianMixture


@dataclass(frozen=True)
class LatentMixture:
    """Gaussian mixture in the scaled principal components of the latents.

    Attributes
    ----------
    model
        Fitted mixture.
    pca
        Principal components of the latents.
    widths
        Scale of each component, shape (zdim,).
    """

    model: GaussianMixture
    pca: PrincipalComponents
    widths: np.ndarray

    @property
    def centers(self) -> np.ndarray:
        """Means of the Gaussians in latent space, shape (K, zdim)."""
        return self.pca.latents(self.model.means_ * self.widths)

    def predict(self, latents: np.ndarray) -> np.ndarray:
        """Return the most probable Gaussian of each latent, shape (N,), int64."""
        return self.model.predict(self._scores(latents)).astype(np.int64)

    def log_likelihood(self, latents: np.ndarray) -> float:
        """Return the mean log-likelihood of latents (N, zdim)."""
        return float(self.model.score(self._scores(latents)) - np.log(self.widths).sum())

    def bic(self, latents: np.ndarray) -> float:
        """Return the Bayesian information criterion for latents (N, zdim); lower is better."""
        scores = self._scores(latents)
        return float(self.model.bic(scores) + 2 * len(scores) * np.log(self.widths).sum())

    def _scores(self, latents: np.ndarray) -> np.ndarray:
        return self.pca.scores(latents) / self.widths


def fit_mixture(latents: np.ndarray, number: int, seed: int) -> LatentMixture:
    """Fit a Gaussian mixture.

    The covariances are full if there are on average at least five particles per parameter in each cluster, and
    diagonal otherwise. EM converges to a local optimum near its k-means initialization. K-means on unscaled axes splits
    elongated clusters, and k-means on whitened axes may split others. Both are run, and the solution of higher
    likelihood is returned.

    Parameters
    ----------
    latents
        Latents, shape (N, zdim), float64.
    number
        Number of Gaussians, K.
    seed
        Random seed.
    """
    from sklearn.mixture import GaussianMixture

    dimension = latents.shape[1]
    parameters = dimension * (dimension + 3) / 2
    covariance_type = "full" if len(latents) >= 5 * parameters * number else "diag"
    pca = fit_pca(latents)
    scale = float(np.sqrt(pca.variance.max())) or 1.0
    axis_scalings = [np.full(dimension, scale)]
    if pca.variance.min() > 1e-6 * pca.variance.max():
        axis_scalings.append(np.sqrt(pca.variance))
    fits = []
    for widths in axis_scalings:
        model = GaussianMixture(
            number, covariance_type=covariance_type, reg_covar=1e-4, max_iter=500, random_state=seed
        ).fit(pca.scores(latents) / widths)
        fits.append(LatentMixture(model, pca, widths))
    return max(fits, key=lambda fit: fit.log_likelihood(latents))


METHODS = {"kmeans": "k-means", "gmm": "Gaussian mixture", "hdbscan": "HDBSCAN"}
"""Clustering methods: folder name prefix and display name."""


@dataclass(frozen=True)
class Clustering:
    """Clustering method and number of clusters.

    Attributes
    ----------
    number
        Number of clusters, K; None if it is chosen from the data, which HDBSCAN always does.
    method
        One of `METHODS`.
    max_number
        Largest number of clusters that is tried if `number` is None.
    min_cluster_size
        Particles of the smallest cluster of HDBSCAN; None for the default.
    """

    number: int | None
    method: str = "kmeans"
    max_number: int = 20
    min_cluster_size: int | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"unknown clustering method {self.method!r}")

    @classmethod
    def of_folder(cls, name: str) -> Clustering:
        """Return the clustering of an output folder, for example ``kmeans20``."""
        method = name.rstrip("0123456789")
        return cls(int(name.removeprefix(method)), method)

    @property
    def folder(self) -> str:
        """Name of the output folder within an analysis, for example ``kmeans20``."""
        if self.number is None:
            raise ValueError("the number of clusters has not been chosen yet")
        return f"{self.method}{self.number}"

    @property
    def title(self) -> str:
        """Display name of the method."""
        return METHODS[self.method]


@dataclass(frozen=True)
class Clusters:
    """Assignment of N particles to K clusters.

    Attributes
    ----------
    labels
        Cluster of each particle, shape (N,), int64, from 0 to K - 1; K for particles that are excluded from a later
        round or belong to no cluster.
    centers
        Latent of the representative particle of each cluster, shape (K, zdim).
    center_indices
        Index of each representative particle, shape (K,), int64.
    """

    labels: np.ndarray
    centers: np.ndarray
    center_indices: np.ndarray

    def __len__(self) -> int:
        return len(self.centers)

    @property
    def sizes(self) -> np.ndarray:
        """Number of particles in each cluster, shape (K,)."""
        return np.bincount(self.labels, minlength=len(self))[: len(self)]

    @property
    def unassigned(self) -> int:
        """Number of particles that belong to no cluster."""
        return int((self.labels == len(self)).sum())


def cluster_latents(latents: np.ndarray, num_clusters: int, seed: int = 0, method: str = "kmeans") -> Clusters:
    """Cluster latents and represent each cluster by the particle nearest to its center.

    The nearest particle is chosen among the members of the cluster. Clusters are numbered in the leaf order of an
    average-linkage tree of their centers, so neighboring numbers denote similar clusters. The centers are sorted
    before the tree is built, so the numbers do not depend on the initialization of k-means.

    Parameters
    ----------
    latents
        Latents, shape (N, zdim), finite.
    num_clusters
        Number of clusters, K. With fewer than K distinct latents, some clusters are empty and are represented by the
        nearest of all particles.
    seed
        Random seed.
    method
        ``kmeans``, or ``gmm`` for a Gaussian mixture, whose clusters may differ in size and be elongated.
        Its covariances are full if there are on average at least five particles per parameter in each cluster,
        and diagonal otherwise.

    Raises
    ------
    UserError
        If K is not between 1 and N.
    """
    if num_clusters < 1:
        raise UserError(f"The number of clusters is {num_clusters}, but it must be at least 1.")
    if num_clusters > len(latents):
        raise UserError(
            f"{num_clusters} clusters were requested, but there are only {len(latents)} particles. "
            "Request fewer clusters."
        )
    from sklearn.exceptions import ConvergenceWarning

    values = latents.astype(np.float64)
    with warnings.catch_warnings():
        # The caller reports empty clusters (fewer distinct latents than clusters), see `Clusters.sizes`.
        warnings.simplefilter("ignore", ConvergenceWarning)
        labels, centers = {"kmeans": _k_means, "gmm": _gaussian_mixture}[method](values, num_clusters, seed)
    return numbered_clusters(latents, labels, centers)


def numbered_clusters(latents: np.ndarray, labels: np.ndarray, centers: np.ndarray) -> Clusters:
    """Number clusters along the tree of their representative particles; see `cluster_latents`.

    Parameters
    ----------
    latents
        Latents, shape (N, zdim).
    labels
        Cluster of each particle, shape (N,), int64; -1 for particles that belong to no cluster.
    centers
        Center of each cluster, shape (K, zdim), in the order of the labels.
    """
    values, num_clusters = latents.astype(np.float64), len(centers)
    nearest = np.array([_nearest(values, labels, centers[i], i) for i in range(num_clusters)])
    order = tree_order(values[nearest])
    rank = np.full(num_clusters + 1, num_clusters, dtype=np.int64)  # the last entry is that of label -1
    rank[order] = np.arange(num_clusters)
    return Clusters(rank[labels], latents[nearest[order]], nearest[order].astype(np.int64))


def tree_order(centers: np.ndarray) -> np.ndarray:
    """Return the leaf order (K,) of the average-linkage tree of cluster centers (K, zdim)."""
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
    mixture = fit_mixture(values, num_clusters, seed)
    return mixture.predict(values), mixture.centers


def _nearest(values: np.ndarray, labels: np.ndarray, center: np.ndarray, cluster: int) -> int:
    """Return the index of the member of `cluster` nearest to `center`, or of any particle if it has no members."""
    members = np.flatnonzero(labels == cluster)
    if len(members) == 0:
        members = np.arange(len(values))
    return int(members[((values[members] - center) ** 2).sum(axis=1).argmin()])
