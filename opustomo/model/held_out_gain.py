"""Gain of the decoder network per Fourier shell, estimated from held-out particles.

What the network adds to the consensus volume contains noise of the particles that it was trained on, most in shells of
low signal. The gain g_s minimizes the residual power of held-out particles,

    Σ |R - g_s X|²,    R = data minus consensus,  X = what the network adds, both as imaged,

and is applied when volumes are decoded. See docs/method.md, section 7.
"""

from __future__ import annotations

import torch
from torch import Tensor

from opustomo.model.noise import shell_count, shell_sums
from opustomo.physics.boxes import Boxes
from opustomo.physics.fourier import half_spectrum_weights, irfft3, rfft3, squared_radius


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
