import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from opustomo.analysis.latents.dimension_reduction import fit_pca
from opustomo.analysis.latents.latent_traversals import pc_traversal


def test_agrees_with_sklearn() -> None:
    latents = np.random.default_rng(0).normal(size=(200, 5)) * [5, 3, 2, 1, 0.5] + 7
    ours, reference = fit_pca(latents), PCA(5, svd_solver="full").fit(latents)
    np.testing.assert_allclose(ours.variance, reference.explained_variance_, rtol=1e-6)
    np.testing.assert_allclose(ours.variance_ratio, reference.explained_variance_ratio_, rtol=1e-6)
    np.testing.assert_allclose(np.abs(np.sum(ours.components * reference.components_, axis=1)), np.ones(5), atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 13), st.integers(0, 1000))
def test_scores_and_latents_are_inverse_for_any_shape(count: int, zdim: int, seed: int) -> None:
    latents = np.random.default_rng(seed).normal(size=(count, zdim)).astype(np.float32)
    pca = fit_pca(latents)
    scores = pca.scores(latents)
    assert scores.shape == (count, zdim)
    assert np.all(np.diff(pca.variance) <= 1e-12)
    np.testing.assert_allclose(pca.components @ pca.components.T, np.eye(zdim), atol=1e-9)
    np.testing.assert_allclose(pca.latents(scores), latents, atol=1e-5)


def test_equal_latents_have_no_variance() -> None:
    pca = fit_pca(np.full((30, 4), 1.2345, dtype=np.float32))
    assert np.all(pca.variance_ratio == 0)
    np.testing.assert_allclose(pca.mean, 1.2345, rtol=1e-6)


def test_sign_does_not_depend_on_particle_order() -> None:
    rng = np.random.default_rng(3)
    latents = rng.normal(size=(100, 4)) * [4, 3, 2, 1]
    np.testing.assert_allclose(
        fit_pca(latents).components, fit_pca(latents[rng.permutation(100)]).components, atol=1e-9
    )


def test_refuses_what_is_not_a_table_of_latents() -> None:
    with pytest.raises(ValueError, match="zdim"):
        fit_pca(np.zeros(5))


def test_traversal_runs_between_percentiles_with_other_scores_zero() -> None:
    latents = np.random.default_rng(1).normal(size=(1000, 3)) * [1, 4, 2]
    pca = fit_pca(latents)
    scores = pca.scores(latents)
    path, positions = pc_traversal(pca, scores, 1)
    assert path.shape == (10, 3)
    on_axes = pca.scores(path)
    np.testing.assert_allclose(on_axes[:, [0, 2]], 0, atol=1e-9)
    np.testing.assert_allclose(on_axes[:, 1], positions, atol=1e-9)
    low, high = np.sort(scores[:, 1])[[10, 989]]
    assert low - 0.1 < positions[0] < low + 0.1 and high - 0.1 < positions[-1] < high + 0.1
    np.testing.assert_allclose(np.diff(positions), np.diff(positions)[0])


def test_traversal_of_an_absent_component() -> None:
    pca = fit_pca(np.eye(3))
    with pytest.raises(ValueError, match="component 3"):
        pc_traversal(pca, np.eye(3), 3)
