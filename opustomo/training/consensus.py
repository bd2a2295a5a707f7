"""Consensus volume: the part of the density that all particles share, found in closed form.

The decoder adds it to what its network generates, so that the network learns how particles differ from their consensus
instead of drawing the particle from nothing. Before the first step, after four visits per particle, and whenever the
number of visits has doubled since, the back-projection of what the model does not explain is added to it (an M step for
the common part of the density). OPUS-TOMO has no consensus. See docs/method.md, section 4.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from opustomo.data.batches import load_batches
from opustomo.data.voxels import VoxelSource
from opustomo.model.device import release_unused_memory
from opustomo.model.step_records import Batch, StepState
from opustomo.physics.backprojection import Backprojection
from opustomo.physics.boxes import Boxes
from opustomo.physics.fourier import crop_center, irfft3, pad_center, rfft3, squared_radius
from opustomo.physics.fsc import FSC_THRESHOLD, measured_shells, shell_correlation
from opustomo.physics.sampling import to_template
from opustomo.training.encoding import particles_per_batch
from opustomo.training.training_step import Engine

MOST_PARTICLES = 4096
"""Largest number of particles, drawn at random, that a consensus is computed from."""
FIRST_UPDATE = 4
"""Visits per particle before the first update."""


def updates_due(visits: int, particles: int) -> int:
    """Return how many updates of the consensus belong to a number of training visits.

    Updates are due when the particles that enter the consensus have been visited four times on average, when poses have
    settled, and whenever the number of visits has doubled since.
    """
    return (visits // (FIRST_UPDATE * max(1, min(particles, MOST_PARTICLES)))).bit_length()


@torch.no_grad()
def missing_consensus(
    engine: Engine, source: VoxelSource, members: np.ndarray, norm: tuple[float, float], bfactor_A2: float, workers: int
) -> Tensor:
    """Compute what the consensus volume lacks: the back-projection of what the model does not explain.

    Parameters
    ----------
    engine
        Model, current poses and CTF tables of the run.
    source, norm
        Voxels of the subtomograms and the (shift, scale) that normalizes them.
    members
        Indices of the particles that train.
    bfactor_A2
        B-factor of the comparison in Å².
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
    size = ranks.size * particles_per_batch(boxes)
    batches = [ranks.part_of(batch) for batch in np.array_split(members, -(-len(members) // size))]
    halves = torch.zeros(len(engine.table), dtype=torch.long, device=device)
    halves[torch.from_numpy(members).to(device)] = torch.arange(len(members), device=device) % 2
    sums = Backprojection(boxes.render, 2, device, padding=1)
    state = StepState(bfactor_A2, 0.0, 0.0, 0.0, engine.snr, None, moves_pose=False)
    model.eval()
    for indices, volumes in load_batches(source, batches, device, norm, workers, lambda index, reason: None):
        if not len(indices):
            continue
        index = torch.from_numpy(indices).to(device)
        rotation, origin_px = engine.poses.current(index)
        tilts, table = engine.tilts_of(index)
        residual, ctf = model.unexplained(Batch(index, volumes, tilts, table, rotation, origin_px), state)
        sums.add(irfft3(residual), ctf, rotation, torch.zeros_like(origin_px), halves[None, index])
    sums.add_up(ranks.total)
    halves_and_union = sums.volume(0), sums.volume(1), sums.volume(0, 1)
    found = denoised(halves_and_union, model.mask.cpu(), boxes, bfactor_A2)
    del sums
    release_unused_memory(device)
    return to_template(found, model.config.templateres).to(device)


def denoised(maps: tuple[Tensor, Tensor, Tensor], mask: Tensor, boxes: Boxes, bfactor_A2: float) -> Tensor:
    """Return the Wiener estimate of a density from two half maps and their union, inside the mask.

    Every shell is weighted by 2 FSC / (1 + FSC), and by 0 where the FSC is below 0.143. The envelopes of data and model
    (docs/method.md, section 2) are divided out, as the template is compared through them.

    Parameters
    ----------
    maps
        Both half maps and the reconstruction of their union, (Dr, Dr, Dr).
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
    first, second, both = maps
    padded = pad_center(mask, boxes.render)
    fsc = shell_correlation(first * padded, second * padded).float().clamp(0.0, 1.0)
    weight = torch.where(fsc < FSC_THRESHOLD, 0.0, 2.0 * fsc / (1.0 + fsc))[measured_shells(boxes.render)]
    b_px = bfactor_A2 / boxes.render_apix**2
    # exp(π² b k²) of the data, exp(-π² b/2 k² (1 + tilt)) of the model, the tilt being π/4 on average
    envelope = torch.exp(math.pi**2 * b_px * squared_radius(boxes.render) * (1.5 + math.pi / 8.0))
    return crop_center(irfft3(rfft3(both) * weight * envelope), boxes.crop) * mask
