import numpy as np
import pytest
from scipy.cluster.hierarchy import linkage

from opustomo.analysis.clusters.clustering import cluster_latents, tree_order
from opustomo.errors import UserError

# Three pairs of neighbors, far apart from one another, listed so that no pair stands together.
SITES = np.array([[0, 0], [20, 0], [40, 3], [0, 3], [20, 3], [40, 0]], dtype=np.float64)


def blobs(seed: int = 0, per_site: int = 30) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.repeat(np.arange(len(SITES)), per_site))
    return (SITES[truth] + rng.normal(scale=0.3, size=(len(truth), 2))).astype(np.float32), truth


def test_finds_known_clusters() -> None:
    latents, truth = blobs()
    clusters = cluster_latents(latents, 6)
    assert len(clusters) == 6
    pairs = set(zip(truth.tolist(), clusters.labels.tolist(), strict=True))
    assert len(pairs) == 6, "each site must be one cluster"
    assert clusters.sizes.tolist() == [30] * 6


def test_center_is_the_members_particle_nearest_to_the_mean() -> None:
    latents, _ = blobs(1)
    clusters = cluster_latents(latents, 6)
    assert clusters.labels[clusters.center_indices].tolist() == list(range(6))
    np.testing.assert_array_equal(clusters.centers, latents[clusters.center_indices])
    for cluster in range(6):
        members = latents[clusters.labels == cluster]
        distance = np.linalg.norm(members - members.mean(axis=0), axis=1)
        chosen = np.linalg.norm(clusters.centers[cluster] - members.mean(axis=0))
        assert chosen <= distance.min() + 1e-6


def test_neighboring_clusters_get_neighboring_numbers() -> None:
    latents, truth = blobs(2)
    clusters = cluster_latents(latents, 6)
    number = {int(site): int(clusters.labels[truth == site][0]) for site in range(6)}
    for a, b in ((0, 3), (1, 4), (2, 5)):
        assert abs(number[a] - number[b]) == 1


def test_numbers_do_not_depend_on_particle_order() -> None:
    latents, _ = blobs(3)
    first = cluster_latents(latents, 6)
    for seed in range(4):
        order = np.random.default_rng(seed).permutation(len(latents))
        again = cluster_latents(latents[order], 6)
        np.testing.assert_array_equal(again.labels, first.labels[order])
        np.testing.assert_array_equal(order[again.center_indices], first.center_indices)


def test_tree_order_keeps_every_branch_together() -> None:
    centers = np.random.default_rng(5).normal(size=(12, 3))
    order = tree_order(centers)
    assert sorted(order.tolist()) == list(range(12))
    place = np.argsort(order)
    leaves: dict[int, set[int]] = {i: {i} for i in range(12)}
    for step, (left, right, *_) in enumerate(linkage(centers, method="average")):
        leaves[12 + step] = leaves[int(left)] | leaves[int(right)]
        places = sorted(int(place[leaf]) for leaf in leaves[12 + step])
        assert places == list(range(places[0], places[0] + len(places)))


def test_too_many_or_no_clusters() -> None:
    latents, _ = blobs()
    with pytest.raises(UserError, match="181 clusters were requested, but there are only 180 particles"):
        cluster_latents(latents, 181)
    with pytest.raises(UserError, match="must be at least 1"):
        cluster_latents(latents, 0)


@pytest.mark.parametrize("num_clusters", [1, 10])
def test_as_many_clusters_as_particles_and_one(num_clusters: int) -> None:
    latents = np.random.default_rng(0).normal(size=(10, 1)).astype(np.float32)
    clusters = cluster_latents(latents, num_clusters)
    assert clusters.sizes.tolist() == [10 // num_clusters] * num_clusters
    assert clusters.labels[clusters.center_indices].tolist() == list(range(num_clusters))


@pytest.mark.filterwarnings("error")
def test_equal_latents_fill_one_cluster() -> None:
    clusters = cluster_latents(np.ones((20, 3), dtype=np.float32), 4)
    assert sorted(clusters.sizes.tolist()) == [0, 0, 0, 20]
    np.testing.assert_array_equal(clusters.centers, np.ones((4, 3)))


def test_a_mixture_finds_long_classes_that_k_means_cuts() -> None:
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1], 400)
    latents = np.stack([rng.normal(scale=20.0, size=800), 6.0 * truth + rng.normal(scale=0.5, size=800)], axis=1)
    mixture = cluster_latents(latents.astype(np.float32), 2, method="gmm")
    agreement = np.mean(mixture.labels == truth)
    assert max(agreement, 1 - agreement) > 0.99
    cut = np.mean(cluster_latents(latents.astype(np.float32), 2).labels == truth)
    assert max(cut, 1 - cut) < 0.7
    assert mixture.labels[mixture.center_indices].tolist() == [0, 1]
    again = cluster_latents(latents.astype(np.float32) * 1e-3, 2, method="gmm")  # the unit of latents is free
    np.testing.assert_array_equal(again.labels, mixture.labels)


@pytest.mark.parametrize("count", [6, 30])
def test_a_mixture_of_hardly_any_or_equal_particles(count: int) -> None:
    latents = np.random.default_rng(1).normal(size=(count, 12)).astype(np.float32)
    clusters = cluster_latents(latents, 5, method="gmm")
    assert len(clusters) == 5 and clusters.sizes.sum() == count
    equal = cluster_latents(np.ones((count, 3), dtype=np.float32), 4, method="gmm")
    assert equal.sizes.sum() == count
