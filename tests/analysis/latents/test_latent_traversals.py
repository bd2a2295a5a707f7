"""Graph paths compared with networkx, and straight paths compared with their formula."""

from __future__ import annotations

from itertools import pairwise

import networkx
import numpy as np
import pytest

from opustomo.analysis.latents.latent_traversals import GraphSettings, graph_path, straight_path
from opustomo.errors import UserError


def moon(count: int = 200) -> np.ndarray:
    """Half a circle of radius 10, in order, a little noisy, in five dimensions."""
    angle = np.linspace(0, np.pi, count)
    points = np.zeros((count, 5), dtype=np.float32)
    points[:, 0], points[:, 3] = 10 * np.cos(angle), 10 * np.sin(angle)
    return points + np.random.default_rng(0).normal(scale=0.05, size=points.shape).astype(np.float32)


def length(latents: np.ndarray, path: np.ndarray) -> float:
    return float(np.linalg.norm(np.diff(latents[path].astype(np.float64), axis=0), axis=1).sum())


def test_the_path_follows_the_particles_and_not_the_gap() -> None:
    latents = moon()
    path = graph_path(latents, [0, 199], GraphSettings()).particles
    assert path[0] == 0 and path[-1] == 199 and len(path) > 40
    assert length(latents, path) == pytest.approx(np.pi * 10, rel=0.1)  # the straight line is 20
    assert np.linalg.norm(latents[path], axis=1).min() > 9.5


@pytest.mark.parametrize("settings", [GraphSettings(8, None), GraphSettings(10, 6.0)])
def test_it_is_the_shortest_in_the_graph(settings: GraphSettings) -> None:
    latents = np.random.default_rng(1).normal(size=(120, 3)).astype(np.float32)
    distance = np.linalg.norm(latents[:, None].astype(float) - latents[None].astype(float), axis=-1)
    np.fill_diagonal(distance, np.inf)
    joins = sorted(
        (distance[i, j], i, int(j)) for i in range(120) for j in np.argsort(distance[i])[: settings.max_neighbors]
    )
    if settings.avg_neighbors is not None:
        joins = joins[: round(settings.avg_neighbors * 120)]
    graph = networkx.Graph()
    graph.add_weighted_edges_from([(i, j, d) for d, i, j in joins])
    for anchors in ([3, 77], [5, 60, 5, 110]):
        wanted = sum(networkx.dijkstra_path_length(graph, a, b) for a, b in pairwise(anchors))
        found = graph_path(latents, anchors, settings)
        path = found.particles
        assert not found.jumps
        assert length(latents, path) == pytest.approx(wanted, rel=1e-9)
        assert all(graph.has_edge(a, b) for a, b in pairwise(path))
        places = iter(path.tolist())
        assert all(anchor in places for anchor in anchors)  # passed in this order


def test_equal_latents_are_joined() -> None:
    latents = np.repeat(np.array([[0.0], [1.0], [2.0]], dtype=np.float32), 4, axis=0)
    path = graph_path(latents, [0, 11], GraphSettings(5, None)).particles
    assert length(latents, path) == pytest.approx(2.0)


def test_groups_that_lie_apart_are_bridged_where_they_are_nearest() -> None:
    latents = np.concatenate([moon(), moon() + np.array([40, 0, 0, 0, 0], dtype=np.float32)])
    path = graph_path(latents, [100, 300, 50], GraphSettings())
    distance = np.linalg.norm(latents[:200, None] - latents[None, 200:], axis=-1)
    near = np.unravel_index(distance.argmin(), distance.shape)
    pair = (int(near[0]), 200 + int(near[1]))
    assert path.jumps == [pair, pair[::-1]]
    steps = np.linalg.norm(np.diff(latents[path.particles], axis=0), axis=1)
    assert (steps > 5).sum() == 2 and path.particles[[0, -1]].tolist() == [100, 50]


def test_errors() -> None:
    latents = moon(60)
    with pytest.raises(UserError, match=r"particle 60 does not exist. Particles are numbered 0 to 59"):
        graph_path(latents, [2, 60], GraphSettings())
    with pytest.raises(UserError, match="at least two particles"):
        graph_path(latents, [2], GraphSettings())
    with pytest.raises(UserError, match="--avg-neighbors"):
        graph_path(latents, [2, 3], GraphSettings(10, 0.0))


def test_straight_lines() -> None:
    stops = np.array([[0.0, 1.0], [2.0, 5.0], [2.0, 1.0]])
    path = straight_path(stops, 3)
    np.testing.assert_allclose(path, [[0, 1], [1, 3], [2, 5], [2, 3], [2, 1]])
    with pytest.raises(UserError, match="at least 2 points"):
        straight_path(stops, 1)
    with pytest.raises(UserError, match="at least two particles"):
        straight_path(stops[:1], 4)
