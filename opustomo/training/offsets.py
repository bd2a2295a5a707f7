"""Offsets of the particles' compositions from what the encoder makes of them (:mod:`opustomo.model.latent_step`)."""

from __future__ import annotations

import torch
from torch import Tensor

from opustomo.model.collective import Collective
from opustomo.model.latent_step import SPREAD, LatentHistory, curvature_of, positive_part
from opustomo.training.latent_scale import scale_of

SHARE = 0.5
"""Share of what is new that an offset takes in at a visit."""
REMEMBERED = 3000.0
"""Visits over which the curvature is averaged."""
LAST_SHARE, LAST_SPREAD = 0.4, 0.7
"""s of the last offsets, as a share of the spread of what the encoder says over all numbers, and the most it may be."""


def spread_of(latents: Tensor) -> Tensor:
    """Standard deviation (scalar) per number of latents (N, n), from 1e-3 to ``SPREAD``: s of their offsets."""
    return (scale_of(latents) / latents.shape[1] ** 0.5).clamp(min=1e-3, max=SPREAD)


def last_spread_of(encoded: Tensor, spread: Tensor) -> Tensor:
    """s (scalar) of the offsets that nothing is learnt from any more: at least ``spread``, that in training.

    By then compositions tell particles apart, and what an encoder (N, n) says is off by about this share of how they
    differ (measured: docs/quality.md).
    """
    return torch.maximum(spread, (LAST_SHARE * scale_of(encoded)).clamp(max=LAST_SPREAD))


class OffsetMemory:
    """On the device: offset (N, zdim) of every particle, what the encoder said of it last, and their common curvature.

    ``mean_curvature`` is the average found, ``curvature`` what of it is positive, which steps take; it follows.
    """

    def __init__(self, particles: int, zdim: int, device: torch.device) -> None:
        self.values = torch.zeros(particles, zdim, device=device)
        self.encoded = torch.zeros_like(self.values)
        self.mean_curvature = torch.zeros(zdim, zdim, device=device)
        self.curvature = torch.zeros_like(self.mean_curvature)
        self.seen = torch.zeros((), device=device)

    def history(self, index: Tensor, weight: Tensor) -> LatentHistory:
        """Offsets of particles (B,) as far as they are used, ``weight`` of a schedule."""
        return LatentHistory(weight * self.values[index], self.curvature)

    def learn_curvature(self, slope: Tensor, noise: Tensor, std: Tensor, count: int, ranks: Collective) -> None:
        """Average in what a batch of ``count`` particles in all processes says of the curvature."""
        self.seen += count
        found = ranks.total(curvature_of(slope, noise, std)) / count
        rate = (count / self.seen).clamp(min=count / REMEMBERED)  # a graph cannot take constants to the device
        self.mean_curvature += rate * (found - self.mean_curvature)
        self.note_curvature()

    def rescale(self, factor: Tensor) -> None:
        """Follow compositions that are multiplied with ``factor``."""
        self.values *= factor
        self.encoded *= factor
        self.mean_curvature /= factor.square()
        self.note_curvature()

    def catch_up(self, matrix: Tensor, shift: Tensor) -> None:
        """Follow an encoder that says A mu + c instead of mu, for A (zdim, zdim) and c (zdim,): nothing else moves."""
        said = self.encoded.any(1, keepdim=True)
        moved = torch.where(said, self.encoded @ matrix.mT + shift, 0.0)
        self.values += self.encoded - moved
        self.encoded.copy_(moved)

    def note_curvature(self) -> None:
        """Find what is positive of the mean curvature, which has changed."""
        self.curvature.copy_(positive_part(self.mean_curvature))

    def update(self, index: Tensor, encoded: Tensor, offset: Tensor, weight: Tensor | None) -> None:
        """Take in what the encoder says, and new offsets, (B, zdim), where ``weight`` (B,) is not 0."""
        taken: Tensor | float = 1.0 if weight is None else weight[:, None]
        for memory, new, share in ((self.encoded, encoded, taken), (self.values, offset, SHARE * taken)):
            memory[index] = (1.0 - share) * memory[index] + share * new.to(memory)
