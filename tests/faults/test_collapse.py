"""Detection of latent collapse does not depend on the scale of the latents."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from opustomo.model import autoencoder
from tests.commands.quick import train, use_tiny_networks
from tests.training.tiny_run import TinyEncoder


class BlownUp(TinyEncoder):
    """Latents that hardly depend on the particle, a thousand times their usual size, with posteriors to match."""

    def forward(self, volumes: Tensor) -> tuple[Tensor, Tensor]:
        mu, logstd = super().forward(volumes)
        return 1000.0 * (1.0 + 1e-3 * torch.tanh(mu)), 0.0 * logstd + 6.9  # e^6.9 = 1000


class Telling(TinyEncoder):
    """Latents that separate particles by more than the width of their posteriors."""

    def forward(self, volumes: Tensor) -> tuple[Tensor, Tensor]:
        mu, logstd = super().forward(volumes)
        features = self.pool(volumes[:, None]).flatten(1)[:, 21 : 21 + mu.shape[1]]  # of the middle of the box
        return 0.0 * mu + 10.0 * features, 0.0 * logstd - 7.0


@pytest.mark.parametrize(("encoder", "collapsed"), [(BlownUp, True), (Telling, False)])
def test_a_tiny_run(
    encoder: type[TinyEncoder], collapsed: bool, tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_tiny_networks(monkeypatch)
    monkeypatch.setattr(autoencoder, "Encoder", encoder)
    code, said = train(tiny_set / "particles.star", tmp_path / "run", "-n", "4", "--lr", "1e-9", "-b", "8")
    assert code == 0, said
    found = [line for line in said.splitlines() if "latents have collapsed" in line]
    assert len(found) == collapsed, said
