"""Paths through the latents of real particles: the graph of near neighbours, and straight lines."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from opustomo.errors import UserError


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


def graph_path(latents: np.ndarray, anchors: list[int], settings: GraphSettings) -> np.ndarray:
    """Shortest path from anchor to anchor along near neighbours, so that every step is a real particle.

    Particles are joined to their ``max_neighbors`` nearest ones, and of these joins the shortest
    N · ``avg_neighbors`` are kept. A path's length is the sum of the Euclidean lengths of its joins (Dijkstra).

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
    numpy.ndarray
        Particles along the path, int64; the first and last are the first and last anchor, and an anchor in
        between appears once.

    Raises
    ------
    UserError
        Fewer than two anchors, one that does not exist, or two that no path joins.
    """
    from scipy.sparse.csgraph import dijkstra

    check_particles(anchors, len(latents), "--anchors")
    if len(anchors) < 2:
        raise UserError("--anchors needs two particles or more; give where the path starts and ends.")
    graph = _neighbour_graph(latents, settings)
    starts = np.array(anchors[:-1], dtype=np.int64)
    unique, row = np.unique(starts, return_inverse=True)
    distances, before = dijkstra(graph, directed=False, indices=unique, return_predecessors=True)
    path = [anchors[0]]
    for step, (start, end) in enumerate(pairwise(anchors)):
        if not np.isfinite(distances[row[step], end]):
            raise UserError(
                f"No path of near neighbours leads from particle {start} to {end}; "
                "raise --avg-neighbors and --max-neighbors, or choose other anchors."
            )
        leg, here = [], end
        while here != start:
            leg.append(here)
            here = int(before[row[step], here])
        path += leg[::-1]
    return np.array(path, dtype=np.int64)


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


def _neighbour_graph(latents: np.ndarray, settings: GraphSettings) -> object:
    """Sparse symmetric matrix (N, N) of the lengths of the joins kept."""
    from scipy.sparse import coo_array
    from sklearn.neighbors import NearestNeighbors

    if settings.max_neighbors < 1:
        raise UserError(f"--max-neighbors {settings.max_neighbors}: give 1 or more.")
    if settings.avg_neighbors is not None and not settings.avg_neighbors > 0:
        raise UserError(f"--avg-neighbors {settings.avg_neighbors:g}: give a positive number.")
    count = len(latents)
    near = min(settings.max_neighbors, count - 1)
    if near < 1:
        raise UserError("A single particle has no neighbours; a path needs two particles or more.")
    values = latents.astype(np.float64)
    search = NearestNeighbors(n_neighbors=near)
    columns = search.fit(values).kneighbors(return_distance=False).ravel()
    rows = np.repeat(np.arange(count), near)
    lengths = np.linalg.norm(values[rows] - values[columns], axis=1)
    if settings.avg_neighbors is not None:
        kept = np.argsort(lengths, kind="stable")[: round(settings.avg_neighbors * count)]
        rows, columns, lengths = rows[kept], columns[kept], lengths[kept]
    # each join once, or its two directions would be added up; length 0 would mean no join at all
    pairs = np.unique(np.stack([np.minimum(rows, columns), np.maximum(rows, columns)]), axis=1, return_index=True)
    first, second = pairs[0]
    weights = np.maximum(lengths[pairs[1]], np.finfo(np.float64).tiny * 1e10)
    return coo_array((weights, (first, second)), shape=(count, count)).tocsr()
