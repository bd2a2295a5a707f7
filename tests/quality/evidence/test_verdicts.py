"""Verdicts on synthetic spectra: particles of one or two states under a missing wedge, with contrast and noise."""

import csv
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from opustomo.analysis.clusters.clustering import cluster_latents
from opustomo.io.mrc import read_volume, write_volume
from opustomo.physics.backprojection import sphere_frequencies
from opustomo.quality.evidence.class_pair_test import Gain, PairTest, compare_pair, mixture_gain
from opustomo.quality.evidence.cluster_stability import (
    ClusteredValues,
    cluster_stability,
    effective_dimension,
)
from opustomo.quality.evidence.covariates import (
    Covariate,
    categories,
    class_mask,
    effect_sizes,
    matched_fsc,
    propensity_strata,
    standardized,
)
from opustomo.quality.evidence.difference_maps import difference_map
from opustomo.quality.evidence.motion_verdict import LatentCoordinate, judge_motion
from opustomo.quality.evidence.particle_spectra import ParticleSpectra, mask_on_box
from opustomo.quality.evidence.permutation_tests import matched_permutations
from opustomo.quality.evidence.residual_features import (
    ParticleFeatures,
    Residuals,
    fit_residuals,
    nuisance_maps,
    particle_features,
)
from opustomo.quality.evidence.validation_files import write_differences

BOX = 16


@dataclass(frozen=True)
class Synthetic:
    """Residuals and features of synthetic particles, and the state of each."""

    residuals: Residuals
    features: ParticleFeatures
    state: np.ndarray

    def pair(self, labels: np.ndarray, covariates: list[Covariate] | None = None) -> PairTest:
        return compare_pair(self.residuals, self.features, labels, (0, 1), covariates or [])


def blob(center: tuple[float, float, float], width: float) -> torch.Tensor:
    axis = torch.arange(BOX).float() - BOX // 2
    z, y, x = (axis - c for c in center)
    return torch.exp(-(z[:, None, None] ** 2 + y[:, None] ** 2 + x**2) / (2 * width**2))


