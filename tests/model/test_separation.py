"""What composition and conformation share is measured without bias, and its gradient takes it away."""

from __future__ import annotations

import pytest
import torch

from opustomo.model.separation import shared_variance


def draws(count: int, correlation: float, seed: int = 0) -> torch.Tensor:
    """Standard normal (count, 5); columns 0 and 4 correlate."""
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(count, 5, generator=generator, dtype=torch.float64)
    latents[:, 4] = correlation * latents[:, 0] + (1 - correlation**2) ** 0.5 * latents[:, 4]
    return latents


@pytest.mark.parametrize("correlation", [0.0, 0.6, -0.9])
def test_small_batches_estimate_the_squared_correlation_without_bias(correlation: float) -> None:
    latents = draws(60_000, correlation)
    found = torch.stack([shared_variance(batch, 3) for batch in latents.split(6)])
    error = float(found.std()) / len(found) ** 0.5
    assert float(found.mean()) == pytest.approx(correlation**2, abs=4 * error)
    assert error < 0.02


def test_rows_without_weight_do_not_count() -> None:
    latents = draws(9, 0.5)
    weight = torch.tensor([1.0, 1, 0, 1, 1, 0, 1, 1, 1], dtype=torch.float64)
    assert float(shared_variance(latents, 3, weight)) == pytest.approx(float(shared_variance(latents[weight > 0], 3)))


def test_one_row_shares_nothing() -> None:
    assert float(shared_variance(draws(1, 0.5), 3)) == pytest.approx(0, abs=1e-12)
    one = torch.tensor([0.0, 1.0, 0.0])
    assert float(shared_variance(draws(3, 0.5), 3, one)) == pytest.approx(0, abs=1e-12)


def test_descending_it_takes_the_correlation_away() -> None:
    latents = draws(400, 0.9)
    mixing = torch.eye(5, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([mixing], lr=0.02)
    for _ in range(300):
        optimiser.zero_grad()
        mixed = latents @ mixing
        mixed = (mixed - mixed.mean(0).detach()) / mixed.std(0).detach()
        shared_variance(mixed, 3).backward()
        optimiser.step()
    mixed = (latents @ mixing).detach()
    assert abs(float(torch.corrcoef(mixed.T)[0, 4])) < 0.1
