"""Energies of unfiltered targets."""

from __future__ import annotations

from torch import Tensor

from opustomo.model.energy import Energies, filtered_energies
from opustomo.physics.fourier import irfft3, rfft3


def filter_target(target: Tensor, transfer: Tensor) -> Tensor:
    """Return h = F⁻¹{H·F{r}}, (B, Dr, Dr, Dr), of a target r."""
    return irfft3(rfft3(target) * transfer)


def render_energies(posed: Tensor, transfer: Tensor, target: Tensor) -> Energies:
    """Return the energies of posed densities (B, P, Dr, Dr, Dr) against a target (B, Dr, Dr, Dr)."""
    return filtered_energies(posed, transfer, filter_target(target, transfer))
