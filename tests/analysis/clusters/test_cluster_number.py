from pathlib import Path

import numpy as np
import pytest

from opustomo.analysis.clusters.cluster_number import find_clusters, write_number_choice
from opustomo.analysis.clusters.clustering import Clustering, cluster_latents


def four_states(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(4), (160, 120, 80, 40))
    centers = np.array([[0, 0, 0], [9, 0, 0], [0, 9, 0], [0, 0, 9]])
    return (centers[truth] + rng.normal(size=(400, 3))).astype(np.float32), truth


@pytest.mark.parametrize("method", ["kmeans", "gmm"])
def test_number_of_separate_states_is_found(method: str, tmp_path: Path) -> None:
    latents, truth = four_states()
    found = find_clusters(latents, Clustering(None, method, max_number=8))
    assert found.choice is not None
    assert found.choice.chosen == len(found.clusters) == 4
    assert found.clustering.folder == f"{method}4"
    assert len(set(zip(truth.tolist(), found.clusters.labels.tolist(), strict=True))) == 4
    assert np.isnan(found.choice.bic).all() == (method == "kmeans")
    assert found.choice.stability[3] > 0.95
    assert found.choice.stability[5] < 0.75
    # the same as with the number given
    np.testing.assert_array_equal(found.clusters.labels, cluster_latents(latents, 4, method=method).labels)
    write_number_choice(tmp_path / "number", found.choice, found.clustering.title)
    rows = (tmp_path / "number.csv").read_text().splitlines()
    assert rows[0] == "clusters,bic,smallest_stability"
    assert len(rows) == 9
    assert (tmp_path / "number.png").stat().st_size > 10_000


def test_one_state_is_not_divided() -> None:
    latents = np.random.default_rng(1).normal(size=(400, 4)).astype(np.float32)
    found = find_clusters(latents, Clustering(None, "gmm", max_number=6))
    assert len(found.clusters) == 1


def test_few_particles_limit_the_numbers_that_are_tried() -> None:
    found = find_clusters(np.random.default_rng(2).normal(size=(12, 2)), Clustering(None, "kmeans"))
    assert found.choice is not None
    assert found.choice.numbers.tolist() == [1]


def test_outliers_are_no_clusters_of_their_own() -> None:
    """Two states, and far from one of them two stable groups of six particles, which are too few for validation."""
    rng = np.random.default_rng(3)
    centers = np.repeat([[0, 0, 0], [30, 0, 0], [0, 60, 0], [0, 0, 60]], (120, 108, 6, 6), axis=0)
    latents = (centers + rng.normal(size=(240, 3))).astype(np.float32)
    found = find_clusters(latents, Clustering(None, "kmeans", max_number=8))
    assert found.choice is not None
    assert found.choice.stability[3] > 0.95, "four clusters are stable"
    assert min(found.clusters.sizes) >= 10
    assert "at least 10 particles" in found.messages[0]


@pytest.mark.parametrize("small", [(10,), (10, 15), (30,)])
def test_small_states_are_clusters_of_their_own(small: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    sizes = (80, 80, 80, *small)
    centers = np.repeat(12 * np.eye(6)[: len(sizes)], sizes, axis=0)
    latents = (centers + rng.normal(size=centers.shape)).astype(np.float32)
    found = find_clusters(latents, Clustering(None, "kmeans", max_number=8))
    assert sorted(found.clusters.sizes) == sorted(sizes)


def unequal_states(sizes: tuple[int, ...], spread: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of states 12 standard errors from each other, of which the first has a spread, and the states."""
    truth = np.repeat(np.arange(len(sizes)), sizes)
    errors = np.random.default_rng(0).normal(size=(len(truth), 8))
    errors[truth == 0, 0] *= spread
    return (12 / np.sqrt(2) * np.eye(8)[1 : len(sizes) + 1][truth] + errors).astype(np.float32), truth


def test_kmeans_does_not_divide_a_populous_state_in_coordinates() -> None:
    """Five clusters are stable here, but two of them are halves of the largest state."""
    coordinates, truth = unequal_states((700, 300, 70, 50), spread=2.5)
    found = find_clusters(coordinates, Clustering(None, max_number=8), coordinates)
    assert found.choice is not None and found.choice.stability[4] > 0.75
    assert len(set(zip(truth.tolist(), found.clusters.labels.tolist(), strict=True))) == 4
    assert "separated by gaps" in found.messages[0] and len(found.messages) == 1


def test_kmeans_says_where_a_population_is_continuous() -> None:
    coordinates = np.random.default_rng(1).normal(size=(400, 6)).astype(np.float32)
    coordinates[:, 0] += np.linspace(0, 60, 400)
    found = find_clusters(coordinates, Clustering(None, max_number=6), coordinates)
    assert len(found.clusters) > 1 and "the population is continuous" in found.messages[0]


def test_kmeans_names_hdbscan_where_it_merges_rare_states() -> None:
    coordinates, _ = unequal_states((900, 420, 14, 8), spread=2.5)
    found = find_clusters(coordinates, Clustering(None, max_number=8), coordinates)
    assert len(found.clusters) < 4
    assert "HDBSCAN finds 4 clusters" in found.messages[1] and "--cluster hdbscan" in found.messages[1]
