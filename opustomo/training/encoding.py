"""Latents of all particles at the end of an epoch, for the files of this epoch.

Running averages of latents lag behind the encoder: particles visited early in an epoch differ from those visited late
and from held-out particles, and clusters of small sets reflect this. Therefore all particles are encoded anew, and
compositions are inferred from the likelihood (:mod:`opustomo.model.composition_posterior`). The running averages remain
what the disentanglement prior compares with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from opustomo.data.batches import load_batches
from opustomo.data.voxels import VoxelSource
from opustomo.model.composition_posterior import (
    Evidence,
    Population,
    applies,
    comparison_size,
    evidence,
    find_population,
    likelihood_coordinates,
    posterior_means,
)
from opustomo.model.device import release_unused_memory
from opustomo.model.step_records import Batch, StepState
from opustomo.physics.boxes import Boxes
from opustomo.training.monitors.records import Encoded
from opustomo.training.training_step import Engine

VOXELS_PER_BATCH = 2**23
"""Voxels of the render boxes that are compared at a time, so that memory does not depend on the size of the box."""
MOST_PER_BATCH = 32
MOST_COMPOSITIONS = 2048
"""Largest number of particles, drawn at random, whose compositions are the population."""


def particles_per_batch(boxes: Boxes) -> int:
    """Return how many particles a pass without gradients takes at a time."""
    return max(1, min(MOST_PER_BATCH, VOXELS_PER_BATCH // boxes.render**3))


@dataclass(frozen=True)
class Reading:
    """Where voxels are read: their source, the (shift, scale) that normalizes them, and the number of threads."""

    source: VoxelSource
    norm: tuple[float, float]
    workers: int


@dataclass(frozen=True)
class InferredLatents:
    """Latents of all particles at the end of an epoch.

    Attributes
    ----------
    values
        (N, L) posterior means of compositions where these can be inferred, else means of the encoder; running averages
        of particles that cannot be read.
    encoded
        Means and standard deviations of the encoder.
    coordinates
        (N, K) results of :func:`likelihood_coordinates`, NaN for particles without evidence; None if the compositions
        cannot be inferred or all have the same volume.
    """

    values: np.ndarray
    encoded: Encoded
    coordinates: np.ndarray | None = None


@torch.no_grad()
def infer_latents(
    engine: Engine, reading: Reading, members: Iterable[np.ndarray], bfactor_A2: float
) -> InferredLatents:
    """Infer the latents of all particles at the end of an epoch, from the encoder and the likelihood.

    Parameters
    ----------
    engine
        Model, current poses and CTF tables of the run.
    reading
        Voxels of the subtomograms.
    members
        Indices of the particles that train and of those that are held out.
    bfactor_A2
        B factor of the comparison.
    """
    model, every = engine.model, np.sort(np.concatenate(list(members)))
    if model.encoder is None or not len(every):
        averages = engine.latents.values.cpu().numpy()
        return InferredLatents(averages.copy(), Encoded(averages, np.full_like(averages, np.nan)))
    model.eval()
    chosen = np.sort(np.random.default_rng(engine.config.seed).permutation(every)[:MOST_COMPOSITIONS])
    encoded, read = encode(engine, reading, chosen)
    compositions = encoded[torch.isfinite(encoded).all(1), : model.config.zdim]
    if len(chosen) < len(every):
        encoded, read = encode(engine, reading, every)
    at = torch.from_numpy(every).to(engine.device)
    means, deviations = engine.latents.values.clone(), torch.full_like(engine.latents.values, torch.nan)
    means[at[read]], deviations[at[read]] = encoded[read].float().chunk(2, 1)
    posteriors, placed = Encoded(means.cpu().numpy().copy(), deviations.cpu().numpy()), None
    if applies(model) and len(compositions) > 1:
        population = _of_first_process(engine, compositions.float())
        found, usable = compare(engine, reading, every, population, bfactor_A2)
        means[at[usable], : model.config.zdim] = posterior_means(found, population).to(means)
        coordinates = likelihood_coordinates(found).float().cpu().numpy()
        if coordinates.shape[1]:  # the volumes of the population differ
            placed = np.full((len(means), coordinates.shape[1]), np.nan, dtype=np.float32)
            placed[every[usable.cpu().numpy()]] = coordinates
        del found, population
    release_unused_memory(engine.device)
    return InferredLatents(means.cpu().numpy(), posteriors, placed)


def encode(engine: Engine, reading: Reading, particles: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return means and standard deviations of the encoder side by side (P, 2 L), and which particles were read (P,)."""
    model = engine.model

    def means_and_deviations(batch: Batch) -> Tensor:
        return torch.cat(model.posterior(batch.volumes, batch.rotation, batch.origin_px, batch.tilts, batch.table), 1)

    return particle_rows(engine, reading, particles, means_and_deviations, 2 * engine.latents.values.shape[1])


