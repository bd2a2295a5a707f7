"""Loss terms and prior compared with a plain reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from opustomo.model.loss import (
    TERM_NAMES,
    BatchTerms,
    LossWeights,
    Neighbors,
    ParticleTerms,
    PriorTerms,
    combine,
    kl_divergence,
    prior_terms,
    reconstruction,
    smoothness,
    squared_distances,
)
from tests import reference


def tensors(*arrays: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(np.asarray(a, dtype=np.float64)) for a in arrays]


def test_kl_divergence() -> None:
    rng = np.random.default_rng(0)
    mu, logstd = rng.normal(size=(2, 5, 4))
    expected = [reference.kl_divergence(m, s) for m, s in zip(mu, logstd, strict=True)]
    assert kl_divergence(*tensors(mu, logstd)).numpy() == pytest.approx(expected)


def test_kl_is_least_at_the_standard_normal() -> None:
    mu = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    logstd = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    kl_divergence(mu, logstd).sum().backward()
    assert mu.grad is not None and float(mu.grad.abs().max()) == 0
    assert logstd.grad is not None and float(logstd.grad.abs().max()) == 0


def test_smoothness() -> None:
    templates = np.random.default_rng(0).normal(size=(3, 6, 7, 5))
    expected = np.mean([reference.smoothness(t) for t in templates], axis=0)
    assert [float(v) for v in smoothness(*tensors(templates))] == pytest.approx(expected)


def test_smoothness_of_a_ramp() -> None:
    """Slope 3 along z, -4 along x: |∇V| = 5 everywhere."""
    z, _, x = np.meshgrid(*[np.arange(5.0)] * 3, indexing="ij")
    tv, _ = smoothness(*tensors((3 * z - 4 * x)[None]))
    assert float(tv) == pytest.approx(5.0)


@pytest.mark.parametrize(("batch", "near", "far"), [(6, 5, 8), (4, 1, 4), (2, 3, 2), (1, 3, 4)])
def test_prior(batch: int, near: int, far: int) -> None:
    rng = np.random.default_rng(batch)
    mu, z = rng.normal(size=(2, batch, 3)) * 0.7
    arrays = mu, z, rng.normal(size=(batch, near, 3)), rng.normal(size=(batch, far, 3))
    terms = prior_terms(*(parts := tensors(*arrays))[:2], Neighbors(*parts[2:]))
    expected = reference.prior_terms(*arrays)
    assert terms._asdict() == {name: pytest.approx(value) for name, value in expected.items()}


def test_prior_of_equal_latents_is_finite() -> None:
    """All particles at one point, stored latents too: no division by zero, no gradient that is none."""
    mu = torch.zeros(4, 3, requires_grad=True)
    terms = prior_terms(mu, mu.detach(), Neighbors(torch.zeros(4, 2, 3), torch.zeros(4, 2, 3)))
    sum(terms).backward()
    assert all(torch.isfinite(term) for term in terms)
    assert mu.grad is not None and torch.isfinite(mu.grad).all()


def test_prior_pulls_and_pushes() -> None:
    """Along the gradient's descent, near latents attract, far ones repel, and the batch spreads."""
    mu = torch.tensor([[1.0, 0.0]], requires_grad=True)
    at = torch.zeros(1, 1, 2)
    far_away = torch.full((1, 1, 2), 1e3)
    prior_terms(mu, mu.detach(), Neighbors(at, far_away)).attract.backward()
    assert mu.grad is not None and mu.grad[0, 0] > 0
    mu.grad = None
    prior_terms(mu, mu.detach(), Neighbors(far_away, at)).repel.backward()
    assert mu.grad is not None and mu.grad[0, 0] < 0
    pair = torch.tensor([[0.3, 0.0], [-0.3, 0.0]], requires_grad=True)
    prior_terms(pair, pair.detach(), Neighbors(torch.zeros(2, 1, 2), torch.zeros(2, 1, 2))).spread.backward()
    assert pair.grad is not None and pair.grad[0, 0] < 0 < pair.grad[1, 0]


def test_spread_takes_no_gradient_through_its_damping() -> None:
    """d/dd² log(1 + 1/d²)·min(d², 1), the second factor held: at d² = ¼ that is -0.8."""
    pair = torch.tensor([[0.25], [-0.25]], dtype=torch.float64, requires_grad=True)
    prior_terms(pair, pair.detach(), Neighbors(torch.zeros(2, 1, 1), torch.zeros(2, 1, 1))).spread.backward()
    d2 = 0.25 + 1e-3
    slope = -1 / (d2 * (d2 + 1)) * d2  # of log(1 + 1/d²), times the damping
    expected = 2 / 4 * slope * 2 * 0.5  # two ordered pairs over B², d(d²)/dx = 2·0.5
    assert pair.grad is not None
    assert float(pair.grad[0]) == pytest.approx(expected)


