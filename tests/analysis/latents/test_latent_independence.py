"""Statistical dependence of pairs of latents with known shared variance."""

from __future__ import annotations

import numpy as np
import pytest

from opustomo.analysis.latents.latent_independence import predict_latent

NAMES = ("composition", "conformation")


def test_independent_latents() -> None:
    rng = np.random.default_rng(0)
    found = predict_latent(rng.normal(size=(400, 3)), rng.normal(size=(400, 2)), NAMES, 9)
    assert found.best < 0.05
    assert "nearly independent" in found.sentence() and "composition" in found.sentence()


def test_linear_share_is_measured() -> None:
    """Half of the variance: R² 0.5."""
    rng = np.random.default_rng(1)
    source = rng.normal(size=(1500, 3))
    target = source[:, :2] + rng.normal(size=(1500, 2))
    found = predict_latent(source, target, NAMES, 5)
    assert found.ridge == pytest.approx(0.5, abs=0.06)
    assert found.p_value == pytest.approx(1 / 6)
    assert max(found.null) < 0.05


def test_curved_share_needs_the_forest() -> None:
    rng = np.random.default_rng(2)
    source = rng.uniform(-1, 1, size=(900, 2))
    target = np.c_[source[:, 0] ** 2, np.abs(source[:, 0])] * 3 + 0.1 * rng.normal(size=(900, 2))
    found = predict_latent(source, target, NAMES, 19)
    assert found.ridge < 0.1 and found.forest > 0.8
    assert found.p_value == pytest.approx(0.05)
    assert "strongly dependent" in found.sentence()


def test_one_dimension_and_constant_latents() -> None:
    rng = np.random.default_rng(3)
    source = rng.normal(size=(60, 1))
    assert predict_latent(source, 2 * source + 5, NAMES, 3).ridge > 0.99
    assert predict_latent(source, np.zeros((60, 1)), NAMES, 3).best <= 1.0


def test_repeats() -> None:
    rng = np.random.default_rng(4)
    source, target = rng.normal(size=(100, 2)), rng.normal(size=(100, 2))
    assert predict_latent(source, target, NAMES, 3) == predict_latent(source, target, NAMES, 3)
