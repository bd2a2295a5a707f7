"""Clusters within clusters, on made coordinates with unit errors and on structureless ones."""

from collections.abc import Callable

import numpy as np
import pytest

from opustomo.analysis.clusters.cluster_number import find_clusters
from opustomo.analysis.clusters.clustering import Clustering
from opustomo.analysis.clusters.nested_clusters import gap_probability, nested_clusters, varying_components
from opustomo.analysis.volumes.focused_volumes import coordinates_inside
from tests.analysis.clusters.test_hdbscan_clusters import f1_scores

FRACTIONS = np.array([60, 30, 6, 2, 1, 1]) / 100


def nested_states(seed: int, near: float, fractions: np.ndarray = FRACTIONS) -> tuple[np.ndarray, np.ndarray]:
    """Four places that are 30 errors apart; the states 3, 4 and 5 share one of them and are `near` errors apart."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(6, 1500, p=fractions)
    axes = np.linalg.qr(rng.normal(size=(12, 12)))[0] / np.sqrt(2)
    centers = 30.0 * axes[[0, 1, 2, 3, 3, 3]]
    centers[3:] += near * axes[4:7]
    errors = rng.normal(size=(1500, 12)) * np.exp(rng.normal(0, 0.2, (1500, 1)))
    return centers[truth] + errors, truth


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("fractions", [FRACTIONS, FRACTIONS[::-1]], ids=["rare states nested", "large states nested"])
def test_states_near_each_other_and_far_from_others_are_found(seed: int, fractions: np.ndarray) -> None:
    coordinates, truth = nested_states(seed, 8.0, fractions)
    found = nested_clusters(coordinates, None, standardized=True)
    assert len(found) == 6
    assert (f1_scores(truth, found.labels) >= 0.9).all()
    assert len(found.stability) == 6


def curve(rng: np.random.Generator, count: int) -> np.ndarray:
    at, points = rng.uniform(size=count), rng.normal(size=(count, 8))
    points[:, :3] += np.stack([20 * at, 8 * np.sin(3 * at), 5 * np.cos(5 * at)], axis=1)
    return points


def ring(rng: np.random.Generator, count: int) -> np.ndarray:
    angle, points = rng.uniform(0, 2 * np.pi, count), rng.normal(size=(count, 8))
    points[:, :2] += 10 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return points


def skewed(rng: np.random.Generator, count: int) -> np.ndarray:
    points = rng.normal(size=(count, 8))
    points[:, 0] += rng.exponential(6.0, count)
    return points


def heavy_tails(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.standard_t(2.5, size=(count, 8)) * np.geomspace(5, 0.3, 8)


def ellipsoid(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.normal(size=(count, 8)) * np.geomspace(8, 0.3, 8)


def uneven_errors(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.normal(size=(count, 8)) * np.exp(rng.normal(0, 0.3, (count, 1)))


@pytest.mark.parametrize("standardized", [True, False])
@pytest.mark.parametrize("make", [curve, ring, skewed, heavy_tails, ellipsoid, uneven_errors])
def test_structureless_coordinates_are_one_cluster(
    make: Callable[[np.random.Generator, int], np.ndarray], standardized: bool
) -> None:
    """With latents, whose errors are unknown, a gap by chance is taken for real in less than one of ten small sets."""
    divided = 0
    for seed, count in ((0, 80), (1, 80), (2, 80), (3, 300), (4, 300), (5, 900)):
        found = nested_clusters(make(np.random.default_rng(seed), count), None, standardized)
        assert (found.labels == 0).all() == (len(found.stability) == 0)
        divided += len(found) > 1
    assert divided <= (0 if standardized else 1)


def test_points_at_which_latents_gather_are_no_states() -> None:
    """Posterior means lie at few points; in units of standard errors, these points are near each other."""
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.normal(scale=0.4, size=(30, 4)), rng.normal(scale=0.4, size=(30, 4)) + 12])
    coordinates = points[rng.integers(60, size=600)] + rng.normal(scale=0.01, size=(600, 4))
    found = nested_clusters(coordinates, None, standardized=True)
    assert len(found) == 2
    assert len(nested_clusters(coordinates, None, standardized=False)) > 2


def test_components_that_vary_like_errors_are_left_out() -> None:
    rng = np.random.default_rng(1)
    coordinates = rng.normal(size=(400, 10))
    assert varying_components(coordinates).shape == (400, 0)
    coordinates[:40, 3] += 6.0
    assert varying_components(coordinates).shape == (400, 3)
    coordinates[200:300, :4] += 9 * np.eye(4).repeat(25, axis=0)
    assert varying_components(coordinates).shape == (400, 4)
    assert varying_components(np.zeros((3, 10))).shape == (3, 0)


def test_gap_probability() -> None:
    rng = np.random.default_rng(2)
    first, second = rng.normal(size=(20, 6)), rng.normal(size=(20, 6))
    second[:, 0] += 8.0
    none, between = np.zeros((0, 6)), rng.normal(size=(60, 6))
    between[:, 0] += rng.uniform(1, 7, 60)
    assert gap_probability(first, second, none) < 1e-3
    assert gap_probability(first, second, between) > 0.05
    assert gap_probability(first[:3], second[:3], none) > 0.05, "three particles on each side prove no gap"
    whole = first[np.argsort(first[:, 0])]
    assert gap_probability(whole[:10], whole[10:], none) > 0.05


@pytest.mark.parametrize("method", ["hdbscan", "gmm", "kmeans"])
def test_coordinates_are_used_instead_of_latents_where_they_are_known(method: str) -> None:
    coordinates, truth = nested_states(3, 10.0, np.array([0.4, 0.3, 0.3, 0, 0, 0]))
    latents = np.random.default_rng(0).normal(size=(1500, 3)).astype(np.float32)
    coordinates[5] = np.nan
    found = find_clusters(latents, Clustering(None, method, max_number=4), coordinates)
    labels, number = found.clusters.labels, len(found.clusters)
    assert number == 3 and labels[5] == 3
    assert (f1_scores(truth, np.where(labels == number, number, labels)) > 0.99).all()
    np.testing.assert_array_equal(found.clusters.centers, latents[found.clusters.center_indices])
    assert labels[found.clusters.center_indices].tolist() == [0, 1, 2]
    assert any("1 particles were not read" in message for message in found.messages)


def test_states_inside_a_mask_are_found_beside_larger_differences_outside() -> None:
    rng = np.random.default_rng(4)
    inside, outside = rng.integers(2, size=900), rng.integers(3, size=900)
    axes = np.linalg.qr(rng.normal(size=(10, 10)))[0]
    coordinates = 9.0 * inside[:, None] * axes[0] + 30.0 * outside[:, None] * axes[1] + rng.normal(size=(900, 10))
    scores = np.stack([40.0 * inside + outside, 0.1 * outside], axis=1) + rng.normal(0, 0.1, (900, 2))
    assert len(find_clusters(scores, Clustering(None, "hdbscan"), coordinates).clusters) == 6
    coordinates[7] = np.nan
    found = find_clusters(scores, Clustering(None, "hdbscan"), coordinates_inside(coordinates, scores)).clusters
    assert len(found) == 2 and found.labels[7] == 2
    assert (f1_scores(np.delete(inside, 7), np.delete(found.labels, 7)) > 0.95).all()
    nothing = coordinates_inside(coordinates, np.zeros((900, 2)))
    assert (np.delete(nothing, 7, axis=0) == 0).all()
