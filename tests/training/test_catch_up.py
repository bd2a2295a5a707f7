"""An encoder catches up with what offsets have in common, and no composition moves by it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from opustomo.model.encoder import Encoder
from opustomo.training.catch_up import LIMIT, catching_map, change_means
from opustomo.training.engine import Engine
from opustomo.training.offsets import OffsetMemory
from opustomo.training.ranks import OneProcess

ZDIM, ZAFFINE, COUNT = 3, 2, 2000
MATRIX = torch.tensor([[1.5, 0.3, 0.0], [-0.2, 0.8, 0.1], [0.0, 0.1, 1.1]])
SHIFT = torch.tensor([0.5, -1.0, 0.0])


def said(count: int = COUNT, scale: float = 1.0) -> torch.Tensor:
    """What an encoder says of particles."""
    return 2.0 + scale * torch.randn(count, ZDIM, generator=torch.Generator().manual_seed(0))


def noise(count: int = COUNT, size: float = 0.3) -> torch.Tensor:
    return size * torch.randn(count, ZDIM, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_finds_the_linear_part_of_offsets_at_any_scale(scale: float) -> None:
    mu = said(scale=scale)
    matrix, shift = catching_map(mu, mu @ MATRIX.mT + SHIFT - mu + scale * noise())
    assert torch.allclose(matrix, MATRIX, atol=0.05)
    wanted = (mu @ MATRIX.mT + SHIFT).mean(0)
    assert torch.allclose((mu @ matrix.mT + shift).mean(0), wanted, atol=0.05 * scale + 1e-5)


@pytest.mark.parametrize("stretch, wanted", [(5.0, LIMIT), (1.2, 1.2), (0.0, 1.0 / LIMIT)])
def test_stretches_only_so_far_at_a_time(stretch: float, wanted: float) -> None:
    mu = said()
    matrix, _ = catching_map(mu, (stretch - 1.0) * mu)
    assert torch.allclose(matrix, wanted * torch.eye(ZDIM), atol=5e-3)


@pytest.mark.parametrize("count", [1, 2, ZDIM])
def test_few_particles_tell_nothing(count: int) -> None:
    matrix, _ = catching_map(said(count), noise(count, 1.0))
    assert torch.linalg.matrix_norm(matrix - torch.eye(ZDIM), 2) < 0.5


def test_particles_that_are_not_known_do_not_count() -> None:
    mu, offset = said(), said() @ (MATRIX - torch.eye(ZDIM)).mT
    alone = catching_map(mu, offset)
    bad = torch.tensor([[0.0, 0.0, 0.0], [float("nan"), 1.0, 1.0], [1.0, float("inf"), 1.0]])
    beside = catching_map(torch.cat([bad, mu]), torch.cat([bad, offset]))
    for found, wanted in zip(beside, alone, strict=True):
        assert torch.allclose(found, wanted, atol=1e-5)
    matrix, shift = catching_map(bad, bad)
    assert torch.equal(matrix, torch.eye(ZDIM)) and not shift.any()


def test_a_particle_far_out_does_not_move_itself() -> None:
    """Its own offset would stretch its direction, the more the farther it lies."""
    mu, offset = said(300, 0.1), noise(300, 0.05)
    plain, _ = catching_map(mu, offset)
    mu[0, 2], offset[0, 2] = mu[:, 2].mean() + 20.0, 20.0
    beside, _ = catching_map(mu, offset)
    assert torch.allclose(beside, plain, atol=0.02)


def test_the_encoder_says_what_the_map_makes_of_it_and_learns_on() -> None:
    """Only means of compositions change; Adam's first moment is that of a gradient in the new unit."""
    volumes = torch.randn(2, 32, 32, 32, generator=torch.Generator().manual_seed(1))
    found = []
    for changed in (False, True):
        torch.manual_seed(0)
        encoder = Encoder(ZDIM + ZAFFINE, 8)
        optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-3)
        mu, logstd = encoder(volumes)
        (mu.square().sum() + logstd.square().sum()).backward()
        optimizer.step()
        if changed:
            change_means(encoder.mu, optimizer, MATRIX, SHIFT)
        mu, logstd = encoder(volumes)
        state = optimizer.state[encoder.mu.weight]
        found.append((mu, logstd, state["exp_avg"], state["exp_avg_sq"]))
    (mu, logstd, moment, square), (mu2, logstd2, moment2, square2) = found
    assert torch.allclose(mu2[:, :ZDIM], mu[:, :ZDIM] @ MATRIX.mT + SHIFT, rtol=1e-4, atol=1e-5)
    assert torch.equal(mu2[:, ZDIM:], mu[:, ZDIM:]) and torch.equal(logstd2, logstd)
    assert torch.allclose(MATRIX.mT @ moment2[:ZDIM], moment[:ZDIM], rtol=1e-3, atol=1e-6)
    assert torch.equal(moment2[ZDIM:], moment[ZDIM:]) and bool(moment.any())
    assert bool((square2 >= 0).all()) and torch.equal(square2[ZDIM:], square[ZDIM:])


def test_no_composition_moves() -> None:
    memory = OffsetMemory(COUNT + 1, ZDIM, torch.device("cpu"))
    memory.encoded[:COUNT], memory.values[:COUNT] = said(), noise()
    before = memory.encoded + memory.values
    memory.catch_up(MATRIX, SHIFT)
    assert torch.allclose(memory.encoded + memory.values, before, atol=1e-5)
    assert torch.allclose(memory.encoded[:COUNT], said() @ MATRIX.mT + SHIFT, atol=1e-5)
    assert not memory.encoded[COUNT].any() and not memory.values[COUNT].any()  # never read


def test_held_out_particles_teach_nothing() -> None:
    """What the map is found from is offsets of training particles; those held out follow."""
    encoder = Encoder(ZDIM + ZAFFINE, 8)
    offsets = OffsetMemory(COUNT, ZDIM, torch.device("cpu"))
    offsets.encoded += said()
    offsets.values += said() @ (MATRIX - torch.eye(ZDIM)).mT + SHIFT
    trained, held_out = np.arange(0, COUNT, 2), np.arange(1, COUNT, 2)
    offsets.values[held_out] = 100.0 * noise(len(held_out))
    engine = SimpleNamespace(
        model=SimpleNamespace(encoder=encoder, config=SimpleNamespace(zdim=ZDIM), decoder=SimpleNamespace()),
        optimizer=torch.optim.AdamW(encoder.parameters()),
        offsets=offsets,
        latents=SimpleNamespace(rescale=lambda zdim, factor: None),
        ranks=OneProcess(),
        device=torch.device("cpu"),
        offsets_used=lambda epoch, seen: 1.0,
    )
    engine.model.decoder.template = SimpleNamespace(composition_weight=torch.nn.Parameter(torch.ones(2, ZDIM)))
    before = offsets.encoded.clone()
    Engine.adjust_compositions(engine, 0, 0, trained)  # type: ignore[arg-type]
    assert torch.allclose(offsets.encoded, before @ MATRIX.mT + SHIFT, atol=0.05)
    assert float(offsets.values[trained].abs().max()) < 0.05
