"""Offsets of the particles' compositions from what the encoder makes of them (:mod:`opustomo.model.latent_step`)."""

from __future__ import annotations

import torch
from torch import Tensor

from opustomo.model.collective import Collective
from opustomo.model.latent_step import SPREAD, LatentHistory, curvature_of

SHARE = 0.5
"""Share of what is new that an offset takes in at a visit."""
REMEMBERED = 3000.0
"""Visits over which the curvature is averaged."""


def spread_of(latents: Tensor) -> Tensor:
    """Standard deviation (scalar) per number of latents (N, n), from 1e-3 to ``SPREAD``: s of their offsets."""
    return latents.var(0, correction=0).mean().sqrt().clamp(min=1e-3, max=SPREAD)


class OffsetMemory:
    """Offset (N, zdim) of every particle, and the curvature that all have on average, on the device."""

    def __init__(self, particles: int, zdim: int, device: torch.device) -> None:
        self.values = torch.zeros(particles, zdim, device=device)
        self.curvature = torch.zeros(zdim, zdim, device=device)
        self.seen = torch.zeros((), device=device)

    def history(self, index: Tensor, weight: Tensor) -> LatentHistory:
        """Offsets of particles (B,) as far as they are used, ``weight`` of a schedule."""
        return LatentHistory(weight * self.values[index], self.curvature)

    def learn_curvature(self, slope: Tensor, noise: Tensor, std: Tensor, count: int, ranks: Collective) -> None:
        """Average in what a batch of ``count`` particles in all processes says of the curvature."""
        self.seen += count
        found = ranks.total(curvature_of(slope, noise, std)) / count
        rate = (count / self.seen).clamp(min=count / REMEMBERED)  # a graph cannot take constants to the device
        self.curvature += rate * (found - self.curvature)

    def rescale(self, factor: Tensor) -> None:
        """Follow compositions that are multiplied with ``factor``."""
        self.values *= factor
        self.curvature /= factor.square()

    def update(self, index: Tensor, offset: Tensor, weight: Tensor | None) -> None:
        """Take in new offsets (B, zdim), where ``weight`` (B,) is not 0."""
        share = SHARE if weight is None else SHARE * weight[:, None]
        self.values[index] = (1.0 - share) * self.values[index] + share * offset
