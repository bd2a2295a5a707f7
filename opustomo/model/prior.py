"""Structural disentanglement prior on the latent means (OPUS-DSD; spec 3)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

EPSILON = 1e-3
NEIGHBOURS_IN_BATCH = 3


class PriorTerms(NamedTuple):
    """Scalars of the prior; their sum is what enters the loss."""

    attract: Tensor
    repel: Tensor
    spread: Tensor
    knn: Tensor


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared Euclidean distances (..., n, m) of (..., n, L) to (..., m, L); exact, hence zero on equal points."""
    return (a[..., :, None, :] - b[..., None, :, :]).square().sum(-1)


def mean_of_first(values: Tensor, count: Tensor | None) -> Tensor:
    """Mean of (B, n) over the first ``count`` columns, None: over all."""
    if count is None:
        return values.mean()
    meant = torch.arange(values.shape[1], device=values.device) < count
    return (values * meant).sum() / (len(values) * count)


def prior_terms(
    mu: Tensor,
    z: Tensor,
    near: Tensor,
    far: Tensor,
    near_count: Tensor | None = None,
    far_count: Tensor | None = None,
) -> PriorTerms:
    """Attract to near, repel from far stored latents, spread the batch, keep in-batch neighbours together.

    Parameters
    ----------
    mu
        (B, L) means, with gradient.
    z
        (B, L) samples; they only rank the neighbours in the batch.
    near, far
        (B, n, L), (B, m, L) stored latents, without gradient.
    near_count, far_count
        Scalars: only so many of them are meant; None: all.
    """
    to_near = squared_distances(mu[:, None], near)[:, 0]
    to_far = squared_distances(mu[:, None], far)[:, 0]
    attract = mean_of_first(torch.log(1.0 + to_near + EPSILON), near_count)
    repel = 3.0 * mean_of_first(torch.log(1.0 + 1.0 / (to_far + EPSILON)), far_count)
    count = len(mu)
    if count < 2:
        zero = mu.new_zeros(())
        return PriorTerms(attract, repel, zero, zero)
    within = squared_distances(mu, mu)
    others = ~torch.eye(count, dtype=torch.bool, device=mu.device)
    shifted = within + EPSILON
    pairs = torch.log(1.0 + 1.0 / shifted) * shifted.detach().clamp(max=1.0)
    spread = (pairs * others).sum() / count**2
    ranked = squared_distances(z.detach(), z.detach()).masked_fill(~others, float("inf"))
    nearest = ranked.topk(min(NEIGHBOURS_IN_BATCH, count - 1), dim=1, largest=False).indices
    knn = torch.log(1.0 + within.gather(1, nearest)).mean()
    return PriorTerms(attract, repel, spread, knn)
