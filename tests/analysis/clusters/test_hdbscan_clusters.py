import numpy as np
import pytest

from opustomo.analysis.clusters.cluster_number import find_clusters
from opustomo.analysis.clusters.clustering import Clustering
from opustomo.analysis.clusters.hdbscan_clusters import density_clusters, jaccard_with_best
from opustomo.errors import UserError

FRACTIONS = np.array([60, 30, 6, 2, 1, 1]) / 100


def unequal_mixture(seed: int, separation: float = 7.0, count: int = 1500) -> tuple[np.ndarray, np.ndarray]:
    """Six states of very different size in 12 dimensions, with unequal and heavy-tailed spread, as a run gives them.

    The separation of the nearest two states is in units of their standard deviation.
    """
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(6), (FRACTIONS * count).astype(int))
    centers = np.zeros((6, 12))
    centers[:, :6] = rng.normal(size=(6, 6))
    distances = np.linalg.norm(centers[:, None] - centers[None], axis=-1)
    centers *= separation / distances[distances > 0].min()
    latents = np.zeros((count, 12))
    for state in range(6):
        members = truth == state
        shape = np.exp(rng.normal(0, 0.25, 12))[:, None] * np.linalg.qr(rng.normal(size=(12, 12)))[0]
        noise = rng.normal(size=(members.sum(), 12)) / np.sqrt(rng.chisquare(8, (members.sum(), 1)) / 8)
        latents[members] = centers[state] + (noise @ shape) * np.repeat([1.0, 0.5], 6)
    order = rng.permutation(count)
    return latents[order].astype(np.float32), truth[order]


def f1_scores(truth: np.ndarray, labels: np.ndarray) -> np.ndarray:
    scores = []
    for state in np.unique(truth):
        shared = [2 * ((truth == state) & (labels == i)).sum() for i in range(labels.max() + 1)]
        sizes = [(truth == state).sum() + (labels == i).sum() for i in range(labels.max() + 1)]
        scores.append(max(np.array(shared) / np.array(sizes)))
    return np.array(scores)


@pytest.mark.parametrize("seed", [0, 1, 4])
def test_rare_states_of_15_particles_are_found(seed: int) -> None:
    latents, truth = unequal_mixture(seed)
    found = density_clusters(latents)
    assert len(found) == 6
    scores = f1_scores(truth, found.labels)
    assert (scores >= 0.9).all(), scores
    assert (found.stability >= 0.6).all()


def test_structureless_latents_are_one_cluster() -> None:
    latents = np.random.default_rng(0).normal(size=(1000, 12)).astype(np.float32)
    found = density_clusters(latents)
    assert len(found) == 1
    assert (found.labels == 0).all()


def test_the_minimum_size_excludes_smaller_states() -> None:
    latents, truth = unequal_mixture(4)
    found = density_clusters(latents, min_cluster_size=25)
    assert len(found) == 4
    rare = found.labels[np.isin(truth, (4, 5))]
    assert np.bincount(found.labels[found.labels >= 0]).min() >= 25
    assert len(rare) == 30


@pytest.mark.parametrize("size", [1, 41])
def test_impossible_minimum_size(size: int) -> None:
    with pytest.raises(UserError, match=rf"{size} particles \(--min-cluster-size\), but it must have 2 to 40"):
        density_clusters(np.random.default_rng(0).normal(size=(40, 2)), size)


def test_few_particles_and_identical_latents() -> None:
    assert density_clusters(np.zeros((1, 3))).labels.tolist() == [0]
    for count in (2, 4, 30):
        found = density_clusters(np.zeros((count, 3)))
        assert len(found) == 1
        assert (found.labels == 0).all()


def test_find_clusters_label_particles_far_from_all_with_the_number_of_clusters() -> None:
    latents, _ = unequal_mixture(4)
    latents[0] += 300.0
    found = find_clusters(latents, Clustering(None, "hdbscan"))
    assert found.clustering.folder == "hdbscan6"
    assert found.clusters.labels[0] == 6
    assert found.clusters.unassigned == (found.clusters.labels == 6).sum() >= 1
    assert found.clusters.sizes.sum() + found.clusters.unassigned == len(latents)
    assert any("belong to no cluster and have the label 6" in message for message in found.messages)
    assert found.clusters.labels[found.clusters.center_indices].tolist() == list(range(6))


def test_jaccard_index_ignores_particles_without_cluster() -> None:
    labels, others = np.array([0, 0, 0, 1, -1, 2]), np.array([1, 1, -1, 0, 0, -1])
    np.testing.assert_allclose(jaccard_with_best(labels, others), [2 / 3, 1 / 2, 0])
    np.testing.assert_allclose(jaccard_with_best(labels, np.full(6, -1)), [0, 0, 0])
