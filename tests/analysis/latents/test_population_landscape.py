import numpy as np
import pytest

from opustomo.analysis.latents.population_landscape import find_basins, latents_at, paths_between, population_landscape
from opustomo.analysis.volumes.volume_landscape import _all_scores, _classes


def two_wells(seed: int = 0) -> np.ndarray:
    """Two states at x = -4 and 4 that are connected along a curved valley through (0, 3), and a rare third state."""
    rng = np.random.default_rng(seed)
    angle = np.pi * rng.beta(0.5, 0.5, 400)
    valley = np.column_stack([-4 * np.cos(angle), 3 * np.sin(angle)])
    wells = np.repeat([[-4.0, 0.0], [4.0, 0.0]], [900, 500], axis=0)
    rare = np.full((30, 2), [0.0, -7.0])
    return np.concatenate([valley, wells, rare]) + rng.normal(scale=0.4, size=(1830, 2))


def test_basins_are_the_states_by_population() -> None:
    points = two_wells()
    landscape = population_landscape(points)
    assert landscape.density.sum() == pytest.approx(1.0)
    assert landscape.energy.min() == 0.0
    basins = find_basins(landscape, min_depth=1.0)
    np.testing.assert_allclose(landscape.positions(basins.minima), [[-4, 0], [4, 0], [0, -7]], atol=0.6)
    labels = basins.labels[landscape.cells(points)]
    assert set(labels[-30:]) == {2}
    assert (labels[400:1300] == 0).all()
    assert (labels[1300:1800] == 1).all()
    assert np.isinf(basins.depth[[0, 2]]).all(), "the rare state is separated by a gap"
    assert 1.0 < basins.depth[1] < 4.0


def test_a_path_follows_the_valley_and_marks_gaps() -> None:
    landscape = population_landscape(two_wells())
    paths = paths_between(landscape, find_basins(landscape, 1.0), num_points=11)
    assert [path.ends[0] for path in paths] == [0, 0] or [path.ends for path in paths] == [(0, 1), (1, 2)]
    valley = next(path for path in paths if path.ends == (0, 1))
    assert valley.points.shape == (11, 2)
    np.testing.assert_allclose(valley.points[[0, -1]], [[-4, 0], [4, 0]], atol=0.6)
    assert valley.points[5, 1] == pytest.approx(3.0, abs=0.8), "the straight line would pass through (0, 0)"
    assert not valley.crosses_gap
    assert next(path for path in paths if 2 in path.ends).crosses_gap


def test_shallow_basins_are_merged() -> None:
    points = np.random.default_rng(2).normal(size=(600, 2))
    landscape = population_landscape(points)
    assert len(find_basins(landscape, min_depth=1.0)) == 1
    assert len(find_basins(landscape, min_depth=0.0)) > 1
    assert paths_between(landscape, find_basins(landscape, 1.0), 5) == []


def test_identical_points_are_one_basin() -> None:
    landscape = population_landscape(np.zeros((20, 2)))
    basins = find_basins(landscape, 0.5)
    assert len(basins) == 1
    assert (basins.labels[landscape.cells(np.zeros((20, 2)))] == 0).all()


def test_latents_along_a_path_are_those_of_the_particles_there() -> None:
    coordinates = np.array([[0.0, 0.0], [0.1, 0.0], [5.0, 5.0]])
    latents = np.array([[1.0, 0.0], [3.0, 0.0], [0.0, 9.0]])
    means = latents_at(np.array([[0.05, 0.0], [5.0, 5.2], [50.0, 50.0]]), coordinates, latents, np.array([0.5, 0.5]))
    np.testing.assert_allclose(means, [[2, 0], [0, 9], [0, 9]], atol=1e-6)


def test_scores_of_particles_that_were_not_decoded_are_predicted() -> None:
    rng = np.random.default_rng(4)
    latents = rng.normal(size=(600, 4))
    scores = np.column_stack([5 * np.tanh(latents[:, 0]), latents[:, 1] ** 2])
    sampled = np.sort(rng.choice(600, 250, replace=False))
    predicted, explained = _all_scores(latents, sampled, scores[sampled])
    np.testing.assert_array_equal(predicted[sampled], scores[sampled])
    others = np.setdiff1d(np.arange(600), sampled)
    residual = ((predicted[others] - scores[others]) ** 2).sum(axis=0)
    assert (1 - residual / ((scores[others] - scores[others].mean(axis=0)) ** 2).sum(axis=0) > 0.85).all()
    assert (explained > 0.8).all()


def test_classes_are_cut_from_the_tree() -> None:
    from scipy.cluster.hierarchy import linkage

    own = np.array([[0.0], [0.1], [5.0], [5.1], [9.0]])
    labels = _classes(linkage(own, "ward"), 3, own, np.array([[0.05], [4.9], [8.8], [5.2]]))
    assert len(set(labels[:3])) == 3
    assert labels[1] == labels[3]
