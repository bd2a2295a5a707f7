"""The loss and its terms (docs/method.md, section 4)."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from opustomo.model.collective import ALONE, Collective
from opustomo.model.prior import PriorTerms
from opustomo.physics import kernels

TV_WEIGHT = 0.1
L1_WEIGHT = 0.3
SNR_SCALE = 0.01


@dataclass(frozen=True)
class LossWeights:
    """What weights the terms at this step: β(t), --beta-control, --lamb, the running SNR, N_norm."""

    beta: float | Tensor
    beta_control: float
    lamb: float
    snr: Tensor
    norm: float
    noise_variance: float | Tensor = 1.0


@dataclass(frozen=True)
class LossTerms:
    """Scalars of one batch."""

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

    def with_optimism(self, optimism: Tensor, weight: Tensor | None, ranks: Collective) -> LossTerms:
        """Return the terms with what fitted poses gained on their own data, (B,), added to the generative loss."""
        weight = torch.ones_like(optimism) if weight is None else weight
        gained = (share_of_mean(weight, ranks) * optimism).sum()
        return replace(self, total=self.total + gained, gen=self.gen + gained)

    def stacked(self) -> Tensor:
        """All terms, detached, in field order: (11,)."""
        return torch.stack([getattr(self, f.name).detach() for f in fields(self)])


TERM_NAMES = tuple(f.name for f in fields(LossTerms))


def kl_divergence(mu: Tensor, logstd: Tensor) -> Tensor:
    """KL of N(mu, exp(logstd)²) from N(0, 1) up to a constant, (B,)."""
    return (-logstd + 0.5 * torch.exp(2.0 * logstd) + 0.5 * mu.square()).sum(1)


def smoothness(template: Tensor, part: tuple[slice, slice, slice] | None = None) -> tuple[Tensor, Tensor]:
    """Total variation ``mean sqrt(1e-8 + |∇V|²)`` (backward differences) and ``mean |V|`` of a part of (B, T, T, T)."""
    if part is not None and kernels.usable(template):
        from opustomo.model.kernels.smoothness import Smoothness

        z, y, x = (range(template.shape[-1])[axis] for axis in part)
        tv, l1 = Smoothness.apply(template, (x[0], y[0], z[0], len(x), len(y), len(z)))
        return tv, l1
    if part is not None:
        template = template[:, part[0], part[1], part[2]]
    inner = template[:, 1:, 1:, 1:]
    gradient2 = (
        (inner - template[:, :-1, 1:, 1:]).square()
        + (inner - template[:, 1:, :-1, 1:]).square()
        + (inner - template[:, 1:, 1:, :-1]).square()
    )
    return torch.sqrt(1e-8 + gradient2).mean(), template.abs().mean()


def share_of_mean(weight: Tensor, ranks: Collective) -> Tensor:
    """What each particle (B,) adds to a mean over the batch, so that the mean over processes is that of all of it."""
    return weight * (ranks.size / ranks.total(weight.sum()).clamp(min=1.0))


def combine(
    energy: Tensor,
    power: Tensor,
    target2: Tensor,
    kl: Tensor | None,
    smooth: tuple[Tensor, Tensor],
    prior: PriorTerms | None,
    step: LossWeights,
    weight: Tensor | None = None,
    ranks: Collective = ALONE,
    motion: Tensor | None = None,
) -> LossTerms:
    """Join the terms of one batch.

    Of a batch shared by several processes every process gets its share of each term; their mean over the processes is
    the term of the whole batch.

    Parameters
    ----------
    energy, power
        (B,): E and Σx², their means over the candidates.
    target2
        (B,) Σ r².
    kl
        (B,), None without an encoder.
    smooth
        Total variation and mean absolute value of the template.
    prior
        None without an encoder.
    weight
        (B,) 1, or 0 for places to leave out.
    ranks
        Processes that hold the batch.
    motion
        (B,) KL of the conformation where it is to count in full, as in the likelihood's bound; else None.
    """
    norm = step.norm
    weight = torch.ones_like(energy.detach()) if weight is None else weight
    part = share_of_mean(weight, ranks)
    gen = (part * energy).sum() / norm
    mse = (energy.detach() + target2) / norm
    snr = ranks.total((part * power.detach() / norm / mse.clamp(min=1e-8)).sum()) / ranks.size
    tv, l1 = (term * part.sum() for term in smooth)
    total = gen + snr.sqrt().clamp(max=0.5) * (TV_WEIGHT * tv + L1_WEIGHT * l1) / norm
    zero = torch.zeros_like(gen)
    kl_mean = zero if kl is None else (part * kl).sum()
    total = total + step.beta_control * step.snr * step.beta * kl_mean / norm
    terms = PriorTerms(zero, zero, zero, zero) if prior is None else prior
    strength = step.lamb * (1.0 - torch.exp(-(0.5 * (snr / SNR_SCALE) ** 2).clamp(max=16.0)))
    total = total + strength * sum(terms) * (step.beta + 0.05) / 1.05 / norm
    mse_mean = (part * mse).sum()
    if motion is not None:  # E / (2 noise variance) is a negative log-likelihood
        total = total + 2.0 * step.noise_variance * (part * motion).sum() / norm
    return LossTerms(total, gen, mse_mean, snr, kl_mean, tv, l1, *terms)
