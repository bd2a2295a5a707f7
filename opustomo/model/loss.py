"""The loss and its terms (docs/method.md, section 4), with the disentanglement prior of OPUS-DSD."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor

from opustomo.model.collective import ALONE, Collective, shared_by

TV_WEIGHT = 0.1
L1_WEIGHT = 0.3
SNR_SCALE = 0.01
EPSILON = 1e-3
"""Offset of distances in the disentanglement prior."""
NEIGHBORS_IN_BATCH = 3


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms in a step.

    Attributes
    ----------
    beta, beta_control, lamb
        β(t), ``--beta-control`` and ``--lamb``.
    snr
        Running ratio of model power to residual power, scalar.
    norm
        Number of voxels of the mask, N_norm.
    """

    beta: float | Tensor
    beta_control: float
    lamb: float
    snr: Tensor
    norm: float


class ParticleTerms(NamedTuple):
    """Terms of each particle, (B,).

    Attributes
    ----------
    gen
        Energy per mask voxel; negative if the model explains the data better than an empty volume.
    mse
        Residual power per mask voxel.
    snr
        Ratio of model power to residual power.
    kl
        KL divergence of the latents.
    """

    gen: Tensor
    mse: Tensor
    snr: Tensor
    kl: Tensor


class BatchTerms(NamedTuple):
    """Terms that exist only for a batch, scalars: smoothness of the templates, and the disentanglement prior."""

    tv: Tensor
    l1: Tensor
    attract: Tensor
    repel: Tensor
    spread: Tensor
    knn: Tensor


@dataclass(frozen=True)
class LossTerms:
    """Loss of a batch and the means of its terms, scalars."""

    total: Tensor
    gen: Tensor
    mse: Tensor
    snr: Tensor
    kl: Tensor
    tv: Tensor
    l1: Tensor
    attract: Tensor
    repel: Tensor
    spread: Tensor
    knn: Tensor

    def stacked(self) -> Tensor:
        """Return all terms, detached, in the order of ``TERM_NAMES``."""
        return torch.stack([getattr(self, f.name).detach() for f in fields(self)])


TERM_NAMES = tuple(f.name for f in fields(LossTerms))


def kl_divergence(mu: Tensor, logstd: Tensor) -> Tensor:
    """Return the KL divergence of N(mu, exp(logstd)²) from N(0, 1) up to a constant, (B,)."""
    return (-logstd + 0.5 * torch.exp(2.0 * logstd) + 0.5 * mu.square()).sum(1)


def smoothness(template: Tensor, part: tuple[slice, slice, slice] | None = None) -> tuple[Tensor, Tensor]:
    """Return total variation ``mean sqrt(1e-8 + |∇V|²)`` (backward differences) and ``mean |V|`` of templates.

    Parameters
    ----------
    template
        (B, T, T, T).
    part
        Part of the template that counts, along z, y and x; None for all.
    """
    if part is not None:
        template = template[:, part[0], part[1], part[2]]
    inner = template[:, 1:, 1:, 1:]
    gradient2 = (
        (inner - template[:, :-1, 1:, 1:]).square()
        + (inner - template[:, 1:, :-1, 1:]).square()
        + (inner - template[:, 1:, 1:, :-1]).square()
    )
    return torch.sqrt(1e-8 + gradient2).mean(), template.abs().mean()


def reconstruction(energy: Tensor, power: Tensor, target2: Tensor, norm: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the terms ``gen``, ``mse`` and ``snr`` of each particle, (B,).

    Parameters
    ----------
    energy, power, target2
        (B,) E = Σ x² - 2 Σ x r, Σ x² and Σ r², all three of whitened or all of unfiltered volumes.
    norm
        Number of mask voxels.
    """
    mse = (energy.detach() + target2) / norm
    return energy / norm, mse, power.detach() / norm / mse.clamp(min=1e-8)


def share_of_mean(weight: Tensor, ranks: Collective) -> Tensor:
    """Return the weight (B,) of each particle in a mean over the batch, so that processes average to its mean."""
    return weight * (ranks.size / ranks.total(weight.sum()).clamp(min=1.0))


def combine(
    particles: ParticleTerms, batch: BatchTerms | None, weights: LossWeights, share: Tensor, ranks: Collective = ALONE
) -> LossTerms:
    """Return the loss of a batch (docs/method.md, section 4).

    Parameters
    ----------
    particles
        Terms of each particle.
    batch
        Terms of the batch; None if none is used.
    weights
        Weights of the terms.
    share
        (B,) weight of each particle in the mean (:func:`share_of_mean`).
    ranks
        Processes that share the batch. The mean of what they return is the loss of the whole batch.
    """
    gen, mse, kl = ((share * term).sum() for term in (particles.gen, particles.mse, particles.kl))
    snr = ranks.total((share * particles.snr).sum()) / ranks.size
    total = gen + weights.beta_control * weights.snr * weights.beta * kl / weights.norm
    if batch is None:
        zero = torch.zeros_like(gen)
        return LossTerms(total, gen, mse, snr, kl, *[zero] * len(BatchTerms._fields))
    smooth = TV_WEIGHT * batch.tv + L1_WEIGHT * batch.l1
    total = total + snr.sqrt().clamp(max=0.5) * share.sum() * smooth / weights.norm
    strength = weights.lamb * (1.0 - torch.exp(-(0.5 * (snr / SNR_SCALE) ** 2).clamp(max=16.0)))
    prior = batch.attract + batch.repel + batch.spread + batch.knn
    total = total + strength * prior * (weights.beta + 0.05) / 1.05 / weights.norm
    return LossTerms(total, gen, mse, snr, kl, *batch)


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