def compare(
    engine: Engine, reading: Reading, particles: np.ndarray, population: Population, bfactor_A2: float
) -> tuple[Evidence, Tensor]:
    """Return the evidence of the particles for which it is finite, and which these are (P,)."""
    state = StepState(bfactor_A2, 0.0, 0.0, 0.0, engine.snr, None, moves_pose=False)
    count = population.coordinates.shape[1]

    def flat_evidence(batch: Batch) -> Tensor:
        found = evidence(engine.model, population, batch, state)
        return torch.cat([found.linear, found.quadratic.flatten(1)], 1)

    rows, _ = particle_rows(engine, reading, particles, flat_evidence, count + count**2)
    usable = torch.isfinite(rows).all(1)
    linear, quadratic = rows[usable].split([count, count**2], 1)
    return Evidence(linear, quadratic.unflatten(1, (count, count))), usable


def _of_first_process(engine: Engine, compositions: Tensor) -> Population:
    """Return the population as the first process finds it, so that all processes use the same components."""
    ranks = engine.ranks

    def shared(values: Tensor) -> Tensor:
        return ranks.total(values if ranks.rank == 0 else torch.zeros_like(values))

    size = int(shared(torch.tensor(comparison_size(engine.model, compositions), device=engine.device)))
    found = find_population(engine.model, compositions, size)
    return Population(compositions, shared(found.coordinates), shared(found.volumes), size)


def particle_rows(
    engine: Engine, reading: Reading, particles: np.ndarray, compute: Callable[[Batch], Tensor], width: int
) -> tuple[Tensor, Tensor]:
    """Return rows (P, width) that ``compute`` returns for batches of particles, and which particles were read (P,).

    Rows are float64, and NaN for particles that were not read. Every process computes its part of each batch and
    receives all of it.

    Parameters
    ----------
    engine
        Current poses and CTF tables of the run.
    reading
        Voxels of the subtomograms.
    particles
        (P,) ascending indices.
    compute
        Function of a batch of n particles that returns rows (n, width).
    width
        Number of values per particle.
    """
    ranks, device = engine.ranks, engine.device
    size = ranks.size * particles_per_batch(engine.model.boxes)
    batches = np.array_split(particles, -(-len(particles) // size))
    parts = [ranks.part_of(batch) for batch in batches]
    loaded = load_batches(reading.source, parts, device, reading.norm, reading.workers, lambda index, reason: None)
    found = []
    for batch, part, (indices, volumes) in zip(batches, parts, loaded, strict=True):
        rows = torch.full((len(part), width + 1), torch.nan, dtype=torch.float64, device=device)
        if len(indices):
            index = torch.from_numpy(indices).to(device)
            read = torch.from_numpy(np.isin(part, indices)).to(device)
            rotation, origin_px = engine.poses.current(index)
            tilts, table = engine.tilts_of(index)
            computed = compute(Batch(index, volumes, tilts, table, rotation, origin_px)).double()
            rows[read] = torch.cat([computed, torch.ones_like(computed[:, :1])], 1)
        if ranks.size > 1:
            ranks.prepare(len(batch))
            rows = ranks.gather(rows)
        found.append(rows)
    values = torch.cat(found)
    return values[:, :-1], values[:, -1] == 1.0
