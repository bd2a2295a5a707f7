"""Choice of the number of clusters from the data: HDBSCAN, or k-means and Gaussian mixtures with ``--k auto``.

The latter use the Bayesian information criterion and the stability over resamplings. K-means of coordinates, whose
errors are known, also needs gaps between its clusters, because halves of a populous state are stable as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from opustomo.analysis.clusters.clustering import Clustering, Clusters, cluster_latents, fit_mixture, numbered_clusters
from opustomo.analysis.clusters.hdbscan_clusters import jaccard_with_best
from opustomo.analysis.clusters.nested_clusters import are_separated, components_to_cluster, nested_clusters
from opustomo.io.atomic import atomic_path, write_figure
from opustomo.io.progress_bar import hidden_progress, progress

STABLE = 0.75
"""Smallest stability of valid clusters; see Hennig (2007), doi:10.1016/j.csda.2006.11.025."""
LEAST_IN_HALF = 5
"""Least number of particles of each cluster that a random half has on average; with fewer, stability has no meaning."""
SMALLEST_CLUSTER = 2 * LEAST_IN_HALF
"""Least number of particles in each cluster of k-means."""
RESAMPLINGS = 5
SAMPLE_LIMIT = 20_000
"""Largest number of particles from which the number of clusters is chosen."""
DENSITY_LIMIT = 5_000
"""Largest number of particles whose clusters are compared with those of HDBSCAN."""
SIMILAR = 0.9
"""Least adjusted Rand index with clusters of HDBSCAN of which nothing is said."""


@dataclass(frozen=True)
class Fit:
    """Clustering of some particles that also labels others.

    Attributes
    ----------
    predict
        Function from latents (N, zdim) to labels (N,).
    bic
        Bayesian information criterion of the fitted particles; NaN for a method without likelihood.
    """

    predict: Callable[[np.ndarray], np.ndarray]
    bic: float


@dataclass(frozen=True)
class NumberChoice:
    """Scores of different numbers of clusters.

    Attributes
    ----------
    numbers
        Numbers of clusters, shape (M,).
    bic
        Bayesian information criterion, shape (M,); lower is better; NaN for k-means.
    stability
        Stability of the least stable cluster, shape (M,): its mean Jaccard index with the most similar cluster of
        random halves of the particles.
    chosen
        Chosen number of clusters.
    separated
        Whether the clusters are separated by gaps, shape (M,); None if this was not examined.
    """

    numbers: np.ndarray
    bic: np.ndarray
    stability: np.ndarray
    chosen: int
    separated: np.ndarray | None = None

    @property
    def reason(self) -> str:
        """Sentence that states why the number was chosen."""
        at = int(np.flatnonzero(self.numbers == self.chosen)[0])
        stable = f"all clusters are stable (Jaccard index at least {STABLE:g})"
        if self.chosen == 1:
            small = f" or has fewer than {SMALLEST_CLUSTER} particles" if np.isnan(self.bic[at]) else ""
            return f"{self.chosen} cluster, because with more clusters at least one is not stable{small}."
        if np.isnan(self.bic[at]):
            size = f"have at least {SMALLEST_CLUSTER} particles"
            if self.separated is not None and not self.separated[at]:
                return (
                    f"{self.chosen} clusters, the largest number with which {stable} and {size}, but no number gives "
                    "clusters with gaps between them: the population is continuous, and any number is a matter of "
                    "convenience."
                )
            size += " and are separated by gaps" if self.separated is not None else ""
            return f"{self.chosen} clusters, the largest number with which {stable} and {size}."
        return f"{self.chosen} clusters, the number of lowest BIC with which {stable}."


def choose_number(
    latents: np.ndarray,
    fit: Callable[[np.ndarray, int], Fit],
    max_number: int,
    seed: int = 0,
    separated: Callable[[np.ndarray, np.ndarray], bool] | None = None,
    name: str = "",
) -> NumberChoice:
    """Choose the number of clusters.

    For every number, the particles are clustered, and again random halves of them. The stability of a cluster is its
    mean Jaccard index with the most similar cluster of a half. Among the numbers with which all clusters are stable,
    the one of lowest BIC is chosen for a mixture model. For a method without likelihood, it is the largest one with
    which every cluster has at least `SMALLEST_CLUSTER` particles, and with which the clusters are separated, if any is.

    Parameters
    ----------
    latents
        Latents, shape (N, zdim). Of more than `SAMPLE_LIMIT` particles, a random sample is used.
    fit
        Function that divides latents into a number of clusters.
    max_number
        Largest number of clusters that is tried.
    seed
        Random seed of samples and halves.
    separated
        Function that returns whether the clusters (N,) of latents (N, zdim) are separated; None not to examine this.
    name
        Name of the latents in the progress bar.
    """
    rng = np.random.default_rng(seed)
    values = latents.astype(np.float64)
    if len(values) > SAMPLE_LIMIT:
        values = values[np.sort(rng.choice(len(values), SAMPLE_LIMIT, replace=False))]
    half = max(len(values) // 2, 1)
    halves = [np.sort(rng.choice(len(values), half, replace=False)) for _ in range(RESAMPLINGS)]
    numbers = np.arange(1, max(1, min(max_number, half // LEAST_IN_HALF)) + 1)
    bic, stability = np.full(len(numbers), np.nan), np.ones(len(numbers))
    smallest, apart = np.full(len(numbers), len(latents)), np.zeros(len(numbers), dtype=bool)
    with progress(len(numbers), f"{name}: numbers of clusters tried".removeprefix(": ")) as advance:
        for at, number in enumerate(numbers):
            whole = fit(values, int(number))
            bic[at] = whole.bic
            if number > 1:
                labels = whole.predict(values)
                members = np.bincount(labels[labels >= 0], minlength=number)
                smallest[at] = members.min() * len(latents) // len(values)
                indices = [jaccard_with_best(labels, fit(values[part], int(number)).predict(values)) for part in halves]
                stability[at] = np.mean(indices, axis=0).min()
                apart[at] = separated is not None and stability[at] >= STABLE and separated(values, labels)
            advance(1)
    stable = stability >= STABLE
    if np.isnan(bic).any():
        possible = stable & ((smallest >= SMALLEST_CLUSTER) | (numbers == 1))
        best = np.flatnonzero(possible & apart if (possible & apart).any() else possible)[-1]
    else:
        best = np.flatnonzero(stable)[bic[stable].argmin()]
    return NumberChoice(numbers, bic, stability, int(numbers[best]), None if separated is None else apart)


def write_number_choice(path: Path, choice: NumberChoice, title: str) -> None:
    """Write the scores to ``{path}.csv`` and draw them in ``{path}.png``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    rows = zip(choice.numbers, choice.bic, choice.stability, strict=True)
    lines = [f"{k},{'' if np.isnan(bic) else f'{bic:.1f}'},{stability:.4f}" for k, bic, stability in rows]
    with atomic_path(path.with_name(f"{path.name}.csv")) as partial:
        partial.write_text("\n".join(["clusters,bic,smallest_stability", *lines]) + "\n")
    panels = [("smallest stability of a cluster", choice.stability)]
    if not np.isnan(choice.bic).any():
        panels.insert(0, ("BIC (lower is better)", choice.bic))
    figure = Figure(figsize=(4.6 * len(panels), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (label, values) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        axes.plot(choice.numbers, values, ".-", color="tab:blue")
        axes.axvline(choice.chosen, color="tab:orange", lw=1.2, label=f"chosen: {choice.chosen}")
        if values is choice.stability:
            axes.axhline(STABLE, color="0.5", lw=1, ls="--", label=f"required: {STABLE:g}")
            axes.set_ylim(0, 1.05)
        axes.set(xlabel="number of clusters", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    figure.suptitle(f"{title}: number of clusters", fontsize=11)
    write_figure(path.with_name(f"{path.name}.png"), figure, 130)


@dataclass(frozen=True)
class FoundClusters:
    """Clusters, and what the user is told about their number.

    Attributes
    ----------
    clustering
        Clustering method and number of clusters, which may have been chosen from the data.
    clusters
        The clusters.
    choice
        Scores of the numbers that were tried; None for HDBSCAN and for a number that was given.
    messages
        Sentences that state why this number was chosen and how many particles belong to no cluster.
    """

    clustering: Clustering
    clusters: Clusters
    choice: NumberChoice | None = None
    messages: tuple[str, ...] = ()


def find_clusters(
    latents: np.ndarray, clustering: Clustering, coordinates: np.ndarray | None = None, name: str = ""
) -> FoundClusters:
    """Cluster particles with the given number of clusters, or choose the number from the data.

    Parameters
    ----------
    latents
        Latents, shape (N, zdim).
    clustering
        Clustering method and number of clusters. HDBSCAN ignores the number.
    coordinates
        Coordinates of the compositions in units of their standard errors, shape (N, K), with NaN for particles without
        coordinates. If they are given, they are clustered instead of the latents, whose posterior means gather at
        points.
    name
        Name of the latents in the progress bar.

    Raises
    ------
    UserError
        If the number of clusters or the size of the smallest cluster is not possible.
    """
    known = np.ones(len(latents), dtype=bool) if coordinates is None else np.isfinite(coordinates).all(axis=1)
    values = (latents if coordinates is None else coordinates)[known].astype(np.float64)
    if clustering.method == "hdbscan":
        found = _by_density(values, clustering, standardized=coordinates is not None)
    else:
        if coordinates is not None:
            values = components_to_cluster(values)
        found = _by_centers(values, clustering, coordinates is not None, name)
    if coordinates is None:
        return found
    number = len(found.clusters)
    labels = np.full(len(latents), number, dtype=np.int64)
    labels[known] = found.clusters.labels
    indices = np.flatnonzero(known)[found.clusters.center_indices]
    messages = found.messages
    if found.choice is not None:
        messages = (*messages, *_density_message(coordinates[known].astype(np.float64), found.clusters.labels))
    if not known.all():
        missing = f"{(~known).sum():,} particles were not read in training; they have the label {number}."
        messages = (*messages, missing)
    return replace(found, clusters=Clusters(labels, latents[indices], indices), messages=messages)


def _by_centers(values: np.ndarray, clustering: Clustering, standardized: bool, name: str) -> FoundClusters:
    if clustering.number is not None:
        return FoundClusters(clustering, cluster_latents(values, clustering.number, method=clustering.method))
    if clustering.method == "gmm":
        choice = choose_number(values, _mixture_fit, clustering.max_number, name=name)
    else:
        separated = are_separated if standardized else None
        choice = choose_number(values, _kmeans_fit, clustering.max_number, separated=separated, name=name)
    clusters = cluster_latents(values, choice.chosen, method=clustering.method)
    return FoundClusters(replace(clustering, number=choice.chosen), clusters, choice, (choice.reason,))


def _density_message(coordinates: np.ndarray, labels: np.ndarray) -> list[str]:
    """Return a sentence on HDBSCAN if it divides coordinates (N, K) with unit errors otherwise than labels (N,)."""
    from sklearn.metrics import adjusted_rand_score

    count = len(coordinates)
    sample = np.arange(count)
    if count > DENSITY_LIMIT:
        sample = np.sort(np.random.default_rng(0).choice(count, DENSITY_LIMIT, replace=False))
    with hidden_progress():
        found = nested_clusters(coordinates[sample], None, standardized=True)
    agreement = adjusted_rand_score(labels[sample], found.labels)
    if not len(found.stability) or (len(found) <= labels.max() + 1 and agreement >= SIMILAR):
        return []
    least = np.bincount(found.labels[found.labels >= 0]).min() * count // len(sample)
    return [
        f"HDBSCAN finds {len(found)} clusters in the same coordinates, the smallest with about {least:,} particles "
        f"(adjusted Rand index {agreement:.2f} with these). Rare states may be merged here, or populous ones divided; "
        "compare with --cluster hdbscan."
    ]


def _by_density(values: np.ndarray, clustering: Clustering, standardized: bool) -> FoundClusters:
    found = nested_clusters(values, clustering.min_cluster_size, standardized)
    labels, number = found.labels, len(found)
    centers = np.array([values[labels == cluster].mean(axis=0) for cluster in range(number)])
    clusters = numbered_clusters(values, labels, centers)
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
    return FoundClusters(replace(clustering, number=number), clusters, None, tuple(messages))


def _kmeans_fit(values: np.ndarray, number: int) -> Fit:
    from sklearn.cluster import KMeans

    model = KMeans(number, n_init=5, random_state=0).fit(values)
    return Fit(model.predict, float("nan"))


def _mixture_fit(values: np.ndarray, number: int) -> Fit:
    model = fit_mixture(values, number, seed=0)
    return Fit(model.predict, model.bic(values))
