"""Energies of posed model volumes against the target, and the weights of the candidates (spec 3)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from opustomo.physics.fourier import crop_centre, half_spectrum_weights, irfft3, pad_centre, rfft3


class Energies(NamedTuple):
    """Per particle and candidate, (B, P): ``power`` = Σx², ``cross`` = Σ x r."""

    power: Tensor
    cross: Tensor

    @property
    def total(self) -> Tensor:
        """E = Σx² - 2 Σ x r."""
        return self.power - 2.0 * self.cross


def render_energies(posed: Tensor, transfer: Tensor, target: Tensor) -> Energies:
    """Energies with Σx² over the render box, without an inverse transform per candidate.

    Σx² is a sum over Fourier space (Parseval), and ``Σ x r = Σ V·F⁻¹{H·F{r}}`` because H is real: the target is
    filtered once instead of every candidate.

    Parameters
    ----------
    posed
        (B, P, Dc, Dc, Dc) densities in the subtomogram's frame.
    transfer
        H = CTF and envelope, real, (B, Dr, Dr, Dr/2+1), native order.
    target
        r, (B, Dc, Dc, Dc), masked.
    """
    render, crop = transfer.shape[-2], posed.shape[-1]
    spectrum = rfft3(pad_centre(posed, render))
    weights = transfer.square() * (half_spectrum_weights(render, transfer.device) / render**3)
    power = (torch.view_as_real(spectrum).square().sum(-1) * weights[:, None]).sum((2, 3, 4))
    filtered = crop_centre(irfft3(rfft3(pad_centre(target, render)) * transfer), crop)
    return Energies(power, torch.einsum("bpzyx,bzyx->bp", posed, filtered))


def crop_energies(posed: Tensor, transfer: Tensor, target: Tensor) -> Energies:
    """Energies with Σx² over the crop, as spec 1 writes them; arguments as in :func:`render_energies`."""
    render, crop = transfer.shape[-2], posed.shape[-1]
    model = crop_centre(irfft3(rfft3(pad_centre(posed, render)) * transfer[:, None]), crop)
    return Energies(model.square().sum((2, 3, 4)), torch.einsum("bpzyx,bzyx->bp", model, target))


def candidate_weights(energy: Tensor, crop: int) -> Tensor:
    """Softmax weights (B, P) at temperature ``max(½ std_p E, Dc/8)``, without gradient."""
    energy = energy.detach()
    spread = energy.std(dim=1, keepdim=True) if energy.shape[1] > 1 else torch.zeros_like(energy)
    return torch.softmax(-energy / (0.5 * spread).clamp(min=crop / 8.0), dim=1)
