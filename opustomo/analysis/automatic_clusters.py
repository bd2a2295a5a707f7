"""Clusters whose number is chosen from the data: HDBSCAN, or k-means and Gaussian mixtures with ``--k auto``."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from opustomo.analysis.cluster_number import Fit, NumberChoice, choose_number
from opustomo.analysis.clusters import Clustering, Clusters, cluster_latents, numbered_clusters
from opustomo.analysis.density_clusters import density_clusters
from opustomo.analysis.mixture import fit_mixture


@dataclass(frozen=True)
class AutomaticClusters:
    """Clusters with the number that was chosen, and messages for the user.

    Attributes
    ----------
    clustering
        Clustering method and chosen number of clusters.
    clusters
        The clusters.
    choice
        Scores of the numbers that were tried; None for HDBSCAN.
    messages
        Sentences that state why this number was chosen and how many particles belong to no cluster.
    """

    clustering: Clustering
    clusters: Clusters
    choice: NumberChoice | None
    messages: tuple[str, ...]


def automatic_clusters(latents: np.ndarray, clustering: Clustering) -> AutomaticClusters:
    """Cluster latents (N, zdim) and choose the number of clusters; ``clustering.number`` is ignored.

    Raises
    ------
    UserError
        If the size of the smallest cluster is not possible.
    """
    if clustering.method == "hdbscan":
        return _by_density(latents, clustering)
    choice = choose_number(latents, _mixture_fit if clustering.method == "gmm" else _kmeans_fit, clustering.max_number)
    chosen = replace(clustering, number=choice.chosen)
    clusters = cluster_latents(latents, choice.chosen, method=clustering.method)
    return AutomaticClusters(chosen, clusters, choice, (choice.reason,))


def _by_density(latents: np.ndarray, clustering: Clustering) -> AutomaticClusters:
    found = density_clusters(latents, clustering.min_cluster_size)
    labels, number = found.labels, len(found)
    values = latents.astype(np.float64)
    centers = np.array([values[labels == cluster].mean(axis=0) for cluster in range(number)])
    clusters = numbered_clusters(latents, labels, centers)
    messages = []
    if len(found.stability):
        plural = "cluster" if number == 1 else "clusters"
        messages.append(f"{number} {plural} of at least {clusters.sizes.min():,} particles.")
    else:
        messages.append("no separate regions of high density were found, so all particles form one cluster.")
    if found.dropped:
        messages.append(
            f"{found.dropped} of the clusters found by HDBSCAN are not found again in random subsets and were dropped."
        )
    if clusters.unassigned:
        messages.append(
            f"{clusters.unassigned:,} particles lie between clusters or far from all; they belong to no cluster and "
            f"have the label {number}."
        )
    return AutomaticClusters(replace(clustering, number=number), clusters, None, tuple(messages))


def _kmeans_fit(values: np.ndarray, number: int) -> Fit:
    from sklearn.cluster import KMeans

    model = KMeans(number, n_init=5, random_state=0).fit(values)
    return Fit(model.predict, float("nan"))


def _mixture_fit(values: np.ndarray, number: int) -> Fit:
    model = fit_mixture(values, number, seed=0)
    return Fit(model.predict, model.bic(values))
