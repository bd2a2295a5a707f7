"""Consensus volume: the density that all particles have in common, with which the template starts.

The decoder adds it to what its network generates, so that the network learns how particles differ from their consensus
instead of drawing the particle from nothing. OPUS-TOMO has no consensus. See docs/method.md, section 4.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from opustomo.data.batches import load_batches
from opustomo.data.voxels import VoxelSource
from opustomo.physics.backprojection import Backprojection
from opustomo.physics.boxes import Boxes
from opustomo.physics.fourier import crop_center, irfft3, pad_center, rfft3, squared_radius
from opustomo.physics.fsc import shell_correlation, shell_numbers
from opustomo.training.engine import Engine

MOST_PARTICLES = 4096
"""Number of particles, drawn at random, that a consensus is computed from at most."""
BATCH = 16
LOWEST_FSC = 0.143
"""Half-map FSC that ends the resolution of a consensus (Rosenthal & Henderson 2003)."""


@torch.no_grad()
def consensus_template(
    engine: Engine, source: VoxelSource, members: np.ndarray, norm: tuple[float, float], workers: int
) -> Tensor:
    """Compute the consensus volume of particles at their current poses.

    Parameters
    ----------
    engine
        Model, poses and CTF tables of the run.
    source, norm
        Voxels of the subtomograms and the (shift, scale) that normalizes them.
    members
        Indices of the particles that train.
    workers
        Number of prefetching threads.

    Returns
    -------
    Tensor, (T, T, T)
        Density on the grid of the template, zero outside the solvent mask.
    """
    model, ranks, device = engine.model, engine.ranks, engine.device
    boxes = model.boxes
    members = np.random.default_rng(engine.config.seed).permutation(members)[:MOST_PARTICLES]
    batches = [ranks.part_of(batch) for batch in np.array_split(members, -(-len(members) // (BATCH * ranks.size)))]
    halves = torch.zeros(len(engine.table), dtype=torch.long, device=device)
    halves[torch.from_numpy(members).to(device)] = torch.arange(len(members), device=device) % 2
    sums = Backprojection(boxes.render, 2, device, padding=1)
    for indices, volumes in load_batches(source, batches, device, norm, workers, lambda index, reason: None):
        if not len(indices):
            continue
        index = torch.from_numpy(indices).to(device)
        rotation, origin_px = engine.poses.current(index)
        tilts, table = engine.tilts_of(index)
        spectrum = model.observed(volumes, origin_px, tilts, table)
        sums.add(irfft3(spectrum), model.ctf(tilts, table), rotation, torch.zeros_like(origin_px), halves[None, index])
    sums.add_up(ranks.total)
    return to_template(
        denoised(sums.volume(0), sums.volume(1), sums.volume(0, 1), model.mask.cpu(), boxes, model.physics.bfactor_A2),
        model.config.templateres,
    ).to(device)


def denoised(first: Tensor, second: Tensor, both: Tensor, mask: Tensor, boxes: Boxes, bfactor_A2: float) -> Tensor:
    """Return the Wiener estimate of a density from two half maps and their union, inside the mask.

    Every shell is weighted by 2 FSC / (1 + FSC), and by nothing beyond the first that falls below 0.143. The envelopes
    of data and model (docs/method.md, section 2) are divided out, as the template is compared through them.

    Parameters
    ----------
    first, second, both
        Reconstructions (Dr, Dr, Dr).
    mask
        Solvent mask, (Dc, Dc, Dc).
    boxes
        Boxes of the run.
    bfactor_A2
        B-factor of the comparison in Å².

    Returns
    -------
    Tensor, (Dc, Dc, Dc)
    """
    padded = pad_center(mask, boxes.render)
    fsc = shell_correlation(first * padded, second * padded).float().clamp(0.0, 1.0)
    resolved = ((fsc < LOWEST_FSC).cumsum(0) == 0).float()
    shells = shell_numbers(boxes.render).clamp(max=boxes.render // 2)
    weight = (resolved * 2.0 * fsc / (1.0 + fsc))[shells]
    b_px = bfactor_A2 / boxes.render_apix**2
    # exp(π² b k²) of the data, exp(-π² b/2 k² (1 + tilt)) of the model, the tilt being π/4 on average
    envelope = torch.exp(math.pi**2 * b_px * squared_radius(boxes.render) * (1.5 + math.pi / 8.0))
    return crop_center(irfft3(rfft3(both) * weight * envelope), boxes.crop) * mask


def to_template(volume: Tensor, size: int) -> Tensor:
    """Resample a density (Dc, Dc, Dc) trilinearly on the grid of the template, (T, T, T)."""
    return functional.interpolate(volume[None, None], (size,) * 3, mode="trilinear", align_corners=True)[0, 0]
