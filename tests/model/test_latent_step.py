"""Newton steps of compositions on likelihoods that are known."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from opustomo.model.latent_step import (
    LIMIT,
    PRECISION,
    SPREAD,
    LatentHistory,
    curvature_of,
    inverse,
    likelier_offset,
    likeliest_offset,
    positive_part,
    teaching,
)

SIZE = 5
WIDE = torch.tensor(SPREAD)


def positive(seed: int, smallest: float = 0.5, largest: float = 40.0) -> torch.Tensor:
    """A symmetric matrix whose eigenvalues go from ``smallest`` to ``largest``."""
    generator = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(SIZE, SIZE, generator=generator))[0]
    return turn @ torch.diag(torch.linspace(smallest, largest, SIZE)) @ turn.mT


def parabola(seed: int, far: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Curvature, what the encoder says of four particles, and the likeliest, ``far`` from it."""
    mu, best = torch.randn(2, 4, SIZE, generator=torch.Generator().manual_seed(seed))
    return positive(seed), mu, mu + far * best


def posterior_slope(offset: torch.Tensor, mu: torch.Tensor, best: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """Of a likelihood that is a parabola of curvature ``own``, and the priors."""
    found = mu + offset
    return (found - best) @ own + offset / SPREAD**2 + PRECISION * found


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), largest=st.floats(1.0, 4e3))
def test_inverse(seed: int, largest: float) -> None:
    matrix = positive(seed, 0.5, largest)
    assert torch.allclose(inverse(matrix) @ matrix, torch.eye(SIZE), atol=1e-3)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), smallest=st.floats(-40.0, 40.0))
def test_positive_part(seed: int, smallest: float) -> None:
    """As by eigenvalues, which graphs cannot record."""
    matrix = positive(seed, smallest)
    values, turn = torch.linalg.eigh(matrix.double())
    wanted = turn @ torch.diag(values.clamp(min=0.0)) @ turn.mT
    assert torch.allclose(positive_part(matrix).double(), wanted, atol=0.05)
    assert not positive_part(torch.zeros(SIZE, SIZE)).any()


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), noise=st.floats(0.0, 0.4))
def test_one_step_finds_the_most_probable_latent_of_a_parabola(seed: int, noise: float) -> None:
    """Whatever was decoded; the offset is small enough not to be limited."""
    curvature, mu, best = parabola(seed, 0.2)
    z = mu + noise * torch.randn(4, SIZE, generator=torch.Generator().manual_seed(seed + 1))
    offset = likeliest_offset(z, mu, (z - best) @ curvature, curvature, WIDE)
    gradient = posterior_slope(offset, mu, best, curvature)
    assert gradient.abs().max() < 1e-3 * curvature.abs().max()


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), ratio=st.floats(0.25, 6.0))
def test_a_second_step_mends_the_length_of_the_first(seed: int, ratio: float) -> None:
    """Particles curve ``ratio`` times as much as all on average: the first step goes too far, or not far enough."""
    assumed, mu, best = parabola(seed, 0.1)
    held = (SPREAD**-2 + PRECISION) * torch.eye(SIZE)
    own = ratio * (assumed + held) - held

    def slope(z: torch.Tensor) -> torch.Tensor:
        return (z - best) @ own

    def left(offset: torch.Tensor) -> float:
        return float(posterior_slope(offset, mu, best, own).abs().max())

    first = likeliest_offset(mu, mu, slope(mu), assumed, WIDE)
    second = likelier_offset(mu + first, mu, slope(mu + first), (mu, slope(mu)), assumed, WIDE)
    assert left(second) < 1e-3 * left(torch.zeros_like(mu))
    if abs(ratio - 1.0) > 0.1:
        assert left(second) < 0.1 * left(first)


def test_a_second_step_stays_finite_where_the_likelihood_curves_down() -> None:
    """There nothing but the mean curvature holds the step."""
    mu, first = torch.zeros(4, SIZE), 0.1 * torch.ones(4, SIZE)
    curvature = positive(5)
    slope = torch.full((4, SIZE), 3.0)
    offset = likelier_offset(first, mu, slope - 50.0 * first, (mu, slope), curvature, WIDE)
    assert offset.isfinite().all() and float(offset.norm(dim=1).max()) <= LIMIT * SPREAD * SIZE**0.5 + 1e-4


def test_a_second_step_is_newtons_where_curvatures_are_as_assumed() -> None:
    generator = torch.Generator().manual_seed(3)
    curvature, mu, best, first = positive(3), *torch.randn(3, 4, SIZE, generator=generator)
    best, z = mu + 0.2 * best, mu + 0.1 * first
    after = z + 0.1
    before = (z, (z - best) @ curvature)
    slope = (after - best) @ curvature
    found = likelier_offset(after, mu, slope, before, curvature, WIDE)
    assert torch.allclose(found, likeliest_offset(after, mu, slope, curvature, WIDE), atol=1e-4)
    still = likelier_offset(after, mu, slope, (after, slope), curvature, WIDE)
    assert torch.allclose(still, found, atol=1e-4)


def test_without_curvature_the_encoder_is_believed() -> None:
    mu = torch.randn(4, SIZE, generator=torch.Generator().manual_seed(0))
    offset = likeliest_offset(mu, mu, torch.zeros(4, SIZE), torch.zeros(SIZE, SIZE), WIDE)
    assert torch.allclose(offset, -mu * PRECISION / (PRECISION + SPREAD**-2), atol=1e-5)


def test_offsets_are_limited_and_finite() -> None:
    slope = torch.full((2, SIZE), 1e4)
    slope[1] = torch.nan
    offset = likeliest_offset(torch.zeros(2, SIZE), torch.zeros(2, SIZE), slope, torch.zeros(SIZE, SIZE), WIDE)
    assert float(offset[0].norm()) == pytest.approx(LIMIT * SPREAD * SIZE**0.5, rel=1e-5)
    assert not offset[1].any()


def test_noise_tells_the_curvature() -> None:
    generator = torch.Generator().manual_seed(1)
    count, curvature, std = 200_000, positive(1, 1.0, 10.0), torch.tensor([0.1, 0.2, 0.3, 0.2, 0.1])
    noise = std * torch.randn(count, SIZE, generator=generator)
    slope = noise @ curvature + torch.randn(count, SIZE, generator=generator)  # the data's own noise
    found = curvature_of(slope, noise, std) / count
    assert torch.equal(found, found.mT)
    assert (found - curvature).abs().max() < 0.15


def test_the_encoder_learns_as_if_decoded_at_its_own_mean() -> None:
    curvature, best = positive(2), torch.ones(3, SIZE)
    mu = torch.zeros(3, SIZE, requires_grad=True)
    offset = torch.randn(3, SIZE, generator=torch.Generator().manual_seed(2))
    rest = mu + offset - best
    value = 0.5 * ((rest @ curvature) * rest).sum() + teaching(mu, LatentHistory(offset, curvature)).sum()
    value.backward()
    assert mu.grad is not None
    assert torch.allclose(mu.grad, -best @ curvature, atol=1e-4)