def test_neighbors_in_the_batch_are_ranked_by_samples() -> None:
    """Nearest by z, distance by mu."""
    mu = torch.tensor([[0.0], [1.0], [5.0], [9.0], [20.0]], dtype=torch.float64)
    z = torch.tensor([[0.0], [30.0], [1.0], [2.0], [3.0]], dtype=torch.float64)
    stored = torch.zeros(5, 1, 1, dtype=torch.float64)
    arrays = [t.numpy() for t in (mu, z, stored, stored)]
    expected = reference.prior_terms(*arrays)["knn"]
    assert float(prior_terms(mu, z, Neighbors(stored, stored)).knn) == pytest.approx(expected)
    assert float(prior_terms(mu, mu, Neighbors(stored, stored)).knn) != pytest.approx(expected, rel=0.01)


def test_squared_distances_are_exact() -> None:
    a = torch.tensor([[1e4, 1.0], [1e4, 2.0]])
    assert squared_distances(a, a).tolist() == [[0.0, 1.0], [1.0, 0.0]]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("strength", [0.02, 0.3, 2.0])
def test_total(seed: int, strength: float) -> None:
    """From weak models, whose prior is faded out, to strong ones, where smoothness has reached its limit."""
    rng = np.random.default_rng(seed)
    batch, candidates, crop = 3, 7, 10
    mask = (rng.uniform(size=(crop,) * 3) > 0.4).astype(float)
    norm = mask.sum()
    settings = reference.Settings(beta=0.4, beta_control=0.8, lamb=0.6, snr=0.03)
    power = strength * norm * rng.uniform(0.5, 1, (batch, candidates))
    energies = power - norm * strength * rng.uniform(0.1, 0.9, (batch, candidates))
    target2 = norm * rng.uniform(1, 2, batch)
    kl, smooth = rng.uniform(1, 4, batch), (0.4, 0.7)
    prior = dict(zip(PriorTerms._fields, rng.uniform(0.1, 2, 4).tolist(), strict=True))
    expected = reference.combine(
        list(energies), list(power), target2.tolist(), mask, kl.tolist(), smooth, prior, settings
    )
    weights = np.array([reference.candidate_weights(e, crop) for e in energies])
    sums = tensors((weights * energies).sum(1), (weights * power).sum(1), target2)
    kl_tensor = torch.from_numpy(kl)
    particles = ParticleTerms(*reconstruction(*sums, float(norm)), kl_tensor)
    terms = combine(
        particles,
        BatchTerms(*(torch.tensor(value, dtype=torch.float64) for value in (*smooth, *prior.values()))),
        LossWeights(settings.beta, settings.beta_control, settings.lamb, torch.tensor(settings.snr), float(norm)),
        torch.full_like(kl_tensor, 1.0 / batch),
    )
    ours = dict(zip(TERM_NAMES, terms.stacked().tolist(), strict=True))
    assert ours == {name: pytest.approx(value, rel=1e-6) for name, value in expected.items()}


def terms_of(energy: torch.Tensor, power: torch.Tensor, target2: torch.Tensor) -> ParticleTerms:
    """Return the terms of particles without an encoder."""
    zero = torch.zeros_like(target2)
    return ParticleTerms(*reconstruction(energy, power, target2, 10.0), zero)


def test_without_encoder_only_reconstruction_and_smoothness_count() -> None:
    one, zero = torch.ones(2, dtype=torch.float64), torch.tensor(0.0)
    weights, half = LossWeights(0.5, 0.5, 1.0, torch.tensor(0.1), 10.0), torch.full((2,), 0.5)
    particles = terms_of(one, one, 2 * one)
    assert float(combine(particles, None, weights, half).total) == pytest.approx(0.1)
    batch = BatchTerms(torch.tensor(0.1), torch.tensor(0.2), zero, zero, zero, zero)
    terms = combine(particles, batch, weights, half)
    snr = 0.1 / 0.3
    assert float(terms.total) == pytest.approx(0.1 + min(snr**0.5, 0.5) * (0.01 + 0.06) / 10)
    assert float(terms.kl) == 0


def test_snr_carries_no_gradient() -> None:
    """The total is the generative loss plus terms that do not depend on the energies."""
    energy = torch.tensor([3.0, 4.0], dtype=torch.float64, requires_grad=True)
    power = torch.tensor([5.0, 6.0], dtype=torch.float64, requires_grad=True)
    batch = BatchTerms(torch.tensor(0.1), torch.tensor(0.2), *[torch.tensor(1.0)] * 4)
    weights = LossWeights(0.5, 0.5, 1.0, torch.tensor(0.1), 10.0)
    combine(terms_of(energy, power, torch.ones(2)), batch, weights, torch.full((2,), 0.5)).total.backward()
    assert energy.grad is not None
    assert energy.grad.numpy() == pytest.approx([0.05, 0.05])
    assert power.grad is None
