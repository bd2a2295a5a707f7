"""Separation: the slope within types of composition is found, and differences between types are kept."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opustomo.analysis.latents.latent_independence import predict_latent
from opustomo.model import separation
from opustomo.model.config import ModelConfig
from opustomo.model.separation import Separation, feature_count, features, find_separation, separate_latents
from tests.analysis.volumes.test_moving_volumes import make_geometry

ZDIM, ZAFFINE = 4, 3


@dataclass
class Planted:
    """Latents with known shared part."""

    mu: np.ndarray
    conformation: np.ndarray
    kind: np.ndarray
    own: np.ndarray
    """What the kind and noise make of mu."""


def plant(kinds: int, count: int = 1500, seed: int = 0, shared: float = 0.6) -> Planted:
    """Kinds that differ in conformation too, as where a body is absent, and one curve that all follow."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(kinds, size=count)
    places = 3.0 * np.linalg.qr(rng.normal(size=(ZDIM, ZDIM)))[0][:kinds] * np.arange(1, kinds + 1)[:, None]
    # bodies of the last kind hardly move, about another place
    spread = np.where(np.arange(kinds) == kinds - 1, 0.4, 1.0) if kinds > 1 else np.ones(1)
    conformation = rng.normal(size=(count, ZAFFINE)) * spread[kind, None]
    conformation[:, 0] += 0.8 * (kind == kinds - 1)
    phi = features(conformation, np.zeros(ZAFFINE), np.ones(ZAFFINE))
    slope = shared * rng.normal(size=(phi.shape[1], ZDIM))
    own = places[kind] + 0.15 * rng.normal(size=(count, ZDIM)) @ np.linalg.cholesky(np.eye(ZDIM) + 0.4)
    return Planted(own + phi @ slope, conformation * [2.0, 0.3, 1.0] + [5.0, 0.0, -1.0], kind, own)


def r2(source: np.ndarray, target: np.ndarray) -> float:
    """Held-out R², the better of a linear model and a forest."""
    return predict_latent(source, target, ("source", "target"), permutations=0).best


@pytest.mark.parametrize("kinds", [1, 2, 3])
def test_a_planted_curve_is_taken_away_and_kinds_stay(kinds: int) -> None:
    case = plant(kinds)
    found = find_separation(case.mu, case.conformation)
    assert found is not None
    assert r2(case.mu, case.conformation) > 0.5
    left = found.apart(case.mu, case.conformation)
    gap = left - case.own
    assert gap.std(0).max() < 0.04  # own, up to one constant
    for one in range(kinds):
        inside = case.kind == one
        assert r2(left[inside], case.conformation[inside]) < 0.1
    if kinds > 1:
        assert r2(left, np.eye(kinds)[case.kind]) > 0.97
        # one regression for all types takes part of what distinguishes them
        mean, std = case.conformation.mean(0), case.conformation.std(0)
        phi = features(case.conformation, mean, std)
        plain = np.linalg.lstsq(phi - phi.mean(0), case.mu - case.mu.mean(0), rcond=None)[0]
        taken = (
            case.mu - Separation(mean, std, phi.mean(0), plain).apart(case.mu, case.conformation) - case.mu + case.own
        )
        assert taken.std(0).max() > 3 * gap.std(0).max()


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([1, 2, 3]))
def test_independent_latents_are_left_nearly_as_they_are(seed: int, kinds: int) -> None:
    rng = np.random.default_rng(seed)
    count = 1500
    mu = plant(kinds, count, seed, shared=0.0).mu
    conformation = rng.normal(size=(count, ZAFFINE))
    found = find_separation(mu, conformation)
    assert found is not None
    within = 0.15**2 * 1.4  # variance of what lies within types
    taken = np.square(found.shared(conformation)).mean(0)
    assert (taken < 0.1 * within).all()


def test_the_same_latents_give_the_same() -> None:
    case = plant(2, count=400)
    one, other = (find_separation(case.mu, case.conformation) for _ in range(2))
    assert one is not None and other is not None
    np.testing.assert_array_equal(one.slope, other.slope)
    np.testing.assert_array_equal(one.centre, other.centre)


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_units_of_the_latents_do_not_matter(scale: float) -> None:
    case = plant(2, count=400)
    one = find_separation(case.mu, case.conformation)
    other = find_separation(case.mu * scale, case.conformation / scale)
    assert one is not None and other is not None
    np.testing.assert_allclose(other.slope, scale * one.slope, rtol=1e-4, atol=1e-5 * scale)


