"""What is remembered of the compositions of particles beside what the encoder says."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch

from opustomo.model.latent_step import PRECISION, LatentHistory, LatentProbe
from opustomo.model.refinement import log_likelihood_unit
from opustomo.training.engine import Engine
from opustomo.training.offsets import LAST_SPREAD, OffsetMemory, last_spread_of
from opustomo.training.ranks import OneProcess

ZDIM = 3
CPU = torch.device("cpu")


@dataclass(frozen=True)
class SimpleBatch:
    """What of a batch the model below reads."""

    latents: LatentHistory


def test_what_the_encoder_says_is_kept_as_it_is_and_offsets_by_halves() -> None:
    memory = OffsetMemory(4, ZDIM, CPU)
    index, encoded, offset = torch.tensor([2, 0]), torch.arange(6.0).reshape(2, 3), torch.ones(2, ZDIM)
    memory.update(index, encoded, offset, None)
    memory.update(index, encoded + 1.0, offset, torch.tensor([1.0, 0.0]))  # the second place is filled by nothing
    assert torch.equal(memory.encoded[[2, 0]], encoded + torch.tensor([[1.0], [0.0]]))
    assert torch.equal(memory.values[[2, 0], 0], torch.tensor([0.75, 0.5]))
    assert not memory.values[[1, 3]].any() and not memory.encoded[[1, 3]].any()


def test_steps_take_what_is_positive_of_the_curvature() -> None:
    """Along a direction of negative curvature Newton's step would go to what is least likely."""
    generator = torch.Generator().manual_seed(0)
    true = torch.diag(torch.tensor([9.0, 2.0, -4.0]))
    memory = OffsetMemory(4, ZDIM, CPU)
    for _ in range(40):
        noise = 0.1 * torch.randn(500, ZDIM, generator=generator)
        memory.learn_curvature(noise @ true, noise, torch.full_like(noise, 0.1), 500, OneProcess())
    assert torch.allclose(memory.mean_curvature, true, atol=0.8)
    assert torch.allclose(memory.curvature, true.clamp(min=0.0), atol=0.8)
    assert float(torch.linalg.eigvalsh(memory.curvature)[0]) > -1e-2


@pytest.mark.parametrize("scale, spread, wanted", [(1.0, 0.3, 0.4), (1.0, 0.5, 0.5), (10.0, 0.5, LAST_SPREAD)])
def test_last_offsets_may_be_as_long_as_an_encoder_errs(scale: float, spread: float, wanted: float) -> None:
    encoded = torch.randn(1000, ZDIM, generator=torch.Generator().manual_seed(0))
    encoded *= scale / encoded.var(0, correction=0).sum().sqrt()
    assert float(last_spread_of(encoded, torch.tensor(spread))) == pytest.approx(wanted, rel=1e-4)


def test_last_offsets_reach_the_most_probable_compositions() -> None:
    """Of a model whose likelihood is a parabola, steeper than the mean curvature says: one step would go too far."""
    count, norm, ratio = 6, 50.0, 3.0
    mu, best = torch.randn(2, count, ZDIM, generator=torch.Generator().manual_seed(0))
    best = mu + 0.1 * best
    left = torch.linspace(0.5, 1.5, count)
    spread = torch.tensor(LAST_SPREAD)
    held = LAST_SPREAD**-2 + PRECISION

    def model(batch: SimpleBatch, neighbours: None, state: object) -> SimpleNamespace:
        z = (mu + batch.latents.offset).requires_grad_(True)
        likelihood = 0.5 * (ratio * (20.0 + held) - held) * (z - best).square().sum(1)
        total = (likelihood / log_likelihood_unit(left)).mean() / norm
        return SimpleNamespace(terms=SimpleNamespace(total=total), mu=mu, probe=LatentProbe(z, None, None, left))

    model.config, model.norm = SimpleNamespace(zdim=ZDIM), norm  # type: ignore[attr-defined]
    latents = SimpleNamespace(values=10.0 * torch.randn(count, ZDIM, generator=torch.Generator().manual_seed(1)))
    engine = Engine(model, None, latents, None, None, None, SimpleNamespace(accum_step=1), CPU)  # type: ignore[arg-type]
    engine.assemble = lambda visit: SimpleBatch(engine.offsets.history(visit.index, visit.schedule[6]))  # type: ignore
    engine.offsets.curvature.copy_(20.0 * torch.eye(ZDIM))
    engine.offsets.encoded.copy_(10.0 * mu)
    engine.offsets.values.fill_(0.05)
    offset = engine.likeliest_offsets(torch.arange(count), torch.zeros(count, 1, 1, 1), 1.0, 0.0)
    own = ratio * (20.0 + held) - held
    wanted = (own * best + mu / spread**2) / (own + held) - mu
    assert torch.allclose(offset, wanted, atol=1e-4)
    assert bool((engine.offsets.values == 0.05).all())
