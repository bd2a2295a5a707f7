"""Noise spectrum: variance of the noise per Fourier shell, estimated from the residuals of the model.

The energies ``Σ x² - 2 Σ x r`` assume white noise. Divided by the noise variance of each shell they are twice a
negative log-likelihood, with which networks are trained and poses are inferred. See docs/method.md, section 3.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from opustomo.physics import kernels
from opustomo.physics.fourier import half_spectrum_weights
from opustomo.physics.fsc import measured_shells

LANES = 64
"""Partial sums per shell, so that the threads of a GPU seldom add to the same number at a time."""
LEAST_RELATIVE_VARIANCE = 0.1
"""Lowest variance of a shell relative to the mean over voxels: outer shells of a reconstruction can be empty."""


class NoiseSums(NamedTuple):
    """Sums over the particles of a batch, or running averages of them.

    Attributes
    ----------
    power
        (S,) residual power per shell, in squared voxel values.
    voxels
        (S,) number of measured voxels that the power belongs to.
    """

    power: Tensor
    voxels: Tensor

    @property
    def variance(self) -> Tensor:
        """Noise variance per voxel of each shell, (S,)."""
        return self.power / self.voxels.clamp(min=1e-12)

    @property
    def reference_variance(self) -> Tensor:
        """Mean of the shells' variances, weighted by their power (scalar): that of the shells with most of it.

        Whitening leaves these shells as they are, so that energies keep the scale that the other terms of the loss
        are made for, also where noise falls steeply with frequency.
        """
        return (self.power * self.variance).sum() / self.power.sum().clamp(min=1e-30)


def shell_count(size: int) -> int:
    """Return the number of shells of a box of ``size`` voxels; corners beyond Nyquist count to the last shell."""
    return size // 2 + 1


def shell_sums(values: Tensor) -> Tensor:
    """Sum values (n, n, n/2+1) over shells: (S,)."""
    size = values.shape[0]
    bins = values.new_zeros(shell_count(size) * LANES)
    return bins.index_add(0, _lanes(size, values.device), values.flatten()).view(-1, LANES).sum(1)


@lru_cache
def _lanes(size: int, device: torch.device) -> Tensor:
    shells = _shells(size, device)
    return shells * LANES + torch.arange(len(shells), device=device) % LANES


@lru_cache
def _shells(size: int, device: torch.device) -> Tensor:
    return measured_shells(size, device).flatten()


def residual_sums(residual: Tensor, measured: Tensor, mask_power: Tensor, weight: Tensor | None) -> NoiseSums:
    """Compute the residual power per shell of a batch.

    Parameters
    ----------
    residual
        (B, n, n, n/2+1) complex spectra of target minus model.
    measured
        (B, n, n, n/2+1) CTF; zero where nothing was measured.
    mask_power
        (B,) mean square of the mask over the box: a mask passes this share of white noise.
    weight
        (B,) 1, or 0 for particles to leave out; None stands for ones.
    """
    size = residual.shape[1]
    weight = torch.ones_like(mask_power) if weight is None else weight
    twice = half_spectrum_weights(size, residual.device)
    power = torch.einsum("bzyx,b->zyx", torch.view_as_real(residual).square().sum(-1), weight) * (twice / size**3)
    count = torch.einsum("bzyx,b->zyx", (measured != 0).to(weight), weight * mask_power) * twice
    return NoiseSums(shell_sums(power), shell_sums(count))


def model_residual_sums(
    target: Tensor, posed: Tensor, transfer: Tensor, measured: Tensor, mask_power: Tensor, weight: Tensor | None
) -> NoiseSums:
    """Compute :func:`residual_sums` of a target R and a model H F, spectra R and F and filter H (B, n, n, n/2+1)."""
    if kernels.usable(transfer, measured, mask_power):
        from opustomo.physics.kernels.sums import residual_bins

        size = transfer.shape[1]
        weight = torch.ones_like(mask_power) if weight is None else weight
        shells = _shells(size, transfer.device)
        sums = residual_bins(
            (target, posed), (transfer, measured), (weight, mask_power), shells, shell_count(size), LANES
        )
        return NoiseSums(*sums)
    return residual_sums(target - posed * transfer, measured, mask_power, weight)


def whitening(noise: NoiseSums, size: int) -> Tensor:
    """Return the filter (n, n, n/2+1) that makes noise white, of the reference variance."""
    mean = noise.power.sum() / noise.voxels.sum().clamp(min=1e-12)
    variance = torch.where(noise.voxels > 0, noise.variance, mean)
    variance = torch.maximum(variance, LEAST_RELATIVE_VARIANCE * mean)
    relative = variance / noise.reference_variance.clamp(min=1e-30)
    return relative.rsqrt()[_shells(size, relative.device)].view(size, size, size // 2 + 1)
