"""Compositions that become small are scaled up, and nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from opustomo.model.decoder import Decoder
from opustomo.model.encoder import Encoder
from opustomo.training.latent_scale import LIMIT, factor_of, rescale
from opustomo.training.memory import LatentMemory
from opustomo.training.offsets import OffsetMemory

ZDIM, ZAFFINE = 3, 2


class Networks(torch.nn.Module):
    """An encoder and a decoder; the parts of a model that are rescaled."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.decoder = Encoder(ZDIM + ZAFFINE, 8), Decoder(ZDIM, 32)
        self.config = type("Config", (), {"zdim": ZDIM})()

    def forward(self, volumes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        mu, logstd = self.encoder(volumes)
        return mu, logstd, self.decoder(mu[:, :ZDIM])


@pytest.mark.parametrize("spread, factor", [(0.01, LIMIT), (0.5, LIMIT), (0.8, 1.25), (1.0, 1.0), (7.0, 1.0)])
def test_factor(spread: float, factor: float) -> None:
    latents = torch.randn(5000, ZDIM, generator=torch.Generator().manual_seed(0))
    latents = 4.0 + spread * (latents - latents.mean(0)) / latents.var(0, correction=0).sum().sqrt()
    assert float(factor_of(latents)) == pytest.approx(factor, rel=1e-3)


def test_volumes_stay_and_learning_goes_on_as_it_would_have() -> None:
    """Rescaled networks give the same volumes; gradients and their means are in the new unit."""
    volumes = torch.randn(2, 32, 32, 32, generator=torch.Generator().manual_seed(1))
    found = []
    for factor in (None, torch.tensor(2.0)):
        networks = Networks()
        optimizer = torch.optim.AdamW(networks.parameters(), lr=1e-3)
        _, logstd, volume = networks(volumes)
        (1e-3 * volume.square().sum() + logstd.square().sum()).backward()
        optimizer.step()
        if factor is not None:
            rescale(networks, optimizer, factor)  # type: ignore[arg-type]
        mu, logstd, volume = networks(volumes)
        gradient = torch.autograd.grad(volume.square().sum(), networks.decoder.template.composition_weight)[0]
        found.append((mu, logstd, volume, gradient, optimizer.state[networks.encoder.mu.weight]["exp_avg"]))
    (mu, logstd, volume, gradient, moment), (mu2, logstd2, volume2, gradient2, moment2) = found
    assert torch.allclose(mu2[:, :ZDIM], 2.0 * mu[:, :ZDIM], rtol=1e-4, atol=1e-6)
    assert torch.equal(mu2[:, ZDIM:], mu[:, ZDIM:]) and torch.equal(logstd2, logstd)
    assert torch.allclose(volume2, volume, rtol=1e-3, atol=1e-5)
    assert torch.allclose(gradient2, 2.0 * gradient, rtol=1e-2, atol=1e-3 * float(gradient.abs().max()))
    assert torch.allclose(moment2[:ZDIM], 0.5 * moment[:ZDIM]) and torch.equal(moment2[ZDIM:], moment[ZDIM:])
    assert bool(moment.any())


def test_memories_follow() -> None:
    """Only compositions are rescaled; curvatures are in the inverse square of their unit."""
    latents = LatentMemory(np.zeros(4), ZDIM + ZAFFINE, torch.device("cpu"), 0)
    before = latents.values.clone()
    latents.rescale(ZDIM, torch.tensor(2.0))
    assert torch.equal(latents.values[:, ZDIM:], before[:, ZDIM:])
    assert torch.equal(latents.values[:, :ZDIM], 2.0 * before[:, :ZDIM])
    offsets = OffsetMemory(4, ZDIM, torch.device("cpu"))
    for tensor in (offsets.values, offsets.encoded, offsets.curvature, offsets.mean_curvature):
        tensor += 8.0
    offsets.rescale(torch.tensor(2.0))
    assert bool((offsets.values == 16).all()) and bool((offsets.encoded == 16).all())
    assert bool((offsets.curvature == 2).all()) and bool((offsets.mean_curvature == 2).all())
