"""Structural disentanglement prior on the latent means (OPUS-DSD)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from opustomo.model.global_batch import ALONE, Collective, shared_by

EPSILON = 1e-3
NEIGHBORS_IN_BATCH = 3


class Neighbors(NamedTuple):
    """Stored latents that the prior compares with, (B, n, L) and (B, m, L), without gradient.

    Attributes
    ----------
    near, far
        Latents to attract to, and to repel from.
    near_count, far_count
        Scalars: number of them that count, from the first; None for all.
    """

    near: Tensor
    far: Tensor
    near_count: Tensor | None = None
    far_count: Tensor | None = None


class PriorTerms(NamedTuple):
    """Terms of the prior, scalars; the loss contains their sum."""

    attract: Tensor
    repel: Tensor
    spread: Tensor
    knn: Tensor


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Return squared Euclidean distances (..., n, m) of (..., n, L) to (..., m, L); exactly 0 on equal points."""
    return (a[..., :, None, :] - b[..., None, :, :]).square().sum(-1)


def mean_of_first(values: Tensor, count: Tensor | None) -> Tensor:
    """Return the mean of each row of (B, n) over the first ``count`` columns, or over all; (B,)."""
    if count is None:
        return values.mean(1)
    meant = torch.arange(values.shape[1], device=values.device) < count
    return (values * meant).sum(1) / count


def prior_terms(
    mu: Tensor, z: Tensor, neighbors: Neighbors, share: Tensor | None = None, ranks: Collective = ALONE
) -> PriorTerms:
    """Return the prior: attraction to near and repulsion from far latents, spread and neighbors within the batch.

    Parameters
    ----------
    mu
        (B, L) means, with gradient.
    z
        (B, L) samples, which rank the neighbors within the batch.
    neighbors
        Stored latents.
    share
        (B,) weight of each particle in a mean over the batch; None stands for 1/B.
    ranks
        Processes that share the batch; pairs are formed within the whole batch.
    """
    near, far, near_count, far_count = neighbors
    to_near = squared_distances(mu[:, None], near)[:, 0]
    to_far = squared_distances(mu[:, None], far)[:, 0]
    if share is None:
        share = torch.full_like(mu[:, 0], 1.0 / len(mu))
    attract = (share * mean_of_first(torch.log(1.0 + to_near + EPSILON), near_count)).sum()
    repel = 3.0 * (share * mean_of_first(torch.log(1.0 + 1.0 / (to_far + EPSILON)), far_count)).sum()
    mu, z = ranks.gather(mu), ranks.gather(z.detach())
    count = len(mu)
    if count < 2:
        zero = mu.new_zeros(())
        return PriorTerms(attract, repel, zero, zero)
    within = squared_distances(mu, mu)
    others = ~torch.eye(count, dtype=torch.bool, device=mu.device)
    shifted = within + EPSILON
    pairs = torch.log(1.0 + 1.0 / shifted) * shifted.detach().clamp(max=1.0)
    spread = (pairs * others).sum() / count**2
    ranked = squared_distances(z, z).masked_fill(~others, float("inf"))
    nearest = ranked.topk(min(NEIGHBORS_IN_BATCH, count - 1), dim=1, largest=False).indices
    knn = torch.log(1.0 + within.gather(1, nearest)).mean()
    return PriorTerms(attract, repel, shared_by(ranks, spread), shared_by(ranks, knn))
