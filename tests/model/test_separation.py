"""Composition and conformation are separated and joined again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opustomo.model import separation
from opustomo.model.separation import Separation, feature_count, mean_features

SIZES = st.tuples(st.integers(1, 40), st.integers(1, 5), st.integers(1, 4), st.integers(0, 2**32 - 1))


def make(conformation: np.ndarray, size: int, rng: np.random.Generator) -> Separation:
    """A separation with the mean, spread and centre of these conformations, and any slope."""
    values = conformation.astype(np.float64)
    mean, std = values.mean(0), values.std(0) + 0.5
    slope = rng.normal(size=(feature_count(values.shape[1]), size))
    return Separation(mean, std, mean_features(values, mean, std), slope)


@settings(max_examples=50, deadline=None)
@given(SIZES)
def test_together_undoes_apart(sizes: tuple[int, int, int, int]) -> None:
    count, zdim, zaffinedim, seed = sizes
    rng = np.random.default_rng(seed)
    mu = rng.normal(size=(count, zdim)).astype(np.float32)
    conformation = rng.normal(2.0, 3.0, (count, zaffinedim)).astype(np.float32)
    found = make(conformation, zdim, rng)
    assert found.sizes == (zdim, zaffinedim)
    apart, shared = found.apart(mu, conformation), found.shared(conformation)
    assert apart.dtype == np.float32
    back = found.together(apart, conformation)
    np.testing.assert_allclose(back, mu, rtol=0, atol=2.0**-22 * (1.0 + np.abs(mu).max() + np.abs(shared).max()))
    np.testing.assert_allclose(apart, mu - shared, rtol=1e-5, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(SIZES)
def test_nothing_is_taken_on_average(sizes: tuple[int, int, int, int]) -> None:
    """The mean of the removed part is zero, so composition alone is decoded at the mean conformation."""
    count, zdim, zaffinedim, seed = sizes
    rng = np.random.default_rng(seed)
    conformation = rng.normal(-1.0, 2.0, (count, zaffinedim))
    np.testing.assert_allclose(make(conformation, zdim, rng).shared(conformation).mean(0), 0.0, atol=1e-10)


def test_shared_is_a_polynomial_of_degree_two() -> None:
    rng = np.random.default_rng(3)
    conformation = rng.normal(size=(7, 3))
    found = make(conformation, 2, rng)
    for row, shared in zip(conformation, found.shared(conformation), strict=True):
        s = (row - found.mean) / found.std
        phi = [*s, s[0] * s[0], s[0] * s[1], s[0] * s[2], s[1] * s[1], s[1] * s[2], s[2] * s[2]]
        wanted = sum((phi[i] - found.centre[i]) * found.slope[i] for i in range(9))
        np.testing.assert_allclose(shared, wanted, rtol=1e-12)


def test_many_particles_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    conformation = rng.normal(size=(25, 2))
    whole = make(conformation, 3, rng)
    monkeypatch.setattr(separation, "ROWS", 10)
    np.testing.assert_allclose(whole.shared(conformation[::-1]), whole.shared(conformation)[::-1], rtol=1e-12)
    again = mean_features(conformation, whole.mean, whole.std)
    np.testing.assert_allclose(again, whole.centre, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("part", ["mean", "std", "centre", "slope"])
def test_what_does_not_fit_together_is_refused(part: str) -> None:
    rng = np.random.default_rng(5)
    found = make(rng.normal(size=(9, 2)), 3, rng)
    parts = {name: getattr(found, name) for name in ("mean", "std", "centre", "slope")}
    with pytest.raises(ValueError):
        Separation(**{**parts, part: parts[part][:-1]})
    broken = parts[part].copy()
    broken[0] = np.nan
    with pytest.raises(ValueError):
        Separation(**{**parts, part: broken})
    with pytest.raises(ValueError, match="not positive"):
        Separation(**{**parts, "std": np.zeros(2)})