def synthetic(
    extra: float, *, count: int = 240, noise: float = 2.0, contrast: np.ndarray | None = None, seed: int = 0
) -> Synthetic:
    """Simulate particles; those of state 1 have a blob of height `extra` more (or a fraction, for state 0 to 1)."""
    rng = np.random.default_rng(seed)
    places, at = sphere_frequencies(BOX)
    keep = (places % (BOX // 2 + 1) < BOX // 2) & (at.abs().amax(1) < BOX / 2)
    places, at = places[keep], at[keep]
    direction = rng.normal(size=(count, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    cosine = np.abs(at.numpy() @ direction.T).T / np.maximum(at.norm(dim=1).numpy(), 1e-6)
    weight = torch.from_numpy(np.where(cosine > 0.85, 0.02, 1.0).astype(np.float32))
    bare = ParticleSpectra(np.arange(count), torch.zeros(count, 0), weight, at, places, BOX, 10.0)
    base = blob((0, 0, 0), 3.0) + blob((2, -2, 1), 1.5) + 0.8 * blob((-3, 1, -2), 1.2)
    maps = bare.spectra(torch.stack([base, blob((1, 3, -3), 1.2)]))
    state = rng.integers(0, 2, count)
    amplitude = torch.from_numpy(np.ones(count) if contrast is None else contrast).float()
    truth = amplitude[:, None] * (maps[0] + extra * torch.from_numpy(state).float()[:, None] * maps[1])
    white = bare.spectra(torch.from_numpy(rng.normal(0, noise, (count, BOX, BOX, BOX)).astype(np.float32)))
    spectra = ParticleSpectra(np.arange(count), weight * truth + weight.sqrt() * white, weight, at, places, BOX, 10.0)
    residuals = fit_residuals(spectra, np.arange(count) % 2, mask_on_box(None, BOX))
    return Synthetic(residuals, particle_features(residuals), state)


@pytest.fixture(scope="module")
def two_states() -> Synthetic:
    return synthetic(2.0, noise=1.0)


@pytest.fixture(scope="module")
def one_state() -> Synthetic:
    return synthetic(0.0, noise=1.0)


def test_true_classes_differ(two_states: Synthetic) -> None:
    pair = two_states.pair(two_states.state)
    assert pair.outcome == "different" and pair.gain.positive
    assert pair.split.confirmed == pytest.approx(1.0, abs=0.35)
    assert "It differs from class 1" in pair.sentence(0) and "class 0" in pair.sentence(1)


def test_a_difference_map_shows_where_a_class_differs(two_states: Synthetic) -> None:
    """Particles of state 1 have a further blob, at (z, y, x) = (1, 3, -3) from the center."""
    found = difference_map(two_states.residuals, two_states.state, 1, [], 2)
    assert found is not None and found.deviations.shape == (BOX,) * 3
    z, y, x = (int(i) - BOX // 2 for i in np.unravel_index(found.deviations.argmax(), found.deviations.shape))
    assert max(abs(z - 1), abs(y - 3), abs(x + 3)) <= 1
    assert found.deviations.max() > 2 * found.threshold and found.half_correlation > 0.5 and found.fraction > 0
    assert "Class 1 differs from the others in" in found.sentence()
    other = difference_map(two_states.residuals, two_states.state, 0, [], 2)
    assert other is not None  # the same splits with exchanged sides
    np.testing.assert_allclose(other.deviations, -found.deviations, atol=0.5 * found.threshold)
    few = np.where(np.arange(len(two_states.state)) < 5, 1, 0)
    assert difference_map(two_states.residuals, few, 1, [], 2) is None


def test_difference_maps_are_written_with_scripts_for_chimerax(two_states: Synthetic, tmp_path: Path) -> None:
    found = [difference_map(two_states.residuals, two_states.state, number, [], 2) for number in (0, 1)]
    maps = [one for one in found if one is not None]
    write_volume(tmp_path / "reference0.mrc", np.maximum(blob((0, 0, 0), 3.0).numpy(), 0.1), 10.0)
    write_volume(tmp_path / "backprojection1.mrc", blob((0, 0, 0), 3.0).numpy(), 10.0)
    (tmp_path / "difference2.mrc").touch()  # of an earlier validation
    names = [path.name for path in write_differences(tmp_path, maps, 3)]
    assert names == [
        *("validation_differences.csv", "difference0.mrc", "difference0.cxc", "difference1.mrc", "difference1.cxc")
    ]
    assert not (tmp_path / "difference2.mrc").exists()
    values, apix = read_volume(tmp_path / "difference1.mrc")
    np.testing.assert_array_equal(values, maps[1].deviations)
    assert apix == pytest.approx(10.0)
    script = (tmp_path / "difference1.cxc").read_text()
    assert "open backprojection1.mrc" in script and f"level {maps[1].threshold:.5g} color" in script
    assert "open reference0.mrc" in (tmp_path / "difference0.cxc").read_text()
    rows = list(csv.DictReader((tmp_path / "validation_differences.csv").open()))
    assert [row["class"] for row in rows] == ["0", "1"]
    assert float(rows[1]["half_set_correlation"]) == pytest.approx(maps[1].half_correlation, abs=1e-4)


def test_difference_maps_of_random_classes_exceed_their_threshold_rarely(two_states: Synthetic) -> None:
    """At most six of 40 do with a probability of 99 % if each does with one of 5 %."""
    beyond = 0
    for seed in range(40):
        labels = np.random.default_rng(1000 + seed).permutation(two_states.state)
        found = difference_map(two_states.residuals, labels, 0, [], 2, seed)
        assert found is not None
        beyond += found.fraction > 0
        assert found.fraction > 0 or "differs nowhere" in found.sentence()
    assert beyond <= 6


def test_permuted_classes_do_not_differ(two_states: Synthetic) -> None:
    outcomes = []
    for seed in range(5):
        labels = np.random.default_rng(seed).permutation(two_states.state)
        outcomes.append(two_states.pair(labels).outcome)
    assert outcomes == ["same"] * 5


def test_differences_as_small_as_systematic_errors_are_unclear(two_states: Synthetic) -> None:
    pair = two_states.pair(two_states.state)
    small = replace(pair, split=replace(pair.split, change=0.02))
    assert small.outcome == "unclear" and "imaging model" in small.sentence(0)


def test_a_copy_of_other_contrast_is_called_so() -> None:
    state = np.random.default_rng(0).integers(0, 2, 240)
    particles = synthetic(0.0, noise=1.0, contrast=np.where(state == 1, 1.6, 1.0))
    pair = particles.pair(state)
    assert pair.outcome == "same" and pair.contrast_ratio == pytest.approx(1 / 1.6, rel=0.1)
    assert "copy of class 0 with 1." in pair.sentence(1)


def test_classes_made_from_noise_are_not_supported(one_state: Synthetic) -> None:
    """Classes by the largest principal component of the particles' own noise differ, but gain no likelihood."""
    vector = np.linalg.eigh(one_state.features.gram)[1][:, -1]
    pair = one_state.pair((vector > 0).astype(int))
    assert pair.split.p_value < 0.01
    assert pair.outcome in ("noise", "unclear") and not pair.gain.positive


def test_residuals_are_free_of_contrast_and_pose_errors(one_state: Synthetic) -> None:
    """The noiseless particle that is shifted and scaled leaves much less than it shows."""
    residuals = one_state.residuals
    spectra, spectrum = residuals.spectra, residuals.consensus.spectrum
    shift = torch.exp(-2j * torch.pi / BOX * 0.3 * spectra.frequencies[:, 0])
    moved = 1.3 * spectrum * shift
    beyond = spectra.shells > 0
    maps, moved, spectrum = nuisance_maps(spectra, residuals.consensus)[:, beyond], moved[beyond], spectrum[beyond]
    real = torch.cat([maps.real, maps.imag], 1).T
    target = torch.cat([(moved - spectrum).real, (moved - spectrum).imag])
    fit = torch.linalg.lstsq(real, target[:, None]).solution
    left = (real @ fit)[:, 0] - target
    assert float(left.norm() / target.norm()) < 0.15


def test_matched_controls_keep_the_strata() -> None:
    rng = np.random.default_rng(0)
    side, strata = rng.random(100) < 0.3, rng.integers(0, 4, 100)
    permuted = matched_permutations(side, strata, 20, rng)
    for stratum in range(4):
        assert (permuted[:, strata == stratum].sum(1) == side[strata == stratum].sum()).all()
    assert (permuted != side).any()


def test_fsc_of_a_class_is_compared_with_matched_controls_in_its_own_mask() -> None:
    particles = synthetic(3.0, noise=1.5)
    pure = matched_fsc(particles.residuals, particles.state, 1, [])
    assert pure is not None and pure.own > pure.high and "above" in pure.sentence()
    small, elsewhere = blob((2, 0, 0), 1.2), blob((-5, 0, 0), 1.2)
    own = class_mask(small, torch.ones(BOX, BOX, BOX))
    assert float((own * small).sum() / small.sum()) > 0.9 and float((own * elsewhere).sum() / elsewhere.sum()) < 0.1
    mixed = matched_fsc(particles.residuals, np.random.default_rng(0).permutation(particles.state), 0, [])
    assert mixed is not None and mixed.low < mixed.own < mixed.high
    assert matched_fsc(particles.residuals, np.arange(240) // 236, 1, []) is None


def test_a_class_that_views_explain_cannot_be_matched(two_states: Synthetic) -> None:
    covariate = Covariate("the tomogram", categories(two_states.state))
    pair = two_states.pair(two_states.state, [covariate])
    assert pair.outcome == "unclear" and "no matched particles" in pair.sentence(0)


def test_strata_balance_a_covariate() -> None:
    rng = np.random.default_rng(1)
    score = rng.normal(size=600)
    side = rng.random(600) < 1 / (1 + np.exp(-1.5 * score))
    strata = propensity_strata([Covariate("score", standardized(score))], side)
    before = score[side].mean() - score[~side].mean()
    within = [score[side & (strata == s)].mean() - score[~side & (strata == s)].mean() for s in np.unique(strata)]
    assert len(within) == 5 and np.abs(np.mean(within)) < 0.2 * before


def test_effects_are_corrected_for_chance_and_number() -> None:
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 3, 300)
    covariates = [Covariate("defocus", standardized(labels + 0.5 * rng.normal(size=300)))]
    covariates += [Covariate(f"random {i}", standardized(rng.normal(size=300))) for i in range(9)]
    first, *others = effect_sizes(covariates, labels)
    assert first.notable and first.size > 0.5 and "large" in first.sentence()
    assert not any(effect.notable for effect in others)
    assert all(effect.p_value > 0.01 for effect in others)


def test_stability_finds_the_number_of_separate_clusters() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 200)
    latents = 4.0 * np.eye(3)[labels] + 0.5 * rng.normal(size=(200, 3))
    stability = cluster_stability(ClusteredValues(latents), labels, 3)
    assert stability is not None and stability.most_stable == 3 and stability.ari[3] > 0.95
    assert (stability.jaccard > 0.9).all()
    assert (stability.agreement > 0.9).all() and all(stability.comes_back(number) for number in range(3))
    assert "is reproduced" in stability.class_sentence(0)
    shapeless = cluster_stability(ClusteredValues(rng.normal(size=(200, 3))), rng.integers(0, 4, 200), 4)
    assert shapeless is not None and shapeless.ari[4] < 0.7 and (shapeless.jaccard < 0.5).all()
    assert "Jaccard" in shapeless.class_sentence(0)


def test_clusters_of_latents_without_structure_do_not_come_back() -> None:
    """K-means of two normal coordinates gives clusters with a Jaccard index above 0.5, but disjoint halves disagree."""
    comes_back = []
    for seed in range(3):
        latents = np.random.default_rng(seed).normal(size=(200, 2))
        labels = cluster_latents(latents, 2).labels
        stability = cluster_stability(ClusteredValues(latents), labels, 2, seed=seed)
        assert stability is not None
        comes_back.append(stability.comes_back(0))
        assert stability.comes_back(0) or "latents without clusters reach" in stability.class_sentence(0)
    assert sum(comes_back) <= 1


def unequal_states(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (N, 4) with unit errors of four states of 150, 60, 24 and 20 particles, and the states."""
    truth = np.repeat(np.arange(4), (150, 60, 24, 20))
    return 10.0 * np.eye(4)[truth] + np.random.default_rng(seed).normal(size=(254, 4)), truth


def test_stability_of_density_clusters_is_that_of_density_clusters() -> None:
    """Rare states of HDBSCAN are reproduced by HDBSCAN."""
    values, truth = unequal_states()
    stability = cluster_stability(ClusteredValues(values, "hdbscan", standardized=True), truth, 4)
    assert stability is not None and all(stability.comes_back(number) for number in range(4))
    assert (
        "HDBSCAN of disjoint halves of the coordinates" in stability.sentence() and "4 clusters" in stability.sentence()
    )
    assert stability.found == (4, 4) and stability.most_stable == 4
    assert not stability.chance.any()
    without = np.random.default_rng(1).normal(scale=3.0, size=(254, 4))
    shapeless = cluster_stability(ClusteredValues(without, "hdbscan", standardized=True), truth, 4)
    assert (
        shapeless is not None
        and shapeless.ari == {4: 0.0}
        and not any(shapeless.comes_back(number) for number in range(4))
    )


def test_stability_of_density_clusters_regards_particles_in_no_cluster() -> None:
    values, truth = unequal_states(1)
    values[7] = np.nan  # was not clustered
    labels = np.where(np.arange(254) % 50 == 0, 4, truth)
    stability = cluster_stability(ClusteredValues(values, "hdbscan", standardized=True), labels, 4)
    assert stability is not None and (stability.jaccard[:2] > 0.9).all()


def test_effective_dimension_counts_directions_of_similar_variance() -> None:
    rng = np.random.default_rng(0)
    assert effective_dimension(rng.normal(size=(500, 5))) == 5
    assert effective_dimension(rng.normal(size=(500, 5)) * [5, 5, 0.1, 0.1, 0.1]) == 2
    assert effective_dimension(rng.normal(size=(500, 1))) == effective_dimension(np.zeros((5, 2))) == 2


def test_gain_ignores_the_class_of_the_particle_itself(one_state: Synthetic) -> None:
    """For one state, several maps do not explain held-out particles better than one."""
    chosen = np.arange(240)
    groups = np.random.default_rng(0).integers(0, 3, 240)
    assert not Gain.of(mixture_gain(one_state.residuals, chosen, groups, 3)).positive


def test_motion_is_reported_from_none_and_two_states_from_a_continuum(
    two_states: Synthetic, one_state: Synthetic
) -> None:
    rng = np.random.default_rng(3)
    classes = np.zeros(240)
    seen = judge_motion(
        two_states.features, LatentCoordinate("it", two_states.state + 0.2 * rng.normal(size=240)), classes, []
    )
    assert seen.verdict == "supported" and "two states would explain it" in seen.sentence
    # a small change of which independent noise confirms a part only: the first principal component of the residuals
    small = synthetic(0.6, noise=0.5)
    component = LatentCoordinate("it", np.linalg.eigh(small.features.gram)[1][:, -1])
    partly = judge_motion(small.features, component, classes, [])
    assert partly.verdict == "cannot tell" and "independent noise confirms at most" in partly.sentence
    whole = LatentCoordinate("it", small.state + 0.2 * rng.normal(size=240))
    assert judge_motion(small.features, whole, classes, []).verdict == "supported"
    none = judge_motion(one_state.features, LatentCoordinate("it", rng.normal(size=240)), classes, [])
    assert none.verdict == "not supported"
