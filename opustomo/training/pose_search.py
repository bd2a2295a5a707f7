"""Search for the poses of particles whose given poses are wrong by more than Newton's steps can correct.

Steps of the poses are local: a particle that is given far from its pose can end at a wrong maximum of its likelihood.
Where the prior of the rotations is wide, poses drawn from this prior are therefore compared with the current one before
the consensus volume is updated. The one of largest posterior is found in the mean volume of the particles, with the few
frequencies that hold most information on it, and shifts are found by cross-correlation. It is kept if its posterior is
also larger in the volumes of the particle's own compositions, which the encoder finds at either pose. Otherwise false
picks and particles of rare compositions would be aligned to the others. OPUS-TOMO has no such search. See
docs/method.md, section 5.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from opustomo.model.composition_posterior import (
    INSPECTED,
    OVERSAMPLING,
    ComparedSpectra,
    compared_spectra,
    comparison_size,
    sampled,
    volumes_of,
)
from opustomo.model.posing import DEFAULT_ANGLE_DEG, rotations_of
from opustomo.model.step_records import Batch, StepState
from opustomo.physics.fourier import half_spectrum_weights, irfft3, rfft3
from opustomo.training.encoding import Reading, particle_rows
from opustomo.training.training_step import Engine

DRAWS = 64
"""Number of poses drawn from the prior."""
WIDE_DEG = 2.0 * DEFAULT_ANGLE_DEG
"""Standard deviation of the prior of rotations about an axis above which poses are searched: two of Newton's steps."""
CHUNK = 16


def wide_prior(engine: Engine) -> bool:
    """Return whether given poses are wrong by more than Newton's steps correct in a few visits.

    The prior is also wide where the data determine no pose; a search would then only fit noise.
    """
    variance, deviation = engine.poses.prior_variance()[0], engine.poses.mean_square_deviation()[0]
    wide = math.degrees(float(variance) ** 0.5) > WIDE_DEG
    return engine.infers_poses and wide and float(deviation) > 0.5 * float(variance)


@torch.no_grad()
def search_poses(
    engine: Engine, reading: Reading, particles: np.ndarray, bfactor_A2: float, say: Callable[[str], None]
) -> None:
    """Replace poses by drawn ones of larger posterior.

    Parameters
    ----------
    engine
        Model and current poses of the run.
    reading
        Voxels of the subtomograms.
    particles
        Indices of the particles.
    bfactor_A2
        B factor of the comparison.
    say
        Callback that receives lines for the log.
    """
    say(f"# the given poses are wrong by many degrees; better ones are searched for {len(particles)} particles")
    model = engine.model
    model.eval()
    ordered = np.sort(particles)
    inspected = ordered[np.linspace(0, len(ordered) - 1, INSPECTED).round().astype(np.intp)]
    latents = engine.latents.values[torch.from_numpy(inspected).to(engine.device), : model.config.zdim]
    size = comparison_size(model, latents)
    volume = volumes_of(model, latents, size).mean(0, keepdim=True)
    deviation = float(engine.poses.prior_variance()[0]) ** 0.5
    vectors = np.random.default_rng(engine.config.seed).normal(scale=deviation, size=(DRAWS, 3))
    drawn = rotations_of(vectors).to(engine.device)
    state = StepState(bfactor_A2, 0.0, 0.0, 0.0, engine.snr, None, moves_pose=False)

    def best(batch: Batch) -> Tensor:
        spectra = compared_spectra(model, batch, state, size)
        found = best_poses(engine, volume, batch, spectra, drawn)
        if model.encoder is None:
            return found
        moved = moved_batch(engine, found, batch, drawn)
        return confirmed(engine, found, (batch, spectra), (moved, compared_spectra(model, moved, state, size)))

    rows, read = particle_rows(engine, reading, ordered, best, 4)
    index = torch.from_numpy(ordered).to(engine.device)
    chosen = read & (rows[:, 0] > 0)
    at, number = index[chosen], rows[chosen, 0].long() - 1
    rotation = engine.poses.start[at] @ drawn[number]
    engine.poses.replace(at, rotation, engine.poses.current(at)[1] + rows[chosen, 1:4].float())
    say(f"# {int(chosen.sum())} of {len(particles)} poses are replaced by better ones")


