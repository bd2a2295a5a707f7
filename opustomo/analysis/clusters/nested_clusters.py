"""Clusters within clusters: states that differ little among each other and much from all other states.

HDBSCAN takes either a region of high density or the regions within it, whichever persists over more scales. Three
states that differ by a ligand form one cluster if other states are much farther away. Every cluster is therefore
clustered again by itself, until no cluster can be divided.

Clusters of one level are kept apart only if there is a gap between them. On the line between the nearest particles of
two clusters, the density in the gap must be lower than the density on both sides, by a binomial test. The line is
determined from one half of these particles and the other half is counted, so that noise in many dimensions produces no
gaps. Particles that belong to no cluster are counted as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from opustomo.analysis.clusters.hdbscan_clusters import (
    UNASSIGNED,
    DensityClusters,
    default_min_cluster_size,
    density_clusters,
    join_borders,
)

GAP_PROBABILITY = 0.005
"""Largest probability of a gap in continuous density, for two clusters that are kept apart; less for more clusters."""
STABLE, STABLE_GAP_PROBABILITY = 0.95, 0.02
"""Largest probability of a gap between two clusters of at least this stability, whatever the number of clusters."""
GAP_WIDTHS = 0.3, 0.5, 0.7, 0.85
"""Widths of gaps that are tried, relative to the distance between the medians of two clusters."""
SIDE_WIDTH = 0.3
"""Largest width of the intervals at both sides of a gap in which particles are counted."""
RESOLUTION = 3.0
"""Least distance of two clusters in standard errors; errors leave no gap between states that are nearer."""
NEAREST = 40
"""Largest number of particles of a cluster that are compared with its neighbor, so that the comparison is local."""
NEIGHBORS = 3
"""Number of nearest clusters with which each cluster is compared."""
LEAST_COMPONENTS = 3
"""Least number of components in which clusters are sought; in fewer, HDBSCAN breaks a cluster into many pieces."""
REPEATS = 3
POSITIONS = 41


def nested_clusters(values: np.ndarray, min_cluster_size: int | None, standardized: bool) -> DensityClusters:
    """Find clusters of high density, and clusters within them, that are separated by gaps.

    Parameters
    ----------
    values
        Coordinates of particles, shape (N, K), finite.
    min_cluster_size
        Particles of the smallest cluster; None for the default of :func:`density_clusters`.
    standardized
        Whether the standard error of every coordinate is 1. Only principal components that vary more than errors do are
        used in this case, for all particles and again within every cluster.

    Returns
    -------
    DensityClusters
        `stability` is that of the cluster among the clusters of its level. It is the lowest one if clusters without a
        gap were joined. `dropped` is the number of clusters at all levels that were not stable.

    Raises
    ------
    UserError
        If `min_cluster_size` is less than 2 or greater than the number of particles.
    """
    size = min(default_min_cluster_size(len(values)), len(values)) if min_cluster_size is None else min_cluster_size
    level = _divide(values.astype(np.float64), size, standardized)
    if not len(level.stability):
        return level
    labels, dropped = np.full(len(values), UNASSIGNED, dtype=np.int64), level.dropped
    stability: list[float] = []
    for cluster in range(len(level)):
        members = np.flatnonzero(level.labels == cluster)
        inner = DensityClusters(np.zeros(len(members), dtype=np.int64), np.zeros(0), 0)
        if len(members) >= 2 * size:
            inner = nested_clusters(values[members], size, standardized)
        inside = inner.labels >= 0
        labels[members[inside]] = inner.labels[inside] + len(stability)
        stability += list(inner.stability) if len(inner.stability) else [level.stability[cluster]]
        dropped += inner.dropped
    return DensityClusters(labels, np.array(stability), dropped)


def varying_components(coordinates: np.ndarray) -> np.ndarray:
    """Return the principal components of coordinates (N, K) with unit errors that vary more than errors, (N, C).

    The largest variance of a component of N errors in K dimensions is (1 + √(K/N))² (Marchenko and Pastur 1967). If any
    component varies more, at least `LEAST_COMPONENTS` are returned.
    """
    centered = coordinates - coordinates.mean(axis=0)
    left, singular, _ = np.linalg.svd(centered, full_matrices=False)
    varying = singular**2 / len(centered) > (1 + np.sqrt(centered.shape[1] / len(centered))) ** 2
    if varying.any():
        varying[:LEAST_COMPONENTS] = True
    return (left * singular)[:, varying]


def components_to_cluster(coordinates: np.ndarray) -> np.ndarray:
    """Return :func:`varying_components` of coordinates (N, K) with unit errors, or the coordinates if none varies."""
    if len(coordinates) < 2:
        return coordinates
    components = varying_components(coordinates)
    return components if components.shape[1] else coordinates


def are_separated(coordinates: np.ndarray, labels: np.ndarray) -> bool:
    """Return whether clusters (N,) of coordinates (N, K) with unit errors are far enough apart, with gaps between them.

    This is the condition under which :func:`nested_clusters` keeps clusters apart.
    """
    groups = [_Group(np.flatnonzero(labels == cluster), 0.0) for cluster in np.unique(labels)]
    return not _pairs_without_gap(coordinates, groups, np.zeros((0, coordinates.shape[1])), RESOLUTION)


@dataclass(frozen=True)
class _Group:
    """Members of a cluster, and its stability."""

    members: np.ndarray
    stability: float


def _divide(values: np.ndarray, size: int, standardized: bool) -> DensityClusters:
    """Find the clusters of one level, and join those without a gap between them."""
    whole = DensityClusters(np.zeros(len(values), dtype=np.int64), np.zeros(0), 0)
    if standardized and len(values) > 1:
        values = varying_components(values)
        if not values.shape[1]:
            return whole
    found = density_clusters(values, size)
    groups = [_Group(np.flatnonzero(found.labels == i), one) for i, one in enumerate(found.stability)]
    outside = values[found.labels == UNASSIGNED]
    count, resolution = len(groups), RESOLUTION if standardized else 0.0
    while len(groups) > 1 and (pairs := _pairs_without_gap(values, groups, outside, resolution)):
        groups = _joined(groups, pairs)
    if len(groups) < 2:
        return DensityClusters(whole.labels, whole.stability, found.dropped)
    labels = found.labels
    if len(groups) < count:
        labels = np.full(len(values), UNASSIGNED, dtype=np.int64)
        for number, group in enumerate(groups):
            labels[group.members] = number
        labels = join_borders(values, labels)
    return DensityClusters(labels, np.array([group.stability for group in groups]), found.dropped)


def _joined(groups: list[_Group], pairs: list[tuple[int, int]]) -> list[_Group]:
    """Join pairs in their order, each group once, so that a group grows before it is compared with farther ones."""
    joined: list[_Group] = []
    used: set[int] = set()
    for pair in pairs:
        if used.isdisjoint(pair):
            used |= set(pair)
            one, other = (groups[i] for i in pair)
            members = np.concatenate([one.members, other.members])
            joined.append(_Group(members, min(one.stability, other.stability)))
    return joined + [group for i, group in enumerate(groups) if i not in used]


def _pairs_without_gap(
    values: np.ndarray, groups: list[_Group], outside: np.ndarray, resolution: float
) -> list[tuple[int, int]]:
    """Return the pairs of neighboring groups closer than the resolution or without a gap, the nearest pair first."""
    from scipy.spatial import KDTree

    points = [values[group.members] for group in groups]
    trees = [KDTree(part) for part in points]
    centers = np.array([part.mean(axis=0) for part in points])
    distances = np.linalg.norm(centers[:, None] - centers[None], axis=2)
    nearest = np.argsort(distances, axis=1)[:, 1 : NEIGHBORS + 1]
    neighbors = {(min(i, int(j)), max(i, int(j))) for i in range(len(groups)) for j in nearest[i]}
    closest = np.argsort([tree.query(outside)[0] for tree in trees], axis=0)[:2]
    found = []
    for i, j in sorted(neighbors):
        count = min(len(points[i]), len(points[j]), NEAREST)
        one = points[i][np.argsort(trees[j].query(points[i])[0], kind="stable")[:count]]
        other = points[j][np.argsort(trees[i].query(points[j])[0], kind="stable")[:count]]
        between = outside[np.isin(closest, (i, j)).all(axis=0)]
        stable = min(groups[i].stability, groups[j].stability) >= STABLE
        limit = STABLE_GAP_PROBABILITY if stable else GAP_PROBABILITY / (len(groups) - 1)
        if distances[i, j] < resolution or gap_probability(one, other, between) > limit:
            found.append((i, j))
    return sorted(found, key=lambda pair: float(distances[pair]))


def gap_probability(first: np.ndarray, second: np.ndarray, between: np.ndarray) -> float:
    """Return the probability of as few particles between two groups if the density between them is not lower.

    Parameters
    ----------
    first, second
        Particles of two clusters, shapes (n, K) and (m, K).
    between
        Other particles that may lie between them, shape (l, K).
    """
    probabilities = []
    for seed in range(REPEATS):
        positions = _held_out_positions((first, second, between), np.random.default_rng(seed))
        if positions is None:
            return 1.0
        ordered = np.sort(positions)
        probabilities.append(min(1.0, len(GAP_WIDTHS) * min(_gap_of_width(ordered, width) for width in GAP_WIDTHS)))
    return float(np.median(probabilities))


def _gap_of_width(ordered: np.ndarray, width: float) -> float:
    """Return the smallest probability of a gap of a width between 0 and 1 in ascending positions (n,).

    If the density in the gap is not lower than at its sides, the number of particles in the gap follows a binomial
    distribution, or exceeds it.
    """
    from scipy.stats import binom

    def counts(centers: np.ndarray, extent: float) -> np.ndarray:
        return np.searchsorted(ordered, centers + extent / 2) - np.searchsorted(ordered, centers - extent / 2)

    at, beside = np.linspace(0.0, 1.0, POSITIONS), min(SIDE_WIDTH, 1.0 - width)
    sides = counts(at, beside)
    left, right = np.maximum.accumulate(sides), np.maximum.accumulate(sides[::-1])[::-1]
    gaps = np.arange(round(width / 2 * (POSITIONS - 1)), round((1 - width / 2) * (POSITIONS - 1)) + 1)
    reach = round(width / 2 * (POSITIONS - 1))
    inside = counts(at[gaps], width)
    side = np.minimum(left[gaps - reach], right[gaps + reach])
    return float(binom.cdf(inside, inside + side, width / (width + beside)).min())


def _held_out_positions(groups: tuple[np.ndarray, ...], rng: np.random.Generator) -> np.ndarray | None:
    """Return the positions of all particles on the line between the first two groups, whose medians are 1 and 0.

    The line of each half is determined from the other half of the particles. None if the medians are in reverse order.
    """
    order = [rng.permutation(len(group)) for group in groups]
    positions = []
    for half in (0, 1):
        fitted = [group[part[half::2]] for group, part in zip(groups[:2], order, strict=False)]
        if min(len(part) for part in fitted) < 2:
            return None
        line = _discriminant(*fitted)
        along = [group[part[1 - half :: 2]] @ line for group, part in zip(groups, order, strict=True)]
        high, low = np.median(along[0]), np.median(along[1])
        if not high > low:
            return None
        positions.append((np.concatenate(along) - low) / (high - low))
    return np.concatenate(positions)


def _discriminant(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the direction (K,) that separates two groups best, with a regularized covariance (Ledoit and Wolf)."""
    from sklearn.covariance import ledoit_wolf

    means = first.mean(axis=0), second.mean(axis=0)
    covariance, _ = ledoit_wolf(np.concatenate([first - means[0], second - means[1]]))
    ridge = 1e-9 * np.trace(covariance) + np.finfo(float).tiny
    return np.asarray(np.linalg.solve(covariance + ridge * np.eye(len(covariance)), means[0] - means[1]))
