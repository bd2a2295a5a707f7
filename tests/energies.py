"""Energies of unfiltered targets."""

from __future__ import annotations

from torch import Tensor

from opustomo.model.energy import Energies, compare
from opustomo.physics.fourier import irfft3, rfft3


def filter_target(target: Tensor, transfer: Tensor) -> Tensor:
    """Return h = F⁻¹{H·F{r}}, (B, Dr, Dr, Dr), of a target r."""
    return irfft3(rfft3(target) * transfer)


def render_energies(posed: Tensor, transfer: Tensor, target: Tensor) -> Energies:
    """Return the energies of posed densities (B, P, Dr, Dr, Dr) against a target (B, Dr, Dr, Dr)."""
    batch, poses = posed.shape[:2]
    each = (side.repeat_interleave(poses, 0) for side in (transfer, rfft3(target)))
    found = compare(posed.flatten(0, 1), *each).energies
    return Energies(*(part.view(batch, poses) for part in found))
