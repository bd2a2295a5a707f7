"""Amplitude of the predicted signal in the data: one factor per Fourier shell and one per particle.

The factors are least-squares fits of the data by the predicted signal. Those of the shells are fitted to all particles.
Those of the particles are shrunk towards 1, because the noise of a single subtomogram makes them uncertain.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from opustomo.physics.fourier import half_spectrum_weights, squared_radius

LARGEST_FACTOR = 3.0


@dataclass
class ShellSums:
    """Sums over particles, Fourier shell by shell.

    Attributes
    ----------
    cross, power, data
        Sums of ``Re(conj(P) Y)``, ``|P|²`` and ``|Y|²``, shape (S,).
    count
        Sum of the number of coefficients, shape (S,).
    """

    cross: Tensor
    power: Tensor
    data: Tensor
    count: Tensor

    @classmethod
    def empty(cls, size: int, device: torch.device) -> ShellSums:
        """Return sums over no particle for a box of `size` voxels."""
        zeros = torch.zeros(size // 2 + 1, dtype=torch.float64, device=device)
        return cls(zeros, zeros.clone(), zeros.clone(), zeros.clone())

    def add(self, predicted: Tensor, observed: Tensor) -> None:
        """Add half spectra (B, Dr, Dr, Dr/2+1) of the prediction and of the data."""
        shells = shells_of(predicted.shape[1], predicted.device)
        weights = half_spectrum_weights(predicted.shape[1], predicted.device).expand(shells.shape)
        for total, values in (
            (self.cross, (predicted.conj() * observed).real),
            (self.power, predicted.abs().square()),
            (self.data, observed.abs().square()),
            (self.count, torch.ones_like(observed.real)),
        ):
            total.index_add_(0, shells.flatten(), (values.sum(0) * weights).flatten().double())

    def factors(self) -> Tensor:
        """Return the factor of each shell, at least 0, shape (S,), float32."""
        fitted = self.cross / self.power.clamp(min=1e-30)
        return torch.where(self.power > 0, fitted, 0.0).clamp(min=0.0).float()

    def amplitude(self) -> float:
        """Return one factor for all shells."""
        return float(self.cross.sum() / self.power.sum().clamp(min=1e-30))

    def noise(self) -> Tensor:
        """Return the mean power of the residual per coefficient, shape (S,), float32."""
        explained = self.cross.square() / self.power.clamp(min=1e-30)
        return ((self.data - explained) / self.count.clamp(min=1.0)).clamp(min=1e-30).float()


def shells_of(size: int, device: torch.device) -> Tensor:
    """Return the Fourier shell of each coefficient of a half spectrum; corners belong to the last shell."""
    radius = squared_radius(size, device).sqrt() * size
    return radius.round().long().clamp(max=size // 2)


def particle_factors(predicted: Tensor, observed: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Fit the amplitude of each particle by weighted least squares.

    Parameters
    ----------
    predicted, observed
        Half spectra (B, Dr, Dr, Dr/2+1); `predicted` includes the factors of the shells.
    noise
        Power of the noise per coefficient and shell, shape (S,).

    Returns
    -------
    factors, variances : Tensor
        Factor of each particle and the variance of its estimate, shape (B,).
    """
    size = predicted.shape[1]
    weights = half_spectrum_weights(size, predicted.device) / noise[shells_of(size, predicted.device)]
    cross = ((predicted.conj() * observed).real * weights).sum((1, 2, 3))
    power = (predicted.abs().square() * weights).sum((1, 2, 3)).clamp(min=1e-30)
    return cross / power, 1.0 / power


def shrunk(factors: Tensor, variances: Tensor) -> Tensor:
    """Shrink the factors of particles towards 1 by the ratio of their true to their total variance.

    The true variance is estimated as the variance of all factors minus the mean variance of the estimates.
    """
    true = ((factors - 1.0).square().mean() - variances.mean()).clamp(min=0.0)
    return (1.0 + (factors - 1.0) * true / (true + variances)).clamp(0.0, LARGEST_FACTOR)
