"""The scale of compositions, which is free: what an encoder multiplies a decoder can divide. Not in the original.

While a decoder learns, compositions shrink from what an untrained encoder says of noise, and grow again once it tells
one particle from another. But draws on top of them keep a least spread, so a decoder of small compositions learns to
ignore them, and how soon they grow again is left to chance. Large ones are left as they are: where an encoder grows
fast the decoder would be multiplied epoch after epoch. Measured in docs/quality.md.
"""

from __future__ import annotations

import torch
from torch import Tensor

from opustomo.model.autoencoder import Autoencoder
from opustomo.training.catch_up import change_means

LEAST = 1.0
"""Standard deviation, over all numbers, below which compositions are not left."""
LIMIT = 2.0
"""The most they are multiplied with at a time."""


def scale_of(latents: Tensor) -> Tensor:
    """Standard deviation of latents (N, n) over all numbers (scalar)."""
    return latents.var(0, correction=0).sum().sqrt()


def factor_of(latents: Tensor) -> Tensor:
    """What to multiply compositions (N, n) with (scalar), from 1 to ``LIMIT``."""
    return (LEAST / scale_of(latents).clamp(min=1e-6)).clamp(min=1.0, max=LIMIT)


@torch.no_grad()
def rescale(model: Autoencoder, optimizer: torch.optim.Optimizer, factor: Tensor) -> None:
    """Multiply the means of compositions with ``factor`` in the encoder and divide by it in the decoder.

    Volumes stay as they are, but for what was drawn on top of the means. Adam's moments follow the gradients.
    """
    assert model.encoder is not None
    size, reads = model.config.zdim, model.decoder.template.composition_weight
    change_means(model.encoder.mu, optimizer, factor * torch.eye(size).to(factor), torch.zeros(size).to(factor))
    reads /= factor
    state = optimizer.state.get(reads)
    if state:
        state["exp_avg"] *= factor
        state["exp_avg_sq"] *= factor.square()
