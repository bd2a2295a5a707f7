"""Energies of posed volumes against the target (docs/method.md, section 3), and OPUS-TOMO's candidate weights."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from opustomo.physics import kernels
from opustomo.physics.fourier import crop_center, half_spectrum_weights, irfft3, rfft3


class Energies(NamedTuple):
    """Per particle and candidate, (B, P): ``total`` E = Σx² - 2 Σ x r, and ``power`` = Σx²."""

    total: Tensor
    power: Tensor


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
    return torch.stack([torch.linalg.vecdot(posed.flatten(1), field.flatten(1)) for field in moved], 1)


class Comparison(NamedTuple):
    """Comparison of one volume per particle with its data; only the energy has a gradient.

    Attributes
    ----------
    energies
        Of shape (B, 1).
    spectrum
        F{V}, (B, Dr, Dr, Dr/2+1).
    cross, target_power
        Σ x r and Σ r², (B,).
    gradient
        Half of the derivative of E by the voxels of V, (B, Dr, Dr, Dr).
    """

    energies: Energies
    spectrum: Tensor
    cross: Tensor
    target_power: Tensor
    gradient: Tensor


class _Compare(torch.autograd.Function):
    """E of :func:`compare`, with its gradient written out: 2 F⁻¹{W (W F{V} - T)}.

    One inverse transform replaces what differentiating the half spectrum would cost (a full complex transform and
    several copies of it).
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, posed: Tensor, transfer: Tensor, target: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        spectrum = rfft3(posed)
        sums, pushed = spectral_sums(spectrum, transfer, target)
        gradient = irfft3(pushed)
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(spectrum, sums, gradient)
        ctx.set_materialize_grads(False)
        return sums[:, 0] - 2.0 * sums[:, 1], sums, spectrum, gradient

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, to_energy: Tensor | None, *_: Tensor | None
    ) -> tuple[Tensor | None, None, None]:
        (gradient,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return None if to_energy is None else gradient * (2.0 * to_energy)[:, None, None, None], None, None


def spectral_sums(spectrum: Tensor, transfer: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return (B, 3) Σ |W F|², Σ Re (W F)* T and Σ |T|² over the full spectrum and per voxel, and W (W F - T).

    Parameters
    ----------
    spectrum, transfer, target
        F, W and T, half spectra (B, n, n, n/2+1).
    """
    if kernels.usable(transfer, torch.view_as_real(spectrum)):
        from opustomo.model.kernels.energy import comparison

        return comparison(spectrum, transfer, target)
    size = transfer.shape[-2]
    unit = half_spectrum_weights(size, transfer.device)[:, None] / size**3
    imaged = spectrum * transfer
    x, r = torch.view_as_real(imaged), torch.view_as_real(target)
    pairs = (x, x), (x, r), (r, r)
    sums = [torch.einsum("bzyxc,bzyxc,xc->b", *pair, unit.expand(-1, 2).to(x)) for pair in pairs]
    return torch.stack(sums, 1), transfer * (imaged - target)


def compare(posed: Tensor, transfer: Tensor, target: Tensor) -> Comparison:
    """Compare volumes with data by E = Σx² - 2 Σ x r, where the model x and the data r are filtered and whitened.

    All sums are over Fourier space (Parseval). Only the energy is differentiable, and only in ``posed``.

    Parameters
    ----------
    posed
        Densities in the frame of the subtomogram, zero outside the crop, (B, Dr, Dr, Dr).
    transfer
        W = CTF, envelope and whitening, real, (B, Dr, Dr, Dr/2+1), native order.
    target
        T = whitened spectrum of the target r, (B, Dr, Dr, Dr/2+1).
    """
    total, sums, spectrum, gradient = _Compare.apply(posed, transfer, target)
    return Comparison(Energies(total[:, None], sums[:, :1]), spectrum, sums[:, 1], sums[:, 2], gradient)


def crop_energies(posed: Tensor, transfer: Tensor, target: Tensor, crop: int) -> Energies:
    """Return the energies (B, P) of candidates over the central ``crop`` against targets r, as in OPUS-TOMO.

    Parameters
    ----------
    posed
        (B, P, Dr, Dr, Dr).
    transfer
        (B, Dr, Dr, Dr/2+1).
    target
        (B, Dr, Dr, Dr).
    """
    model = crop_center(irfft3(rfft3(posed) * transfer[:, None]), crop)
    power = model.square().sum((2, 3, 4))
    return Energies(power - 2.0 * torch.einsum("bpzyx,bzyx->bp", model, crop_center(target, crop)), power)


def candidate_weights(energy: Tensor, crop: int) -> Tensor:
    """Return softmax weights (B, P) at temperature ``max(½ std_p E, Dc/8)``, without gradient."""
    energy = energy.detach()
    spread = energy.std(dim=1, keepdim=True) if energy.shape[1] > 1 else torch.zeros_like(energy)
    return torch.softmax(-energy / (0.5 * spread).clamp(min=crop / 8.0), dim=1)
