"""Paths through the latents of real particles: the graph of near neighbours, and straight lines."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from opustomo.errors import UserError

_SHORTEST = 1e-300


@dataclass(frozen=True)
class GraphSettings:
    """Which latents are joined in the graph of neighbours.

    Attributes
    ----------
    max_neighbors
        Nearest particles that a particle may be joined to.
    avg_neighbors
        Joins per particle that are kept on average: the shortest of all. None keeps all.
    """

    max_neighbors: int = 10
    avg_neighbors: float | None = 5.0


@dataclass(frozen=True)
class GraphPath:
    """A path through particles.

    Attributes
    ----------
    particles
        Particles along the path, int64.
    jumps
        Pairs of particles on it that are no near neighbours: where groups of latents lie apart.
    """

    particles: np.ndarray
    jumps: list[tuple[int, int]]


def graph_path(latents: np.ndarray, anchors: list[int], settings: GraphSettings) -> GraphPath:
    """Shortest path from anchor to anchor along near neighbours, so that every step is a real particle.

    Particles are joined to their ``max_neighbors`` nearest ones, and of these joins the shortest
    N · ``avg_neighbors`` are kept. A path's length is the sum of the Euclidean lengths of its joins (Dijkstra).
    Where no path leads from an anchor to the next, the two particles that are nearest of all between the groups
    of both are joined too.

    Parameters
    ----------
    latents
        Shape (N, zdim), finite.
    anchors
        Two or more particles to pass, in this order.
    settings
        The graph.

    Returns
    -------
    GraphPath
        Its first and last particle are the first and last anchor; an anchor in between appears once.

    Raises
    ------
    UserError
        Fewer than two anchors, or one that does not exist.
    """
    from scipy.sparse.csgraph import connected_components, dijkstra

    check_particles(anchors, len(latents), "--anchors")
    if len(anchors) < 2:
        raise UserError("--anchors needs two particles or more; give where the path starts and ends.")
    values = latents.astype(np.float64)
    graph = _neighbour_graph(values, settings)
    _, groups = connected_components(graph, directed=False)
    apart = {frozenset((int(groups[a]), int(groups[b]))) for a, b in pairwise(anchors) if groups[a] != groups[b]}
    bridges = [_bridge(values, groups, *sorted(pair)) for pair in apart]
    if bridges:
        graph = _with_joins(graph, values, bridges)
    starts, row = np.unique(np.array(anchors[:-1], dtype=np.int64), return_inverse=True)
    _, before = dijkstra(graph, directed=False, indices=starts, return_predecessors=True)
    path = [anchors[0]]
    for step, (start, end) in enumerate(pairwise(anchors)):
        leg, here = [], end
        while here != start:
            leg.append(here)
            here = int(before[row[step], here])
        path += leg[::-1]
    wide = {frozenset(bridge) for bridge in bridges}
    jumps = [pair for pair in pairwise(path) if frozenset(pair) in wide]
    return GraphPath(np.array(path, dtype=np.int64), jumps)


def straight_path(stops: np.ndarray, num_points: int) -> np.ndarray:
    """Evenly spaced latents on the line from stop to stop.

    Parameters
    ----------
    stops
        Latents to pass, shape (S, zdim), S at least 2.
    num_points
        Points per leg, both ends counted; a stop in between appears once.

    Returns
    -------
    numpy.ndarray
        Shape ((S - 1) · (num_points - 1) + 1, zdim).

    Raises
    ------
    UserError
        Fewer than two points, or than two stops.
    """
    if num_points < 2:
        raise UserError(f"-n {num_points}: a path needs at least its two ends; give 2 or more.")
    if len(stops) < 2:
        raise UserError("A path needs two stops or more; give where it starts and ends.")
    part = np.linspace(0.0, 1.0, num_points)[1:, None]
    legs = [start + part * (end - start) for start, end in pairwise(stops)]
    return np.concatenate([stops[:1], *legs])


def check_particles(particles: list[int], count: int, option: str) -> None:
    """Refuse particles that are not among 0 … ``count`` - 1 (``UserError`` naming the option)."""
    wrong = [i for i in particles if not 0 <= i < count]
    if wrong:
        raise UserError(f"{option}: particle {wrong[0]} does not exist; there are particles 0 to {count - 1}.")


def _neighbour_graph(values: np.ndarray, settings: GraphSettings) -> Any:
    """Sparse matrix (N, N) of the lengths of the joins kept, each once."""
    from scipy.sparse import coo_array
    from sklearn.neighbors import NearestNeighbors

    if settings.max_neighbors < 1:
        raise UserError(f"--max-neighbors {settings.max_neighbors}: give 1 or more.")
    if settings.avg_neighbors is not None and not settings.avg_neighbors > 0:
        raise UserError(f"--avg-neighbors {settings.avg_neighbors:g}: give a positive number.")
    count = len(values)
    near = min(settings.max_neighbors, count - 1)
    if near < 1:
        raise UserError("A single particle has no neighbours; a path needs two particles or more.")
    search = NearestNeighbors(n_neighbors=near)
    columns = search.fit(values).kneighbors(return_distance=False).ravel()
    rows = np.repeat(np.arange(count), near)
    lengths = np.linalg.norm(values[rows] - values[columns], axis=1)
    if settings.avg_neighbors is not None:
        kept = np.argsort(lengths, kind="stable")[: round(settings.avg_neighbors * count)]
        rows, columns, lengths = rows[kept], columns[kept], lengths[kept]
    pairs = np.unique(np.stack([np.minimum(rows, columns), np.maximum(rows, columns)]), axis=1)
    return _with_joins(coo_array((count, count)), values, pairs.T)


def _with_joins(graph: Any, values: np.ndarray, pairs: Any) -> Any:
    """Put further joins into a graph."""
    from scipy.sparse import coo_array

    first, second = np.asarray(pairs).T
    # a length of 0, of equal latents, would mean no join at all
    lengths = np.maximum(np.linalg.norm(values[first] - values[second], axis=1), _SHORTEST)
    return (graph + coo_array((lengths, (first, second)), shape=graph.shape)).tocsr()


def _bridge(values: np.ndarray, groups: np.ndarray, one: int, other: int) -> tuple[int, int]:
    """The two nearest particles between two groups."""
    from scipy.spatial import KDTree

    here, there = np.flatnonzero(groups == one), np.flatnonzero(groups == other)
    distances, nearest = KDTree(values[there]).query(values[here])
    best = int(distances.argmin())
    return int(here[best]), int(there[nearest[best]])
