"""Traversals of latent space: along a principal component, shortest paths in the neighbor graph, straight lines."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from opustomo.analysis.latents.dimension_reduction import PrincipalComponents
from opustomo.errors import UserError

NUM_POINTS = 10
PERCENTILES = (1.0, 99.0)

_MIN_LENGTH = 1e-300


@dataclass(frozen=True)
class GraphSettings:
    """Settings of the nearest-neighbor graph.

    Attributes
    ----------
    max_neighbors
        Number of nearest neighbors to which a particle is connected.
    avg_neighbors
        Average number of edges per particle that are kept; the shortest edges are kept. None keeps all edges.
    """

    max_neighbors: int = 10
    avg_neighbors: float | None = 5.0


@dataclass(frozen=True)
class GraphPath:
    """Path through particles.

    Attributes
    ----------
    particles
        Indices of the particles along the path, int64.
    jumps
        Consecutive particles that are not neighbors in the graph; they connect separate groups of latents.
    """

    particles: np.ndarray
    jumps: list[tuple[int, int]]


def graph_path(latents: np.ndarray, anchors: list[int], settings: GraphSettings) -> GraphPath:
    """Compute the shortest path through consecutive anchors in the nearest-neighbor graph.

    Each particle is connected to its `max_neighbors` nearest neighbors, and the N · `avg_neighbors` shortest edges are
    kept. The length of a path is the sum of its Euclidean edge lengths (Dijkstra's algorithm). If consecutive anchors
    lie in different connected components, the closest pair of particles of the two components is connected.

    Parameters
    ----------
    latents
        Latents, shape (N, zdim), finite.
    anchors
        Indices of two or more particles through which the path passes in this order.
    settings
        Settings of the graph.

    Returns
    -------
    GraphPath
        Path from the first to the last anchor. Intermediate anchors appear once.

    Raises
    ------
    UserError
        If there are fewer than two anchors or an anchor does not exist.
    """
    from scipy.sparse.csgraph import connected_components, dijkstra

    check_particles(anchors, len(latents), "--anchors")
    if len(anchors) < 2:
        raise UserError("--anchors requires at least two particles, the start and the end of the path.")
    values = latents.astype(np.float64)
    graph = _neighbor_graph(values, settings)
    _, component = connected_components(graph, directed=False)
    separated = {
        frozenset((int(component[a]), int(component[b]))) for a, b in pairwise(anchors) if component[a] != component[b]
    }
    bridges = [_closest_pair(values, component, *sorted(pair)) for pair in separated]
    if bridges:
        graph = _with_edges(graph, values, bridges)
    starts, row = np.unique(np.array(anchors[:-1], dtype=np.int64), return_inverse=True)
    _, predecessors = dijkstra(graph, directed=False, indices=starts, return_predecessors=True)
    path = [anchors[0]]
    for step, (start, end) in enumerate(pairwise(anchors)):
        leg, node = [], end
        while node != start:
            leg.append(node)
            node = int(predecessors[row[step], node])
        path += leg[::-1]
    bridge_edges = {frozenset(bridge) for bridge in bridges}
    jumps = [pair for pair in pairwise(path) if frozenset(pair) in bridge_edges]
    return GraphPath(np.array(path, dtype=np.int64), jumps)


def straight_path(stops: np.ndarray, num_points: int) -> np.ndarray:
    """Interpolate linearly between consecutive latents.

    Parameters
    ----------
    stops
        Latents through which the path passes, shape (S, zdim), S at least 2.
    num_points
        Points per segment, including both ends. Intermediate stops appear once.

    Returns
    -------
    numpy.ndarray
        Evenly spaced latents, shape ((S - 1) · (num_points - 1) + 1, zdim).

    Raises
    ------
    UserError
        If there are fewer than two points or fewer than two stops.
    """
    if num_points < 2:
        raise UserError(f"-n is {num_points}, but a path needs at least 2 points.")
    if len(stops) < 2:
        raise UserError("A path needs at least two particles, its start and its end.")
    fraction = np.linspace(0.0, 1.0, num_points)[1:, None]
    legs = [start + fraction * (end - start) for start, end in pairwise(stops)]
    return np.concatenate([stops[:1], *legs])


def check_particles(particles: list[int], count: int, option: str) -> None:
    """Raise ``UserError`` naming the option unless all particles are between 0 and `count` - 1."""
    invalid = [i for i in particles if not 0 <= i < count]
    if invalid:
        raise UserError(f"{option}: particle {invalid[0]} does not exist. Particles are numbered 0 to {count - 1}.")


def _neighbor_graph(values: np.ndarray, settings: GraphSettings) -> Any:
    """Return the sparse matrix (N, N) of edge lengths; each edge is stored once."""
    from scipy.sparse import coo_array
    from sklearn.neighbors import NearestNeighbors

    if settings.max_neighbors < 1:
        raise UserError(f"--max-neighbors is {settings.max_neighbors}, but it must be at least 1.")
    if settings.avg_neighbors is not None and not settings.avg_neighbors > 0:
        raise UserError(f"--avg-neighbors is {settings.avg_neighbors:g}, but it must be positive.")
    count = len(values)
    num_neighbors = min(settings.max_neighbors, count - 1)
    if num_neighbors < 1:
        raise UserError("A path needs at least two particles, but there is only one.")
    search = NearestNeighbors(n_neighbors=num_neighbors)
    columns = search.fit(values).kneighbors(return_distance=False).ravel()
    rows = np.repeat(np.arange(count), num_neighbors)
    lengths = np.linalg.norm(values[rows] - values[columns], axis=1)
    if settings.avg_neighbors is not None:
        kept = np.argsort(lengths, kind="stable")[: round(settings.avg_neighbors * count)]
        rows, columns, lengths = rows[kept], columns[kept], lengths[kept]
    pairs = np.unique(np.stack([np.minimum(rows, columns), np.maximum(rows, columns)]), axis=1)
    return _with_edges(coo_array((count, count)), values, pairs.T)


def _with_edges(graph: Any, values: np.ndarray, pairs: Any) -> Any:
    """Add edges between pairs of particles to a graph."""
    from scipy.sparse import coo_array

    first, second = np.asarray(pairs).T
    # In a sparse matrix a length of 0 (identical latents) would mean that there is no edge.
    lengths = np.maximum(np.linalg.norm(values[first] - values[second], axis=1), _MIN_LENGTH)
    return (graph + coo_array((lengths, (first, second)), shape=graph.shape)).tocsr()


def _closest_pair(values: np.ndarray, component: np.ndarray, first: int, second: int) -> tuple[int, int]:
    """Return the closest pair of particles between two connected components."""
    from scipy.spatial import KDTree

    first_members, second_members = np.flatnonzero(component == first), np.flatnonzero(component == second)
    distances, nearest = KDTree(values[second_members]).query(values[first_members])
    best = int(distances.argmin())
    return int(first_members[best]), int(second_members[nearest[best]])


def pc_traversal(
    pca: PrincipalComponents,
    scores: np.ndarray,
    component: int,
    num_points: int = NUM_POINTS,
    percentiles: tuple[float, float] = PERCENTILES,
    by_percentile: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Return latents along one component between two percentiles of its scores; all other scores are 0.

    Parameters
    ----------
    pca
        Principal components of the latents.
    scores
        Scores of the particles, shape (N, zdim).
    component
        Index of the component, counted from 0.
    num_points
        Number of points.
    percentiles
        Percentiles of the scores at which the traversal starts and ends.
    by_percentile
        Space the points evenly in percentiles, so that equal numbers of particles lie between consecutive points,
        instead of evenly in the score.

    Returns
    -------
    latents : numpy.ndarray
        Latents of the points, shape (num_points, zdim).
    positions : numpy.ndarray
        Scores of the points along the component, shape (num_points,).
    """
    if not 0 <= component < scores.shape[1]:
        raise ValueError(f"component {component} does not exist; there are {scores.shape[1]}")
    path = np.zeros((num_points, scores.shape[1]))
    if by_percentile:
        path[:, component] = np.percentile(scores[:, component], np.linspace(*percentiles, num_points))
    else:
        start, end = np.percentile(scores[:, component], percentiles)
        path[:, component] = np.linspace(start, end, num_points)
    return pca.latents(path), path[:, component]