def best_poses(engine: Engine, volume: Tensor, batch: Batch, spectra: ComparedSpectra, drawn: Tensor) -> Tensor:
    """Return the pose of largest posterior of each particle in a volume (1, F, F, F) of :func:`volumes_of`, (B, 4).

    The columns are the number of the drawn pose from 1, 0 for the current one, and the change of the origin (x, y, z)
    in pixels of the input box.
    """
    poses, size = engine.poses, volume.shape[-1] // OVERSAMPLING
    pixels = engine.model.boxes.box / size
    target, filtering, unit = spectra
    rotations = torch.cat([batch.rotation[:, None], poses.start[batch.index][:, None] @ drawn], 1)
    radius = 3.0 * float(poses.prior_variance()[1]) ** 0.5 / pixels
    shifts, places = _window(size, radius, batch.index.device)
    turn_prior, shift_prior = log_priors(engine, batch.index, rotations, batch.origin_px[:, None] - pixels * shifts)
    half = half_spectrum_weights(size, target.device)
    scores, at = [], []
    for part in rotations.split(CHUNK, 1):
        posed = sampled(volume, part.mT.flatten(0, 1)[None], size, OVERSAMPLING, OVERSAMPLING * size)
        imaged = rfft3(posed[0]).unflatten(0, part.shape[:2]) * filtering[:, None]
        power = (torch.view_as_real(imaged).square().sum(-1) * half).sum((-3, -2, -1))
        cross = irfft3(imaged.conj() * target[:, None]).flatten(2)[:, :, places] * size**3
        values = unit.float() * (cross - 0.5 * power[:, :, None]) + shift_prior[:, None]
        highest = values.max(-1)
        scores.append(highest.values)
        at.append(highest.indices)
    found = (torch.cat(scores, 1) + turn_prior).argmax(1)
    shift = shifts[torch.cat(at, 1).gather(1, found[:, None])[:, 0]]
    return torch.cat([found[:, None], -pixels * shift], 1)


def moved_batch(engine: Engine, found: Tensor, batch: Batch, drawn: Tensor) -> Batch:
    """Return the batch at the poses (B, 4) of :func:`best_poses`."""
    number, start = found[:, 0].long(), engine.poses.start[batch.index]
    rotation = torch.where((number > 0)[:, None, None], start @ drawn[number - 1], batch.rotation)
    return replace(batch, rotation=rotation, origin_px=batch.origin_px + found[:, 1:])


def confirmed(
    engine: Engine, found: Tensor, current: tuple[Batch, ComparedSpectra], moved: tuple[Batch, ComparedSpectra]
) -> Tensor:
    """Return the poses (B, 4) of :func:`best_poses`, with number 0 where the particle's own volume contradicts them."""
    better = log_posterior(engine, *moved) > log_posterior(engine, *current)
    return torch.where(better[:, None], found, 0.0)


def log_posterior(engine: Engine, batch: Batch, spectra: ComparedSpectra) -> Tensor:
    """Return the logarithm of the posterior of poses, given the volumes of the particles' own compositions, (B,).

    Compositions are those that the encoder finds at the poses of the batch. A constant per particle is left out.
    """
    target, filtering, unit = spectra
    size = target.shape[-2]
    model = engine.model
    mu, _ = model.posterior(batch.volumes, batch.rotation, batch.origin_px, batch.tilts, batch.table)
    volumes = volumes_of(model, mu[:, : model.config.zdim], size)
    posed = sampled(volumes, batch.rotation.mT[:, None], size, OVERSAMPLING, OVERSAMPLING * size)
    imaged = rfft3(posed[:, 0]) * filtering
    products = torch.view_as_real(imaged) * torch.view_as_real(target - 0.5 * imaged)
    half = half_spectrum_weights(size, target.device)
    likelihood = unit.float() * (products.sum(-1) * half).sum((-3, -2, -1))
    turn, shift = log_priors(engine, batch.index, batch.rotation[:, None], batch.origin_px[:, None])
    return likelihood + turn[:, 0] + shift[:, 0]


def log_priors(engine: Engine, index: Tensor, rotations: Tensor, origins_px: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logarithms of the priors of rotations (B, P, 3, 3) and of origins (B, W, 3) up to a constant."""
    poses = engine.poses
    turn_variance, shift_variance = poses.prior_variance()
    relative = poses.start[index][:, None].mT @ rotations
    squares = (3.0 - relative.diagonal(dim1=-2, dim2=-1).sum(-1)).clamp(min=0.0)  # 4 sin²(angle / 2)
    moved = origins_px - poses.origin_px[index][:, None]
    return -0.5 * squares / turn_variance, -0.5 * moved.square().sum(-1) / shift_variance


def _window(size: int, radius: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the shifts (W, 3; x, y, z) in voxels within a radius, and their places in a flattened box."""
    reach = min(size // 2 - 1, max(1, math.ceil(radius)))
    steps = torch.arange(-reach, reach + 1, device=device)
    shifts = torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij")[::-1], -1).view(-1, 3)
    squares = shifts.square().sum(1)
    shifts = shifts[squares <= max(1.0, radius) ** 2]
    x, y, z = (shifts % size).unbind(1)
    return shifts.float(), (z * size + y) * size + x
