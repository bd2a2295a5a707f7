"""The likeliest composition of each particle, from gradients that a step computes anyway. Not in the original.

What an encoder makes of a noisy subtomogram it learns slowly, and as long as it tells little the decoder has nothing to
learn from. The gradient g of the negative log-likelihood E/(2 mse) at the latent that was decoded, and its curvature H,
say at once where the likelihood is higher. So while a run is young each particle keeps an offset from the encoder's
mean mu, and takes Newton steps to the most probable composition,

    z* = z - (H + 1/s² + p)⁻¹ (g + (z - mu)/s² + p z)

with the spread s that offsets may have, and a precision p that keeps the latents from growing without end. H costs
nothing: z is mu plus drawn noise n of variance σ², and the mean of g nᵀ/σ² over particles is the mean curvature
(Stein's identity). The encoder learns as if it had been decoded at mu: its gradient is that at z, less H times the
offset. Measured in docs/quality.md.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

SPREAD = 0.5
"""The most that an offset is thought to be before the data speak, per number; else s is the spread of the latents."""
LIMIT = 3.0
"""The longest offset, in standard deviations."""
PRECISION = 0.1
"""p: latents of a standard deviation of 3 are free, far longer ones only leave noise out."""
INVERSE_STEPS = 36
SIGN_STEPS = 16
DAMPED = 0.2
"""The least curvature of a particle along a step, as a share of the mean's."""


class LatentHistory(NamedTuple):
    """Offsets (B, zdim) in use of the particles of a batch, and the curvature (zdim, zdim) common to all particles."""

    offset: Tensor
    curvature: Tensor


class LatentProbe(NamedTuple):
    """What a step leaves behind for Newton's.

    Attributes
    ----------
    z
        (B, L) latents decoded, whose gradient can be had.
    noise, std
        (B, L) what was drawn on top and its standard deviations; None where nothing was drawn.
    left
        (B,) mean square of a voxel that the model leaves over.
    """

    z: Tensor
    noise: Tensor | None
    std: Tensor | None
    left: Tensor


def inverse(matrix: Tensor, steps: int = INVERSE_STEPS) -> Tensor:
    """Inverse of a symmetric positive definite matrix (n, n) by Newton's iteration.

    Products only, which CUDA graphs can record; these steps do for condition numbers up to 10⁴.
    """
    whole = matrix.double()
    twice = 2.0 * torch.eye(len(whole), dtype=whole.dtype, device=whole.device)
    found = whole / whole.abs().sum(0).max().square()
    for _ in range(steps):
        found = found @ (twice - whole @ found)
    return found.to(matrix)


def positive_part(matrix: Tensor, steps: int = SIGN_STEPS) -> Tensor:
    """A symmetric matrix (n, n) with its negative eigenvalues put to 0, by Newton and Schulz's iteration for its sign.

    Products only; eigenvalues of less than about 10⁻³ of the largest stay in part.
    """
    whole = matrix.double()
    sign = whole / whole.norm().clamp(min=1e-30)
    for _ in range(steps):
        sign = 1.5 * sign - 0.5 * sign @ sign @ sign
    found = 0.5 * (whole + whole @ sign)
    return (0.5 * (found + found.mT)).to(matrix)


def curvature_of(slope: Tensor, noise: Tensor, std: Tensor) -> Tensor:
    """Sum over particles of a noisy estimate (n, n) of the curvature.

    Parameters
    ----------
    slope
        (B, n) of the negative log-likelihood at latents that ``noise`` was added to.
    noise, std
        (B, n).
    """
    found = slope.mT @ (noise / std.square())
    return 0.5 * (found + found.mT)


def likeliest_offset(z: Tensor, mu: Tensor, slope: Tensor, curvature: Tensor, spread: Tensor) -> Tensor:
    """Offsets (B, n) from ``mu`` of the most probable latents, no longer than ``LIMIT`` allows.

    Parameters
    ----------
    z, mu
        (B, n) the latents decoded, and the encoder's.
    slope
        (B, n) of the negative log-likelihood at z.
    curvature
        (n, n), its mean over particles; what of it is negative would send particles the wrong way, so it must not be.
    spread
        Scalar s.
    """
    step = _posterior_slope(z, mu, slope, spread) @ inverse(_posterior_curvature(curvature, spread))
    return _limited(z - step - mu, spread)


def likelier_offset(
    z: Tensor, mu: Tensor, slope: Tensor, before: tuple[Tensor, Tensor], curvature: Tensor, spread: Tensor
) -> Tensor:
    """Offsets (B, n) after a second step, which takes each particle's own curvature where the first one showed it.

    Along the first step two slopes tell it; elsewhere the mean is kept (the formula of Broyden, Fletcher, Goldfarb and
    Shanno, damped as Powell does so that it stays positive: Nocedal and Wright, Numerical Optimization, 7.2 and 18.3).

    Parameters
    ----------
    z, mu, slope, curvature, spread
        As in :func:`likeliest_offset`, after the first step.
    before
        (B, n) z and slope of which the first step was taken.
    """
    whole = _posterior_curvature(curvature, spread)
    inverted = inverse(whole)
    first_z, first_slope = before
    moved = z - first_z
    left = _posterior_slope(z, mu, slope, spread)
    change = left - _posterior_slope(first_z, mu, first_slope, spread)
    expected = moved @ whole
    found, mean = _dot(change, moved), _dot(expected, moved)
    part = torch.where(found < DAMPED * mean, (1.0 - DAMPED) * mean / (mean - found).clamp(min=1e-12), 1.0)
    change = part * change + (1.0 - part) * expected
    scale = 1.0 / _dot(change, moved).clamp(min=1e-12)
    along = scale * _dot(moved, left)
    step = (left - along * change) @ inverted
    step = step + (along - scale * _dot(change, step)) * moved
    return _limited(z - step - mu, spread)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Products (B, 1) of vectors (B, n)."""
    return (a * b).sum(1, keepdim=True)


def _posterior_slope(z: Tensor, mu: Tensor, slope: Tensor, spread: Tensor) -> Tensor:
    return slope + spread**-2 * (z - mu) + PRECISION * z


def _posterior_curvature(curvature: Tensor, spread: Tensor) -> Tensor:
    return curvature + (spread**-2 + PRECISION) * torch.eye(len(curvature), device=curvature.device)


def _limited(offset: Tensor, spread: Tensor) -> Tensor:
    offset = torch.nan_to_num(offset)
    length = offset.norm(dim=1, keepdim=True) / (spread * offset.shape[1] ** 0.5)
    return offset / (length / LIMIT).clamp(min=1.0)


def teaching(mu: Tensor, history: LatentHistory) -> Tensor:
    """Term (B,), of negative log-likelihoods, that gives the encoder the gradient at its own ``mu`` (B, n)."""
    return ((0.5 * PRECISION * mu - history.offset @ history.curvature) * mu).sum(1)