def test_many_particles_are_fitted_by_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    case = plant(2, count=6000)
    sizes: list[int] = []
    real = separation.dense_types

    def noted(values: np.ndarray) -> np.ndarray:
        sizes.append(len(values))
        return real(values)

    monkeypatch.setattr(separation, "SAMPLE", 1500)
    monkeypatch.setattr(separation, "dense_types", noted)
    found = find_separation(case.mu, case.conformation)
    assert found is not None and set(sizes) == {1500}
    gap = found.apart(case.mu, case.conformation) - case.own
    assert gap.std(0).max() < 0.04
    np.testing.assert_allclose(found.shared(case.conformation).mean(0), 0.0, atol=1e-10)  # over all


def test_a_motion_without_types_is_taken_away() -> None:
    """A mixture would divide the particles of a motion, which are of one type, into types along its curve."""
    rng = np.random.default_rng(0)
    angle = rng.uniform(-1, 1, 1000)
    conformation = angle[:, None] * [1.0, 0.3, 0.0] + 0.2 * rng.normal(size=(1000, ZAFFINE))
    curve = np.stack([3 * angle, 2 * np.cos(3 * angle), angle**3, np.zeros_like(angle)], 1)
    mu = curve + 0.3 * rng.normal(size=curve.shape)
    found = find_separation(mu, conformation)
    assert found is not None and r2(mu, angle[:, None]) > 0.9
    assert r2(found.apart(mu, conformation), angle[:, None]) < 0.5


def test_few_particles_are_left_alone() -> None:
    least = separation.PER_COLUMN * (feature_count(ZAFFINE) + ZDIM)
    case = plant(1, count=least)
    assert find_separation(case.mu, case.conformation) is not None
    assert find_separation(case.mu[1:], case.conformation[1:]) is None
    assert find_separation(case.mu[:0], case.conformation[:0]) is None


def test_what_cannot_be_fitted_is_left_alone() -> None:
    case = plant(1, count=400)
    same = np.full_like(case.conformation, 0.1)
    assert find_separation(case.mu, same) is None
    assert find_separation(np.full_like(case.mu, 0.1), case.conformation) is None
    for value in (np.nan, np.inf):
        broken = case.mu.copy()
        broken[7, 1] = value
        assert find_separation(broken, case.conformation) is None
        broken = case.conformation.copy()
        broken[7, 1] = value
        assert find_separation(case.mu, broken) is None


def test_numbers_that_do_not_vary_do_no_harm() -> None:
    case = plant(2)
    mu = np.insert(case.mu, 1, 0.3, axis=1).astype(np.float32)
    conformation = np.insert(case.conformation, 0, -2.5, axis=1).astype(np.float32)
    found = find_separation(mu, conformation)
    assert found is not None
    left = found.apart(mu, conformation)
    np.testing.assert_allclose(left[:, 1], 0.3, atol=1e-5)
    gap = np.delete(left, 1, axis=1) - case.own
    assert gap.std(0).max() < 0.04


@pytest.mark.filterwarnings("error")
def test_few_distinct_latents() -> None:
    """Fewer than kinds that are tried, as of particles that one encoder cannot tell apart."""
    rng = np.random.default_rng(0)
    places = rng.integers(3, size=300)
    mu, conformation = rng.normal(size=(3, ZDIM))[places], rng.normal(size=(3, ZAFFINE))[places]
    found = find_separation(mu, conformation)
    assert found is None or np.isfinite(found.apart(mu, conformation)).all()


def test_only_bodies_need_it() -> None:
    case = plant(2, count=400)
    latents = np.concatenate([case.mu, case.conformation], 1).astype(np.float32)
    sizes = {"zdim": ZDIM, "zaffinedim": ZAFFINE, "templateres": 32, "estimate_pose": True}
    assert separate_latents(latents, ModelConfig(**sizes)) is None  # type: ignore[arg-type]
    found = separate_latents(latents, ModelConfig(**sizes, bodies=make_geometry()))  # type: ignore[arg-type]
    assert found is not None and found.sizes == (ZDIM, ZAFFINE)
