"""Spectra estimated from residuals of the model: noise variance and gain of the decoder network per Fourier shell."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from opustomo.physics import kernels
from opustomo.physics.boxes import Boxes
from opustomo.physics.fourier import half_spectrum_weights, irfft3, rfft3, squared_radius
from opustomo.physics.fsc import measured_shells

LANES = 64
"""Partial sums per shell, so that the threads of a GPU seldom add to the same number at a time."""
LEAST_RELATIVE_VARIANCE = 0.1
"""Lowest variance of a shell relative to the mean over voxels; outer shells of a reconstruction can be empty."""


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
        """Mean variance of the shells, weighted by their power, a scalar.

        Whitening leaves these shells as they are, so that energies keep the scale that the other terms of the loss
        are made for, also where noise falls steeply with frequency.
        """
        return (self.power * self.variance).sum() / self.power.sum().clamp(min=1e-30)


def profile_likelihood(sums: NoiseSums) -> Tensor:
    """Return the negative log-likelihood of residuals whose noise variances are the best ones, ½ Σ n log(P/n).

    It omits a constant. P and n are the residual power and the number of voxels of each shell. Unlike energies, which
    have the scale of a noise spectrum that is still being estimated, values of different epochs are comparable.
    """
    known = (sums.power > 0) & (sums.voxels > 0)
    return 0.5 * (sums.voxels * torch.where(known, sums.variance, 1.0).log()).sum()


def shell_count(size: int) -> int:
    """Return the number of shells of a box of ``size`` voxels; the last shell includes the corners beyond Nyquist."""
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
        from opustomo.model.kernels.energy import residual_bins

        size = transfer.shape[1]
        weight = torch.ones_like(mask_power) if weight is None else weight
        shells = _shells(size, transfer.device)
        sums = residual_bins(
            (target, posed), (transfer, measured), (weight, mask_power), shells, shell_count(size), LANES
        )
        return NoiseSums(*sums)
    return residual_sums(target - posed * transfer, measured, mask_power, weight)


def whitening(noise: NoiseSums, size: int) -> Tensor:
    """Return the filter (n, n, n/2+1) that turns noise into white noise of the reference variance."""
    mean = noise.power.sum() / noise.voxels.sum().clamp(min=1e-12)
    variance = torch.where(noise.voxels > 0, noise.variance, mean)
    variance = torch.maximum(variance, LEAST_RELATIVE_VARIANCE * mean)
    relative = variance / noise.reference_variance.clamp(min=1e-30)
    return relative.rsqrt()[_shells(size, relative.device)].view(size, size, size // 2 + 1)


def gain_sums(residual: Tensor, added: Tensor, weight: Tensor | None) -> Tensor:
    """Return Σ Re X* R and Σ |X|² per shell over a batch, (2, S).

    Parameters
    ----------
    residual, added
        R and X, complex half spectra (B, n, n, n/2+1).
    weight
        (B,) 1, or 0 for particles to leave out; None stands for ones.
    """
    weight = added.new_ones(len(added), dtype=torch.float32) if weight is None else weight
    twice = half_spectrum_weights(added.shape[1], added.device)
    x, r = torch.view_as_real(added), torch.view_as_real(residual)
    cross = torch.einsum("bzyxc,bzyxc,b->zyx", x, r, weight) * twice
    power = torch.einsum("bzyxc,bzyxc,b->zyx", x, x, weight) * twice
    return torch.stack([shell_sums(cross), shell_sums(power)])


def gain_from(sums: Tensor) -> Tensor:
    """Return gains (S,) between 0 and 1 from the sums (2, S) over all held-out particles; 1 where nothing is known."""
    cross, power = sums
    known = power > 0
    return torch.where(known, (cross / power.where(known, 1.0)).clamp(0.0, 1.0), 1.0)


def apply_gain(volumes: Tensor, gain: Tensor, boxes: Boxes) -> Tensor:
    """Multiply each shell of volumes on the grid of the template, (B, T, T, T), by its gain (S,).

    Gains belong to the shells of the render box and are interpolated linearly between them.
    """
    size = volumes.shape[-1]
    # the template spans the crop from the center of its first voxel to that of its last
    shells_per_frequency = boxes.render * (size - 1) / (boxes.crop - 1)
    shell = squared_radius(size, volumes.device).sqrt() * shells_per_frequency
    below = shell.floor().long().clamp(max=len(gain) - 1)
    above = (below + 1).clamp(max=len(gain) - 1)
    part = (shell - below).clamp(max=1.0)
    return irfft3(rfft3(volumes) * torch.lerp(gain[below], gain[above], part))


def no_gain(size: int) -> Tensor:
    """Return gains of 1 for the shells of a box of ``size`` voxels."""
    return torch.ones(shell_count(size))
