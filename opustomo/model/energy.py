"""Energies of posed volumes against the target (docs/method.md, section 3), and OPUS-TOMO's candidate weights."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from opustomo.physics import kernels
from opustomo.physics.fourier import crop_center, half_spectrum_weights, irfft3, rfft3


class Energies(NamedTuple):
    """Per particle and candidate, (B, P): ``power`` = Σx², ``cross`` = Σ x r."""

    power: Tensor
    cross: Tensor

    @property
    def total(self) -> Tensor:
        """E = Σx² - 2 Σ x r."""
        return self.power - 2.0 * self.cross


def _weighted_power(spectra: Tensor, weights: Tensor) -> Tensor:
    """Return ``Σ_k w |S|²``, (B, P), of spectra (B, P, Dr, Dr, Dr/2+1) and weights (B, Dr, Dr, Dr/2+1)."""
    if kernels.usable(weights):
        from opustomo.model.kernels.energy import weighted_power

        return weighted_power(spectra, weights)
    squares = torch.view_as_real(spectra).square().sum(-1)
    return torch.einsum("bpzyx,bzyx->bp", squares, weights)


def cross_sums(posed: Tensor, filtered: Tensor) -> Tensor:
    """Return ``Σ_x V h``: (B, P) of volumes (B, P, n, n, n) and fields (B, n, n, n)."""
    if kernels.usable(posed, filtered):
        from opustomo.model.kernels.energy import cross

        return cross(posed, filtered)
    return torch.bmm(posed.flatten(2), filtered.flatten(1)[:, :, None])[:, :, 0]


def shifted_cross(posed: Tensor, filtered: Tensor) -> Tensor:
    """Return ``Σ_x V(x) h(x - s)``, (B, 6), for shifts s of one voxel along x, y and z, then of -1 voxel along each.

    Parameters
    ----------
    posed
        (B, n, n, n) V, zero at the edges.
    filtered
        (B, n, n, n) h.
    """
    if kernels.usable(posed, filtered):
        from opustomo.model.kernels.energy import shifted_cross as in_one_pass

        return in_one_pass(posed, filtered)
    moved = [filtered.roll(step, axis) for step in (1, -1) for axis in (3, 2, 1)]
    return torch.stack([cross_sums(posed[:, None], field)[:, 0] for field in moved], 1)


class Comparison(NamedTuple):
    """Energies of one volume per particle, and its spectrum (without gradient).

    Attributes
    ----------
    energies
        Of shape (B, 1), with gradient.
    spectrum
        F{V}, (B, Dr, Dr, Dr/2+1).
    """

    energies: Energies
    spectrum: Tensor


class _RenderEnergies(torch.autograd.Function):
    """Σx² and Σ V·h over the render box, with the gradient written out: 2 g_power·F⁻¹{H² F{V}} + g_cross·h.

    One inverse transform replaces what differentiating the half spectrum would cost (a full complex transform and
    several copies of it).
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, posed: Tensor, transfer: Tensor, filtered: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        spectrum = rfft3(posed)
        squared = transfer.square()
        power = power_of(spectrum, squared)
        pushed = irfft3(spectrum * squared[:, None]) if posed.requires_grad else posed.new_empty(0)
        ctx.save_for_backward(pushed, filtered)
        ctx.mark_non_differentiable(spectrum)
        ctx.set_materialize_grads(False)
        return power, cross_sums(posed, filtered), spectrum

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, to_power: Tensor | None, to_cross: Tensor | None, *_: Tensor | None
    ) -> tuple[Tensor | None, None, None]:
        pushed, filtered = ctx.saved_tensors  # type: ignore[attr-defined]
        total: Tensor | None = None
        if to_power is not None:
            total = pushed * (2.0 * to_power)[:, :, None, None, None]
        if to_cross is not None:
            by_cross = to_cross[:, :, None, None, None]
            total = filtered[:, None] * by_cross if total is None else total.addcmul_(filtered[:, None], by_cross)
        return total, None, None


def power_of(spectra: Tensor, squared: Tensor) -> Tensor:
    """Return ``Σ x²`` of volumes with spectra (B, P, Dr, Dr, Dr/2+1) after a filter of square (B, Dr, Dr, Dr/2+1)."""
    render = squared.shape[-2]
    return _weighted_power(spectra, squared * (half_spectrum_weights(render, squared.device) / render**3))


def spectral_power(spectra: Tensor) -> Tensor:
    """Return ``Σ r²``, (B,), of volumes with half spectra (B, Dr, Dr, Dr/2+1)."""
    size = spectra.shape[-2]
    squares = torch.view_as_real(spectra).square().sum(-1)
    return torch.einsum("bzyx,x->b", squares, half_spectrum_weights(size, spectra.device) / size**3)


def filtered_energies(posed: Tensor, transfer: Tensor, filtered: Tensor) -> Energies:
    """Return the energies with Σx² over the render box, without an inverse transform per candidate.

    Σx² is a sum over Fourier space (Parseval), and ``Σ x r = Σ V·h``: the target is filtered once instead of every
    candidate. The energies are differentiable in `posed` only.

    Parameters
    ----------
    posed
        Densities in the frame of the subtomogram, zero outside the crop, (B, P, Dr, Dr, Dr).
    transfer
        H = CTF and envelope, real, (B, Dr, Dr, Dr/2+1), native order.
    filtered
        h = F⁻¹{H·F{r}} of a target r that is zero outside the crop, (B, Dr, Dr, Dr); H is real, so Σ x r = Σ V·h.
    """
    return Energies(*_RenderEnergies.apply(posed, transfer, filtered)[:2])


def compare(posed: Tensor, transfer: Tensor, filtered: Tensor) -> Comparison:
    """Return :func:`filtered_energies` of volumes (B, Dr, Dr, Dr), with the spectra that residuals use."""
    power, cross, spectrum = _RenderEnergies.apply(posed[:, None], transfer, filtered)
    return Comparison(Energies(power, cross), spectrum[:, 0])


def crop_energies(posed: Tensor, transfer: Tensor, target: Tensor, crop: int) -> Energies:
    """Return :func:`filtered_energies` with Σx² over the central ``crop``, as in OPUS-TOMO, for a target r."""
    model = crop_center(irfft3(rfft3(posed) * transfer[:, None]), crop)
    return Energies(model.square().sum((2, 3, 4)), torch.einsum("bpzyx,bzyx->bp", model, crop_center(target, crop)))


def candidate_weights(energy: Tensor, crop: int) -> Tensor:
    """Return softmax weights (B, P) at temperature ``max(½ std_p E, Dc/8)``, without gradient."""
    energy = energy.detach()
    spread = energy.std(dim=1, keepdim=True) if energy.shape[1] > 1 else torch.zeros_like(energy)
    return torch.softmax(-energy / (0.5 * spread).clamp(min=crop / 8.0), dim=1)
