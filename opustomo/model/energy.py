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


class _RenderEnergies(torch.autograd.Function):
    """Σx² over the render box and Σ V·h, with the gradient written out: 2 g_power·crop F⁻¹{H² F{V}} + g_cross·h.

    One inverse transform in the backward pass replaces what differentiating the half spectrum would cost (a full
    complex transform and several copies of it).
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, posed: Tensor, transfer: Tensor, filtered: Tensor
    ) -> tuple[Tensor, Tensor]:
        render = transfer.shape[-2]
        spectrum = rfft3(pad_centre(posed, render))
        weights = transfer.square() * (half_spectrum_weights(render, transfer.device) / render**3)
        squares = torch.view_as_real(spectrum).square().sum(-1)
        power = torch.einsum("bpzyx,bzyx->bp", squares, weights)
        if posed.requires_grad:
            spectrum.mul_(transfer.square()[:, None])
            ctx.save_for_backward(spectrum, filtered)
        return power, torch.einsum("bpzyx,bzyx->bp", posed, filtered)

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, to_power: Tensor, to_cross: Tensor
    ) -> tuple[Tensor, None, None]:
        spectrum, filtered = ctx.saved_tensors  # type: ignore[attr-defined]
        normal = crop_centre(irfft3(spectrum), filtered.shape[-1])
        by_power = (2.0 * to_power)[:, :, None, None, None]
        return torch.addcmul(filtered[:, None] * to_cross[:, :, None, None, None], normal, by_power), None, None


def filter_target(target: Tensor, transfer: Tensor) -> Tensor:
    """``h = crop F⁻¹{H·F{r}}`` (B, Dc, Dc, Dc), with which ``Σ x r = Σ V·h`` for every posed V (H is real)."""
    render = transfer.shape[-2]
    return crop_centre(irfft3(rfft3(pad_centre(target, render)) * transfer), target.shape[-1])


def filtered_energies(posed: Tensor, transfer: Tensor, filtered: Tensor) -> Energies:
    """:func:`render_energies` for a target that :func:`filter_target` has filtered already."""
    return Energies(*_RenderEnergies.apply(posed, transfer, filtered))


def render_energies(posed: Tensor, transfer: Tensor, target: Tensor) -> Energies:
    """Energies with Σx² over the render box, without an inverse transform per candidate.

    Σx² is a sum over Fourier space (Parseval), and ``Σ x r = Σ V·F⁻¹{H·F{r}}`` because H is real: the target is
    filtered once instead of every candidate. Differentiable in ``posed`` only.

    Parameters
    ----------
    posed
        (B, P, Dc, Dc, Dc) densities in the subtomogram's frame.
    transfer
        H = CTF and envelope, real, (B, Dr, Dr, Dr/2+1), native order.
    target
        r, (B, Dc, Dc, Dc), masked.
    """
    return filtered_energies(posed, transfer, filter_target(target, transfer))


def crop_energies(posed: Tensor, transfer: Tensor, target: Tensor) -> Energies:
    """Energies with Σx² over the crop, as spec 1 writes them; arguments as in :func:`render_energies`."""
    render, crop = transfer.shape[-2], posed.shape[-1]
    model = crop_centre(irfft3(rfft3(pad_centre(posed, render)) * transfer[:, None]), crop)
    return Energies(model.square().sum((2, 3, 4)), torch.einsum("bpzyx,bzyx->bp", model, target))


def draw_candidates(weights: Tensor, uniform: Tensor) -> Tensor:
    """Draw one candidate per particle, with probability ``weights`` (B, P), from uniform numbers (B,): indices (B,)."""
    reached = weights.cumsum(1) < (uniform * weights.sum(1))[:, None]
    return reached.sum(1).clamp(max=weights.shape[1] - 1)


def candidate_weights(energy: Tensor, crop: int) -> Tensor:
    """Softmax weights (B, P) at temperature ``max(½ std_p E, Dc/8)``, without gradient."""
    energy = energy.detach()
    spread = energy.std(dim=1, keepdim=True) if energy.shape[1] > 1 else torch.zeros_like(energy)
    return torch.softmax(-energy / (0.5 * spread).clamp(min=crop / 8.0), dim=1)
